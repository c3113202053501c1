"""The contracts: read this first.

A program brings a `Store`. A `LogStorage` keeps the log, a `Transport` carries bytes between nodes and a `Consensus`
decides; each is chosen by name and made by a `Provider`. No base class is needed: an object with these methods will
do. Each sentence below that says *must* has a test in `riteraft_core.testing`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel

from .security import NOBODY, Security
from .types import (
    Anchor,
    ConfState,
    EngineStatus,
    HardState,
    Hello,
    Identity,
    LogBatch,
    LogRow,
    Principal,
    Ready,
    Recovered,
    Refusal,
    SnapshotMeta,
)


class Store(Protocol):
    """The user's state machine: the same commands in the same order on every node.

    Each method may be plain or `async def`. Plain ones run on the event loop, so a program reads its own Store
    without locks; with a class attribute `threaded = True` they run in one worker thread.

    A method `digest(self) -> bytes`, plain or async, is optional: at most 64 bytes that depend on nothing but the
    state, a hash of it for example. If there is one, the voters compare it after every so many log entries
    (`snapshot.digest`, 10,000), and a node whose Store differs from most of the others' stops with a `StoreError`
    that names the index and both digests. Without a majority for any state nobody can say who is right: then the log
    and `status().counters` tell. While it runs no command is applied. A release that takes it in another way must
    reach all nodes before the next comparison, or those that are fewer stop.
    """

    def apply(self, command: bytes) -> bytes | Awaitable[bytes]:
        """Take one committed command and return the answer for its proposer.

        Called exactly once for each command, in log order, on every node. It must depend on nothing but the state
        and the command: no clock, no random number, no file, no address.

        :raises CommandRejected: the command is refused, on every node alike; the state must be as it was before.
            Any other exception stops the node.
        """

    def snapshot(self) -> bytes | Awaitable[bytes]:
        """Return the whole state as bytes that `restore` takes back. The state must not be changed by it."""

    def restore(self, snapshot: bytes) -> Awaitable[None] | None:
        """Replace the whole state with the one in `snapshot`; may be called at any time, on a used object too."""


class LogStorage(Protocol):
    """Keeps one node's identity, hard state, log and snapshot.

    Calls of `create`, `load`, `save` and `compact` never overlap. `stage_snapshot` and the reading of a snapshot may
    run beside them and must not hold a `save` up. Every failure is a `StorageError` and ends the node: nothing is
    ever retried.
    """

    async def create(self, identity: Identity) -> None:
        """Make `identity` durable: once, before the node's first packet.

        :raises StorageError: the storage already holds an identity, the same or another.
        """

    async def load(self) -> Recovered:
        """Return all that was saved, checked: `Recovered()` if `create` was never called.

        Rows are dense from `anchor.index + 1` on. A row, a snapshot or a hard state that does not match its
        checksum, a gap, a commit above the last row (or above the snapshot if there are no rows after it): all of
        these must be found here and never be passed over in silence. Leftovers of `stage_snapshot` are removed.

        :raises StorageError: what was found cannot be trusted; the text says what and where.
        """

    async def save(self, batch: LogBatch) -> None:
        """Make the whole batch durable, or none of it; a crash after the return loses nothing.

        `install` first: the staged snapshot becomes the live one, the whole log is dropped and the anchor becomes
        the snapshot's index and term. Then `entries`: every stored row at or after the first one's index is deleted,
        then the rows are added; they must follow the last row kept without a gap. `hard_state` replaces the old one.
        """

    async def stage_snapshot(self, meta: SnapshotMeta, chunks: AsyncIterable[bytes]) -> str:
        """Write a snapshot durably without making it live; return the token that `save` or `compact` takes.

        Written in short steps, so that a `save` beside it never waits for the whole. If `chunks` raises, or the call
        is cancelled, nothing of it may be left behind but what the next `load` removes.
        """

    async def discard_snapshot(self, token: str) -> None:
        """Remove a staged snapshot that will not be installed."""

    def read_snapshot(
        self,
    ) -> AbstractAsyncContextManager[tuple[SnapshotMeta, AsyncIterator[bytes]]]:
        """Open the live snapshot for reading: its meta and its checked chunks, in order.

        What was opened stays readable until closed, though a newer snapshot becomes live meanwhile.

        :raises StorageError: there is no live snapshot, or a chunk does not match its checksum.
        """

    async def compact(self, token: str, index: int) -> None:
        """Make the staged snapshot the live one and drop the rows up to and including `index`, in one durable step.

        `index` is at most the snapshot's; the anchor moves to (`index`, that row's term). An `index` at or below the
        anchor drops no row.
        """


class Handler(Protocol):
    """What a transport hands in; core implements it. The plain methods never block."""

    def admit(self, hello: Hello) -> Refusal | None:
        """Say whether to let a connection in; a transport asks once for each, and sends a refusal's text back.

        With TLS, `Hello.principal` must be whom the sender's certificate names.
        """

    def messages(self, peer: int, messages: Sequence[bytes]) -> None:
        """Take raft messages of an admitted peer, in the order it sent them.

        What they call for is done before this returns: it may call `Transport.send` and `Transport.set_peers`.
        """

    async def request(self, peer: int | None, payload: bytes, principal: Principal | None = None) -> bytes:
        """Answer one request; `peer` is None for a sender without an identity, `principal` that of its `Hello`."""

    async def snapshot(self, peer: int, header: bytes, chunks: AsyncIterator[bytes]) -> None:
        """Take one snapshot stream; a return tells the sender that it was verified and taken."""

    def unreachable(self, peer: int) -> None:
        """Note that messages for `peer` were dropped or its connection broke: raft must know, to send again."""

    def refused(self, peer: int, refusal: Refusal) -> None:
        """Note that `peer` did not let us in, and why; called each time it happens."""


class Transport(Protocol):
    """Carries opaque bytes between nodes; it never learns what raft is.

    It may have an attribute `counters`, a mapping of reasons to how often something was refused or closed for them:
    `Node.status` shows it.
    """

    @property
    def address(self) -> str:
        """The bound `host:port`, with the real port where the config said 0; empty if it does not listen."""

    def identify(self, identity: Identity) -> None:
        """Say who we are now: a joiner's transport opens without an identity, listens, and may only `request`."""

    def set_peers(self, peers: Mapping[int, str]) -> None:
        """Replace the map node id → address; connections and outboxes of peers that are gone are dropped."""

    def send(self, peer: int, messages: Sequence[bytes]) -> None:
        """Queue messages for `peer`: best effort, in order, at once.

        Never blocks: for a peer that is dead, slow or unknown the messages are dropped and `Handler.unreachable` is
        called, later and at most once for each run of drops. What arrives, arrives in the order it was sent.
        """

    async def request(self, address: str, payload: bytes) -> bytes:
        """Send one request to whoever listens at `address` and return its answer; the caller sets a time limit.

        :raises PeerUnreachable: no connection, a refusal, or a connection that ended before the answer came. The
            request may or may not have been carried out.
        """

    async def send_snapshot(self, peer: int, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        """Stream a snapshot beside the messages, each chunk with a checksum; return once the peer took it whole.

        :raises PeerUnreachable: it did not get there, or the peer did not take it.
        """


class Consensus(Protocol):
    """One raft node as a synchronous object: no clock, no I/O, no thread. Every rule of raft is in here.

    Any method may raise `ConsensusError` (a panic was caught; the object is unusable from then on).
    """

    def tick(self) -> None:
        """Let one tick of logical time pass.

        :raises LostAcknowledgedData: the leader of our term has claimed, for an election timeout, a commit that we
            acknowledged and do not hold.
        """

    def campaign(self) -> None:
        """Start an election now, with PreVote."""

    def step(self, sender: int, messages: Sequence[bytes]) -> Sequence[str]:
        """Take messages that the authenticated `sender` sent; return a short reason for each one dropped."""

    def step_snapshot(self, sender: int, message: bytes, index: int, term: int) -> str | None:
        """Take a MsgSnapshot whose data is staged and verified; return why it was dropped, or None.

        It is dropped if it speaks of another snapshot than the staged one, that of `index` and `term`.

        Only if the next `ready()` carries `snapshot` is it to be installed; else the staged data is of no use.
        """

    def propose(self, entries: Sequence[tuple[bytes, bytes]]) -> tuple[int, int]:
        """Append (context, data) pairs as the leader, all or none; return (index of the first, term).

        :raises Refused: none was appended.
        """

    def propose_conf_change(self, context: bytes, changes: Sequence[tuple[str, int]]) -> tuple[int, int]:
        """Append one conf change: pairs of `add_voter`, `add_learner` or `remove` and a node id; none leaves joint.

        :raises Refused: nothing was appended.
        """

    def read_index(self, context: bytes) -> None:
        """Start a ReadIndex round (thesis §6.4); its index comes back in `Ready.read_states` under this context.

        :raises Refused: not the leader, or it has not committed in its term yet.
        """

    def transfer_leader(self, to: int) -> None:
        """Begin to hand leadership to a voter (thesis §3.10); given up after an election timeout.

        :raises Refused: not the leader, or `to` is unknown or a learner.
        """

    def announce_commit(self) -> None:
        """Tell the followers the commit index now, as the leader, if `commit_notices` left that open; else nothing."""

    def report_unreachable(self, peer: int) -> None:
        """Tell that messages to `peer` were lost."""

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """Tell how the streaming of a snapshot to `peer` ended; exactly once for each of `Ready.snapshots`."""

    def ready(self) -> Ready | None:
        """Take what there is to do, or None."""

    def persisted(self, number: int) -> None:
        """Tell that everything up to and including `Ready.number` is durable."""

    def snapshot_made(self, index: int, term: int, conf_state: ConfState) -> None:
        """Tell that this snapshot of our own is durable and live."""

    def compact(self, index: int) -> None:
        """Forget the log up to and including `index`; at most the newest durable snapshot's index."""

    def status(self) -> EngineStatus:
        """Return the engine's state now."""


# --- plugins ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EngineTiming:
    """Raft's own clock, in ticks; seconds are known to the `Node` alone."""

    election_tick: int = 20
    """Least ticks without a leader before an election; the longest wait is drawn below twice that."""
    heartbeat_tick: int = 2


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Bounds inside the engine, in bytes and messages."""

    max_size_per_msg: int = 256 * 1024
    """One append carries at most this (never 0: that means one entry a message in raft-rs)."""
    max_inflight_msgs: int = 64
    """Appends under way to one peer: with the size above at most 16 MiB."""
    max_uncommitted_size: int = 64 * 1024 * 1024
    max_committed_size_per_ready: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What a consensus engine is made from: a node id and what its storage recovered."""

    node_id: int
    seed: int
    """Decides the election timeouts, with id, term and campaign count: the same seed, the same run."""
    hard_state: HardState
    anchor: Anchor
    snapshot: SnapshotMeta | None
    entries: Sequence[LogRow]
    timing: EngineTiming = EngineTiming()
    limits: EngineLimits = EngineLimits()
    logger: logging.Logger = logging.getLogger("riteraft")
    commit_notices: bool = True
    """Whether a leader must send a message for a new commit index alone. If not, the next append or heartbeat may
    carry it, or `announce_commit`: under load that halves the messages."""


@dataclass(frozen=True, slots=True)
class StorageContext:
    """What a log storage is made from."""

    data_dir: Path | None
    """The node's folder: made by the storage if missing (0700). None: nothing is to be kept."""
    group: int
    logger: logging.Logger


@dataclass(frozen=True, slots=True)
class TransportContext:
    """What a transport is made from."""

    identity: Identity | None
    address: str | None
    """`host:port` to listen on; IPv6 in brackets; port 0 takes a free one. None: listen nowhere, only `request`."""
    handler: Handler
    logger: logging.Logger
    security: Security = NOBODY
    """How peers prove who they are. A transport must carry out its mode in full, or not name it in its `Provider`."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Provider(Generic[T]):
    """One plugin of one kind: the name users write in a config, the model of its options, and how to open it."""

    name: str
    options: type[BaseModel]
    """Frozen, `extra="forbid"`: a misspelt option must be an error."""
    open: Callable[[Any, Any], AbstractAsyncContextManager[T]]
    """`open(options, context)`: entered, it is ready for use; left, everything it holds is closed."""
    backends: tuple[str, ...] = ("asyncio", "trio")
    """The event loops it runs on; it is refused by name on another."""
    security: tuple[str, ...] = ("none",)
    """The modes of `Security` that a transport carries out; with another one in the config it is refused by name."""
