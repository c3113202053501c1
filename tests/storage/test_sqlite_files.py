"""What the suite can't see from outside: files, damage, crashes and processes."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from pydantic import ValidationError
from riteraft_core.errors import ConfigError, StorageError
from riteraft_core.protocols import LogStorage, StorageContext
from riteraft_core.testing.log_storage_suite import IDENTITY, feed, live, meta, recovered, rows
from riteraft_core.types import Anchor, HardState, LogBatch, LogRow, Recovered
from riteraft_storage_sqlite._storage import SqliteStorage

from riteraft_storage_sqlite import SqliteOptions, open_sqlite, riteraft_log_storages
from tests.waiting import eventually
from tests.wal import end_of_frames

LOGGER = logging.getLogger("riteraft")
OPTIONS = SqliteOptions(snapshot_chunk_bytes=4096)
CURE = "remove this node from its cluster and join again with an empty folder"

# The content that the tests below damage: a live snapshot of ten chunks, and a log of 100 rows around it.
STATE = bytes(range(256)) * 160
WHOLE = Recovered(IDENTITY, HardState(3, 2, 60), Anchor(30, 1), meta(50), rows(31, 130))


ALL_IN_THE_WAL = SqliteOptions(snapshot_chunk_bytes=4096, checkpoint_bytes=1 << 50)
"""The first copying begins anywhere within those bytes, so they are many more than any test writes."""


def open_log(folder: Path, group: int = 0) -> AbstractAsyncContextManager[LogStorage]:
    return open_sqlite(OPTIONS, StorageContext(folder, group, LOGGER))


def open_without_checkpoints(folder: Path) -> AbstractAsyncContextManager[LogStorage]:
    """Open so that all that is saved stands in the WAL alone, until it is closed."""
    return open_sqlite(ALL_IN_THE_WAL, StorageContext(folder, 0, LOGGER))


async def fill(log: LogStorage) -> None:
    await log.create(IDENTITY)
    for first in range(1, 130, 10):
        await log.save(LogBatch(hard_state=HardState(3, 2, min(first, 60)), entries=rows(first, first + 9)))

    await log.compact(await log.stage_snapshot(meta(50), feed(STATE)), 30)
    await log.save(LogBatch(hard_state=WHOLE.hard_state))  # after what the compaction deletes behind it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that a node has filled and closed."""

    async def make() -> None:
        async with open_log(tmp_path / "node") as log:
            await fill(log)

    anyio.run(make)
    return tmp_path / "node"


@pytest.fixture
def dice() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)


async def look(folder: Path) -> tuple[Recovered, bytes]:
    """Start on a folder and read all that a node reads; whatever cannot be trusted must show here."""
    async with open_log(folder) as log:
        found = await recovered(log)
        return found, b"" if found.snapshot is None else (await live(log))[1]


async def refusal(folder: Path) -> str:
    """Return the text with which a folder is refused, and check that it is refused again."""
    with pytest.raises(StorageError) as first:
        await look(folder)

    with pytest.raises(StorageError):
        await look(folder)

    return str(first.value)


@contextmanager
def tampered(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "raft.db", isolation_level=None)) as database:
        yield database


# --- the folder ---


@pytest.mark.anyio
async def test_files_and_folder_are_the_owners_only(tmp_path: Path) -> None:
    # Whatever the umask: 0 would give too much, 0o777 too little.
    for umask in (0, 0o777):
        folder = tmp_path / str(umask) / "node"
        folder.parent.mkdir()
        old = os.umask(umask)
        try:
            async with open_log(folder) as log:
                await fill(log)
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        finally:
            os.umask(old)

        assert modes == dict.fromkeys(["raft.db", "raft.db-wal", "raft.lock"], 0o600)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.anyio
async def test_folders_above_are_made_and_an_existing_one_keeps_its_mode(tmp_path: Path) -> None:
    async with open_log(tmp_path / "a" / "b" / "node"):
        pass

    (tmp_path / "mine").mkdir(mode=0o750)
    async with open_log(tmp_path / "mine"):
        assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o750


@pytest.mark.anyio
async def test_without_a_folder_there_is_no_sqlite() -> None:
    with pytest.raises(ConfigError, match="data_dir"):
        async with open_sqlite(OPTIONS, StorageContext(None, 0, LOGGER)):
            pass


@pytest.mark.anyio
async def test_closed_it_leaves_no_wal_and_refuses_calls(tmp_path: Path) -> None:
    async with open_log(tmp_path) as log:
        await fill(log)

    assert sorted(os.listdir(tmp_path)) == ["raft.db", "raft.lock"]
    with pytest.raises(StorageError, match="closed"):
        await log.save(LogBatch())


@pytest.mark.anyio
async def test_two_groups_in_one_database_know_nothing_of_each_other(folder: Path) -> None:
    async with open_log(folder, group=1) as log:
        assert await log.load() == Recovered()
        with pytest.raises(StorageError, match="opened for group 1"):
            await log.create(IDENTITY)

    assert await look(folder) == (WHOLE, STATE)


