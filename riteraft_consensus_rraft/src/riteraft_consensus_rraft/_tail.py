"""The log behind the last compaction, in memory: the `Storage` that raft-rs calls back.

rraft-py's own MemStorage will not do: it offers snapshots that were never made, takes everything committed for
applied, and forgets the term of the entry before its first one. The disk is not our business: entries come in here
when a Ready is taken, and raft is told separately when they are durable.

What raft-rs calls here raises `StoreError` or nothing: any other exception becomes a panic inside raft-rs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rraft
from riteraft_core.types import Anchor, ConfState, HardState

from . import _wire

TailEntry = tuple[int, Any, int]
"""(term, rraft.Entry, size in bytes)."""


class Tail:
    """Entries `anchor.index + 1 ..= last`, without a gap."""

    def __init__(
        self,
        hard_state: HardState,
        anchor: Anchor,
        snapshot: tuple[int, int, ConfState] | None,
        entries: list[TailEntry],
    ) -> None:
        """Take what the disk held. The caller has checked it: dense entries, the snapshot not before the anchor."""
        self.anchor = anchor
        self.snapshot_made = snapshot
        """(index, term, conf state) of the newest snapshot that is durable; its bytes are somebody else's."""
        self.wanted = False
        """Raft asked for a snapshot that we could not give."""
        self._entries = entries
        commit = hard_state.commit
        if snapshot is not None:
            # A snapshot may be durable before the commit index that allowed it is (rule 5): raft panics at every
            # start from such a disk unless it is told the truth here.
            commit = max(commit, snapshot[0])

        self._start = rraft.RaftState(
            rraft.HardState.decode(_wire.write_hard_state(hard_state.term, hard_state.vote, commit)),
            rraft.ConfState.decode(b"" if snapshot is None else _wire.write_conf_state(snapshot[2])),
        )

    @property
    def last(self) -> int:
        """The last entry's index."""
        return self.anchor.index + len(self._entries)

    @property
    def snapshot_index(self) -> int:
        """The newest durable snapshot's index, 0 without one."""
        return 0 if self.snapshot_made is None else self.snapshot_made[0]

    def term_at(self, index: int) -> int | None:
        """Return the term at `index`, if it is the anchor's or an entry's."""
        offset = index - self.anchor.index - 1
        if offset == -1:
            return self.anchor.term

        return self._entries[offset][0] if 0 <= offset < len(self._entries) else None

    def append(self, first: int, entries: Sequence[TailEntry]) -> None:
        """Add entries; the first one's index cuts off everything at or after it (Raft paper §5.3)."""
        if not self.anchor.index < first <= self.last + 1:
            raise AssertionError(f"append at {first} to a tail that holds {self.anchor.index + 1}..={self.last}")

        self._entries[first - self.anchor.index - 1 :] = entries

    def restart_after(self, at: Anchor) -> None:
        """Forget everything: the log goes on after a snapshot that is on its way to disk."""
        self.anchor = at
        self._entries = []

    def offer(self, index: int, term: int, conf_state: ConfState) -> None:
        """Note a snapshot that is durable now; an older one than the newest known is of no use."""
        if index > self.snapshot_index:
            self.snapshot_made = (index, term, conf_state)
            self.wanted = False

    def compact(self, index: int) -> None:
        """Forget the entries up to and including `index`, which must be held."""
        if index <= self.anchor.index:
            return

        term = self.term_at(index)
        assert term is not None, "compacted up to an entry that is held"
        del self._entries[: index - self.anchor.index]
        self.anchor = Anchor(index, term)

    def take_wanted(self) -> bool:
        """Say once whether a snapshot was asked for that we could not give."""
        wanted, self.wanted = self.wanted, False
        return wanted

    # --- what raft-rs calls -------------------------------------------------------------------------------------

    def initial_state(self) -> Any:
        """Return what raft starts from; read once."""
        return self._start

    def entries(self, low: int, high: int, context: object, max_size: int | None) -> list[Any]:
        """Return entries `low..high`, at least one and no more than `max_size` bytes."""
        if low <= self.anchor.index:
            raise rraft.StoreError(rraft.CompactedError())
        if high > self.last + 1:
            raise rraft.StoreError(rraft.UnavailableError())

        found: list[Any] = []
        size = 0
        # A range, not a slice: a far-behind peer would else cost a copy of the whole log for each message.
        for offset in range(low - self.anchor.index - 1, high - self.anchor.index - 1):
            _, entry, entry_size = self._entries[offset]
            size += entry_size
            if found and max_size is not None and size > max_size:
                break

            found.append(entry)

        return found

    def term(self, index: int) -> int:
        """Return the term at `index`."""
        term = self.term_at(index)
        if term is None:
            error = rraft.CompactedError() if index < self.anchor.index else rraft.UnavailableError()
            raise rraft.StoreError(error)

        return term

    def first_index(self) -> int:
        """Return the first index held."""
        return self.anchor.index + 1

    def last_index(self) -> int:
        """Return the last index held."""
        return self.last

    def snapshot(self, request_index: int, to: int) -> Any:
        """Give the newest durable snapshot, without data, if `to` can use it (rule 12).

        A snapshot that leaves `to` out would be ignored by it for ever, and one before our first entry leaves a gap:
        then a new one is asked for. No other error and no snapshot at index 0: raft takes both for fatal.
        """
        if self.snapshot_made is not None:
            index, term, conf_state = self.snapshot_made
            if to in conf_state and index >= max(request_index, 1, self.anchor.index):
                return rraft.Snapshot.decode(_wire.write_snapshot(index, term, conf_state))

        self.wanted = True
        raise rraft.StoreError(rraft.SnapshotTemporarilyUnavailableError())
