"""The context of every log entry we write: version, kind, and for a command who sent it.

A command's own bytes stay untouched in the entry's data. A kind or version that this release does not know stops the
node: to skip an entry that others apply would be to diverge from them in silence.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgpack

from .errors import ConsensusError

VERSION = 1
NAMED = 2
"""The version of an ALLOCATE entry with a name in it. One without a name is written as before, so that a cluster
without certificates may hold both releases."""
_HEAD = struct.Struct("<BB")
_COMMAND_KIND = 1
COMMAND = struct.Struct("<BBQQQ")
"""The context of a command: version, kind, session, sequence, and the lowest sequence its proposer still waits for."""
COMMAND_HEAD = _HEAD.pack(VERSION, _COMMAND_KIND)
"""What a context of `COMMAND`'s size begins with if it is one."""

MAX_ADDRESS_LENGTH = 300
"""A DNS name has at most 253 characters; brackets, a colon and a port come on top."""
MAX_DIGEST_LENGTH = 64
"""Bytes of a Store's digest: SHA-512 has as many."""


class Kind(enum.IntEnum):
    """What an entry means to the replicas."""

    COMMAND = _COMMAND_KIND
    OPEN_SESSION = 2
    ALLOCATE = 3
    ADDRESS = 4
    CONF_CHANGE = 5
    NAME = 6
    DIGEST = 7


FORWARDED_KINDS = frozenset({Kind.COMMAND, Kind.OPEN_SESSION, Kind.ADDRESS, Kind.NAME, Kind.DIGEST})
"""What a follower may ask its leader to append; everything else the leader decides on itself."""


def command_context(session: int, sequence: int, low: int) -> bytes:
    """Return the context of a command: its id, and the lowest sequence its proposer still waits for."""
    return COMMAND.pack(VERSION, _COMMAND_KIND, session, sequence, low)


def context(kind: Kind) -> bytes:
    """Return the context of any entry but a command."""
    return _HEAD.pack(VERSION, kind)


def read_command(raw: bytes) -> tuple[int, int, int] | None:
    """Return (session, sequence, low) if `raw` is a command's context, else None."""
    if len(raw) != COMMAND.size or not raw.startswith(COMMAND_HEAD):
        return None

    _, _, session, sequence, low = COMMAND.unpack(raw)
    return session, sequence, low


def read_commands(raws: Sequence[bytes]) -> Iterator[tuple[int, int, int, int, int]] | None:
    """Return `COMMAND`'s fields of each, if every one of `raws` is the context of a command, else None."""
    joined = b"".join(raws)
    same_size = {COMMAND.size}.issuperset(map(len, raws))
    if same_size and all(joined[at :: COMMAND.size] == COMMAND_HEAD[at : at + 1] * len(raws) for at in (0, 1)):
        return COMMAND.iter_unpack(joined)

    return None


def read_kind(raw: bytes, index: int) -> Kind:
    """Return the kind that a context names.

    :raises ConsensusError: a version or kind from a newer release, or no envelope at all.
    """
    try:
        version, kind = _HEAD.unpack_from(raw)
        if version == VERSION or (version, kind) == (NAMED, Kind.ALLOCATE):
            return Kind(kind)
    except (struct.error, ValueError):
        pass

    raise ConsensusError(
        f"log entry {index} is of a kind this release does not know (context {raw[:2].hex() or 'empty'}): "
        f"upgrade this node before it goes on"
    )


def conf_change_context(changes: Sequence[tuple[str, int]]) -> bytes:
    """Return the context of a conf change: who it drops stands here too, for its data is raft's own encoding."""
    dropped = [node_id for kind, node_id in changes if kind == "remove"]
    packed: bytes = context(Kind.CONF_CHANGE) + msgpack.packb(dropped)
    return packed


def read_conf_change(raw: bytes, index: int) -> list[int]:
    """Return the node ids that a conf change asks to drop; raft's own leave of a joint state has no context.

    :raises ConsensusError: a version or kind from a newer release.
    """
    if not raw:
        return []

    read_kind(raw, index)
    dropped: list[int] = msgpack.unpackb(raw[_HEAD.size :])
    return dropped


