"""The database file: its tables, its format, and one thread at a time on each connection to it."""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from riteraft_core.errors import StorageError

from ._folder import DATABASE, make_private, sync_folder
from ._wal import damage, reserve
from ._worker import Worker

APPLICATION = 0x52465431  # "RFT1", in SQLite's own header: whose database this is
FORMAT = 1  # of the tables below, in SQLite's `user_version`; a change of either makes it 2

SMALLEST = 512  # bytes: the least page size, and a database has one page at least

_REPLACE = "remove this node from its cluster and join again with an empty folder"
CURE = f"the folder cannot be trusted: {_REPLACE}"

# Every table is keyed by group, so that many groups can share one database. Rows are found by key alone, which is why
# `log` needs no rowid of its own; chunks are too big to stand inside a key's tree. A row of `log` is a run (`_run`).
SCHEMA = (
    """CREATE TABLE identity (
        grp INTEGER PRIMARY KEY, cluster TEXT NOT NULL, cluster_id BLOB NOT NULL, node_id INTEGER NOT NULL,
        disk_id BLOB NOT NULL, crc INTEGER NOT NULL)""",
    """CREATE TABLE head (
        grp INTEGER PRIMARY KEY, term INTEGER NOT NULL, vote INTEGER NOT NULL, committed INTEGER NOT NULL,
        anchor_index INTEGER NOT NULL, anchor_term INTEGER NOT NULL, last_index INTEGER NOT NULL,
        snapshot INTEGER NOT NULL, crc INTEGER NOT NULL)""",
    """CREATE TABLE log (
        grp INTEGER, first INTEGER, last INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL,
        PRIMARY KEY (grp, first)) WITHOUT ROWID""",
    """CREATE TABLE snapshot (
        grp INTEGER, id INTEGER, meta BLOB NOT NULL, size INTEGER, chunks INTEGER, crc INTEGER,
        PRIMARY KEY (grp, id)) WITHOUT ROWID""",
    """CREATE TABLE chunk (
        grp INTEGER, snapshot INTEGER, number INTEGER, data BLOB NOT NULL, crc INTEGER NOT NULL,
        PRIMARY KEY (grp, snapshot, number))""",
)

# The save that is made thousands of times a second, as one statement, which is a transaction by itself: were its begin,
# its row, the head and the commit a statement each, the thread would wait for the interpreter's lock after each.
# Temporary: none of it stands in the file.
SAVE = "INSERT INTO temp.saving VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SAVE_VIEW = """CREATE TEMP VIEW saving AS SELECT
    0 AS grp, 0 AS term, 0 AS vote, 0 AS committed, 0 AS anchor_index, 0 AS anchor_term, 0 AS last_index, 0 AS snapshot,
    0 AS head_crc, 0 AS first, 0 AS last, 0 AS data, 0 AS crc"""
_SAVE_TRIGGER = """CREATE TEMP TRIGGER save INSTEAD OF INSERT ON saving BEGIN
    INSERT INTO log (grp, first, last, data, crc) VALUES (NEW.grp, NEW.first, NEW.last, NEW.data, NEW.crc);
    INSERT OR REPLACE INTO head
        (grp, term, vote, committed, anchor_index, anchor_term, last_index, snapshot, crc)
        VALUES (NEW.grp, NEW.term, NEW.vote, NEW.committed, NEW.anchor_index, NEW.anchor_term, NEW.last_index,
            NEW.snapshot, NEW.head_crc);
    END"""
_READ_BYTES = 1024 * 1024

_PACK = [struct.Struct(f"<{count}q").pack for count in range(10)]  # made once: a save takes two

T = TypeVar("T")


def checksum(data: bytes, *fields: int) -> int:
    """Return the CRC-32 over some numbers and then `data`."""
    return zlib.crc32(data, zlib.crc32(_PACK[len(fields)](*fields)))


def matches(crc: object, data: bytes, *fields: int) -> bool:
    """Say whether `checksum` gives `crc`; values that a damaged row gave another type never match."""
    try:
        return checksum(data, *fields) == crc
    except (TypeError, struct.error):
        return False


class Health:
    """Whether a database may still be used: what failed first, on whichever of its connections."""

    def __init__(self, failure: StorageError | None = None) -> None:
        self.failure = failure

    def note(self, failure: StorageError) -> None:
        """Take note of a failure, unless there was one before: two threads may fail at once."""
        if self.failure is None:
            self.failure = failure


class Connection:
    """One connection, run in a thread of its own, one call at a time.

    First come, first served, which is what lets a save in between the chunks of a snapshot. After the first failure on
    any connection of the same `health` it refuses everything: once one of them could not sync, nobody knows what is on
    the disk, and no other may try.
    """

    def __init__(self, path: Path, health: Health) -> None:
        self._path = path
        self._worker = Worker(f"sqlite {path}")
        self._raw: sqlite3.Connection | None = None
        self._health = health
        self._running = False

    def start(self) -> None:
        """Start the thread.

        :raises StorageError: the system has no more of them.
        """
        try:
            self._worker.start()
        except RuntimeError as exc:
            raise StorageError(
                f"{self._path}: {exc}: raise the limit on processes and threads (`ulimit -u`, or the container's) and "
                "start the node again"
            ) from exc

        self._running = True

    @property
    def raw(self) -> sqlite3.Connection:
        """SQLite's own object; only for what `run` calls."""
        if self._raw is None:
            raise StorageError(f"{self._path}: not open")

        return self._raw

    def run(self, doing: str, call: Callable[[], T]) -> Coroutine[Any, Any, T]:
        """Run `call` in a worker thread; a cancelled caller waits until it has ended, and it always ends whole.

        :raises StorageError: `call` failed, or one before it did; `doing` is what the text says it was about.
        """
        if not self._running:
            raise StorageError(f"{self._path}: {doing} was refused, because this storage has ended: it was closed")

        return self._worker.run(partial(self._run, doing, call))

    def begin(self, doing: str, call: Callable[[], T]) -> Future[T]:
        """Run `call` in the worker thread, and go on; from any thread. A failure is the connection's, as with `run`."""
        return self._worker.post(partial(self._run, doing, call))

    def _run(self, doing: str, call: Callable[[], T]) -> T:
        if (failure := self._health.failure) is not None:
            raise StorageError(
                f"{self._path}: {doing} was refused, because this storage has ended: {failure}"
            ) from failure

        try:
            return call()
        except StorageError as exc:
            self._health.note(exc)
            raise
        except Exception as exc:
            failure = StorageError(f"{self._path}: {doing} failed: {exc}{_cure(exc, self._path)}")
            self._health.note(failure)
            raise failure from exc

    async def close(self) -> None:
        """Refuse all further calls and close, once the call under way has ended; a second time does nothing."""
        if self._running:
            self._running = False
            await self._worker.run(self._close)
            self._worker.close()

    def _close(self) -> None:
        if self._health.failure is None:
            self._health = Health(StorageError("it was closed"))  # its own: the others are closed by themselves

        if self._raw is not None:
            self._raw.close()
            self._raw = None

    @property
    def failed(self) -> bool:
        """Whether a call failed, on this connection or one of the same health, or it was closed."""
        return self._health.failure is not None

    def open(self, mode: str) -> sqlite3.Connection:
        """Connect to the file, which must be there, for `ro` or `rw`. Blocks."""
        self._raw = _connect(self._path, mode)
        return self._raw


