"""What nodes, clients and admins ask of a node beside raft's own messages: a msgpack array each way, with a version.

Sizes are checked while unpacking, types after it: these bytes come from the network.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack

from ._envelope import MAX_ADDRESS_LENGTH
from ._unpack import MAX_ITEMS, unpack
from .types import NodeStatus, Role

VERSION = 1
MAX_ARRAY = 128
"""Items in one array of a request; longer lists are cut into groups."""
MAX_STRANGERS_ITEMS = 16
"""Items of all arrays in a request of one without a node id, which can be no list: a full `Forward` of empty entries
takes the event loop 40 ms to read, so that is for members."""
MAX_REPLY_ARRAY = 16_384
"""The same in a reply, which comes from a node that we asked: it may name many members."""
MAX_TIMEOUT = 3600.0
"""Seconds a `Propose` may wait: a client that went away is not waited for without end."""
MAX_ENTRIES = 16_384
"""A forwarded batch holds at most so many entries."""


class _Kind(enum.IntEnum):
    READ = 2
    JOIN = 3
    REMOVE = 4
    WHO = 5
    MOVED = 6
    STATUS = 7
    PROPOSE = 8
    FORWARD = 9


class Status(enum.IntEnum):
    """How a request went."""

    OK = 0
    NOT_LEADER = 1
    """Ask the leader, if the reply names one; the request was not carried out."""
    RETRY = 2
    """Not now; the request was not carried out."""
    REFUSED = 3
    """Never; the reply says why."""
    REJECTED = 4
    """The Store said no to a command: the reply has its message and its detail."""
    UNKNOWN = 5
    """It may have been carried out or not; the reply says why."""


@dataclass(frozen=True, slots=True)
class Forward:
    """Append these (context, data) pairs; the reply has the index of the first and the term."""

    entries: Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Read:
    """Run a ReadIndex round; the reply has its index."""


@dataclass(frozen=True, slots=True)
class Join:
    """Let a new node in; the reply has the cluster id, the node id and the members' addresses."""

    cluster: str
    disk_id: bytes
    address: str
    wants_vote: bool = True


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a node out of the cluster; the reply comes when that is committed."""

    node_id: int


@dataclass(frozen=True, slots=True)
class Who:
    """Say who you are: cluster name, cluster id, node id."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Dial a member at this address from now on; the reply has what the asked node knows of the others' addresses."""

    node_id: int
    address: str


@dataclass(frozen=True, slots=True)
class AskStatus:
    """Say how you are: the reply has a `NodeStatus`."""


@dataclass(frozen=True, slots=True)
class Propose:
    """Have a command applied, as if your own program had proposed it; the reply has the Store's answer."""

    command: bytes
    timeout: float
    """Seconds."""