def test_the_hook_brings_sqlite_by_name() -> None:
    (provider,) = riteraft_log_storages()
    assert (provider.name, provider.options, provider.open) == ("sqlite", SqliteOptions, open_sqlite)
    with pytest.raises(ValidationError):
        provider.options.model_validate({"synchronous": "off"})


# --- the lock ---

HOLD = """
import logging, sys, anyio
from pathlib import Path
from riteraft_core.protocols import StorageContext
from riteraft_storage_sqlite import SqliteOptions, open_sqlite

async def main():
    async with open_sqlite(SqliteOptions(), StorageContext(Path(sys.argv[1]), 0, logging.getLogger())):
        print("held", flush=True)
        sys.stdin.read()

anyio.run(main)
"""


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=rf"{re.escape(str(tmp_path))} is in use .*pid {holder.pid}\b"):
            anyio.run(look, tmp_path)

        # Killed, it holds nothing any more.
        holder.kill()
        holder.wait()
        assert anyio.run(look, tmp_path) == (Recovered(entries=[]), b"")


LOOK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1] + "/raft.db", timeout=0)
try:
    print(database.execute("SELECT last_index FROM head").fetchall(), flush=True)
except sqlite3.OperationalError as exc:
    print(exc, flush=True)
sys.stdin.read()
"""


@contextmanager
def looking_into(folder: Path) -> Iterator[str]:
    """Run a program that opens the database and keeps it open; give what it found."""
    program = subprocess.Popen(
        [sys.executable, "-c", LOOK, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with program:
        assert program.stdout is not None
        yield program.stdout.readline().strip()  # at the end of the block its stdin closes, and so it ends


@pytest.mark.anyio
async def test_no_other_program_can_open_the_database_while_it_is_in_use(folder: Path) -> None:
    async with open_log(folder) as log:
        with looking_into(folder) as found:
            assert found == "database is locked"
            await log.save(LogBatch(entries=rows(131, 131)))

    assert (await look(folder))[0].entries == rows(31, 131)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # SQLite waits for five seconds
async def test_a_database_that_another_program_has_open_is_refused_and_loses_nothing(crashed: Path) -> None:
    with looking_into(crashed) as found:
        assert found == "[(130,)]"
        with pytest.raises(StorageError, match=r"database is locked.*another program has it open: end that"):
            await look(crashed)

        assert end_of_frames(crashed / "raft.db-wal") > 100_000

    assert await look(crashed) == (WHOLE, STATE)


@pytest.mark.anyio
async def test_a_second_opening_in_one_process_is_refused_too(folder: Path) -> None:
    async with open_log(folder) as log:
        with pytest.raises(StorageError, match=rf"is in use .*pid {os.getpid()}\b"):
            await look(folder)

        await log.save(LogBatch(entries=rows(131, 131)))

    assert (await look(folder))[0].entries == rows(31, 131)


# --- threads ---


@pytest.mark.anyio
@pytest.mark.parametrize("which", [1, 2, 3])
async def test_too_few_threads_are_an_error_at_the_start_and_nothing_hangs(
    folder: Path, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real limit is each user's, and root has none.
    start, started = threading.Thread.start, 0

    def start_some(thread: threading.Thread) -> None:
        nonlocal started
        if thread.name.startswith("sqlite"):
            started += 1
            if started == which:
                raise RuntimeError("can't start new thread")

        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_some)
        with pytest.raises(StorageError, match="can't start new thread: raise the limit"):
            await look(folder)

    assert await look(folder) == (WHOLE, STATE)


# --- what cannot be trusted ---


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE log SET data = x'00' WHERE first = 71", "the log rows 71..80 do not match"),
        ("UPDATE log SET data = 'text' WHERE first = 71", "the log rows 71..80 do not match"),
        ("UPDATE log SET data = x'02' || substr(data, 2) WHERE first = 71", "the log rows 71..80 do not match"),
        ("UPDATE log SET data = substr(data, 1, 99) WHERE first = 71", "the log rows 71..80 do not match"),
        ("UPDATE log SET data = x'' WHERE first = 71", "the log rows 71..80 do not match"),
        ("UPDATE log SET first = 122 WHERE first = 121", "the log rows 122..130 do not match"),
        ("UPDATE log SET last = 131 WHERE first = 121", "the log rows 121..131 do not match"),
        ("UPDATE log SET last = 'text' WHERE first = 71", "the log rows 71..'text' do not match"),
        ("DELETE FROM log WHERE first = 71", "the log row at 71 is missing, the next one is 81"),
        ("DELETE FROM log WHERE first = 31", "the log row at 31 is missing, the next one is 41"),
        ("DELETE FROM log WHERE first = 121", "the log must end at 130, but its rows end at 120"),
        ("DELETE FROM log", "the log must end at 130, but its rows end at 30"),
        ("UPDATE head SET term = term - 1", "the hard state does not match"),
        ("UPDATE head SET vote = 3", "the hard state does not match"),
        ("UPDATE head SET committed = 40", "the hard state does not match"),
        ("UPDATE head SET anchor_term = 9", "the hard state does not match"),
        ("UPDATE head SET snapshot = 0", "the hard state does not match"),
        ("UPDATE head SET term = x'ff'", "the hard state does not match"),
        ("DELETE FROM head", "the identity or the hard state is missing"),
        ("UPDATE identity SET node_id = 8", "the identity does not match"),
        ("UPDATE identity SET cluster = 'other'", "the identity does not match"),
        ("UPDATE identity SET disk_id = x'00'", "the identity does not match"),
        ("UPDATE identity SET cluster_id = 16", "the identity does not match"),
        ("DELETE FROM identity", "the identity or the hard state is missing"),
        ("DELETE FROM identity; DELETE FROM head", "is missing"),
        ("UPDATE chunk SET data = zeroblob(4096) WHERE number = 3", "chunk 3 of snapshot 1 is missing or does not"),
        ("UPDATE chunk SET number = number + 100", "chunk 0 of snapshot 1 is missing or does not"),
        ("DELETE FROM chunk WHERE number = 9", "chunk 9 of snapshot 1 is missing or does not"),
        ("UPDATE snapshot SET chunks = 9", "the meta of the live snapshot (1) is missing or does not"),
        ("UPDATE snapshot SET meta = x'00'", "the meta of the live snapshot (1) is missing or does not"),
        ("DELETE FROM snapshot", "the meta of the live snapshot (1) is missing or does not"),
        ("DROP TABLE log", "no such table"),
    ],
)
async def test_damage_is_found_and_named(folder: Path, damage: str, named: str) -> None:
    with tampered(folder) as database:
        database.executescript(damage)

    text = await refusal(folder)
    assert str(folder / "raft.db") in text
    assert named in text
    assert CURE in text or "no such table" in text


@pytest.mark.anyio
async def test_a_row_copied_from_elsewhere_is_found(folder: Path) -> None:
    # Each row is sound by itself; the checksum knows its index.
    with tampered(folder) as database:
        database.execute(
            "UPDATE log SET (last, data, crc) = (SELECT last, data, crc FROM log WHERE first = 81) WHERE first = 71"
        )

    assert "the log rows 71..90 do not match" in await refusal(folder)


@pytest.mark.anyio
async def test_any_byte_flipped_inside_a_run_is_found_and_its_rows_are_named(folder: Path) -> None:
    with tampered(folder) as database:
        (sound,) = database.execute("SELECT data FROM log WHERE first = 71").fetchone()

    for place in (0, 7, 8, 12, len(sound) // 2, len(sound) - 1):  # term, length and bytes of the first, others
        with tampered(folder) as database:
            database.execute("UPDATE log SET data = ? WHERE first = 71", (flipped(sound, place),))

        assert "the log rows 71..80 do not match their checksum" in await refusal(folder)

    with tampered(folder) as database:
        database.execute("UPDATE log SET data = ? WHERE first = 71", (sound,))

    assert await look(folder) == (WHOLE, STATE)


def packed(held: list[LogRow]) -> list[bytes]:
    return [struct.pack("<QI", term, len(entry)) + entry for _, term, entry in held]


def write_run(folder: Path, first: int, last: int, parts: list[bytes]) -> None:
    """Write a row of the log whose checksum is right, whatever it holds."""
    data = b"".join(parts)
    crc = zlib.crc32(data, zlib.crc32(struct.pack("<3q", 0, first, last)))
    with tampered(folder) as database:
        database.execute("INSERT OR REPLACE INTO log VALUES (0, ?, ?, ?, ?)", (first, last, data, crc))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("first", "last", "held", "named"),
    [
        (71, 80, rows(71, 79), "the log rows 71..80 cannot be used"),
        (71, 80, rows(71, 81), "the log rows 71..80 cannot be used"),
        (71, 80, [], "the log rows 71..80 cannot be used"),
        (71, 2**62, rows(71, 80), f"the log rows 71..{2**62} cannot be used"),
        (71, 70, [], "the log rows 71..70 cannot be used"),
        (71, 79, rows(71, 79), "the log row at 80 is missing, the next one is 81"),
        (71, 81, rows(71, 81), "the log rows 81..90 overlap those before, up to 81"),
        (75, 80, rows(75, 80), "the log rows 75..80 overlap those before, up to 80"),
        (121, 131, rows(121, 131), "the log must end at 130, but its rows end at 131"),
        (35, 40, rows(35, 40), "the log rows 35..40 overlap those before, up to 40"),
        (31, 41, rows(31, 41), "the log rows 41..50 overlap those before, up to 41"),
        (29, 40, rows(29, 40), "the log rows 31..40 overlap those before, up to 40"),
        (29, 40, rows(29, 40, 2), "the anchor at 30 has term 1, the log there has 2"),
    ],
)
async def test_a_run_whose_checksum_is_right_must_fit_all_the_same(
    folder: Path, first: int, last: int, held: list[LogRow], named: str
) -> None:
    write_run(folder, first, last, packed(held))
    text = await refusal(folder)
    assert str(folder / "raft.db") in text
    assert named in text
    assert CURE in text


@pytest.mark.anyio
async def test_a_run_cut_short_with_a_right_checksum_is_found(folder: Path) -> None:
    sound = b"".join(packed(rows(71, 80)))
    one = len(sound) // 10
    for size in (0, 11, one - 1, len(sound) - one, len(sound) - 1):
        write_run(folder, 71, 80, [sound[:size]])
        assert f"{size} bytes are not the entries 71..80" in await refusal(folder)

    write_run(folder, 71, 80, [sound, b"x"])
    assert f"{len(sound) + 1} bytes are not the entries 71..80" in await refusal(folder)
    write_run(folder, 71, 80, [sound])
    assert await look(folder) == (WHOLE, STATE)


# --- runs ---


def runs(folder: Path) -> list[tuple[int, int]]:
    with tampered(folder) as database:
        return database.execute("SELECT first, last FROM log ORDER BY first").fetchall()


@pytest.mark.anyio
async def test_the_entries_of_a_save_are_one_row_up_to_a_bound(tmp_path: Path) -> None:
    big = [(index, 1, bytes(100_000)) for index in range(2001, 2006)]
    huge = [(2006, 1, b"x"), (2007, 1, bytes(1 << 20)), (2008, 1, b"y")]
    async with open_log(tmp_path) as log:
        await log.create(IDENTITY)
        for saved, found in [
            (rows(1, 1), [(1, 1)]),
            (rows(2, 900), [(2, 900)]),
            (rows(901, 2000), [(901, 1924), (1925, 2000)]),
            (big, [(2001, 2002), (2003, 2004), (2005, 2005)]),
            (huge, [(2006, 2006), (2007, 2007), (2008, 2008)]),
            ([], []),
        ]:
            before = runs(tmp_path)
            await log.save(LogBatch(entries=saved))
            assert runs(tmp_path) == before + found

    assert (await look(tmp_path))[0].entries == rows(1, 2000) + big + huge


@pytest.mark.anyio
@pytest.mark.parametrize("first", [51, 52, 75, 80, 81, 130])
async def test_a_save_that_cuts_into_a_run_keeps_its_earlier_entries(folder: Path, first: int) -> None:
    async with open_log(folder) as log:
        await log.save(LogBatch(hard_state=HardState(3, 2, 50), entries=rows(first, first + 2, term=2)))

    kept = [(start, min(start + 9, first - 1)) for start in range(31, first, 10)]
    assert runs(folder) == [*kept, (first, first + 2)]
    assert (await look(folder))[0].entries == rows(31, first - 1) + rows(first, first + 2, term=2)


@pytest.mark.anyio
@pytest.mark.parametrize("damage", ["DELETE FROM log WHERE first = 71", "UPDATE log SET data = x'00' WHERE first = 71"])
async def test_a_damaged_run_is_not_cut(folder: Path, damage: str) -> None:
    # Its other entries would get a new checksum, and be sound for ever.
    async with open_log(folder) as log:
        with tampered(folder) as database:
            database.execute(damage)

        with pytest.raises(StorageError, match=r"the log rows? (at 74 is missing|71\.\.80 do not match).*" + CURE):
            await log.save(LogBatch(hard_state=HardState(9, 9, 60), entries=rows(75, 75, term=2)))

    assert runs(folder)[-1] == (121, 130)


@pytest.mark.anyio
@pytest.mark.parametrize("index", [31, 35, 39, 40])
@pytest.mark.parametrize("after", [1, 2, 8], ids=lambda after: f"replaced from {after} after it")
async def test_a_compaction_inside_a_run_then_a_restart_then_an_overlap(folder: Path, index: int, after: int) -> None:
    async with open_log(folder) as log:
        await log.compact(await log.stage_snapshot(meta(index), feed(STATE)), index)
        assert (await recovered(log)).entries == rows(index + 1, 130)

    # The run that the anchor is in stays whole.
    assert runs(folder)[0] == ((31, 40) if index < 40 else (41, 50))
    found, state = await look(folder)
    assert found == Recovered(IDENTITY, WHOLE.hard_state, Anchor(index, 1), meta(index), rows(index + 1, 130))
    assert state == STATE

    # What follows the anchor may be replaced at once, or further on; what it stands for never.
    async with open_log(folder) as log:
        await log.save(LogBatch(hard_state=HardState(3, 2, index), entries=rows(index + after, 99, term=3)))

    with tampered(folder) as database:
        assert database.execute("SELECT count(*) FROM log WHERE last <= ?", (index,)).fetchone() == (0,)

    log_after = rows(index + 1, index + after - 1) + rows(index + after, 99, term=3)
    async with open_log(folder) as log:
        found = await recovered(log)
        assert found == Recovered(IDENTITY, HardState(3, 2, index), Anchor(index, 1), meta(index), log_after)
        with pytest.raises(StorageError, match=f"an entry at {index} does not follow"):
            await log.save(LogBatch(entries=rows(index, index, term=3)))


@pytest.mark.anyio
async def test_what_a_compaction_deletes_goes_in_short_transactions_between_saves(tmp_path: Path) -> None:
    # A log of 64 MiB deleted at once would hold up a save for as long as SQLite needs to read it.
    statements: list[str] = []
    waits = threading.Event()

    def trace(statement: str) -> None:
        statements.append(statement.partition(" WHERE")[0].partition(" VALUES")[0])
        if statements[-1] == "DELETE FROM log":
            assert waits.wait(30)

    async with open_log(tmp_path) as log, anyio.create_task_group() as tasks:
        assert isinstance(log, SqliteStorage)
        await log.create(IDENTITY)
        for index in range(1, 31):
            await log.save(LogBatch(entries=[(index, 1, bytes(1_000_000))]))

        log._writer.raw.set_trace_callback(trace)
        await log.compact(await log.stage_snapshot(meta(29), feed(STATE)), 29)
        tasks.start_soon(log.save, LogBatch(hard_state=HardState(1, 1, 30), entries=[(31, 1, b"next")]))
        await anyio.wait_all_tasks_blocked()
        waits.set()
        await eventually(lambda: runs(tmp_path) == [(30, 30), (31, 31)])

    order = [step for step in statements if step in ("DELETE FROM log", "INSERT INTO temp.saving")]
    assert order[:2] == ["DELETE FROM log", "INSERT INTO temp.saving"]
    assert order[-7:] == ["DELETE FROM log"] * 7


@pytest.mark.anyio
async def test_what_a_crash_left_of_a_compaction_is_passed_over_and_deleted(folder: Path) -> None:
    write_run(folder, 11, 20, packed(rows(11, 20)))
    write_run(folder, 21, 30, packed(rows(21, 30, 2)))
    assert await look(folder) == (WHOLE, STATE)
    assert runs(folder)[0] == (31, 40)


@pytest.mark.anyio
async def test_a_chunk_damaged_while_the_node_runs_is_found_when_read(folder: Path) -> None:
    async with open_log(folder) as log:
        await log.load()
        with tampered(folder) as database:
            database.execute("UPDATE chunk SET data = zeroblob(4096) WHERE number = 3")

        with pytest.raises(StorageError, match="chunk 3 of snapshot 1"):
            await live(log)


@pytest.mark.anyio
async def test_a_newer_format_is_refused_with_the_cure(folder: Path) -> None:
    with tampered(folder) as database:
        database.execute("PRAGMA user_version = 2")

    text = await refusal(folder)
    assert "has format 2, this version of riteraft-storage-sqlite reads format 1" in text
    assert "install" in text


@pytest.mark.anyio
async def test_a_database_of_another_program_is_refused_and_not_touched(tmp_path: Path) -> None:
    with tampered(tmp_path) as database:
        database.execute("CREATE TABLE theirs (x)")

    before = (tmp_path / "raft.db").read_bytes()
    assert "is not a riteraft database" in await refusal(tmp_path)
    assert (tmp_path / "raft.db").read_bytes() == before


@pytest.mark.anyio
async def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "raft.db").write_text("my notes about rafts\n" * 100)
    assert "cannot be read as a SQLite database" in await refusal(tmp_path)
    assert (tmp_path / "raft.db").read_text().startswith("my notes")


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 1, 100, 4096, 8192, -4096])
async def test_a_truncated_database_is_refused(folder: Path, size: int) -> None:
    path = folder / "raft.db"
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
    text = await refusal(folder)
    assert str(path) in text
    assert CURE in text


@pytest.mark.anyio
async def test_a_database_that_vanished_from_beside_its_wal_is_refused(tmp_path: Path) -> None:
    async with open_log(tmp_path / "node") as log:
        await fill(log)
        crashed = shutil.copytree(tmp_path / "node", tmp_path / "crashed")

    (crashed / "raft.db").unlink()
    assert "is missing, but its WAL is there" in await refusal(crashed)


@pytest.mark.anyio
async def test_a_crash_while_the_database_was_made_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "raft.db.new").write_bytes(b"half a database")
    (tmp_path / "raft.db.new-journal").write_bytes(b"half a journal")
    assert await look(tmp_path) == (Recovered(entries=[]), b"")


# --- the WAL of a crash ---


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A folder as a crash leaves it: copied while open, everything since the start in its WAL alone."""

    async def make() -> None:
        async with open_without_checkpoints(tmp_path / "node") as log:
            await fill(log)
            shutil.copytree(tmp_path / "node", tmp_path / "crashed")

    anyio.run(make)
    return tmp_path / "crashed"


