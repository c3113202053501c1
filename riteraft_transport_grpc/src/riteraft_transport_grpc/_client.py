"""The dialling side: open a call, be let in, then send messages, ask, or stream a snapshot."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio
import anyio.lowlevel
import grpc
from riteraft_core._address import Address
from riteraft_core.errors import AuthenticationError, PeerUnreachable
from riteraft_core.outbox import DeniedError, LostError
from riteraft_core.security import Security, TlsMaterial
from riteraft_core.shared_secret import Dialler as Prover
from riteraft_core.shared_secret import Meeting, Seals
from riteraft_core.types import Hello

from . import _wire as wire
from . import transport_pb2 as pb
from ._door import PURPOSES
from ._options import GrpcOptions
from ._settings import client_arguments

_DEADLINE_SLACK = 1.0
"""A call's deadline is this much after its caller's: the caller's own clock decides, the deadline is for the peer."""

_AioCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


class CallLostError(LostError):
    """The call or its connection is of no more use; the text says why."""


def failure_of(error: grpc.aio.AioRpcError, *, proven: bool) -> DeniedError | CallLostError:
    """Return what a status that is not OK means; `proven`: a refusal in it is to be believed."""
    details = error.details() or "no reason given"
    refusal = wire.decode_refusal(error.trailing_metadata() or ())
    if refusal is not None and proven:
        return DeniedError(refusal)
    if refusal is not None:
        # Anybody on the way may have made it up, and a member that believes it was removed ends for good.
        return CallLostError(f"it refused us, without a proof of the shared secret: {refusal.text}")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return CallLostError(f"no connection: {details}")
    if error.code() is grpc.StatusCode.UNKNOWN:
        return CallLostError(f"it answered with an error: {details}")
    return CallLostError(f"the call ended ({error.code().name}): {details}")


async def _cancelled_by_scope() -> None:
    """Raise, after a CancelledError, the one that belongs to the cancelled scope, if it was one that cancelled.

    gRPC raises one of its own in place of the one that reached it. A scope does not know it again, so it would end the
    task, and with it the whole group.
    """
    await anyio.lowlevel.checkpoint()


class Stream:
    """An open call, run inside `scope`, which `end` cancels; with a MAC on each message, once there are `seals`."""

    def __init__(self, call: _AioCall, group: int, *, sealed: bool) -> None:
        """Take a call; `sealed`: what comes without a MAC is not to be believed."""
        self.group = group
        self.scope = anyio.CancelScope()
        self.ended: str | None = None
        self.seals: Seals | None = None
        self._call = call
        self._sealed = sealed

    def end(self, why: str) -> None:
        """Cancel whatever this call's tasks wait for; the first reason stays."""
        if self.ended is None:
            self.ended = why
        self.scope.cancel()

    async def send(self, message: bytes, within: float) -> None:
        """Write one message: returns when HTTP/2's flow control has let all of it go.

        :raises CallLostError: it did not go within so many seconds, or the call has ended.
        :raises DeniedError: the call was refused meanwhile.
        """
        if self.seals is not None:
            message = wire.seal(message, self.seals)
        try:
            with anyio.fail_after(within):
                try:
                    await self._call.write(message)
                except asyncio.CancelledError:
                    await _cancelled_by_scope()
                    raise
        except TimeoutError as exc:
            raise CallLostError("it did not take what was sent for too long") from exc
        except grpc.aio.AioRpcError as exc:
            raise failure_of(exc, proven=not self._sealed) from exc
        except asyncio.InvalidStateError as exc:
            raise CallLostError("the call has ended") from exc

    async def receive(self) -> pb.Progress:
        """Return the next thing that the other side says.

        :raises CallLostError: the call ended, or what came cannot be read or believed.
        :raises DeniedError: the call was refused.
        """
        try:
            raw = await self._call.read()
        except asyncio.CancelledError:
            await _cancelled_by_scope()
            raise
        except grpc.aio.AioRpcError as exc:
            raise failure_of(exc, proven=not self._sealed) from exc
        if not isinstance(raw, bytes):
            raise CallLostError("the other side ended the call")
        try:
            progress = wire.decode_progress(raw if self.seals is None else wire.unseal(raw, self.seals), self.group)
        except (wire.WireError, AuthenticationError) as exc:
            raise CallLostError(str(exc)) from exc
        if progress.step == pb.Progress.REFUSED and self.seals is not None:
            raise DeniedError(wire.refusal_of(progress.code, progress.text))
        return progress


