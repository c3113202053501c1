"""An attacker that speaks the transport `grpc` with gRPC's own client, one connection each."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc
import riteraft_transport_grpc._wire as wire
from riteraft_core._requests import Reply
from riteraft_core.types import Hello, Refusal

from riteraft_core import _requests
from riteraft_transport_grpc import transport_pb2 as pb

from .attacker import PATIENCE, STRANGER, Errand

METHODS = {Errand.MESSAGES: wire.MESSAGES, Errand.REQUEST: wire.ASK, Errand.SNAPSHOT: wire.SNAPSHOT}


class GrpcAttacker:
    """One channel, which is one connection, and the stream that `greet` or `challenged` began on it."""

    def __init__(
        self, address: tuple[str, int], credentials: grpc.ChannelCredentials | None = None, **arguments: int
    ) -> None:
        """Take the channel's arguments beside its credentials, without their `grpc.` in front."""
        options: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            *((f"grpc.{name}", value) for name, value in arguments.items()),
        ]
        where = f"{address[0]}:{address[1]}"
        if credentials is None:
            self.channel = grpc.insecure_channel(where, options)
        else:
            self.channel = grpc.secure_channel(where, credentials, options)
        self._hello = STRANGER
        self._call: Any = None
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def __enter__(self) -> GrpcAttacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._call is not None:
            self._call.cancel()
        self._outgoing.put(None)
        self.channel.close()

    def greet(self, hello: Hello, errand: Errand) -> Refusal | None:
        """Introduce ourselves; return the refusal, or None if we are in, or if each request is judged by itself."""
        self._hello = hello
        if errand is Errand.REQUEST:
            return None
        self._begin(errand)
        try:
            assert self.progress().step == pb.Progress.ADMITTED
        except grpc.RpcError as exc:
            return refusal_in(exc)
        return None

    def challenged(self, hello: Hello, errand: Errand, nonce: bytes) -> bytes:
        self._hello = hello
        self._begin(errand, nonce)
        progress = self.progress()
        assert progress.step == pb.Progress.CHALLENGE
        return progress.payload

    def prove(self, proof: bytes) -> None:
        self.send(wire.encode_proof(proof))

    def ask(self, payload: bytes) -> Reply:
        return self.ask_all([payload])[0]

    def ask_all(self, payloads: Sequence[bytes]) -> list[Reply]:
        metadata = wire.encode_hello(self._hello)
        calls = [
            self.call(wire.REQUEST, wire.encode_payload(self._hello.group, payload), metadata) for payload in payloads
        ]
        return [_requests.decode_reply(wire.decode_payload(call.result(), self._hello.group)) for call in calls]

    def call(self, method: str, message: bytes, metadata: wire.Metadata) -> Any:
        """Begin any call with one message; return the future of its answer."""
        unary: Any = self.channel.unary_unary(method)
        return unary.future(message, metadata=metadata, timeout=120)

    def send(self, message: bytes) -> None:
        """Send one message of gRPC in the stream, once there is room."""
        self._outgoing.put(message)

    def send_messages(self, messages: Sequence[bytes], group: int = 0) -> None:
        self.send(wire.encode_batch(group, messages))

    def send_header(self, header: bytes) -> None:
        self.send(wire.encode_header(self._hello.group, header))

    def send_chunk(self, chunk: bytes) -> None:
        self.send(wire.encode_chunk(self._hello.group, chunk))

    def send_end(self, size: int, sha256: bytes) -> None:
        self.send(wire.encode_end(self._hello.group, size, sha256))

    def verdict(self) -> str:
        progress = self.progress()
        if progress.step == pb.Progress.TAKEN:
            return ""
        assert progress.step == pb.Progress.NOT_TAKEN
        return progress.text

    def closed(self, within: float = PATIENCE) -> float:
        began = time.monotonic()
        self.ended()
        took = time.monotonic() - began
        assert took < within
        return took

    def progress(self) -> pb.Progress:
        """Return the next answer in the stream."""
        return wire.decode_progress(next(self._call), self._hello.group)

    def ended(self) -> grpc.StatusCode:
        """Wait until the stream is over; return how it ended."""
        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass
        code: grpc.StatusCode = self._call.code()
        return code

    def _begin(self, errand: Errand, nonce: bytes = b"") -> None:
        outgoing: Iterator[bytes | None] = iter(self._outgoing.get, None)
        stream: Any = self.channel.stream_stream(METHODS[errand])
        self._call = stream(outgoing, metadata=wire.encode_hello(self._hello, nonce), timeout=120)


def refusal_in(error: Any) -> Refusal:
    """Return the "no" that a call ended with."""
    refusal = wire.decode_refusal(error.trailing_metadata())
    assert refusal is not None, error
    return refusal
