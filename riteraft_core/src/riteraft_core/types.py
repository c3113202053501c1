"""The values that cross the seams between core and its plugins: frozen, plain, no binding object inside.

Three shapes are bare tuples, not classes, because they are made once for each entry on the hot path:
`LogRow`, `CommittedEntry` and `PeerMessages`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import msgpack

from ._unpack import unpack

LogRow: TypeAlias = tuple[int, int, bytes]
"""(index, term, encoded entry): one row of the log as a `LogStorage` keeps it. The bytes are opaque to it."""

CommittedEntry: TypeAlias = tuple[int, int, int, bytes, bytes]
"""(index, term, `EntryKind`, context, data): one entry the cluster has agreed on."""

PeerMessages: TypeAlias = tuple[int, list[bytes]]
"""(node id, encoded messages in order)."""

SNAPSHOT_META_FORMAT = 1


class EntryKind(enum.IntEnum):
    """What an entry is to raft: the numbers are those of eraftpb's `EntryType`."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class Role(str, enum.Enum):
    """What a node is in its term (Raft paper §5.1; pre-candidate: the thesis, §9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class HardState(NamedTuple):
    """What raft must find again after a crash (Raft paper, figure 2, persistent state; commit is a hint)."""

    term: int = 0
    vote: int = 0
    commit: int = 0


class Anchor(NamedTuple):
    """Index and term of the entry just before the first one that the log still holds; (0, 0) for a log never cut."""

    index: int = 0  # type: ignore[assignment] # hides tuple.index, which nobody needs here
    term: int = 0


@dataclass(frozen=True, slots=True)
class ConfState:
    """Who takes part at some index; the outgoing half is empty but while a joint change is under way (thesis §4.3)."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False

    def __contains__(self, node_id: object) -> bool:
        """Say whether `node_id` takes part in any way."""
        return node_id in self.voters or node_id in self.learners or node_id in self.voters_outgoing

    @property
    def everyone(self) -> frozenset[int]:
        """Every node id that takes part, voters and learners of both halves."""
        return frozenset((*self.voters, *self.learners, *self.voters_outgoing, *self.learners_next))

    def to_plain(self) -> tuple[list[int], list[int], list[int], list[int], bool]:
        """Return the five fields in order, as lists: what msgpack and the native module take."""
        return (
            list(self.voters),
            list(self.learners),
            list(self.voters_outgoing),
            list(self.learners_next),
            self.auto_leave,
        )

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> ConfState:
        """Build from what `to_plain` gave."""
        voters, learners, outgoing, learners_next, auto_leave = plain
        return cls(tuple(voters), tuple(learners), tuple(outgoing), tuple(learners_next), bool(auto_leave))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a data folder is: given once, durable before the first packet leaves, never changed."""

    cluster: str
    """The cluster's human name, from the config."""
    cluster_id: bytes
    """16 random bytes drawn by the founder."""
    group: int
    """Which raft group this is; 0 while a process runs one."""
    node_id: int
    """≥ 1, given through the log, never used again in this cluster."""
    disk_id: bytes
    """16 random bytes of this folder: another disk under a known node id is refused."""


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """What a snapshot stands for: everything applied up to `index`, beside the Store's own bytes."""

    index: int
    term: int
    conf_state: ConfState
    state: bytes = b""
    """Core's own part (members, addresses, sessions, next id): opaque to storages, transports and engines."""

    def encode(self) -> bytes:
        """Return the bytes a storage keeps and a transport carries; `decode` takes them back."""
        packed: bytes = msgpack.packb(
            (SNAPSHOT_META_FORMAT, self.index, self.term, self.conf_state.to_plain(), self.state)
        )
        return packed

    @classmethod
    def decode(cls, raw: bytes) -> SnapshotMeta:
        """Build from `encode`'s bytes.

        :raises ValueError: the bytes are no snapshot meta, or of a format this version does not know.
        """
        try:
            fmt, index, term, conf_state, state = unpack(raw, max_array_len=1024)
            if fmt != SNAPSHOT_META_FORMAT:
                raise ValueError(f"snapshot meta has format {fmt!r}, this version reads {SNAPSHOT_META_FORMAT}")
            if not (isinstance(index, int) and isinstance(term, int) and isinstance(state, bytes)):
                raise ValueError("index, term or state is of the wrong type")
            return cls(index, term, ConfState.from_plain(conf_state), state)
        except ValueError:
            raise
        except Exception as exc:  # msgpack raises several unrelated types for bytes that are not its own
            raise ValueError(f"not a snapshot meta: {exc}") from exc