class Dialler:
    """Opens channels and calls: the one place where another node is dialled."""

    def __init__(self, options: GrpcOptions, security: Security) -> None:
        """Prepare; nothing is dialled yet."""
        self._options = options
        self._security = security
        self._arguments = client_arguments(options)
        self._ending: set[Callable[[str], None]] = set()
        self._over: str | None = None

    @property
    def sealed(self) -> bool:
        """Whether every call begins with the shared secret."""
        return self._security.secret is not None

    async def material(self) -> TlsMaterial | None:
        """Return the certificates to dial with now; None without TLS."""
        return None if self._security.tls is None else await self._security.tls.current()

    def channel(self, address: str, material: TlsMaterial | None) -> grpc.aio.Channel:
        """Return a channel with a connection of its own, made when it is first used.

        :raises CallLostError: the address is malformed.
        """
        try:
            target = f"dns:///{Address.parse(address)}"
        except ValueError as exc:
            raise CallLostError(f"no connection: {exc}") from exc
        if material is None:
            return grpc.aio.insecure_channel(target, options=self._arguments)
        credentials = grpc.ssl_channel_credentials(material.ca, material.key, material.certificate)
        return grpc.aio.secure_channel(target, credentials, options=self._arguments)

    @asynccontextmanager
    async def dial(self, address: str, hello: Hello, method: str) -> AsyncIterator[Stream]:
        """Connect, open a call and be let in; the connection is closed at the end of the block. See `open`."""
        channel = self.channel(address, await self.material())
        try:
            async with self.open(channel, hello, method) as stream:
                yield stream
        finally:
            with anyio.CancelScope(shield=True):
                await channel.close()

    @asynccontextmanager
    async def open(self, channel: grpc.aio.Channel, hello: Hello, method: str) -> AsyncIterator[Stream]:
        """Open a call and be let in; it is over at the end of the block.

        If the call is ended meanwhile, the block is cancelled and left: what follows it must look at `Stream.ended`.

        :raises DeniedError: the other side said no.
        :raises CallLostError: there is no connection, or it broke before the answer.
        """
        prover: Prover | None = None
        if self._security.secret is not None:
            prover = Prover(self._security.secret, Meeting(self._security.cluster, PURPOSES[method], hello))
        nonce = b"" if prover is None else prover.nonce
        call: _AioCall = channel.stream_stream(method)(metadata=wire.encode_hello(hello, nonce))
        stream = Stream(call, hello.group, sealed=self.sealed)
        try:
            with self.ended_by(stream.end):
                let_in = False
                with stream.scope:
                    await self._introduce(stream, prover)
                    let_in = True
                    yield stream
                if not let_in:
                    raise CallLostError(stream.ended or "it was ended")
        finally:
            call.cancel()

    async def _introduce(self, stream: Stream, prover: Prover | None) -> None:
        seconds = self._options.connect_timeout + self._options.handshake_timeout
        try:
            with anyio.fail_after(seconds):
                answer = await stream.receive()
                if prover is not None:
                    if answer.step != pb.Progress.CHALLENGE:
                        raise CallLostError("it does not ask for the shared secret: give both the same [security]")
                    proof, seals = prover.prove(answer.payload)
                    await stream.send(wire.encode_proof(proof), seconds)
                    stream.seals = seals
                    answer = await stream.receive()
        except TimeoutError as exc:
            raise CallLostError(f"no answer to our hello within {seconds:g} s") from exc
        except AuthenticationError as exc:
            raise CallLostError(str(exc)) from exc
        if answer.step != pb.Progress.ADMITTED:
            raise CallLostError("a hello was answered by something else")

    def ended_by(self, end: Callable[[str], None]) -> _Ending:
        """Return a context during which `end` is called if everything is to end, at once if it is over already."""
        return _Ending(self._ending, end, self._over)

    def end_all(self, why: str) -> None:
        """End every call, and those still to come."""
        self._over = why
        for end in tuple(self._ending):
            end(why)


class _Ending:
    """Has a callback in a set for the time of a block."""

    __slots__ = ("_callbacks", "_end", "_over")

    def __init__(self, callbacks: set[Callable[[str], None]], end: Callable[[str], None], over: str | None) -> None:
        self._callbacks = callbacks
        self._end = end
        self._over = over

    def __enter__(self) -> None:
        self._callbacks.add(self._end)
        if self._over is not None:
            self._end(self._over)

    def __exit__(self, *exc_info: object) -> None:
        self._callbacks.discard(self._end)