_SEE_LOG = f"see the system's log, then start again; if damage is found, {CURE}"

_CURES: tuple[tuple[set[int], set[str], str], ...] = (
    (
        {errno.ENOSPC, errno.EDQUOT},
        {"database or disk is full"},
        "the disk is full: make room on it and start the node again, it goes on where it was",
    ),
    ({errno.EIO}, set(), f"the disk fails: {_SEE_LOG}"),
    # Some file systems, as btrfs, look for room only when they write back: then it is the sync that fails.
    (set(), {"disk I/O error"}, f"the disk fails, or was full: make sure that there is room, and {_SEE_LOG}"),
    (
        {errno.EACCES, errno.EPERM},
        {"unable to open database file", "attempt to write a readonly database"},
        "the user that runs the node must be the owner of the folder and all in it, or name another data_dir",
    ),
    (set(), {"database is locked"}, "another program has it open: end that program and start the node again"),
    ({errno.EROFS}, set(), "the disk is mounted for reading only: mount it for writing, or name another data_dir"),
    (
        {errno.EMFILE, errno.ENFILE},
        set(),
        "too many files and sockets are open: raise the limit (`ulimit -n`) and start the node again",
    ),
)
"""What the system or SQLite says went wrong, and what to do about it."""


def _cure(exc: Exception, path: Path) -> str:
    number = exc.errno if isinstance(exc, OSError) else _hidden_errno(exc, path)
    for numbers, texts, cure in _CURES:
        if number in numbers or (number is None and isinstance(exc, sqlite3.Error) and str(exc) in texts):
            return f"; {cure}"

    # The plain DatabaseError, none of its subclasses, is SQLite's word for a file it cannot make sense of.
    return f"; {CURE}" if type(exc) is sqlite3.DatabaseError else ""


