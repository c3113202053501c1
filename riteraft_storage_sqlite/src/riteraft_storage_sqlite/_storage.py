"""The log storage itself: what each call of the contract does to the tables."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, aclosing, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from anyio import CancelScope
from riteraft_core.errors import ConfigError, StorageError
from riteraft_core.protocols import LogStorage, StorageContext
from riteraft_core.types import Anchor, HardState, Identity, LogBatch, LogRow, Recovered, SnapshotMeta

from ._database import (
    CURE,
    SAVE,
    Connection,
    Health,
    checkpoint,
    checksum,
    matches,
    open_merger,
    open_reader,
    open_writer,
    prepare,
)
from ._folder import DATABASE, locked, make_folder
from ._options import SqliteOptions
from ._run import Run, pack, unpack

_SAVE_BYTES = 3 * 4096  # what the least save adds to the WAL: the pages of the head, of the log's end and of its parent
_DROP_BYTES = 4 * 1024 * 1024  # what dropping part of a log may add: it touches all pages of the rows
_MOST_RESERVED = 16 * 1024 * 1024  # for the WAL, from the start: 40 ms on a quick disk, 10 for the default
_LONGEST_WAL = 2  # times `checkpoint_bytes`: a save waits if the copying falls so far behind
_MERGING = "copying the WAL into the database"
_DELETED_AT_ONCE = 16  # chunks in one transaction, 4 MiB: a save beside it waits a few milliseconds
_RUNS_DROPPED_AT_ONCE = 1024  # the same of the log
_BYTES_DROPPED_AT_ONCE = 4 * 1024 * 1024
_DROPPING = "deleting what a snapshot stands for"


class _Head(NamedTuple):
    """The small part of a group's state, one row: every save writes it, so that it says how long the log must be."""

    term: int = 0
    vote: int = 0
    commit: int = 0
    anchor_index: int = 0
    anchor_term: int = 0
    last_index: int = 0
    snapshot: int = 0
    """The live one's id, or 0."""


