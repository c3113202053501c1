"""Which snapshot an encoded MsgSnapshot speaks of.

The sender's header says what is staged, its message says what raft will believe: a peer whose two halves differ must
not get through. The message is read strictly, so that no two readers can understand it differently: each field that
counts stands in it exactly once.
"""

from __future__ import annotations

# Field numbers of raft-rs's eraftpb.proto.
_MESSAGE_SNAPSHOT = 9
_SNAPSHOT_METADATA = 2
_METADATA_INDEX = 2
_METADATA_TERM = 3

_VARINT = 0
_BYTES = 2


def snapshot_of(message: bytes) -> tuple[int, int] | None:
    """Return (index, term) of the snapshot that the message carries; None if it carries none, or not clearly one."""
    try:
        metadata = _nested(_nested(message, _MESSAGE_SNAPSHOT), _SNAPSHOT_METADATA)
        (index,) = _fields(metadata, _METADATA_INDEX)
        (term,) = _fields(metadata, _METADATA_TERM)
    except (ValueError, IndexError):  # not exactly one, or cut off
        return None
    return (index, term) if isinstance(index, int) and isinstance(term, int) else None


def _nested(data: bytes, number: int) -> bytes:
    (value,) = _fields(data, number)
    if isinstance(value, int):
        raise ValueError(f"field {number} is no message")
    return value


def _fields(data: bytes, number: int) -> list[int | bytes]:
    """Return every value of one field. eraftpb has numbers and lengths of bytes only, so nothing else is known here."""
    found: list[int | bytes] = []
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value: int | bytes
        if key & 7 == _VARINT:
            value, at = _varint(data, at)
        elif key & 7 == _BYTES:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {key & 7}")
        if at > len(data):
            raise ValueError("cut off")
        if key >> 3 == number:
            found.append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