def _hidden_errno(exc: Exception, path: Path) -> int | None:
    """Return what the system said behind an error for which SQLite has no word of its own, or None.

    It tells of a file it could not open for want of descriptors as of any other, and it takes an EIO for damage: who
    believes that throws away a folder that a sound cable would bring back.
    """
    try:
        if type(exc) is sqlite3.DatabaseError:
            for file in (path, _wal_of(path)):
                if file.exists():
                    _read_through(file)
        elif isinstance(exc, sqlite3.OperationalError):
            os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as probed:
        return probed.errno

    return None


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _read_through(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    # For this process alone, as the folder is anyway: then SQLite keeps the WAL's index in its own memory. Else that is
    # a file that it maps, and where a full disk has no room for one of its pages, SIGBUS ends the process.
    uri = f"{path.absolute().as_uri()}?mode={mode}&vfs=unix-excl"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def prepare(folder: Path) -> None:
    """Make the database if there is none; look at an existing one before SQLite opens, and mends, it. Blocks.

    :raises StorageError: what is there is no whole database.
    """
    path = folder / DATABASE
    wal = _wal_of(path)
    if not path.exists():
        if wal.exists():
            raise StorageError(f"{path} is missing, but its WAL is there; {CURE}")

        _make(folder)
    elif path.stat().st_size < SMALLEST:
        # SQLite would take it for new and delete the WAL. It never was that small under this name.
        raise StorageError(f"{path} is cut short; {CURE}")

    if where := damage(wal):
        raise StorageError(f"{wal}: {where}; {CURE}")


def _make(folder: Path) -> None:
    """Make the tables under another name: a crash here leaves no half database under the right one."""
    new = folder / f"{DATABASE}.new"
    for leftover in (new, folder / f"{DATABASE}.new-journal"):
        leftover.unlink(missing_ok=True)

    make_private(new)
    raw = _connect(new)
    try:
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA fullfsync = ON")
        raw.execute("BEGIN")
        raw.execute(f"PRAGMA application_id = {APPLICATION}")
        raw.execute(f"PRAGMA user_version = {FORMAT}")
        for statement in SCHEMA:
            raw.execute(statement)

        raw.execute("COMMIT")
    finally:
        raw.close()

    new.rename(folder / DATABASE)
    sync_folder(folder)


def open_writer(connection: Connection, path: Path, reserved: int) -> None:
    """Open the connection that writes: what it commits is durable, and an error in a checkpoint is heard of. Blocks.

    `reserved` is how many bytes the WAL has to begin with.

    :raises StorageError: the database is not ours, or of another format.
    """
    make_private(path)  # SQLite gives the WAL the same mode
    raw = connection.open("rw")
    raw.execute("PRAGMA trusted_schema = OFF")  # nothing that a tampered schema names is called
    raw.execute("PRAGMA cell_size_check = ON")  # a damaged page is found when it is read, not later
    try:
        application = _value(raw, "PRAGMA application_id")
        version = _value(raw, "PRAGMA user_version")
    except sqlite3.DatabaseError as exc:
        raise StorageError(f"{path} cannot be read as a SQLite database ({exc}){_cure(exc, path)}") from exc

    if application != APPLICATION:
        raise StorageError(
            f"{path} is not a riteraft database (application id {application}, not {APPLICATION}): "
            "give the node a data_dir of its own"
        )

    if version != FORMAT:
        raise StorageError(
            f"{path} has format {version}, this version of riteraft-storage-sqlite reads format {FORMAT}: "
            "install the version that wrote it, or a newer one"
        )

    if (mode := _value(raw, "PRAGMA journal_mode = WAL")) != "wal":
        raise StorageError(f"{path}: this file system does not carry SQLite's WAL (it stays in mode {mode!r})")

    _sync_fully(raw)
    raw.execute("PRAGMA secure_delete = OFF")  # on in some builds: every deleted page would be written once more
    raw.execute("PRAGMA wal_autocheckpoint = 0")  # an automatic one swallows its errors; `checkpoint` does not
    raw.execute("PRAGMA temp_store = MEMORY")
    raw.execute(_SAVE_VIEW)
    raw.execute(_SAVE_TRIGGER)
    checkpoint(connection, "TRUNCATE")  # each run starts a WAL of its own: `_wal` counts on it
    reserve(_wal_of(path), reserved)


def open_merger(connection: Connection) -> None:
    """Open a connection that only makes checkpoints, as durable as the writer's own. Blocks."""
    raw = connection.open("rw")
    _sync_fully(raw)
    _value(raw, "PRAGMA user_version")


def _sync_fully(raw: sqlite3.Connection) -> None:
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
    raw.execute("PRAGMA checkpoint_fullfsync = ON")


def open_reader(connection: Connection) -> None:
    """Open a connection that only reads, and takes part from now on in who is the last to close. Blocks."""
    _value(connection.open("ro"), "PRAGMA user_version")


def checkpoint(connection: Connection, mode: str) -> None:
    """Copy the WAL into the database; what a reader still needs stays for the next time. Blocks."""
    connection.raw.execute(f"PRAGMA main.wal_checkpoint({mode})").fetchall()


def _value(raw: sqlite3.Connection, pragma: str) -> object:
    (value,) = raw.execute(pragma).fetchone()
    return value