@dataclass(frozen=True, slots=True)
class LogBatch:
    """What one `LogStorage.save` makes durable, all or nothing: first `install`, then `hard_state` and `entries`."""

    install: str | None = None
    """A token from `stage_snapshot`: make that snapshot the live one and drop the whole log before it."""
    hard_state: HardState | None = None
    entries: Sequence[LogRow] = ()
    """Dense and ascending. The first one's index deletes every stored row at or after it."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """All that `LogStorage.load` found; `identity` is None on a storage never created."""

    identity: Identity | None = None
    hard_state: HardState = HardState()
    anchor: Anchor = Anchor()
    snapshot: SnapshotMeta | None = None
    entries: Sequence[LogRow] = ()


class PrincipalRole(str, enum.Enum):
    """What the owner of a certificate is in a cluster."""

    NODE = "node"
    """May replicate and take part in everything that members do among themselves."""
    CLIENT = "client"
    """May propose, read and ask for status."""
    ADMIN = "admin"
    """May do what a client may, and change who belongs to the cluster."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a certificate names: a node, client or admin of one cluster."""

    SCHEME: ClassVar[str] = "riteraft://"
    MAX_NAME: ClassVar[int] = 200

    role: PrincipalRole
    cluster: str
    name: str

    @property
    def uri(self) -> str:
        """Return the subject alternative name: `riteraft://CLUSTER/ROLE/NAME`, each part percent-encoded."""
        return f"{self.SCHEME}{quote(self.cluster, safe='')}/{self.role.value}/{quote(self.name, safe='')}"

    @classmethod
    def parse(cls, uri: str) -> Principal:
        """Take `uri` back.

        :raises ValueError: it is no such thing, or not written as `uri` writes it.
        """
        parts = uri[len(cls.SCHEME) :].split("/") if uri.startswith(cls.SCHEME) else []
        if len(parts) == 3:
            cluster, role, name = unquote(parts[0], errors="strict"), parts[1], unquote(parts[2], errors="strict")
            if role in set(PrincipalRole) and 0 < len(cluster) <= cls.MAX_NAME and 0 < len(name) <= cls.MAX_NAME:
                principal = cls(PrincipalRole(role), cluster, name)
                # One spelling only, or two texts would be one name.
                if principal.uri == uri:
                    return principal
        raise ValueError(f"{uri[:300]!r} is not riteraft://CLUSTER/node/NAME (or client, or admin)")


@dataclass(frozen=True, slots=True)
class Hello:
    """Who knocks: what a connection's first frame says of its sender, checked by `Handler.admit`."""

    cluster_id: bytes
    """Empty for a joiner, that has no cluster yet."""
    group: int
    node_id: int
    """0 for one that has no identity: it may only `request`."""
    disk_id: bytes
    to: int
    """The node id the sender means to reach; 0 for "whoever listens there" (requests go to an address)."""
    principal: Principal | None = None
    """Whom the sender's certificate names: set by the listening side, never taken from the wire."""

    @classmethod
    def of(cls, identity: Identity | None, to: int) -> Hello:
        """Return how a node with this identity introduces itself; None for one that has none yet."""
        if identity is None:
            return cls(cluster_id=b"", group=0, node_id=0, disk_id=b"", to=to)
        return cls(identity.cluster_id, identity.group, identity.node_id, identity.disk_id, to)


class RefusalCode(str, enum.Enum):
    """Why a peer was not let in, in one word that both sides understand."""

    VERSION = "version"
    CLUSTER = "cluster"
    GROUP = "group"
    DISK = "disk"
    RECEIVER = "receiver"
    REMOVED = "removed"
    NOT_READY = "not-ready"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of "no" to a `Hello`; the text is shown to people on both sides."""

    code: RefusalCode
    text: str


@dataclass(frozen=True, slots=True)
class PeerProgress:
    """How far a leader knows one peer to be (raft-rs `Progress`)."""

    node_id: int
    matched: int
    next_index: int
    state: str
    """`probe`, `replicate` or `snapshot`."""
    recent_active: bool


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What the engine says of itself; `progress` is empty but on a leader."""

    node_id: int
    term: int
    vote: int
    role: Role
    leader: int
    """0 while none is known."""
    commit: int
    first_index: int
    last_index: int
    conf_state: ConfState
    transferring_to: int = 0
    pending_conf_change: bool = False
    """A conf change is in the log and not yet handed out: another would be refused."""
    progress: Sequence[PeerProgress] = ()


@dataclass(slots=True)  # not frozen: that would cost more than the engine takes to fill it
class Ready:
    """One `Consensus.ready()`: everything the engine wants done, taken once.

    The order that must hold: `messages` may leave at once; `hard_state`, `entries` and `snapshot` are made durable,
    in the order of `number`; then `Consensus.persisted(number)` is called; only then `persisted_messages` leave and
    `snapshots` begin to stream.
    """

    number: int
    term: int
    role: Role
    leader: int
    messages: Sequence[PeerMessages] = ()
    hard_state: HardState | None = None
    must_sync: bool = False
    """False when nothing here but a commit index would be lost by a crash: it may wait for the next save."""
    entries: Sequence[LogRow] = ()
    snapshot: tuple[int, int] | None = None
    """(index, term) of the snapshot to install: the one last given to `step_snapshot`."""
    persisted_messages: Sequence[PeerMessages] = ()
    snapshots: Sequence[tuple[int, int, bytes]] = ()
    """(to, snapshot index, encoded MsgSnapshot): each ends in exactly one `report_snapshot`."""
    committed: Sequence[CommittedEntry] = ()
    """To apply, in order. Conf changes among them are already in force in the engine."""
    conf_states: Sequence[tuple[int, ConfState, str | None]] = ()
    """(entry index, the ConfState after it, why raft refused it or None) for each conf change in `committed`."""
    read_states: Sequence[tuple[int, bytes]] = ()
    """(read index, context) of each ReadIndex round that got its quorum."""
    snapshot_wanted: bool = False
    """A peer needs a snapshot that no durable one can serve: make a new one now."""
    removed: bool = False
    """A conf change in `committed` removed this node: the engine takes no more calls."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the cluster as its peers know it."""

    node_id: int
    address: str
    disk_id: bytes
    wants_vote: bool = True
    name: str = ""
    """The name in its certificate; empty as long as it never showed one."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node's view of itself and its cluster at one moment."""

    node_id: int
    cluster: str
    address: str
    role: Role
    term: int
    leader: int | None
    leader_address: str | None
    commit: int
    applied: int
    last_index: int
    snapshot_index: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    members: Mapping[int, str]
    """Node id → address."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """How often something noteworthy happened: messages dropped by the gate, elections, retries, …"""