def pack_open_session(node_id: int, nonce: bytes) -> bytes:
    """Return the data of an OPEN_SESSION entry; the nonce makes a second copy of it harmless."""
    packed: bytes = msgpack.packb((node_id, nonce))
    return packed


def read_open_session(data: bytes) -> tuple[int, bytes]:
    """Take `pack_open_session` back."""
    node_id, nonce = msgpack.unpackb(data)
    return node_id, nonce


def allocate_entry(disk_id: bytes, address: str, wants_vote: bool, name: str = "") -> tuple[bytes, bytes]:
    """Return (context, data) of an ALLOCATE entry; the disk id is the join's token: the same one gets the same node id.

    `name` is the one in the joiner's certificate, empty without one.
    """
    if not name:
        return context(Kind.ALLOCATE), msgpack.packb((disk_id, address, wants_vote))

    return _HEAD.pack(NAMED, Kind.ALLOCATE), msgpack.packb((disk_id, address, wants_vote, name))


def read_allocate(context_raw: bytes, data: bytes) -> tuple[bytes, str, bool, str]:
    """Return (disk id, address, wants vote, name) of an ALLOCATE entry; the name is empty in one without."""
    values = msgpack.unpackb(data)
    if context_raw[0] == NAMED:
        disk_id, address, wants_vote, name = values
        return disk_id, address, wants_vote, name

    disk_id, address, wants_vote = values
    return disk_id, address, wants_vote, ""


def pack_address(node_id: int, address: str) -> bytes:
    """Return the data of an ADDRESS entry."""
    packed: bytes = msgpack.packb((node_id, address))
    return packed


def read_address(data: bytes) -> tuple[int, str]:
    """Take `pack_address` back."""
    node_id, address = msgpack.unpackb(data)
    return node_id, address


def pack_digest(node_id: int, index: int, digest: bytes) -> bytes:
    """Return the data of a DIGEST entry: what a node's Store came to at an applied index."""
    packed: bytes = msgpack.packb((node_id, index, digest))
    return packed


def read_digest(data: bytes) -> tuple[int, int, bytes]:
    """Take `pack_digest` back."""
    node_id, index, digest = msgpack.unpackb(data)
    return node_id, index, digest


def pack_name(node_id: int, name: str) -> bytes:
    """Return the data of a NAME entry: what stands in the certificate of a member that had none when it came."""
    packed: bytes = msgpack.packb((node_id, name))
    return packed


def read_name(data: bytes) -> tuple[int, str]:
    """Take `pack_name` back."""
    node_id, name = msgpack.unpackb(data)
    return node_id, name


def read_owner(data: bytes) -> int:
    """Return the node id that a valid OPEN_SESSION, ADDRESS, NAME or DIGEST entry is about."""
    node_id, *_ = msgpack.unpackb(data)
    return int(node_id)


def is_valid(kind: Kind, context_raw: bytes, data: bytes) -> bool:
    """Say whether an entry that another node wants appended would be understood by every replica."""
    try:
        if kind is Kind.COMMAND:
            return read_command(context_raw) is not None

        if len(context_raw) != _HEAD.size:
            return False

        if kind is Kind.OPEN_SESSION:
            opened: tuple[Any, Any] = read_open_session(data)
            node_id, nonce = opened
            return isinstance(node_id, int) and 0 < node_id < 1 << 62 and isinstance(nonce, bytes) and len(nonce) <= 64

        if kind in (Kind.ADDRESS, Kind.NAME):
            about: tuple[Any, Any] = read_address(data) if kind is Kind.ADDRESS else read_name(data)
            node_id, text = about
            return (
                isinstance(node_id, int)
                and 0 < node_id < 1 << 62
                and isinstance(text, str)
                and len(text) <= MAX_ADDRESS_LENGTH
            )

        if kind is Kind.DIGEST:
            compared: tuple[Any, Any, Any] = read_digest(data)
            node_id, index, digest = compared
            return (
                isinstance(node_id, int)
                and 0 < node_id < 1 << 62
                and isinstance(index, int)
                and 0 < index < 1 << 62
                and isinstance(digest, bytes)
                and len(digest) <= MAX_DIGEST_LENGTH
            )
    except (ValueError, TypeError, msgpack.UnpackException):
        pass

    return False