@pytest.mark.anyio
async def test_a_crash_loses_nothing_saved(crashed: Path) -> None:
    assert end_of_frames(crashed / "raft.db-wal") > 100_000
    assert await look(crashed) == (WHOLE, STATE)


@pytest.mark.anyio
async def test_a_flipped_byte_inside_the_wal_is_refused(crashed: Path) -> None:
    # SQLite alone would drop everything after the place, saves reported durable among it, without a word.
    wal = crashed / "raft.db-wal"
    sound, end = wal.read_bytes(), end_of_frames(wal)
    for place in (5, 40, 60, end // 3, end // 2):
        wal.write_bytes(flipped(sound, place))
        text = await refusal(crashed)
        assert str(wal) in text
        assert "does not match its checksum" in text
        assert CURE in text

    wal.write_bytes(sound)
    assert await look(crashed) == (WHOLE, STATE)


@pytest.mark.anyio
async def test_a_torn_last_transaction_is_a_crash_and_no_damage(tmp_path: Path) -> None:
    # The power went while the last save was being written: it was never reported, all before it was.
    wal = tmp_path / "node" / "raft.db-wal"
    async with open_without_checkpoints(tmp_path / "node") as log:
        await fill(log)
        before = end_of_frames(wal)
        await log.save(LogBatch(entries=rows(131, 250)))
        shutil.copytree(tmp_path / "node", tmp_path / "crashed")

    wal = tmp_path / "crashed" / "raft.db-wal"
    end = end_of_frames(wal)
    torn = wal.read_bytes()[:end]
    assert end > before + 3 * 4096
    for number, size in enumerate((*range(before, end, 3000), end - 1000)):
        wal.write_bytes(torn[:size] + bytes(end * (number % 2)))  # in the room that it had, and where it was full
        shutil.copytree(tmp_path / "crashed", tmp_path / "copy")
        assert await look(tmp_path / "copy") == (WHOLE, STATE)
        shutil.rmtree(tmp_path / "copy")

    # Or its pages reached the disk in another order.
    wal.write_bytes(flipped(torn, before + 100))
    assert await look(tmp_path / "crashed") == (WHOLE, STATE)


@pytest.mark.anyio
async def test_frames_of_an_earlier_round_of_the_wal_are_no_damage(tmp_path: Path) -> None:
    # After a checkpoint SQLite writes the file from its beginning again; old frames stand behind the new ones.
    options = SqliteOptions(checkpoint_bytes=64 * 1024)
    async with open_sqlite(options, StorageContext(tmp_path / "node", 0, LOGGER)) as log:
        await log.create(IDENTITY)
        for index in range(1, 60):
            await log.save(LogBatch(entries=rows(index, index)))
            if index % 3 == 0:
                shutil.copytree(tmp_path / "node", tmp_path / "crashed")
                assert (await look(tmp_path / "crashed"))[0].entries == rows(1, index)
                shutil.rmtree(tmp_path / "crashed")


@pytest.mark.anyio
async def test_a_wal_that_is_written_all_the_time_stays_short(tmp_path: Path) -> None:
    options = SqliteOptions(checkpoint_bytes=64 * 1024)
    longest = begun_anew = last = 0
    async with open_sqlite(options, StorageContext(tmp_path / "node", 0, LOGGER)) as log:
        await log.create(IDENTITY)
        for index in range(1, 1_000):
            await log.save(LogBatch(entries=rows(index, index)))
            with (tmp_path / "node" / "raft.db-wal").open("rb") as wal:
                (round_,) = struct.unpack_from(">I", wal.read(16), 12)
                begun_anew, last = begun_anew + (round_ != last), round_
                longest = max(longest, wal.seek(0, os.SEEK_END))

    assert longest <= 6 * 64 * 1024
    assert begun_anew >= 10


@pytest.mark.anyio
async def test_a_wal_has_its_room_from_the_start_so_that_a_save_only_writes_over_it(tmp_path: Path) -> None:
    wal = tmp_path / "node" / "raft.db-wal"
    async with open_sqlite(SqliteOptions(), StorageContext(tmp_path / "node", 0, LOGGER)) as log:
        for index in range(1, 20):
            assert wal.stat().st_size == wal.stat().st_blocks * 512 == SqliteOptions().checkpoint_bytes
            if index == 1:
                await log.create(IDENTITY)
            else:
                await log.save(LogBatch(entries=rows(index - 1, index - 1)))
        shutil.copytree(tmp_path / "node", tmp_path / "crashed")
    assert (await look(tmp_path / "crashed"))[0].entries == rows(1, 18)


@pytest.mark.anyio
async def test_a_crash_before_anything_was_saved_is_no_damage(tmp_path: Path) -> None:
    async with open_log(tmp_path / "node"):
        shutil.copytree(tmp_path / "node", tmp_path / "crashed")
    async with open_log(tmp_path / "crashed") as log:
        assert await log.load() == Recovered()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


@pytest.mark.anyio
async def test_a_byte_flipped_anywhere_never_gives_a_wrong_value(folder: Path, dice: random.Random) -> None:
    path = folder / "raft.db"
    sound = path.read_bytes()
    refused = 0
    for _ in range(60):
        place = dice.randrange(len(sound))
        path.write_bytes(flipped(sound, place))
        try:
            assert await look(folder) == (WHOLE, STATE), f"byte {place}"
        except StorageError as exc:
            assert str(path) in str(exc)  # noqa: PT017 - either outcome is right
            refused += 1

        for leftover in (folder / "raft.db-wal", folder / "raft.db-shm"):
            leftover.unlink(missing_ok=True)

    assert refused > 10


@pytest.mark.anyio
async def test_a_byte_flipped_anywhere_in_the_wal_loses_nothing_in_silence(tmp_path: Path, dice: random.Random) -> None:
    # But for the last transaction, which can't be told from one that the crash tore.
    wal = tmp_path / "node" / "raft.db-wal"
    async with open_without_checkpoints(tmp_path / "node") as log:
        await fill(log)
        before = end_of_frames(wal)
        await log.save(LogBatch(entries=rows(131, 131)))
        shutil.copytree(tmp_path / "node", tmp_path / "crashed")

    whole = Recovered(WHOLE.identity, WHOLE.hard_state, WHOLE.anchor, WHOLE.snapshot, rows(31, 131))
    sound = (tmp_path / "crashed" / "raft.db-wal").read_bytes()
    refused = 0
    for place in [*dice.sample(range(before), 40), *range(before - 4120, before - 4096)]:
        (tmp_path / "crashed" / "raft.db-wal").write_bytes(flipped(sound, place))
        shutil.copytree(tmp_path / "crashed", tmp_path / "copy")
        try:
            assert await look(tmp_path / "copy") == (whole, STATE), f"byte {place}"
        except StorageError:
            refused += 1

        shutil.rmtree(tmp_path / "copy")

    assert refused > 30


# --- failures ---


@pytest.mark.anyio
async def test_after_a_failed_write_everything_is_refused(folder: Path) -> None:
    # After a failed fsync the page cache lies: there is no second try.
    async with open_log(folder) as log:
        await log.load()
        with tampered(folder) as database:
            database.execute("CREATE TRIGGER broken BEFORE INSERT ON log BEGIN SELECT RAISE(FAIL, 'disk on fire'); END")

        with pytest.raises(StorageError, match="saving failed: disk on fire") as failed:
            await log.save(LogBatch(hard_state=HardState(9, 9, 61), entries=rows(131, 131)))

        assert isinstance(failed.value.__cause__, sqlite3.Error)
        with tampered(folder) as database:
            database.execute("DROP TRIGGER broken")

        for call in (
            lambda: log.save(LogBatch()),
            lambda: log.load(),
            lambda: log.stage_snapshot(meta(60), feed(b"")),
            lambda: log.compact("", 1),
        ):
            with pytest.raises(StorageError, match=r"this storage has ended: .*disk on fire"):
                await call()

    assert await look(folder) == (WHOLE, STATE)


@pytest.mark.anyio
async def test_after_a_failed_copy_of_the_wal_nothing_more_is_written(tmp_path: Path) -> None:
    # It fails in a thread that nobody waits for, and no other thread may try to sync after it.
    options = SqliteOptions(checkpoint_bytes=64 * 1024)
    async with open_sqlite(options, StorageContext(tmp_path / "node", 0, LOGGER)) as log:
        assert isinstance(log, SqliteStorage)
        await log.create(IDENTITY)
        await log._merger.run("closing", log._merger.raw.close)  # in its own thread, which may be at it already
        saved = 0
        while (merging := log._merging) is None or await anyio.to_thread.run_sync(merging.exception) is None:
            saved += 1
            await log.save(LogBatch(entries=rows(saved, saved)))

        for _ in range(2):
            with pytest.raises(StorageError, match=r"has ended: .*copying the WAL into the database failed"):
                await log.save(LogBatch(entries=rows(saved + 1, saved + 1)))

    found, _ = await look(tmp_path / "node")
    assert found.entries == rows(1, saved)


@pytest.mark.anyio
async def test_after_a_failed_write_the_wal_is_not_copied(folder: Path) -> None:
    async with open_log(folder) as log:
        assert isinstance(log, SqliteStorage)
        await log.load()
        with pytest.raises(StorageError, match="does not follow"):
            await log.save(LogBatch(entries=rows(1000, 1000)))

        with pytest.raises(StorageError, match=r"this storage has ended: .*does not follow"):
            await log._merger.run("copying", lambda: None)

    assert await look(folder) == (WHOLE, STATE)


@pytest.mark.anyio
async def test_a_number_that_does_not_fit_is_a_storage_error(folder: Path) -> None:
    async with open_log(folder) as log:
        with pytest.raises(StorageError):
            await log.save(LogBatch(hard_state=HardState(2**64 - 1, 0, 0)))


# --- the worker thread ---


@pytest.mark.anyio
async def test_a_save_does_not_wait_for_the_programs_own_threads(tmp_path: Path) -> None:
    # A `threaded` Store, or a user, may fill anyio's default limiter for as long as they like.
    async with open_log(tmp_path) as log:
        limiter = anyio.to_thread.current_default_thread_limiter()
        hog = [object() for _ in range(int(limiter.total_tokens))]
        for borrower in hog:
            limiter.acquire_on_behalf_of_nowait(borrower)

        with anyio.fail_after(20):
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 3)))

        for borrower in hog:
            limiter.release_on_behalf_of(borrower)


