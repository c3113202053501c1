"""The Store of the simulation: it remembers every command in order, so that any difference shows."""

from __future__ import annotations

import hashlib

import msgpack

from ..._sessions import Answer, Rejection

REJECTED = b"no"
"""A command that begins so is refused by the Store."""


class HistoryStore:
    """Its state is the list of all commands it was given, the refused ones too."""

    def __init__(self) -> None:
        self.history: list[bytes] = []

    def apply(self, command: bytes) -> Answer:
        """Take a command; the answer tells its place, so that a wrong one is not mistaken for the right one."""
        self.history.append(command)
        return expected_answer(len(self.history) - 1, command)

    def snapshot(self) -> bytes:
        """Return the history."""
        packed: bytes = msgpack.packb(self.history)
        return packed

    def digest(self) -> bytes:
        """Return what the history comes to."""
        return hashlib.sha256(self.snapshot()).digest()

    def restore(self, snapshot: bytes) -> None:
        """Take another history."""
        self.history = msgpack.unpackb(snapshot)


def expected_answer(place: int, command: bytes) -> Answer:
    """Return what the proposer of the command at `place` must be told."""
    if command.startswith(REJECTED):
        return Rejection(f"at {place}", command)

    return b"%d %s" % (place, command)
