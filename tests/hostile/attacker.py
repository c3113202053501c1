"""Whoever sends bytes to a node's port: what every attacker can do, whatever the transport."""

from __future__ import annotations

import contextlib
import enum
import random
import socket
import ssl
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from riteraft_core._requests import Reply
from riteraft_core.types import Hello, Refusal

PATIENCE = 30.0
STRANGER = Hello(b"", 0, 0, b"", 0)


class Errand(enum.Enum):
    """What somebody says it has come for; the value stands in what a proof of the shared secret is made of."""

    MESSAGES = "messages"
    REQUEST = "request"
    SNAPSHOT = "snapshot"


class Attacker(Protocol):
    """One sender with the real protocol and no good intentions. To leave its block is to hang up."""

    def __enter__(self) -> Attacker: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def greet(self, hello: Hello, errand: Errand) -> Refusal | None:
        """Introduce ourselves; return the refusal, or None if we are in."""

    def challenged(self, hello: Hello, errand: Errand, nonce: bytes) -> bytes:
        """Introduce ourselves to one with a shared secret; return its challenge."""

    def prove(self, proof: bytes) -> None:
        """Answer the challenge."""

    def ask(self, payload: bytes) -> Reply:
        """Send one request and return the reply to it."""

    def ask_all(self, payloads: Sequence[bytes]) -> list[Reply]:
        """Send these requests without waiting for a reply; return the replies once all are there."""

    def send_messages(self, messages: Sequence[bytes], group: int = 0) -> None:
        """Send a batch of raft messages."""

    def send_header(self, header: bytes) -> None:
        """Begin a snapshot."""

    def send_chunk(self, chunk: bytes) -> None:
        """Go on with it."""

    def send_end(self, size: int, sha256: bytes) -> None:
        """Say what its chunks add up to."""

    def verdict(self) -> str:
        """Return why the snapshot was not taken; empty if it was."""

    def closed(self, within: float = PATIENCE) -> float:
        """Wait until the other side has ended what `greet` or `challenged` began; return the seconds that took."""


class Line:
    """A socket to the target, in the hands of somebody who does not mind whether it is still open."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext | None = None) -> None:
        """Connect, and with a context shake hands.

        :raises OSError: the other side would not.
        """
        self.socket = socket.create_connection(address, PATIENCE)
        if context is not None:
            plain = self.socket
            try:
                self.socket = context.wrap_socket(plain, server_hostname=address[0])
            except BaseException:
                plain.close()
                raise

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send, or find that the other side has closed already: both are fine with an attacker."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def finish(self) -> None:
        """Say that nothing more will come."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def closed(self, within: float = PATIENCE) -> float:
        """Wait until the other side has closed; return the seconds that took."""
        began = time.monotonic()
        self.socket.settimeout(within)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self.socket.recv(1 << 16):
                pass
        return time.monotonic() - began


def mutated(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return `data` cut short, with a bit flipped, with chance in it, or with something after it: some of that."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(4):
            case 0:
                del changed[place:]
            case 1 if changed:
                changed[place] ^= 1 << chance.randrange(8)
            case 2:
                changed[place:] = chance.randbytes(chance.randrange(1, 40))
            case _:
                changed += chance.choice(others) if others else chance.randbytes(8)
    return bytes(changed) or b"R"