Request: TypeAlias = Forward | Read | Join | Remove | Who | Moved | AskStatus | Propose


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: a status and its values."""

    status: Status
    values: tuple[Any, ...] = ()

    @classmethod
    def not_leader(cls, leader: int, address: str | None) -> Reply:
        """Return the reply of a node that does not lead."""
        return cls(Status.NOT_LEADER, (leader, address or ""))

    @classmethod
    def retry(cls, why: str) -> Reply:
        """Return the reply of a node that cannot right now."""
        return cls(Status.RETRY, (why,))

    @classmethod
    def refused(cls, why: str) -> Reply:
        """Return the reply of a node that never will."""
        return cls(Status.REFUSED, (why,))


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a joiner learns from an OK reply to `Join`."""

    cluster_id: bytes
    node_id: int
    addresses: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a node believes the others to be: what an OK reply to `Moved` says."""

    applied: int
    """How far in the log its knowledge of `settled` reaches."""
    settled: Mapping[int, str]
    moved: Mapping[int, str]
    """Addresses it was told by their owners, which the log does not hold yet."""


def encode(request: Request) -> bytes:
    """Return the bytes of a request."""
    body: tuple[Any, ...]
    if isinstance(request, Forward):
        entries = request.entries
        body = (_Kind.FORWARD, [entries[start : start + MAX_ARRAY] for start in range(0, len(entries), MAX_ARRAY)])
    elif isinstance(request, Read):
        body = (_Kind.READ,)
    elif isinstance(request, Join):
        body = (_Kind.JOIN, request.cluster, request.disk_id, request.address, request.wants_vote)
    elif isinstance(request, Remove):
        body = (_Kind.REMOVE, request.node_id)
    elif isinstance(request, Moved):
        body = (_Kind.MOVED, request.node_id, request.address)
    elif isinstance(request, AskStatus):
        body = (_Kind.STATUS,)
    elif isinstance(request, Propose):
        body = (_Kind.PROPOSE, request.command, request.timeout)
    else:
        body = (_Kind.WHO,)

    packed: bytes = msgpack.packb((VERSION, *body))
    return packed


def decode(raw: bytes, *, stranger: bool = False) -> Request:
    """Return the request in `raw`, which with `stranger` is from one without a node id and holds no list.

    :raises ValueError: it is none, or of a version this release does not know.
    """
    bounds = (MAX_STRANGERS_ITEMS, MAX_STRANGERS_ITEMS) if stranger else (MAX_ARRAY, MAX_ITEMS)
    values = _unpack(raw, *bounds)
    version, kind = values[0], values[1] if len(values) > 1 else None
    if version != VERSION:
        raise ValueError(f"request of version {version!r}; this release speaks {VERSION}")

    match kind, values[2:]:
        case _Kind.FORWARD, [list() as groups] if all(isinstance(group, list) for group in groups):
            entries = [entry for group in groups for entry in group]
            if len(entries) <= MAX_ENTRIES and all(map(_is_pair, entries)):
                return Forward(tuple((context, data) for context, data in entries))
        case _Kind.READ, []:
            return Read()
        case _Kind.JOIN, [str() as cluster, bytes() as disk_id, str() as address, bool() as wants_vote] if (
            len(disk_id) == 16 and len(address) <= MAX_ADDRESS_LENGTH
        ):
            return Join(cluster, disk_id, address, wants_vote)
        case _Kind.REMOVE, [int() as node_id] if 0 < node_id < 1 << 62:
            return Remove(node_id)
        case _Kind.WHO, []:
            return Who()
        case _Kind.MOVED, [int() as node_id, str() as address] if (
            0 < node_id < 1 << 62 and len(address) <= MAX_ADDRESS_LENGTH
        ):
            return Moved(node_id, address)
        case _Kind.STATUS, []:
            return AskStatus()
        case _Kind.PROPOSE, [bytes() as command, float() as timeout] if 0 < timeout <= MAX_TIMEOUT:
            return Propose(command, timeout)

    raise ValueError(f"malformed request of kind {kind!r}")


def encode_reply(reply: Reply) -> bytes:
    """Return the bytes of a reply."""
    packed: bytes = msgpack.packb((VERSION, reply.status, *reply.values))
    return packed


def decode_reply(raw: bytes) -> Reply:
    """Return the reply in `raw`; its values are unchecked, see `read_position` and the others.

    :raises ValueError: it is none.
    """
    values = _unpack(raw, MAX_REPLY_ARRAY)
    if len(values) < 2 or values[0] != VERSION or not isinstance(values[1], int):
        raise ValueError("malformed reply")

    return Reply(Status(values[1]), tuple(values[2:]))


def read_position(reply: Reply) -> tuple[int, int]:
    """Return (index, term) of an OK reply to `Forward`.

    :raises ValueError: the reply has another shape.
    """
    match reply.values:
        case (int() as index, int() as term):
            return index, term

    raise ValueError("malformed reply to a forwarded write")


def read_index(reply: Reply) -> int:
    """Return the index of an OK reply to `Read`.

    :raises ValueError: the reply has another shape.
    """
    match reply.values:
        case (int() as index,):
            return index

    raise ValueError("malformed reply to a read")


def read_admitted(reply: Reply) -> Admitted:
    """Return what an OK reply to `Join` says.

    :raises ValueError: the reply has another shape.
    """
    match reply.values:
        case (bytes() as cluster_id, int() as node_id, list() as rows) if len(cluster_id) == 16 and node_id > 0:
            return Admitted(cluster_id, node_id, _read_addresses(rows))

    raise ValueError("malformed reply to a join")


def directory_reply(directory: Directory) -> Reply:
    """Return the OK reply to `Moved`."""
    settled, moved = ([[n, a] for n, a in rows.items()] for rows in (directory.settled, directory.moved))
    return Reply(Status.OK, (directory.applied, settled, moved))


def read_directory(reply: Reply) -> Directory:
    """Return what an OK reply to `Moved` says.

    :raises ValueError: the reply has another shape.
    """
    match reply.values:
        case (int() as applied, list() as settled, list() as moved):
            return Directory(applied, _read_addresses(settled), _read_addresses(moved))

    raise ValueError("malformed reply to an announced address")


def status_reply(status: NodeStatus) -> Reply:
    """Return the OK reply to `AskStatus`."""
    values = {field.name: getattr(status, field.name) for field in dataclasses.fields(status)}
    for name in ("members", "counters"):
        values[name] = [[key, value] for key, value in values[name].items()]

    return Reply(Status.OK, ([[name, value] for name, value in values.items()],))


def read_status(reply: Reply) -> NodeStatus:
    """Return what an OK reply to `AskStatus` says; values that a later release added are passed over.

    :raises ValueError: the reply has another shape.
    """
    try:
        (rows,) = reply.values
        values = dict(rows)
        known = {field.name: values[field.name] for field in dataclasses.fields(NodeStatus)}
        known["role"] = Role(known["role"])
        known["voters"], known["learners"] = tuple(known["voters"]), tuple(known["learners"])
        known["members"], known["counters"] = dict(known["members"]), dict(known["counters"])
        return NodeStatus(**known)
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError("malformed status") from exc


def read_answer(reply: Reply) -> bytes:
    """Return the Store's answer that an OK reply to `Propose` has.

    :raises ValueError: the reply has another shape.
    """
    match reply.values:
        case (bytes() as answer,):
            return answer

    raise ValueError("malformed reply to a command")


def read_rejection(reply: Reply) -> tuple[str, bytes]:
    """Return (message, detail) of a REJECTED reply.

    :raises ValueError: the reply has another shape.
    """
    match reply.values:
        case (str() as message, bytes() as detail):
            return message, detail

    raise ValueError("malformed rejection")


def read_leader(reply: Reply) -> str | None:
    """Return the leader's address that a NOT_LEADER reply names, if any."""
    match reply.values:
        case (int(), str() as address) if address:
            return address

    return None


def read_text(reply: Reply) -> str:
    """Return the words of a RETRY or REFUSED reply."""
    match reply.values:
        case (str() as text,):
            # It goes to logs and terminals, which would take some characters for more than text.
            return "".join(character if character.isprintable() else "?" for character in text)

    return "no reason given"


def _read_addresses(rows: list[Any]) -> dict[int, str]:
    addresses: dict[int, str] = {}
    for row in rows:
        match row:
            case [int() as node_id, str() as address]:
                addresses[node_id] = address
            case _:
                raise ValueError("malformed list of addresses")

    return addresses


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], bytes) and isinstance(entry[1], bytes)


def _unpack(raw: bytes, max_array_len: int, max_items: int = MAX_ITEMS) -> list[Any]:
    values = unpack(raw, max_array_len=max_array_len, max_items=max_items)
    if not isinstance(values, list) or not values:
        raise ValueError("not an array")

    return values