class RequestLine:
    """One channel for the requests to one address: many under way at once, answered in any order."""

    def __init__(self, address: str, options: GrpcOptions, dialler: Dialler, material: TlsMaterial | None) -> None:
        """Prepare; the first request connects, with the certificates of `material`.

        :raises CallLostError: the address is malformed.
        """
        self.material = material
        self.used_at = anyio.current_time()
        self.broken = False
        """Whether the last word of it was that there is no connection: a new line dials at once, this one waits."""
        self._options = options
        self._dialler = dialler
        self._channel = dialler.channel(address, material)
        self._unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(wire.REQUEST)
        self._room = anyio.Semaphore(options.max_requests)
        self._users = 0

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._users

    async def request(self, hello: Hello, payload: bytes) -> bytes:
        """Send one request and return its answer.

        :raises CallLostError: the call ended before the answer came, or the answer is an error.
        :raises DeniedError: the other side said no.
        """
        if len(payload) + wire.OVERHEAD > self._options.max_frame:
            raise CallLostError(f"a request of {len(payload)} bytes is over max_frame ({self._options.max_frame})")
        self._users += 1
        try:
            async with self._room:
                return await (self._ask if self._dialler.sealed else self._call)(hello, payload)
        except CallLostError as exc:
            cause = exc.__cause__
            self.broken = isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.UNAVAILABLE
            raise
        finally:
            self._users -= 1
            self.used_at = anyio.current_time()

    async def _call(self, hello: Hello, payload: bytes) -> bytes:
        ended: list[str] = []
        raw = b""

        def end(why: str) -> None:
            ended.append(why)
            scope.cancel()

        with anyio.CancelScope() as scope, self._dialler.ended_by(end):
            deadline = anyio.current_effective_deadline()
            timeout = None if deadline == math.inf else max(0, deadline - anyio.current_time()) + _DEADLINE_SLACK
            try:
                raw = await self._unary(
                    wire.encode_payload(hello.group, payload), metadata=wire.encode_hello(hello), timeout=timeout
                )
            except asyncio.CancelledError:
                await _cancelled_by_scope()
                raise
            except grpc.aio.AioRpcError as exc:
                raise failure_of(exc, proven=True) from exc
        if ended:
            raise CallLostError(ended[0])
        try:
            return wire.decode_payload(raw, hello.group)
        except wire.WireError as exc:
            raise CallLostError(f"its answer: {exc}") from exc

    async def _ask(self, hello: Hello, payload: bytes) -> bytes:
        """Do the same with the shared secret: each request is a call that proves it anew, so none can be replayed."""
        answer: pb.Progress | None = None
        async with self._dialler.open(self._channel, hello, wire.ASK) as stream:
            await stream.send(wire.encode_payload(hello.group, payload), self._options.frame_timeout)
            answer = await stream.receive()
        if answer is None:
            raise CallLostError(stream.ended or "it was ended")
        if answer.step == pb.Progress.FAILED:
            raise CallLostError(f"it answered with an error: {answer.text}")
        if answer.step != pb.Progress.ANSWER:
            raise CallLostError("a request was answered by something else")
        return answer.payload

    async def aclose(self) -> None:
        """Close the connection; nobody may be waiting for an answer."""
        with anyio.CancelScope(shield=True):
            await self._channel.close()


class SnapshotSender:
    """One snapshot on its way to one peer, on a connection of its own."""

    def __init__(self, peer: int, hello: Hello, options: GrpcOptions, dialler: Dialler) -> None:
        """Prepare; `send` does it."""
        self._peer = peer
        self._hello = hello
        self._options = options
        self._dialler = dialler
        self._taken = False
        self._why: str | None = None
        self._chunks_error: Exception | None = None

    async def send(self, address: str, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        """Stream it and wait until the peer took it.

        :raises PeerUnreachable: it did not get there, or was not taken.
        :raises DeniedError: the peer did not let us in.
        """
        if len(header) + wire.OVERHEAD > self._options.max_frame:
            raise PeerUnreachable(
                self._peer, f"a snapshot header of {len(header)} bytes is over max_frame ({self._options.max_frame})"
            )
        try:
            dialled = self._dialler.dial(address, self._hello, wire.SNAPSHOT)
            async with dialled as stream, anyio.create_task_group() as tasks:
                # The answer may come at any time: a peer that cannot use the snapshot says so early.
                tasks.start_soon(self._stream, stream, header, chunks)
                await self._await_answer(stream)
                tasks.cancel_scope.cancel()
        except CallLostError as exc:
            raise PeerUnreachable(self._peer, str(exc)) from exc
        if self._chunks_error is not None:
            raise self._chunks_error
        if not self._taken:
            raise PeerUnreachable(self._peer, self._why or stream.ended or "the call ended before its answer")

    async def _stream(self, stream: Stream, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        within = self._options.idle_timeout
        size = min(self._options.snapshot_chunk, self._options.max_frame - wire.OVERHEAD)
        total = 0
        digest = hashlib.sha256()
        try:
            await stream.send(wire.encode_header(stream.group, header), within)
            async for chunk in chunks:
                for start in range(0, len(chunk), size):
                    piece = chunk if len(chunk) <= size else chunk[start : start + size]
                    digest.update(piece)
                    total += len(piece)
                    await stream.send(wire.encode_chunk(stream.group, piece), within)
            await stream.send(wire.encode_end(stream.group, total, digest.digest()), within)
        except (CallLostError, DeniedError):
            pass  # the one who waits for the answer hears the same, and why
        except Exception as exc:  # raised by the caller's own chunks: to be raised to the caller, not in a group
            self._chunks_error = exc
            stream.end("the snapshot could not be read")

    async def _await_answer(self, stream: Stream) -> None:
        try:
            # No limit on silence: the pings say whether the peer lives, and its disk takes what it takes.
            answer = await stream.receive()
            self._taken = answer.step == pb.Progress.TAKEN
            self._why = f"it did not take the snapshot: {answer.text}"
        except (CallLostError, DeniedError) as exc:
            self._why = str(exc)
