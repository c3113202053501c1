"""What the checks need to know of a raft message: eraftpb's first few fields, read without eraftpb."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class MessageKind(enum.IntEnum):
    """The kinds whose sending promises something about the sender's disk."""

    APPEND_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    PRE_VOTE = 17
    PRE_VOTE_RESPONSE = 18


@dataclass(frozen=True, slots=True)
class RaftMessage:
    """Some fields of one message."""

    kind: int
    to: int
    sender: int
    term: int
    index: int
    reject: bool


def read_message(raw: bytes) -> RaftMessage:
    """Read an encoded `eraftpb.Message`; a field that is not there is 0."""
    numbers = dict.fromkeys(range(32), 0)
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        value, at = _varint(raw, at)
        if key & 7 == 2:
            at += value
        else:
            numbers[key >> 3] = value

    return RaftMessage(numbers[1], numbers[2], numbers[3], numbers[4], numbers[6], bool(numbers[10]))


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at

        shift += 7
