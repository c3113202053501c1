"""An attacker that speaks the transport `tcp`, one blocking socket at a time."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence

from riteraft_core._requests import Reply
from riteraft_core.types import Hello, Refusal
from riteraft_transport_tcp._framing import (
    Frame,
    FrameDecoder,
    Kind,
    decode_call,
    encode,
    encode_call,
    encode_end,
    encode_messages,
)
from riteraft_transport_tcp._handshake import Purpose, decode_answer, encode_hello

from riteraft_core import _requests

from .attacker import Errand, Line

PURPOSES = {
    Errand.MESSAGES: Purpose.MESSAGES,
    Errand.REQUEST: Purpose.REQUEST,
    Errand.SNAPSHOT: Purpose.SNAPSHOT,
}


class TcpAttacker(Line):
    """One connection to the target."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext | None = None) -> None:
        super().__init__(address, context)
        self._decoder = FrameDecoder(1 << 24)
        self._frames: list[Frame] = []

    def __enter__(self) -> TcpAttacker:
        return self

    def frame(self) -> Frame:
        """Return the next frame."""
        while not self._frames:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def greet(self, hello: Hello, errand: Errand) -> Refusal | None:
        self.send(encode_hello(hello, PURPOSES[errand]))
        return decode_answer(self.frame())

    def challenged(self, hello: Hello, errand: Errand, nonce: bytes) -> bytes:
        self.send(encode_hello(hello, PURPOSES[errand], nonce))
        challenge = self.frame()
        assert challenge.kind == Kind.CHALLENGE
        return bytes(challenge.body)

    def prove(self, proof: bytes) -> None:
        self.send(encode(Kind.PROOF, 0, proof))

    def ask(self, payload: bytes) -> Reply:
        self.send(encode_call(Kind.REQUEST, 0, 1, payload))
        return self._reply()

    def ask_all(self, payloads: Sequence[bytes]) -> list[Reply]:
        flood = b"".join(encode_call(Kind.REQUEST, 0, number, payload) for number, payload in enumerate(payloads))
        sending = threading.Thread(target=self.send, args=(flood,), daemon=True)
        sending.start()
        replies = [self._reply() for _ in payloads]
        sending.join()
        return replies

    def send_messages(self, messages: Sequence[bytes], group: int = 0) -> None:
        self.send(encode_messages(group, messages))

    def send_header(self, header: bytes) -> None:
        self.send(encode(Kind.SNAPSHOT, 0, header))

    def send_chunk(self, chunk: bytes) -> None:
        self.send(encode(Kind.CHUNK, 0, chunk))

    def send_end(self, size: int, sha256: bytes) -> None:
        self.send(encode_end(0, size, sha256))

    def verdict(self) -> str:
        while (frame := self.frame()).kind == Kind.ALIVE:
            pass
        if frame.kind == Kind.TAKEN:
            return ""
        assert frame.kind == Kind.NOT_TAKEN
        return bytes(frame.body).decode()

    def _reply(self) -> Reply:
        frame = self.frame()
        assert frame.kind == Kind.ANSWER, bytes(frame.body)
        return _requests.decode_reply(decode_call(frame.body)[1])
