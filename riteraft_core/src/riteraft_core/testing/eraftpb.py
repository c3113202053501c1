"""raft-rs's messages on the wire, as far as the engine suite needs them: a small typed encoder and decoder.

`Message` and its parts are what raft-rs's `eraftpb.proto` says, field for field. A value that is its type's default is
left out, as proto3 does. Nothing is checked: the suite writes what no honest peer would.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from riteraft_core.types import ConfState

__all__ = [
    "ADD_LEARNER",
    "ADD_VOTER",
    "CONF_CHANGE",
    "CONF_CHANGE_V2",
    "NORMAL",
    "REMOVE",
    "Entry",
    "Kind",
    "Message",
    "Snapshot",
    "conf_change",
    "conf_change_v2",
    "decode",
    "decode_entry",
]


class Kind(enum.IntEnum):
    """Message types."""

    HUP = 0
    BEAT = 1
    PROPOSE = 2
    APPEND = 3
    APPEND_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    SNAPSHOT = 7
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESPONSE = 16
    PRE_VOTE = 17
    PRE_VOTE_RESPONSE = 18


NORMAL, CONF_CHANGE, CONF_CHANGE_V2 = 0, 1, 2
"""Entry types."""

ADD_VOTER, REMOVE, ADD_LEARNER = 0, 1, 2
"""Types of a conf change."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log."""

    index: int
    term: int
    data: bytes = b""
    context: bytes = b""
    kind: int = NORMAL

    def encode(self) -> bytes:
        """Return the bytes."""
        return (
            _number(1, self.kind)
            + _number(2, self.term)
            + _number(3, self.index)
            + _bytes(4, self.data)
            + _bytes(6, self.context)
        )

    @property
    def row(self) -> tuple[int, int, bytes]:
        """The shape in which a storage keeps it."""
        return self.index, self.term, self.encode()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot's metadata; engines send no data with it."""

    index: int
    term: int
    conf_state: ConfState | None = None

    def encode(self) -> bytes:
        """Return the bytes."""
        conf_state = b"" if self.conf_state is None else _bytes(1, _conf_state(self.conf_state), keep=True)
        return _bytes(2, conf_state + _number(2, self.index) + _number(3, self.term), keep=True)


@dataclass(frozen=True, slots=True)
class Message:
    """One message between nodes."""

    kind: int
    to: int = 0
    sender: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: Sequence[Entry] = ()
    commit: int = 0
    commit_term: int = 0
    snapshot: Snapshot | None = None
    request_snapshot: int = 0
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes."""
        return (
            _number(1, self.kind)
            + _number(2, self.to)
            + _number(3, self.sender)
            + _number(4, self.term)
            + _number(5, self.log_term)
            + _number(6, self.index)
            + b"".join(_bytes(7, entry.encode(), keep=True) for entry in self.entries)
            + _number(8, self.commit)
            + (b"" if self.snapshot is None else _bytes(9, self.snapshot.encode(), keep=True))
            + _number(10, self.reject)
            + _number(11, self.reject_hint)
            + _bytes(12, self.context)
            + _number(13, self.request_snapshot)
            + _number(15, self.commit_term)
        )


def conf_change(kind: int, node_id: int) -> bytes:
    """Return the data of a CONF_CHANGE entry."""
    return _number(2, kind) + _number(3, node_id)


def conf_change_v2(*changes: tuple[int, int], transition: int = 0) -> bytes:
    """Return the data of a CONF_CHANGE_V2 entry of (type, node id) pairs."""
    singles = (_bytes(2, _number(1, kind) + _number(2, node_id), keep=True) for kind, node_id in changes)
    return _number(1, transition) + b"".join(singles)


def decode(raw: bytes) -> Message:
    """Read a message that an engine wrote; of a snapshot only index and term."""
    numbers: dict[int, int] = {}
    entries: list[Entry] = []
    context = b""
    snapshot = None
    for tag, value in _fields(raw):
        if isinstance(value, int):
            numbers[tag] = value
        elif tag == 7:
            entries.append(decode_entry(value))
        elif tag == 9:
            meta = dict(_fields(_chunk(dict(_fields(value))[2])))
            snapshot = Snapshot(_int(meta[2]), _int(meta[3]))
        elif tag == 12:
            context = value

    return Message(
        kind=Kind(numbers.get(1, 0)),
        to=numbers.get(2, 0),
        sender=numbers.get(3, 0),
        term=numbers.get(4, 0),
        log_term=numbers.get(5, 0),
        index=numbers.get(6, 0),
        entries=entries,
        commit=numbers.get(8, 0),
        commit_term=numbers.get(15, 0),
        snapshot=snapshot,
        request_snapshot=numbers.get(13, 0),
        reject=bool(numbers.get(10, 0)),
        reject_hint=numbers.get(11, 0),
        context=context,
    )


def decode_entry(raw: bytes) -> Entry:
    """Read an entry that an engine wrote."""
    fields = dict(_fields(raw))
    return Entry(
        index=_int(fields.get(3, 0)),
        term=_int(fields.get(2, 0)),
        data=_chunk(fields.get(4, b"")),
        context=_chunk(fields.get(6, b"")),
        kind=_int(fields.get(1, 0)),
    )


def _conf_state(conf_state: ConfState) -> bytes:
    sets = (conf_state.voters, conf_state.learners, conf_state.voters_outgoing, conf_state.learners_next)
    ids = (_number(tag, node_id, keep=True) for tag, ids in enumerate(sets, start=1) for node_id in ids)
    return b"".join(ids) + _number(5, conf_state.auto_leave)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7

    out.append(value)
    return bytes(out)


def _number(tag: int, value: int, *, keep: bool = False) -> bytes:
    return _varint(tag << 3) + _varint(value) if value or keep else b""


def _bytes(tag: int, value: bytes, *, keep: bool = False) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(value)) + value if value or keep else b""


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value

            shift += 7

    while at < len(raw):
        key = varint()
        value = varint()
        if key & 7 == 2:
            yield key >> 3, raw[at : at + value]
            at += value
        else:
            yield key >> 3, value


def _int(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value


def _chunk(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value
