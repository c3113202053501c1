"""A node's folder in the simulation: what a crash leaves of it."""

from __future__ import annotations

from ..._memory_storage import MemoryDisk
from ...types import HardState, Identity, LogBatch, Recovered, SnapshotMeta


class SimulatedDisk:
    """Everything durable of one node: each method is the moment at which the bytes have reached the disk.

    Beside the storage's contents it keeps what the rules speak of (term, vote, rows) by a model of its own, so that
    neither is taken at its word.
    """

    def __init__(self, disk_id: bytes) -> None:
        self.disk_id = disk_id
        self.left = False
        """The folder is marked as left: its node may not start again."""
        self.hints: dict[int, str] = {}
        self.hard_state = HardState()
        self.first = 0
        """The index just before the first row, and its term."""
        self.first_term = 0
        self.rows: list[tuple[int, bytes]] = []
        self.snapshot_index = 0
        self._disk = MemoryDisk()

    @property
    def last(self) -> int:
        """The index of the last row."""
        return self.first + len(self.rows)

    def term_at(self, index: int) -> int | None:
        """Return the term of a row, or None if it is not there."""
        if index == self.first:
            return self.first_term

        return self.rows[index - self.first - 1][0] if self.first < index <= self.last else None

    def create(self, identity: Identity) -> None:
        """See `LogStorage.create`."""
        self._disk.create(identity)

    def load(self) -> Recovered:
        """See `LogStorage.load`."""
        recovered = self._disk.load()
        assert recovered.hard_state == self.hard_state
        assert recovered.anchor == (self.first, self.first_term)
        assert [(term, data) for _, term, data in recovered.entries] == self.rows
        return recovered

    def save(self, batch: LogBatch) -> None:
        """See `LogStorage.save`."""
        self._disk.save(batch)
        if batch.install is not None:
            meta = self.snapshot()[0]
            self.first, self.first_term, self.snapshot_index = meta.index, meta.term, meta.index
            self.rows.clear()

        if batch.entries:
            start = batch.entries[0][0] - self.first - 1
            assert 0 <= start <= len(self.rows), "a gap in the log"
            self.rows[start:] = [(term, data) for _, term, data in batch.entries]

        if batch.hard_state is not None:
            self.hard_state = batch.hard_state

    def stage(self, meta: SnapshotMeta, data: bytes) -> str:
        """See `LogStorage.stage_snapshot`."""
        return self._disk.stage(meta, (data,))

    def discard(self, token: str) -> None:
        """See `LogStorage.discard_snapshot`."""
        self._disk.discard(token)

    def snapshot(self) -> tuple[SnapshotMeta, bytes]:
        """See `LogStorage.read_snapshot`."""
        meta, chunks = self._disk.live
        return meta, b"".join(chunks)

    def compact(self, token: str, index: int) -> None:
        """See `LogStorage.compact`."""
        self._disk.compact(token, index)
        self.snapshot_index = self.snapshot()[0].index
        if index > self.first:
            self.first_term = self.rows[index - self.first - 1][0]
            del self.rows[: index - self.first]
            self.first = index
