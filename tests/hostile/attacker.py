"""Whoever sends bytes to a node's port over tcp, one blocking socket at a time."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time

from riteraft_core._requests import Reply, Request, Who
from riteraft_core.types import Hello, Refusal
from riteraft_transport_tcp._framing import Frame, FrameDecoder, Kind, decode_call, encode_call
from riteraft_transport_tcp._handshake import Purpose, decode_answer, encode_hello

from riteraft_core import _requests

from .target import Target

PATIENCE = 30.0
STRANGER = Hello(b"", 0, 0, b"", 0)


class Attacker:
    """One connection to the target."""

    def __init__(self, target: Target) -> None:
        self.socket = socket.create_connection(target.address, PATIENCE)
        self._decoder = FrameDecoder(1 << 24)
        self._frames: list[Frame] = []

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send, or find that the other side has closed already: both are fine with an attacker."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.socket.sendall(data)

    def frame(self) -> Frame:
        """Return the next frame."""
        while not self._frames:
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def greet(self, hello: Hello, purpose: Purpose) -> Refusal | None:
        """Introduce ourselves; return the refusal, or None if we are in."""
        self.send(encode_hello(hello, purpose))
        return decode_answer(self.frame())

    def ask(self, payload: bytes, request_id: int = 1) -> Reply:
        """Send one request and return the reply to it."""
        self.send(encode_call(Kind.REQUEST, 0, request_id, payload))
        return self.reply()

    def reply(self) -> Reply:
        """Return the next reply."""
        frame = self.frame()
        assert frame.kind == Kind.ANSWER, bytes(frame.body)
        return _requests.decode_reply(decode_call(frame.body)[1])

    def closed(self, within: float = PATIENCE) -> float:
        """Wait until the other side has closed; return the seconds that took."""
        began = time.monotonic()
        self.socket.settimeout(within)
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionError:
            pass
        return time.monotonic() - began


def cluster_id(target: Target) -> bytes:
    """Ask for the cluster's id, as any stranger may on an open cluster."""
    with Attacker(target) as attacker:
        assert attacker.greet(STRANGER, Purpose.REQUEST) is None
        request: Request = Who()
        _, found, _ = attacker.ask(_requests.encode(request)).values
        assert isinstance(found, bytes)
        return found


def newcomer(target: Target, node_id: int = 99) -> Hello:
    """Return the hello of one that claims to be a newer member than the target knows: it is let in (rule 18)."""
    return Hello(cluster_id(target), 0, node_id, secrets.token_bytes(16), target.node.node_id)
