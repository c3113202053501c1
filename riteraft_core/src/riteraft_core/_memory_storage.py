"""The built-in `memory` log storage: nothing is kept but what a `MemoryDisk` in the same process holds."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from anyio.lowlevel import checkpoint
from pydantic import BaseModel, ConfigDict

from .errors import StorageError
from .protocols import LogStorage, StorageContext
from .types import Anchor, HardState, Identity, LogBatch, LogRow, Recovered, SnapshotMeta

Snapshot = tuple[SnapshotMeta, tuple[bytes, ...]]
"""A snapshot's meta and its chunks."""


class MemoryDisk:
    """What a `MemoryStorage` keeps: hand the same disk to the next one and it recovers, as a restarted node would.

    A synchronous and exact model of `LogStorage`: each method does all it should or raises and has done nothing. The
    simulator keeps one for each node, and copies it to crash it.
    """

    def __init__(self) -> None:
        self._identity: Identity | None = None
        self._hard_state = HardState()
        self._anchor = Anchor()
        self._live: Snapshot | None = None
        self._entries: list[LogRow] = []
        self._staged: dict[str, Snapshot] = {}
        self._tokens = 0

    @property
    def last_index(self) -> int:
        """The index of the last row, or the anchor's if there is none."""
        return self._anchor.index + len(self._entries)

    @property
    def live(self) -> Snapshot:
        """The live snapshot.

        :raises StorageError: there is none.
        """
        if self._live is None:
            raise StorageError("memory disk: there is no live snapshot")

        return self._live

    def copy(self) -> MemoryDisk:
        """Return a disk with the same content that changes apart from this one."""
        twin = MemoryDisk()
        twin._identity = self._identity
        twin._hard_state = self._hard_state
        twin._anchor = self._anchor
        twin._live = self._live
        twin._entries = self._entries.copy()
        twin._staged = self._staged.copy()
        twin._tokens = self._tokens
        return twin

    def create(self, identity: Identity) -> None:
        """See `LogStorage.create`."""
        if self._identity is not None:
            raise StorageError(f"memory disk: already holds node {self._identity.node_id}; use a new disk")

        self._identity = identity

    def load(self) -> Recovered:
        """See `LogStorage.load`: a start, so whatever was staged and not installed is gone."""
        self._staged.clear()
        if self._hard_state.commit > self.last_index:
            raise StorageError(
                f"memory disk: commit {self._hard_state.commit} is above the last row, {self.last_index}"
            )

        meta = None if self._live is None else self._live[0]
        return Recovered(self._identity, self._hard_state, self._anchor, meta, tuple(self._entries))

    def save(self, batch: LogBatch) -> None:
        """See `LogStorage.save`."""
        self._require_identity()
        live, anchor, last = self._live, self._anchor, self.last_index
        if batch.install is not None:
            live = self._find(batch.install)
            anchor = Anchor(live[0].index, live[0].term)
            last = anchor.index

        if batch.entries:
            first = batch.entries[0][0]
            if not anchor.index < first <= last + 1:
                raise StorageError(f"memory disk: an entry at {first} does not follow a log of {anchor.index}..{last}")

            if [row[0] for row in batch.entries] != list(range(first, first + len(batch.entries))):
                raise StorageError(f"memory disk: the entries of a save are not dense from {first} on")

        # Everything is checked: from here on nothing raises.
        if batch.install is not None:
            self._live, self._anchor = live, anchor
            self._entries.clear()
            del self._staged[batch.install]

        if batch.entries:
            del self._entries[batch.entries[0][0] - anchor.index - 1 :]
            self._entries.extend(batch.entries)

        if batch.hard_state is not None:
            self._hard_state = batch.hard_state

    def stage(self, meta: SnapshotMeta, chunks: tuple[bytes, ...]) -> str:
        """Keep a snapshot without making it live; see `LogStorage.stage_snapshot`."""
        self._tokens += 1
        token = f"memory-{self._tokens}"
        self._staged[token] = (meta, chunks)
        return token

    def discard(self, token: str) -> None:
        """See `LogStorage.discard_snapshot`."""
        self._find(token)
        del self._staged[token]

    def compact(self, token: str, index: int) -> None:
        """See `LogStorage.compact`."""
        self._require_identity()
        snapshot = self._find(token)
        meta = snapshot[0]
        if index > meta.index:
            raise StorageError(f"memory disk: compaction up to {index} is past its snapshot at {meta.index}")

        if not self._anchor.index <= meta.index <= self.last_index:
            raise StorageError(
                f"memory disk: a snapshot at {meta.index} is outside the log, {self._anchor.index}..{self.last_index}"
            )

        if index > self._anchor.index:
            dropped = index - self._anchor.index
            self._anchor = Anchor(index, self._entries[dropped - 1][1])
            del self._entries[:dropped]

        self._live = snapshot
        del self._staged[token]

    def _find(self, token: str) -> Snapshot:
        if token not in self._staged:
            raise StorageError(f"memory disk: no staged snapshot {token!r}")

        return self._staged[token]

    def _require_identity(self) -> None:
        if self._identity is None:
            raise StorageError("memory disk: nothing can be saved before `create`")


class MemoryStorageOptions(BaseModel):
    """Options of the `memory` log storage."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    disk: MemoryDisk | None = None
    """Given in code: kept beyond the storage's end, so that a node of a test can be restarted. None: a new one."""


class MemoryStorage:
    """A `LogStorage` on a `MemoryDisk`. Each call gives way once before it acts, and acts whole or not at all."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk

    async def create(self, identity: Identity) -> None:
        """See `LogStorage.create`."""
        await checkpoint()
        self._disk.create(identity)

    async def load(self) -> Recovered:
        """See `LogStorage.load`."""
        await checkpoint()
        return self._disk.load()

    async def save(self, batch: LogBatch) -> None:
        """See `LogStorage.save`."""
        await checkpoint()
        self._disk.save(batch)

    async def stage_snapshot(self, meta: SnapshotMeta, chunks: AsyncIterable[bytes]) -> str:
        """See `LogStorage.stage_snapshot`."""
        taken = tuple([chunk async for chunk in chunks])
        await checkpoint()
        return self._disk.stage(meta, taken)

    async def discard_snapshot(self, token: str) -> None:
        """See `LogStorage.discard_snapshot`."""
        await checkpoint()
        self._disk.discard(token)

    @asynccontextmanager
    async def read_snapshot(self) -> AsyncIterator[tuple[SnapshotMeta, AsyncIterator[bytes]]]:
        """See `LogStorage.read_snapshot`."""
        await checkpoint()
        meta, chunks = self._disk.live
        async with aclosing(_each(chunks)) as reading:
            yield meta, reading

    async def compact(self, token: str, index: int) -> None:
        """See `LogStorage.compact`."""
        await checkpoint()
        self._disk.compact(token, index)


async def _each(chunks: tuple[bytes, ...]) -> AsyncGenerator[bytes, None]:
    for chunk in chunks:
        await checkpoint()
        yield chunk


@asynccontextmanager
async def open_memory_storage(options: MemoryStorageOptions, context: StorageContext) -> AsyncIterator[LogStorage]:
    """Open the `memory` log storage; the context's folder is not touched."""
    await checkpoint()
    yield MemoryStorage(MemoryDisk() if options.disk is None else options.disk)