def test_a_save_torn_off_by_asyncios_own_cancel_ends_before_the_folder_is_free(tmp_path: Path) -> None:
    # It waits for the thread, as with anyio's; whoever cancels it twice tears it off, and then closing has to wait.
    started, go_on = threading.Event(), threading.Event()

    class Held(list[LogRow]):
        def __iter__(self) -> Iterator[LogRow]:
            started.set()
            assert go_on.wait(20)
            return super().__iter__()

    async def cancel_in_the_middle() -> None:
        async with open_log(tmp_path) as log:
            await log.create(IDENTITY)
            save = asyncio.ensure_future(log.save(LogBatch(None, HardState(1, 1, 0), Held(rows(1, 500)))))
            assert await asyncio.to_thread(started.wait, 20)
            save.cancel()
            done, _ = await asyncio.wait([save], timeout=0.05)
            assert not done
            save.cancel()
            with pytest.raises(asyncio.CancelledError):
                await save

            asyncio.get_running_loop().call_soon(go_on.set)  # runs while the storage closes

    asyncio.run(cancel_in_the_middle())
    assert anyio.run(look, tmp_path) == (Recovered(IDENTITY, HardState(1, 1, 0), entries=rows(1, 500)), b"")


@pytest.mark.anyio
async def test_superseded_snapshots_are_deleted_once_nobody_reads_them(tmp_path: Path) -> None:
    def snapshots() -> list[int]:
        with tampered(tmp_path) as database:
            found = {row[0] for row in database.execute("SELECT id FROM snapshot UNION SELECT snapshot FROM chunk")}
            return sorted(found)

    async with open_log(tmp_path) as log:
        await log.create(IDENTITY)
        await log.save(LogBatch(await log.stage_snapshot(meta(1), feed(STATE))))
        async with log.read_snapshot():
            await log.save(LogBatch(await log.stage_snapshot(meta(2), feed(STATE))))
            await log.discard_snapshot(await log.stage_snapshot(meta(3), feed(STATE)))
            assert snapshots() == [1, 2]

        await log.stage_snapshot(meta(4), feed(STATE))
        assert snapshots() == [2, 4]

    async with open_log(tmp_path) as log:
        await log.load()
        assert snapshots() == [2]