class SqliteStorage:
    """A `LogStorage` in one SQLite database; `open_sqlite` makes it.

    Its plain methods block: they run in the worker thread of a connection, the writer's unless they say otherwise.
    """

    def __init__(self, options: SqliteOptions, folder: Path, group: int) -> None:
        self._options = options
        self._folder = folder
        self._path = folder / DATABASE
        self._group = group
        health = Health()
        self._writer = Connection(self._path, health)
        self._merger = Connection(self._path, health)
        self._reader = Connection(self._path, health)
        self._folder_lock = ExitStack()
        self._head: _Head | None = None  # None: nothing was created yet
        # Bytes written since the last checkpoint, about. The nodes of a cluster write alike: had each begun at 0, they
        # would all copy their WAL at the same time, and no two would be quick.
        self._unmerged = random.randrange(options.checkpoint_bytes)  # noqa: S311 - not a secret
        self._merging: Future[None] | None = None
        self._snapshot_ids = itertools.count(1)
        self._staged: dict[str, tuple[int, SnapshotMeta]] = {}
        self._held: Counter[int] = Counter()  # snapshots being written, staged or read: not to be deleted

    # --- lifetime ---

    async def open(self) -> None:
        """Take the folder and open the database; whatever comes of it, `close` must follow."""
        for connection in (self._writer, self._merger, self._reader):  # all at once: none is found missing later
            connection.start()

        await self._writer.run("opening", self._open)

    def _open(self) -> None:
        make_folder(self._folder)
        self._folder_lock.enter_context(locked(self._folder))
        prepare(self._folder)
        open_writer(self._writer, self._path, min(self._options.checkpoint_bytes, _MOST_RESERVED))
        open_merger(self._merger)
        open_reader(self._reader)
        self._head = self._read_head()
        (newest,) = self._writer.raw.execute("SELECT max(id) FROM snapshot").fetchone()
        self._snapshot_ids = itertools.count((newest or 0) + 1)

    async def close(self) -> None:
        """Close everything, once what is under way has ended; the folder is free then."""
        with CancelScope(shield=True):
            # Whoever is closed last merges the WAL, if it may write. After a failure nothing may be written any more.
            connections = [self._reader, self._writer, self._merger]
            if self._writer.failed:
                connections.reverse()

            for connection in connections:
                await connection.close()

            self._folder_lock.close()

    # --- identity ---

    async def create(self, identity: Identity) -> None:
        """See `LogStorage.create`."""
        holder = await self._writer.run("creating", partial(self._create, identity))
        if holder is not None:
            raise StorageError(
                f"{self._path} already holds node {holder.node_id} of cluster {holder.cluster!r}; use an empty data_dir"
            )

    def _create(self, identity: Identity) -> Identity | None:
        """Return the identity that is there already, or write this one and return None."""
        if (holder := self._read_identity()) is not None:
            return holder

        if identity.group != self._group:
            raise StorageError(f"{self._path}: opened for group {self._group}, the identity is of {identity.group}")

        head = _Head()
        with self._transaction(_SAVE_BYTES) as raw:
            raw.execute(
                "INSERT INTO identity (grp, cluster, cluster_id, node_id, disk_id, crc) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self._group,
                    identity.cluster,
                    identity.cluster_id,
                    identity.node_id,
                    identity.disk_id,
                    checksum(_identity_bytes(identity), self._group, identity.node_id),
                ),
            )
            self._write_head(raw, head)

        self._head = head
        return None

    def _read_identity(self) -> Identity | None:
        row = self._writer.raw.execute(
            "SELECT cluster, cluster_id, node_id, disk_id, crc FROM identity WHERE grp = ?", (self._group,)
        ).fetchone()
        if row is None:
            return None

        cluster, cluster_id, node_id, disk_id, crc = row
        identity = Identity(cluster, cluster_id, self._group, node_id, disk_id)
        if not (
            isinstance(cluster, str)  # a damaged row may give any type
            and isinstance(cluster_id, bytes)
            and isinstance(disk_id, bytes)
            and matches(crc, _identity_bytes(identity), self._group, node_id)
        ):
            raise self._damaged("the identity does not match its checksum")

        return identity

    # --- the head ---

    def _read_head(self) -> _Head | None:
        row = self._writer.raw.execute(
            "SELECT term, vote, committed, anchor_index, anchor_term, last_index, snapshot, crc"
            " FROM head WHERE grp = ?",
            (self._group,),
        ).fetchone()
        if row is None:
            return None

        *fields, crc = row
        if not matches(crc, b"", self._group, *fields):
            raise self._damaged("the hard state does not match its checksum")

        return _Head(*fields)

    def _write_head(self, raw: sqlite3.Connection, head: _Head) -> None:
        raw.execute(
            "INSERT OR REPLACE INTO head"
            " (grp, term, vote, committed, anchor_index, anchor_term, last_index, snapshot, crc)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._head_row(head),
        )

    def _head_row(self, head: _Head) -> tuple[int, ...]:
        return (self._group, *head, checksum(b"", self._group, *head))

    def _created_head(self) -> _Head:
        if self._head is None:
            raise StorageError(f"{self._path}: nothing can be saved before `create`")

        return self._head

    # --- load ---

    async def load(self) -> Recovered:
        """See `LogStorage.load`."""
        recovered = await self._writer.run("loading", self._load)
        await self._sweep()
        return recovered

    def _load(self) -> Recovered:
        identity = self._read_identity()
        head = self._read_head()
        if identity is None or head is None:
            if identity is not None or head is not None or self._has_rows():
                raise self._damaged("the identity or the hard state is missing")

            return Recovered()

        anchor = Anchor(head.anchor_index, head.anchor_term)
        rows = self._read_rows(anchor)
        last = anchor.index + len(rows)
        if last != head.last_index:
            raise self._damaged(f"the log must end at {head.last_index}, but its rows end at {last}")

        if head.commit > last:
            raise self._damaged(f"the commit index {head.commit} is above the last row, {last}")

        meta = self._check_snapshot(self._writer, head.snapshot) if head.snapshot else None
        self._check_place(meta, anchor, rows)
        self._writer.begin(_DROPPING, self._drop_some)  # a crash may have left something
        return Recovered(identity, HardState(head.term, head.vote, head.commit), anchor, meta, rows)

    def _has_rows(self) -> bool:
        row = self._writer.raw.execute("SELECT 1 FROM log WHERE grp = ? LIMIT 1", (self._group,)).fetchone()
        return row is not None

    def _read_rows(self, anchor: Anchor) -> list[LogRow]:
        rows: list[LogRow] = []
        expected = anchor.index + 1
        cursor = self._writer.raw.execute(
            "SELECT first, last, data, crc FROM log WHERE grp = ? AND last > ? ORDER BY first",
            (self._group, anchor.index),
        )
        with closing(cursor):  # else whoever keeps the error keeps a read transaction open
            for first, last, data, crc in cursor:
                run = self._unpack(first, last, data, crc)
                if first > expected:
                    raise self._damaged(f"the log row at {expected} is missing, the next one is {first}")

                known = expected - first  # a compaction leaves the run whole that the anchor is in
                if known and rows:
                    raise self._damaged(f"the log rows {first}..{last} overlap those before, up to {expected - 1}")

                if known and run[known - 1][1] != anchor.term:
                    raise self._damaged(
                        f"the anchor at {anchor.index} has term {anchor.term}, the log there has {run[known - 1][1]}"
                    )

                rows += run[known:]
                expected = last + 1

        return rows

    def _run_at(self, index: int) -> list[LogRow]:
        """Return the rows of the run that holds `index`."""
        row = self._writer.raw.execute(
            "SELECT first, last, data, crc FROM log WHERE grp = ? AND first <= ? ORDER BY first DESC LIMIT 1",
            (self._group, index),
        ).fetchone()
        run = [] if row is None else self._unpack(*row)
        if not run or run[-1][0] < index:
            raise self._damaged(f"the log row at {index} is missing")

        return run

    def _unpack(self, first: int, last: int, data: bytes, crc: int) -> list[LogRow]:
        if not matches(crc, data, self._group, first, last):
            raise self._damaged(f"the log rows {first!r}..{last!r} do not match their checksum")

        try:
            return unpack(Run(first, last, data))
        except ValueError as exc:
            raise self._damaged(f"the log rows {first}..{last} cannot be used: {exc}") from exc

    def _check_place(self, meta: SnapshotMeta | None, anchor: Anchor, rows: list[LogRow]) -> None:
        """Check that the log and the live snapshot belong together."""
        if meta is None:
            if anchor.index:
                raise self._damaged(f"the log begins after {anchor.index}, but there is no snapshot")

            return

        if not anchor.index <= meta.index <= anchor.index + len(rows):
            raise self._damaged(
                f"the snapshot at {meta.index} is outside the log, {anchor.index}..{anchor.index + len(rows)}"
            )

        term = anchor.term if meta.index == anchor.index else rows[meta.index - anchor.index - 1][1]
        if term != meta.term:
            raise self._damaged(f"the snapshot at {meta.index} has term {meta.term}, the log there has {term}")

    # --- save ---

    async def save(self, batch: LogBatch) -> None:
        """See `LogStorage.save`."""
        try:
            await self._writer.run("saving", partial(self._save, batch))
        finally:
            if batch.install is not None:
                self._forget_live(batch.install)

    def _save(self, batch: LogBatch) -> None:
        old = self._created_head()
        term, vote, commit, anchor, anchor_term, last, snapshot = old
        written = _SAVE_BYTES
        if batch.install is not None:
            snapshot, meta = self._find(batch.install)
            anchor, anchor_term, last = meta.index, meta.term, meta.index
            written += _DROP_BYTES

        kept = last  # rows after this one are deleted
        run: Run | None = None
        more: Iterator[Run] = iter(())
        if batch.entries:
            first = batch.entries[0][0]
            if not anchor < first <= last + 1:
                raise StorageError(f"{self._path}: an entry at {first} does not follow a log of {anchor}..{last}")

            more = pack(batch.entries)
            run = next(more)
            kept, last = first - 1, batch.entries[-1][0]

        if batch.hard_state is not None:
            term, vote, commit = batch.hard_state

        head = _Head(term, vote, commit, anchor, anchor_term, last, snapshot)
        if run is not None and run.last == last and kept == old.last_index and batch.install is None:
            crc = checksum(run.data, self._group, run.first, last)
            self._writer.raw.execute(SAVE, (*self._head_row(head), *run, crc))
            self._note_written(written + len(run.data))
        else:
            written += sum(len(data) for _, _, data in batch.entries)
            with self._transaction(written) as raw:
                if kept < old.last_index or batch.install is not None:
                    self._cut(raw, anchor, kept)

                if run is not None:
                    self._write_runs(raw, itertools.chain((run,), more))

                self._write_head(raw, head)

        self._head = head

    def _cut(self, raw: sqlite3.Connection, anchor: int, kept: int) -> None:
        """Delete the rows after `kept`: a run that also holds earlier ones is written again without them."""
        if kept == anchor:
            raw.execute("DELETE FROM log WHERE grp = ?", (self._group,))
            return

        run = self._run_at(kept)
        first, last = run[0][0], run[-1][0]
        whole = last == kept
        raw.execute("DELETE FROM log WHERE grp = ? AND first >= ?", (self._group, last + 1 if whole else first))
        if not whole:
            self._write_runs(raw, pack(run[: kept + 1 - first]))

    def _write_runs(self, raw: sqlite3.Connection, runs: Iterable[Run]) -> None:
        """Write each run before the next one is made: together they are as large as what is saved."""
        group = self._group
        raw.executemany(
            "INSERT INTO log (grp, first, last, data, crc) VALUES (?, ?, ?, ?, ?)",
            ((group, first, last, data, checksum(data, group, first, last)) for first, last, data in runs),
        )

    @contextmanager
    def _transaction(self, written: int) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when left; `written` is about what it adds to the WAL."""
        raw = self._writer.raw
        raw.execute("BEGIN IMMEDIATE")
        try:
            yield raw
        except BaseException:
            with suppress(sqlite3.Error):  # the first error tells more
                raw.execute("ROLLBACK")
            raise

        raw.execute("COMMIT")
        self._note_written(written)

    def _note_written(self, written: int) -> None:
        self._unmerged += written
        if self._unmerged >= self._options.checkpoint_bytes:
            self._merge()

    def _merge(self) -> None:
        """Copy the WAL into the database, so that SQLite can write it from its beginning again.

        Most of it is copied beside the saves, in a thread of its own. SQLite begins anew only when all is copied, and
        meanwhile more was written: that little rest is copied between two saves.
        """
        if self._merging is None:
            self._merging = self._merger.begin(_MERGING, partial(checkpoint, self._merger, "PASSIVE"))
        elif self._merging.done() or self._unmerged >= _LONGEST_WAL * self._options.checkpoint_bytes:
            self._merging.result()
            self._merging = None
            self._unmerged = 0
            # Not now: whoever waits for this save need not wait for that too.
            self._writer.begin(_MERGING, partial(checkpoint, self._writer, "PASSIVE"))

    # --- snapshots ---

    async def stage_snapshot(self, meta: SnapshotMeta, chunks: AsyncIterable[bytes]) -> str:
        """See `LogStorage.stage_snapshot`. It first deletes superseded ones, whose pages it then fills again."""
        await self._sweep()
        snapshot = next(self._snapshot_ids)
        self._held[snapshot] += 1
        try:
            await self._writer.run("staging a snapshot", partial(self._begin_snapshot, snapshot, meta))
            count = size = 0
            async with aclosing(_pieces(chunks, self._options.snapshot_chunk_bytes)) as pieces:
                async for piece in pieces:
                    await self._writer.run("staging a snapshot", partial(self._write_chunk, snapshot, count, piece))
                    count += 1
                    size += len(piece)

            await self._writer.run("staging a snapshot", partial(self._end_snapshot, snapshot, meta, size, count))
        except BaseException:
            self._release(snapshot)  # the next sweep deletes what was written
            raise

        token = f"sqlite-{snapshot}"
        self._staged[token] = (snapshot, meta)
        return token

    def _begin_snapshot(self, snapshot: int, meta: SnapshotMeta) -> None:
        with self._transaction(_SAVE_BYTES) as raw:
            raw.execute("INSERT INTO snapshot (grp, id, meta) VALUES (?, ?, ?)", (self._group, snapshot, meta.encode()))

    def _write_chunk(self, snapshot: int, number: int, data: bytes) -> None:
        with self._transaction(len(data)) as raw:
            raw.execute(
                "INSERT INTO chunk (grp, snapshot, number, data, crc) VALUES (?, ?, ?, ?, ?)",
                (self._group, snapshot, number, data, checksum(data, self._group, snapshot, number)),
            )

    def _end_snapshot(self, snapshot: int, meta: SnapshotMeta, size: int, count: int) -> None:
        crc = checksum(meta.encode(), self._group, snapshot, size, count)
        with self._transaction(_SAVE_BYTES) as raw:
            raw.execute(
                "UPDATE snapshot SET size = ?, chunks = ?, crc = ? WHERE grp = ? AND id = ?",
                (size, count, crc, self._group, snapshot),
            )

    async def discard_snapshot(self, token: str) -> None:
        """See `LogStorage.discard_snapshot`."""
        self._find(token)
        self._forget(token)
        await self._sweep()

    async def compact(self, token: str, index: int) -> None:
        """See `LogStorage.compact`."""
        try:
            await self._writer.run("compacting", partial(self._compact, token, index))
        finally:
            self._forget_live(token)

    def _compact(self, token: str, index: int) -> None:
        head = self._created_head()
        snapshot, meta = self._find(token)
        if index > meta.index:
            raise StorageError(f"{self._path}: compaction up to {index} is past its snapshot at {meta.index}")

        if not head.anchor_index <= meta.index <= head.last_index:
            raise StorageError(
                f"{self._path}: a snapshot at {meta.index} is outside the log, {head.anchor_index}..{head.last_index}"
            )

        head = head._replace(snapshot=snapshot)
        if index > head.anchor_index:
            run = self._run_at(index)
            head = head._replace(anchor_index=index, anchor_term=run[index - run[0][0]][1])

        with self._transaction(_SAVE_BYTES) as raw:
            self._write_head(raw, head)

        self._head = head
        self._writer.begin(_DROPPING, self._drop_some)

    def _drop_some(self) -> None:
        """Delete some of the runs that the anchor stands for, and more after the saves that wait by then.

        All at once would hold up saves: SQLite reads a run to delete it. `_read_rows` passes over those still there, as
        over the beginning of a run that goes on after the anchor.
        """
        anchor = self._created_head().anchor_index
        end = size = 0
        cursor = self._writer.raw.execute(
            "SELECT first, length(data) FROM log WHERE grp = ? AND first <= ? AND last <= ? ORDER BY first LIMIT ?",
            (self._group, anchor, anchor, _RUNS_DROPPED_AT_ONCE),
        )
        with closing(cursor):  # it reads a run when it comes to it
            for first, length in cursor:
                size += length
                if end and size > _BYTES_DROPPED_AT_ONCE:
                    break

                end = first

        if end:
            with self._transaction(_SAVE_BYTES * _DELETED_AT_ONCE) as raw:
                raw.execute("DELETE FROM log WHERE grp = ? AND first <= ?", (self._group, end))

            self._writer.begin(_DROPPING, self._drop_some)

    @asynccontextmanager
    async def read_snapshot(self) -> AsyncIterator[tuple[SnapshotMeta, AsyncIterator[bytes]]]:
        """See `LogStorage.read_snapshot`. Each chunk is one short read: none keeps the WAL from being merged."""
        snapshot = 0 if self._head is None else self._head.snapshot
        if not snapshot:
            raise StorageError(f"{self._path}: there is no live snapshot")

        self._held[snapshot] += 1
        try:
            meta, _, count = await self._reader.run(
                "reading a snapshot", partial(self._read_meta, self._reader, snapshot)
            )
            async with aclosing(self._chunks(snapshot, count)) as chunks:
                yield meta, chunks
        finally:
            self._release(snapshot)

    async def _chunks(self, snapshot: int, count: int) -> AsyncGenerator[bytes, None]:
        for number in range(count):
            yield await self._reader.run(
                "reading a snapshot", partial(self._read_chunk, self._reader, snapshot, number)
            )

    def _check_snapshot(self, connection: Connection, snapshot: int) -> SnapshotMeta:
        """Read a snapshot whole and return its meta."""
        meta, size, count = self._read_meta(connection, snapshot)
        found = sum(len(self._read_chunk(connection, snapshot, number)) for number in range(count))
        if found != size:
            raise self._damaged(f"the snapshot at {meta.index} must have {size} bytes, it has {found}")

        return meta

    def _read_meta(self, connection: Connection, snapshot: int) -> tuple[SnapshotMeta, int, int]:
        """Return a whole snapshot's meta, its size and how many chunks it has."""
        row = connection.raw.execute(
            "SELECT meta, size, chunks, crc FROM snapshot WHERE grp = ? AND id = ?", (self._group, snapshot)
        ).fetchone()
        if row is None or not matches(row[3], row[0], self._group, snapshot, row[1], row[2]):
            raise self._damaged(f"the meta of the live snapshot ({snapshot}) is missing or does not match its checksum")

        try:
            return SnapshotMeta.decode(row[0]), row[1], row[2]
        except ValueError as exc:
            raise StorageError(f"{self._path}: the live snapshot ({snapshot}) cannot be used: {exc}") from exc

    def _read_chunk(self, connection: Connection, snapshot: int, number: int) -> bytes:
        row = connection.raw.execute(
            "SELECT data, crc FROM chunk WHERE grp = ? AND snapshot = ? AND number = ?", (self._group, snapshot, number)
        ).fetchone()
        if row is None or not matches(row[1], row[0], self._group, snapshot, number):
            raise self._damaged(f"chunk {number} of snapshot {snapshot} is missing or does not match its checksum")

        data: bytes = row[0]
        return data

    async def _sweep(self) -> None:
        """Delete the snapshots that nothing can use any more, in short transactions."""
        for snapshot in await self._writer.run("deleting a snapshot", self._unused):
            while await self._writer.run("deleting a snapshot", partial(self._delete_some, snapshot)):
                pass

    def _unused(self) -> list[int]:
        live = 0 if self._head is None else self._head.snapshot
        rows = self._writer.raw.execute("SELECT id FROM snapshot WHERE grp = ?", (self._group,)).fetchall()
        return [snapshot for (snapshot,) in rows if snapshot != live and snapshot not in self._held]

    def _delete_some(self, snapshot: int) -> bool:
        """Delete a few chunks, or at last the meta; return whether there may be more."""
        with self._transaction(_SAVE_BYTES * _DELETED_AT_ONCE) as raw:
            deleted = raw.execute(
                "DELETE FROM chunk WHERE grp = ? AND snapshot = ? AND number IN"
                " (SELECT number FROM chunk WHERE grp = ? AND snapshot = ? LIMIT ?)",
                (self._group, snapshot, self._group, snapshot, _DELETED_AT_ONCE),
            ).rowcount
            if not deleted:
                raw.execute("DELETE FROM snapshot WHERE grp = ? AND id = ?", (self._group, snapshot))

        return deleted > 0

    def _find(self, token: str) -> tuple[int, SnapshotMeta]:
        if token not in self._staged:
            raise StorageError(f"{self._path}: no staged snapshot {token!r}")

        return self._staged[token]

    def _forget(self, token: str) -> None:
        self._release(self._staged.pop(token)[0])

    def _forget_live(self, token: str) -> None:
        """Forget the token if its snapshot is the live one now, which needs nobody to hold it."""
        staged = self._staged.get(token)
        if staged is not None and self._head is not None and staged[0] == self._head.snapshot:
            self._forget(token)

    def _release(self, snapshot: int) -> None:
        self._held[snapshot] -= 1
        if not self._held[snapshot]:
            del self._held[snapshot]

    def _damaged(self, what: str) -> StorageError:
        return StorageError(f"{self._path}: {what}; {CURE}")


def _identity_bytes(identity: Identity) -> bytes:
    return b"\0".join([identity.cluster_id, identity.disk_id, identity.cluster.encode()])


async def _pieces(chunks: AsyncIterable[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """Cut and join `chunks` so that each but the last has `size` bytes."""
    buffer = bytearray()
    async for chunk in chunks:
        for start in range(0, len(chunk), size):
            buffer += chunk[start : start + size]
            if len(buffer) >= size:
                yield bytes(buffer[:size])
                del buffer[:size]

    if buffer:
        yield bytes(buffer)


@asynccontextmanager
async def open_sqlite(options: SqliteOptions, context: StorageContext) -> AsyncIterator[LogStorage]:
    """Open the database in the context's folder, making both if missing.

    :raises ConfigError: there is no folder to keep it in.
    :raises StorageError: the folder is in use, or what is in it is foreign, damaged or of another format.
    """
    if context.data_dir is None:
        raise ConfigError(
            'data_dir: is needed, for the sqlite log storage keeps files; for example data_dir = "data/n1"'
        )

    storage = SqliteStorage(options, context.data_dir, context.group)
    try:
        await storage.open()
        yield storage
    finally:
        await storage.close()
