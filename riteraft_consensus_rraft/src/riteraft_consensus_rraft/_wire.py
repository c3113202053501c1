"""raft-rs's messages as bytes (`eraftpb.proto`), as far as the engine reads and writes them itself.

Reading a field of a message through rraft-py makes an object for each, and panics at an enum value it does not know;
setting bytes goes through a list of numbers. Plain bytes avoid all three. What is read here was written by raft-rs's
own codec a moment ago, even if it came from a peer: each field stands in it once, so that both sides read the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from riteraft_core.types import ConfState

# Message types that the engine treats by name.
PROPOSE = 2
APPEND = 3
APPEND_RESPONSE = 4
VOTE = 5
VOTE_RESPONSE = 6
SNAPSHOT = 7
HEARTBEAT = 8
HEARTBEAT_RESPONSE = 9
TRANSFER_LEADER = 13
TIMEOUT_NOW = 14
READ_INDEX = 15
READ_INDEX_RESPONSE = 16
PRE_VOTE = 17
PRE_VOTE_RESPONSE = 18
GREATEST_KIND = PRE_VOTE_RESPONSE

NORMAL, CONF_CHANGE, CONF_CHANGE_V2 = 0, 1, 2
ADD_VOTER, REMOVE, ADD_LEARNER = 0, 1, 2


@dataclass(slots=True)
class Entry:
    """What there is to check about an entry; `data` of a conf change only."""

    index: int = 0
    term: int = 0
    kind: int = NORMAL
    data: bytes = b""


@dataclass(slots=True)
class SnapshotMetadata:
    """What a snapshot stands for; None where the field is missing."""

    index: int = 0
    term: int = 0
    conf_state: ConfState | None = None


@dataclass(slots=True)
class Message:
    """The fields of a message that the gate looks at."""

    kind: int = 0
    to: int = 0
    sender: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    commit_term: int = 0
    reject_hint: int = 0
    request_snapshot: int = 0
    context: bytes = b""
    entries: Sequence[Entry] = ()
    snapshot: SnapshotMetadata | None = None


_NUMBERS = {
    1: "kind",
    2: "to",
    3: "sender",
    4: "term",
    5: "log_term",
    6: "index",
    8: "commit",
    11: "reject_hint",
    13: "request_snapshot",
    15: "commit_term",
}


def read_message(raw: bytes) -> Message:
    """Read an encoded Message."""
    message = Message()
    entries = []
    for tag, value in _fields(raw):
        if isinstance(value, int):
            name = _NUMBERS.get(tag)
            if name is not None:
                setattr(message, name, value)
        elif tag == 7:
            entries.append(read_entry(value))
        elif tag == 9:
            message.snapshot = _read_snapshot(value)
        elif tag == 12:
            message.context = value

    message.entries = entries
    return message


def read_head(raw: bytes) -> tuple[int, int]:
    """Return (type, receiver) of a message that raft-rs wrote."""
    kind = to = 0
    for tag, value in _fields(raw):
        if tag == 1 and isinstance(value, int):
            kind = value
        elif tag == 2 and isinstance(value, int):
            to = value
        else:
            break  # raft-rs's codec writes fields in ascending order

    return kind, to


def read_entry(raw: bytes) -> Entry:
    """Read an encoded Entry."""
    entry = Entry()
    for tag, value in _fields(raw):
        if isinstance(value, int):
            if tag == 1:
                entry.kind = value
            elif tag == 2:
                entry.term = value
            elif tag == 3:
                entry.index = value
        elif tag == 4:
            if entry.kind != NORMAL:
                entry.data = value
            break  # what follows is the context: nobody checks it

    return entry


def read_conf_change(raw: bytes) -> list[tuple[int, int]]:
    """Return the (type, node id) of an encoded ConfChange, in a list as of a ConfChangeV2."""
    fields = dict(_fields(raw))
    return [(_number(fields.get(2, 0)), _number(fields.get(3, 0)))]


def read_conf_change_v2(raw: bytes) -> tuple[int, list[tuple[int, int]]]:
    """Return transition and (type, node id) pairs of an encoded ConfChangeV2."""
    transition = 0
    changes = []
    for tag, value in _fields(raw):
        if tag == 1:
            transition = _number(value)
        elif tag == 2 and isinstance(value, bytes):
            fields = dict(_fields(value))
            changes.append((_number(fields.get(1, 0)), _number(fields.get(2, 0))))

    return transition, changes


def read_conf_state(raw: bytes) -> ConfState:
    """Read an encoded ConfState, each set in ascending order: raft-rs keeps them in hash order."""
    sets: list[list[int]] = [[], [], [], []]
    auto_leave = False
    for tag, value in _fields(raw):
        if tag == 5:
            auto_leave = bool(value)
        elif isinstance(value, int):
            sets[tag - 1].append(value)
        else:
            sets[tag - 1] += _packed(value)

    voters, learners, outgoing, learners_next = (tuple(sorted(ids)) for ids in sets)
    return ConfState(voters, learners, outgoing, learners_next, auto_leave)


def write_proposal(sender: int, entries: Sequence[tuple[int, bytes, bytes]]) -> bytes:
    """Encode a MsgPropose of (entry type, context, data)."""
    parts = [_write_number(1, PROPOSE), _write_number(3, sender)]
    for kind, context, data in entries:
        parts.append(_write_bytes(7, _write_number(1, kind) + _write_bytes(4, data) + _write_bytes(6, context)))

    return b"".join(parts)


def write_conf_change_v2(changes: Sequence[tuple[int, int]], transition: int = 0) -> bytes:
    """Encode a ConfChangeV2 of (type, node id) pairs; raft-rs takes none for a leave of the joint state."""
    singles = (_write_bytes(2, _write_number(1, kind) + _write_number(2, node_id)) for kind, node_id in changes)
    return _write_number(1, transition) + b"".join(singles)


def write_conf_state(conf_state: ConfState) -> bytes:
    """Encode a ConfState."""
    sets = (conf_state.voters, conf_state.learners, conf_state.voters_outgoing, conf_state.learners_next)
    packed = (
        _write_bytes(tag, b"".join(_write_varint(node_id) for node_id in ids)) if ids else b""
        for tag, ids in enumerate(sets, start=1)
    )
    return b"".join(packed) + _write_number(5, int(conf_state.auto_leave))


def write_hard_state(term: int, vote: int, commit: int) -> bytes:
    """Encode a HardState."""
    return _write_number(1, term) + _write_number(2, vote) + _write_number(3, commit)


def write_snapshot(index: int, term: int, conf_state: ConfState) -> bytes:
    """Encode a Snapshot without data."""
    metadata = _write_bytes(1, write_conf_state(conf_state)) + _write_number(2, index) + _write_number(3, term)
    return _write_bytes(2, metadata)


def _read_snapshot(raw: bytes) -> SnapshotMetadata | None:
    for tag, value in _fields(raw):
        if tag == 2 and isinstance(value, bytes):
            metadata = SnapshotMetadata()
            for inner, part in _fields(value):
                if inner == 1 and isinstance(part, bytes):
                    metadata.conf_state = read_conf_state(part)
                elif inner == 2:
                    metadata.index = _number(part)
                elif inner == 3:
                    metadata.term = _number(part)

            return metadata

    return None


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value): eraftpb has numbers and lengths of bytes only."""
    at = 0
    end = len(raw)
    while at < end:
        key = raw[at]  # eraftpb's field numbers are below 16: one byte
        at += 1
        value = raw[at]
        at += 1
        if value > 0x7F:
            value &= 0x7F
            shift = 7
            while True:
                byte = raw[at]
                at += 1
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break

                shift += 7

        if key & 7 == 2:
            yield key >> 3, raw[at : at + value]
            at += value
        else:
            yield key >> 3, value


def _packed(raw: bytes) -> list[int]:
    numbers = []
    value = shift = 0
    for byte in raw:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0

    return numbers


def _number(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value


def _write_varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "little")

    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7

    out.append(value)
    return bytes(out)


def _write_number(tag: int, value: int) -> bytes:
    return _write_varint(tag << 3) + _write_varint(value) if value else b""


def _write_bytes(tag: int, value: bytes) -> bytes:
    return _write_varint(tag << 3 | 2) + _write_varint(len(value)) + value
