"""What a `Replica` wants done: values that the `Node` carries out and reports back by the method each one names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ._proposals import Proposal, Ticket
from .types import LogBatch, PeerMessages, SnapshotMeta


@dataclass(frozen=True, slots=True)
class Save:
    """Give `batch` to `LogStorage.save`, then call `Replica.saved`."""

    number: int
    """The newest `Ready` in it; 0 if it holds a commit index alone."""
    batch: LogBatch


@dataclass(frozen=True, slots=True)
class Compact:
    """Give both to `LogStorage.compact`, then call `Replica.saved`."""

    token: str
    index: int
    meta: SnapshotMeta


Write: TypeAlias = Save | Compact


@dataclass(frozen=True, slots=True)
class Apply:
    """Give each command to `Store.apply`, in order, then call `Replica.applied` with as many answers."""

    index: int
    """The applied index once it is done, and the term there."""
    term: int
    size: int
    commands: Sequence[bytes]
    ids: Sequence[tuple[int, int]]
    """(session, sequence) of each command."""
    repeats: Sequence[tuple[int, int]]
    """Of the commands that were in the log before and must not reach the Store again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `payload` to the leader's `address` with `Transport.request`, then call `Replica.answered`."""

    address: str
    payload: bytes
    proposals: Sequence[Proposal] = ()
    fresh: Sequence[Proposal] = ()
    """Those among `proposals` that no one was given before."""
    internal: int = 0
    """How many entries of our own stand before the proposals."""


@dataclass(frozen=True, slots=True, eq=False)  # each is itself: raft may ask for the same one again
class SendSnapshot:
    """Stream the live snapshot to a peer beside the message, then call `Replica.snapshot_sent`."""

    to: int
    index: int
    message: bytes


@dataclass(slots=True)
class Effects:
    """Everything one `Replica.effects()` found to do. Each kind may be carried out beside the others.

    `write`, `apply` and `restore` each appear again only after the last one was reported done.
    """

    messages: Sequence[PeerMessages] = ()
    write: Write | None = None
    restore: SnapshotMeta | None = None
    """Give the live snapshot to `Store.restore`, then call `Replica.restored`."""
    apply: Apply | None = None
    snapshot: SnapshotMeta | None = None
    """Call `Store.snapshot` now, then `Replica.snapshot_taken`; stage it, then `Replica.snapshot_staged`."""
    digest: int | None = None
    """Call `Store.digest` now, at this applied index, then `Replica.digest_taken`."""
    answered: Sequence[Ticket] = ()
    asks: Sequence[Ask] = ()
    send_snapshots: Sequence[SendSnapshot] = ()
    discards: Sequence[str] = ()
    """Tokens for `LogStorage.discard_snapshot`."""
    peers: Mapping[int, str] | None = None
    """The other members' addresses, when they changed."""
    again: bool = False
    """Call `Replica.effects` once more in the next turn, whatever happens."""
    notes: Sequence[str] = ()
    """For the log, at INFO: a new leader, a member come or gone."""