# --- kill -9 ---

SAVE_FOR_EVER = """
import logging, random, sys, anyio
from pathlib import Path
from riteraft_core.protocols import StorageContext
from riteraft_core.testing.log_storage_suite import IDENTITY, feed, meta
from riteraft_core.types import HardState, LogBatch
from riteraft_storage_sqlite import SqliteOptions, open_sqlite

async def main():
    dice = random.Random(int(sys.argv[2]))
    options = SqliteOptions(checkpoint_bytes=64 * 1024, snapshot_chunk_bytes=4096)
    async with open_sqlite(options, StorageContext(Path(sys.argv[1]), 0, logging.getLogger())) as log:
        found = await log.load()
        if found.identity is None:
            await log.create(IDENTITY)
        last = found.anchor.index + len(found.entries)
        term = found.hard_state.term + 1
        while True:
            size = dice.randint(1, 20)
            entries = [(i, term, b"%d" % i * dice.randint(0, 200)) for i in range(last + 1, last + 1 + size)]
            last += size
            await log.save(LogBatch(hard_state=HardState(term, 1, last), entries=entries))
            print("saved", term, last, flush=True)
            if dice.random() < 0.05:
                token = await log.stage_snapshot(meta(last, term), feed(b"%d" % last * 5000))
                if dice.random() < 0.3:
                    await log.save(LogBatch(install=token))
                else:
                    await log.compact(token, last - 5)
                print("live", last, term, flush=True)

anyio.run(main)
"""


def test_kill_9_in_the_middle_of_saving_loses_nothing_reported(tmp_path: Path, dice: random.Random) -> None:
    for _ in range(4):
        arguments = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path), str(dice.randrange(2**32))]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            reports = [child.stdout.readline() for _ in range(dice.randint(20, 400))]
            child.kill()
            reports += child.stdout  # reported before it died, read after

        assert child.returncode == -signal.SIGKILL
        saved, compacted = 0, 0
        for report in reports:
            what, first, second = report.split()
            if what == "saved":
                term, saved = int(first), int(second)
            else:
                compacted = int(first)

        found, state = anyio.run(look, tmp_path)
        last = found.anchor.index + len(found.entries)
        assert saved <= last <= saved + 20  # the last save may be there, though nobody heard of it
        assert found.hard_state == HardState(term, 1, last)
        assert all(data == b"%d" % index * (len(data) // len(str(index))) for index, _, data in found.entries)
        if found.snapshot is not None:
            assert found.snapshot.index >= compacted
            assert state == b"%d" % found.snapshot.index * 5000
