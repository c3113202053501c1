"""What every `LogStorage` must do, as tests that a plugin runs against itself.

A plugin's whole test file is a subclass and one fixture:

    class TestClay(LogStorageSuite):
        @pytest.fixture
        def open_log(self, tmp_path: Path) -> OpenLog:
            return partial(open_clay, ClayOptions(), StorageContext(tmp_path / "node", 0, logging.getLogger()))

Called again, `open_log` must open the same data, as a restarted node would; it is never called while what it opened
before is still open. The group of its context must be 0. What the suite can't see from outside is left to the
plugin's own tests: that a save outlives a power loss, and that damage to what was stored is found by `load`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import anyio
import anyio.lowlevel
import pytest

from riteraft_core._memory_storage import MemoryDisk
from riteraft_core.errors import StorageError
from riteraft_core.protocols import LogStorage
from riteraft_core.types import Anchor, ConfState, HardState, Identity, LogBatch, LogRow, Recovered, SnapshotMeta

OpenLog: TypeAlias = Callable[[], AbstractAsyncContextManager[LogStorage]]

IDENTITY = Identity("suite", b"c" * 16, 0, 7, b"d" * 16)
GREATEST = 2**62 - 1
"""The greatest index, term or node id that the engine lets through."""
PATIENCE = 20.0
"""Seconds after which a call that ought not to wait is taken for stuck."""


def rows(first: int, last: int, term: int = 1) -> list[LogRow]:
    """Return dense rows `first..last` whose bytes tell index and term."""
    return [(index, term, f"entry {index} of term {term}".encode()) for index in range(first, last + 1)]


def meta(index: int, term: int = 1) -> SnapshotMeta:
    """Return the meta of a snapshot with a ConfState and a state that is not empty."""
    return SnapshotMeta(index, term, ConfState((1, 2, 3), (4,), (1, 2), (3,), auto_leave=True), b"state \x00 of core")


async def feed(*chunks: bytes) -> AsyncIterator[bytes]:
    """Give the chunks one by one, as a stream would."""
    for chunk in chunks:
        await anyio.lowlevel.checkpoint()
        yield chunk


async def joined(chunks: AsyncIterable[bytes]) -> bytes:
    """Return all of a stream."""
    return b"".join([chunk async for chunk in chunks])


async def live(log: LogStorage) -> tuple[SnapshotMeta, bytes]:
    """Return the live snapshot, whole."""
    async with log.read_snapshot() as (found, chunks):
        return found, await joined(chunks)


async def recovered(log: LogStorage) -> Recovered:
    """Return what `load` gives, with its rows as a list, whatever sequence they came in."""
    found = await log.load()
    return Recovered(found.identity, found.hard_state, found.anchor, found.snapshot, list(found.entries))


@pytest.mark.anyio
class LogStorageSuite:
    """Subclass it, with a fixture `open_log`."""

    # --- identity ---

    async def test_a_storage_never_created_recovers_nothing(self, open_log: OpenLog) -> None:
        """Nothing is made up: that is how a node knows that it has to found or to join."""
        for _ in range(2):
            async with open_log() as log:
                assert await recovered(log) == Recovered(entries=[])

    async def test_an_identity_survives_reopening(self, open_log: OpenLog) -> None:
        """`create` is durable before the first packet."""
        async with open_log() as log:
            await log.create(IDENTITY)

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, entries=[])

    @pytest.mark.parametrize("other", [IDENTITY, Identity("other", b"o" * 16, 0, 8, b"e" * 16)], ids=["same", "other"])
    @pytest.mark.parametrize("reopened", [False, True], ids=["at once", "reopened"])
    async def test_create_is_refused_on_a_used_storage(
        self, open_log: OpenLog, other: Identity, reopened: bool
    ) -> None:
        """A folder is one node for ever: the first identity stays, whatever is asked."""
        async with open_log() as log:
            await log.create(IDENTITY)
            if not reopened:
                with pytest.raises(StorageError):
                    await log.create(other)

        if reopened:
            async with open_log() as log:
                with pytest.raises(StorageError):
                    await log.create(other)

        async with open_log() as log:
            assert (await log.load()).identity == IDENTITY

    async def test_nothing_is_saved_before_create(self, open_log: OpenLog) -> None:
        """A log without an identity could not be told from a damaged one."""
        async with open_log() as log:
            with pytest.raises(StorageError):
                await log.save(LogBatch(hard_state=HardState(1, 1, 0), entries=rows(1, 1)))

        async with open_log() as log:
            assert await recovered(log) == Recovered(entries=[])

    # --- save ---

    async def test_a_save_survives_reopening(self, open_log: OpenLog) -> None:
        """Hard state and rows come back as they were given."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(3, 2, 1), entries=rows(1, 3)))

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(3, 2, 1), entries=rows(1, 3))

    async def test_load_may_be_called_again(self, open_log: OpenLog) -> None:
        """It gives what was saved up to then."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 3)))
            assert await recovered(log) == await recovered(log)
            await log.save(LogBatch(entries=rows(4, 4)))
            assert (await recovered(log)).entries == rows(1, 4)

    async def test_saves_append_in_order(self, open_log: OpenLog) -> None:
        """Many small saves, and some after a restart, are one log."""
        async with open_log() as log:
            await log.create(IDENTITY)
            for index in range(1, 21):
                await log.save(LogBatch(entries=rows(index, index)))

        async with open_log() as log:
            for index in range(21, 41, 4):
                await log.save(LogBatch(entries=rows(index, index + 3)))

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(1, 40)

    async def test_a_hard_state_replaces_the_one_before(self, open_log: OpenLog) -> None:
        """A vote given in an old term must not come back."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 3, 0)))
            await log.save(LogBatch(hard_state=HardState(2, 0, 0)))

        async with open_log() as log:
            assert (await log.load()).hard_state == HardState(2, 0, 0)

    async def test_a_save_without_a_hard_state_keeps_the_old_one(self, open_log: OpenLog) -> None:
        """None means "as it was", not "forget it"."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(5, 2, 0)))
            await log.save(LogBatch(entries=rows(1, 2, term=5)))

        async with open_log() as log:
            assert (await log.load()).hard_state == HardState(5, 2, 0)

    async def test_an_empty_save_changes_nothing(self, open_log: OpenLog) -> None:
        """A batch may hold nothing at all."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 1, 1), entries=rows(1, 2)))
            before = await recovered(log)
            await log.save(LogBatch())
            assert await recovered(log) == before

    async def test_rows_may_hold_any_bytes(self, open_log: OpenLog) -> None:
        """Nothing, zeros, bytes that are no text, and a large entry."""
        entries = [(1, 1, b""), (2, 1, b"\x00" * 9), (3, 1, bytes(range(256))), (4, 1, b"\xff" * (1 << 20))]
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=entries))

        async with open_log() as log:
            assert (await recovered(log)).entries == entries

    async def test_great_numbers_are_kept(self, open_log: OpenLog) -> None:
        """Terms and indices reach up to 2**62 - 1, as the gate in front of raft lets them."""
        async with open_log() as log:
            await log.create(IDENTITY)
            token = await log.stage_snapshot(meta(GREATEST - 2, GREATEST), feed(b"x"))
            state = HardState(GREATEST, GREATEST, GREATEST - 1)
            await log.save(LogBatch(token, state, rows(GREATEST - 1, GREATEST, GREATEST)))

        async with open_log() as log:
            found = await recovered(log)
            assert found.hard_state == state
            assert found.anchor == Anchor(GREATEST - 2, GREATEST)
            assert found.entries == rows(GREATEST - 1, GREATEST, GREATEST)

    async def test_a_batch_of_thousands_of_rows_is_one_save(self, open_log: OpenLog) -> None:
        """Group commit has no limit of its own here."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 5000)))
            await log.save(LogBatch(entries=rows(2, 5000, term=2)))

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(1, 1) + rows(2, 5000, term=2)

    async def test_an_overlapping_append_replaces_the_tail(self, open_log: OpenLog) -> None:
        """A new leader's entries win over those that were never committed."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 5)))
            await log.save(LogBatch(entries=rows(4, 7, term=2)))

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(1, 3) + rows(4, 7, term=2)

    async def test_a_shorter_append_deletes_every_row_after_it(self, open_log: OpenLog) -> None:
        """No old row may stand behind the new ones: it could look like an entry of a later append."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 9)))
            await log.save(LogBatch(entries=rows(1, 1, term=2)))

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(1, 1, term=2)

    @pytest.mark.parametrize(
        "entries",
        [rows(5, 6), rows(4, 4) + rows(6, 6), rows(4, 5) + rows(5, 5), rows(5, 5) + rows(4, 4), rows(0, 4)],
        ids=["after the log", "inside", "twice", "backwards", "from zero"],
    )
    async def test_a_gap_is_refused_and_nothing_of_its_batch_is_saved(
        self, open_log: OpenLog, entries: list[LogRow]
    ) -> None:
        """A hole in the log would be found at the next start at best: the node stops now instead."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 1, 1), entries=rows(1, 3)))
            with pytest.raises(StorageError):
                await log.save(LogBatch(hard_state=HardState(9, 9, 2), entries=entries))

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(1, 1, 1), entries=rows(1, 3))

    async def test_a_cancelled_save_is_whole_or_absent(self, open_log: OpenLog) -> None:
        """Whoever waits for a save may be cancelled at any moment; half a batch must never be the outcome."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 1, 0), entries=rows(1, 2)))
            before = await recovered(log)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(log.save, LogBatch(hard_state=HardState(2, 2, 0), entries=rows(2, 400, term=2)))
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()

        async with open_log() as log:
            found = await recovered(log)
            whole = Recovered(IDENTITY, HardState(2, 2, 0), entries=rows(1, 1) + rows(2, 400, term=2))
            assert found in (before, whole)

    # --- what load must find ---

    async def test_a_commit_at_the_last_row_is_right(self, open_log: OpenLog) -> None:
        """The bound itself is no damage."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 1, 3), entries=rows(1, 3)))

        async with open_log() as log:
            assert (await log.load()).hard_state.commit == 3

    async def test_a_commit_above_the_last_row_is_found(self, open_log: OpenLog) -> None:
        """Rule 5: it says that acknowledged entries are gone."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 1, 4), entries=rows(1, 3)))

        with pytest.raises(StorageError):
            async with open_log() as log:
                await log.load()

    async def test_a_commit_above_a_snapshot_without_rows_is_found(self, open_log: OpenLog) -> None:
        """Rule 5, for a log that holds nothing but its anchor."""
        async with open_log() as log:
            await log.create(IDENTITY)
            token = await log.stage_snapshot(meta(8), feed(b"x"))
            await log.save(LogBatch(token, HardState(1, 1, 9)))

        with pytest.raises(StorageError):
            async with open_log() as log:
                await log.load()

    # --- staging ---

    async def test_a_staged_snapshot_is_not_live(self, open_log: OpenLog) -> None:
        """It becomes so with `save` or `compact` only."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 3)))
            await log.stage_snapshot(meta(2), feed(b"x"))
            with pytest.raises(StorageError):
                await live(log)

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, entries=rows(1, 3))

    async def test_reopening_removes_what_was_staged(self, open_log: OpenLog) -> None:
        """A token is worth nothing after a restart, and the live snapshot is not touched."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(await log.stage_snapshot(meta(5), feed(b"live"))))
            token = await log.stage_snapshot(meta(9), feed(b"staged"))

        async with open_log() as log:
            before = await recovered(log)
            assert await live(log) == (meta(5), b"live")
            with pytest.raises(StorageError):
                await log.save(LogBatch(install=token))

        async with open_log() as log:
            assert await recovered(log) == before

    async def test_staging_that_fails_leaves_nothing(self, open_log: OpenLog) -> None:
        """The sender went away half-way: its error comes out as it is, the storage is as good as before."""

        async def broken() -> AsyncIterator[bytes]:
            yield b"x" * 100_000
            raise RuntimeError("the peer went away")

        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(await log.stage_snapshot(meta(5), feed(b"live"))))
            with pytest.raises(RuntimeError, match="the peer went away"):
                await log.stage_snapshot(meta(9), broken())

            await log.save(LogBatch(entries=rows(6, 7)))
            await log.save(LogBatch(await log.stage_snapshot(meta(9), feed(b"second try"))))

        async with open_log() as log:
            assert (await log.load()).snapshot == meta(9)
            assert await live(log) == (meta(9), b"second try")

    async def test_staging_that_is_cancelled_leaves_nothing(self, open_log: OpenLog) -> None:
        """A node that stops while a snapshot comes in starts again as if it had not."""
        started = anyio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield b"x" * 100_000
            started.set()
            await anyio.sleep_forever()

        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(await log.stage_snapshot(meta(5), feed(b"live"))))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(log.stage_snapshot, meta(9), endless())
                await started.wait()
                tasks.cancel_scope.cancel()

            await log.save(LogBatch(entries=rows(6, 7)))

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(), Anchor(5, 1), meta(5), rows(6, 7))
            assert await live(log) == (meta(5), b"live")

    async def test_a_save_does_not_wait_for_staging(self, open_log: OpenLog) -> None:
        """Snapshots take minutes, an election timeout is a second."""
        half, saved = anyio.Event(), anyio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x" * 3_000_000
            half.set()
            await saved.wait()
            yield b"y"

        async with open_log() as log:
            await log.create(IDENTITY)
            async with anyio.create_task_group() as tasks:

                async def stage() -> None:
                    await log.compact(await log.stage_snapshot(meta(2), slow()), 1)

                tasks.start_soon(stage)
                with anyio.fail_after(PATIENCE):
                    await half.wait()
                    await log.save(LogBatch(entries=rows(1, 2)))
                    assert (await recovered(log)).entries == rows(1, 2)
                    saved.set()

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(), Anchor(1, 1), meta(2), rows(2, 2))
            assert await live(log) == (meta(2), b"x" * 3_000_000 + b"y")

    async def test_two_snapshots_may_be_staged_at_once(self, open_log: OpenLog) -> None:
        """One of our own is made while a leader sends another: each stays what it is."""
        tokens: dict[int, str] = {}
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 5)))

            async def stage(index: int) -> None:
                tokens[index] = await log.stage_snapshot(meta(index), feed(*[b"%d" % index * 50_000] * 4))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stage, 4)
                tasks.start_soon(stage, 9)

            await log.compact(tokens[4], 3)
            assert await live(log) == (meta(4), b"4" * 200_000)
            await log.save(LogBatch(tokens[9]))
            assert await live(log) == (meta(9), b"9" * 200_000)

    async def test_a_discarded_snapshot_cannot_be_installed(self, open_log: OpenLog) -> None:
        """Its token is worth nothing any more; the others are."""
        async with open_log() as log:
            await log.create(IDENTITY)
            gone = await log.stage_snapshot(meta(4), feed(b"gone"))
            kept = await log.stage_snapshot(meta(5), feed(b"kept"))
            await log.discard_snapshot(gone)
            await log.save(LogBatch(kept))
            with pytest.raises(StorageError):
                await log.save(LogBatch(gone))

        async with open_log() as log:
            assert (await log.load()).snapshot == meta(5)
            assert await live(log) == (meta(5), b"kept")

    @pytest.mark.parametrize("call", ["save", "compact"])
    async def test_an_unknown_token_is_refused_and_nothing_of_its_batch_is_saved(
        self, open_log: OpenLog, call: str
    ) -> None:
        """Never a log that was dropped for a snapshot that is not there."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 1, 1), entries=rows(1, 3)))
            before = await recovered(log)
            if call == "save":
                with pytest.raises(StorageError):
                    await log.save(LogBatch("no such token", HardState(2, 2, 2), rows(4, 4)))
            else:
                with pytest.raises(StorageError):
                    await log.compact("no such token", 1)

        async with open_log() as log:
            assert await recovered(log) == before

    # --- install ---

    async def test_install_drops_the_log_in_one_step(self, open_log: OpenLog) -> None:
        """Rule 6: snapshot, anchor, hard state and the end of the old log are one save."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(1, 1, 1), entries=rows(1, 5)))
            token = await log.stage_snapshot(meta(20, 3), feed(b"state"))
            assert (await recovered(log)).entries == rows(1, 5)

        # A restart in between loses the staged one: the old log is still whole.
        async with open_log() as log:
            assert (await recovered(log)).entries == rows(1, 5)
            token = await log.stage_snapshot(meta(20, 3), feed(b"state"))
            await log.save(LogBatch(token, HardState(3, 0, 20)))

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(3, 0, 20), Anchor(20, 3), meta(20, 3), [])
            assert await live(log) == (meta(20, 3), b"state")

    async def test_install_drops_rows_past_the_snapshot_too(self, open_log: OpenLog) -> None:
        """They followed another history."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 9)))
            await log.save(LogBatch(await log.stage_snapshot(meta(4, 2), feed(b"state"))))

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(), Anchor(4, 2), meta(4, 2), [])

    async def test_entries_follow_an_install_in_the_same_save(self, open_log: OpenLog) -> None:
        """Install first, then entries: what gathered behind a snapshot is one group commit with it."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 5)))
            token = await log.stage_snapshot(meta(20, 3), feed(b"state"))
            await log.save(LogBatch(token, HardState(3, 0, 21), rows(21, 22, term=3)))
            await log.save(LogBatch(entries=rows(23, 23, term=3)))

        async with open_log() as log:
            found = await recovered(log)
            assert found.anchor == Anchor(20, 3)
            assert found.entries == rows(21, 23, term=3)

    @pytest.mark.parametrize("first", [4, 20, 22])
    async def test_entries_that_do_not_follow_their_install_are_refused_with_it(
        self, open_log: OpenLog, first: int
    ) -> None:
        """All or nothing: the old log and the old snapshot are still there."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 5)))
            before = await recovered(log)
            token = await log.stage_snapshot(meta(20), feed(b"state"))
            with pytest.raises(StorageError):
                await log.save(LogBatch(token, HardState(2, 0, 20), rows(first, first)))

        async with open_log() as log:
            assert await recovered(log) == before

    async def test_rule_2_a_founder_begins_with_a_snapshot(self, open_log: OpenLog) -> None:
        """Snapshot index 1 term 1, hard state term 1 commit 1, no row: every later start is the same code."""
        async with open_log() as log:
            assert await recovered(log) == Recovered(entries=[])
            await log.create(IDENTITY)
            first = SnapshotMeta(1, 1, ConfState((7,)))
            await log.save(LogBatch(await log.stage_snapshot(first, feed(b"")), HardState(1, 0, 1)))

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(1, 0, 1), Anchor(1, 1), first, [])
            assert await live(log) == (first, b"")
            await log.save(LogBatch(entries=rows(2, 3)))

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(2, 3)

    # --- compact ---

    async def test_compact_keeps_the_term_before_the_first_row(self, open_log: OpenLog) -> None:
        """Raft asks for it when a follower stands just there."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 3) + rows(4, 6, term=2) + rows(7, 9, term=5)))
            await log.compact(await log.stage_snapshot(meta(8, 5), feed(b"state")), 5)

        async with open_log() as log:
            found = await recovered(log)
            assert found.anchor == Anchor(5, 2)
            assert found.entries == rows(6, 6, term=2) + rows(7, 9, term=5)
            assert found.snapshot == meta(8, 5)
            assert await live(log) == (meta(8, 5), b"state")

    async def test_a_log_compacted_whole_goes_on(self, open_log: OpenLog) -> None:
        """No row is left, the anchor alone says what may follow."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(hard_state=HardState(2, 1, 6), entries=rows(1, 6, term=2)))
            await log.compact(await log.stage_snapshot(meta(6, 2), feed(b"state")), 6)

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(2, 1, 6), Anchor(6, 2), meta(6, 2), [])
            await log.save(LogBatch(entries=rows(7, 7, term=2)))

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(7, 7, term=2)

    async def test_a_second_compaction_replaces_the_first(self, open_log: OpenLog) -> None:
        """The newest snapshot is the live one, and the only one."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 9)))
            await log.compact(await log.stage_snapshot(meta(4), feed(b"first")), 2)
            await log.compact(await log.stage_snapshot(meta(8), feed(b"second")), 6)
            assert await live(log) == (meta(8), b"second")

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(), Anchor(6, 1), meta(8), rows(7, 9))
            assert await live(log) == (meta(8), b"second")

    @pytest.mark.parametrize("index", [0, 2, 3])
    async def test_compact_at_or_below_the_anchor_drops_no_row(self, open_log: OpenLog, index: int) -> None:
        """The tail kept for slow followers may be longer than what came since; the snapshot is new all the same."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 9)))
            await log.compact(await log.stage_snapshot(meta(5), feed(b"first")), 3)
            await log.compact(await log.stage_snapshot(meta(7), feed(b"second")), index)

        async with open_log() as log:
            assert await recovered(log) == Recovered(IDENTITY, HardState(), Anchor(3, 1), meta(7), rows(4, 9))
            assert await live(log) == (meta(7), b"second")

    @pytest.mark.parametrize("snapshot", [2, 10], ids=["past its snapshot", "a snapshot past the last row"])
    async def test_a_compaction_that_would_lose_rows_is_refused(self, open_log: OpenLog, snapshot: int) -> None:
        """Rule 5: a snapshot stands for durable rows only, and rows are dropped only where one stands for them."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 9)))
            before = await recovered(log)
            token = await log.stage_snapshot(meta(snapshot), feed(b"state"))
            with pytest.raises(StorageError):
                await log.compact(token, 3)

        async with open_log() as log:
            assert await recovered(log) == before

    async def test_an_entry_at_or_below_the_anchor_is_refused(self, open_log: OpenLog) -> None:
        """What a snapshot stands for was agreed on: it never changes."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 9)))
            await log.compact(await log.stage_snapshot(meta(5), feed(b"state")), 5)
            with pytest.raises(StorageError):
                await log.save(LogBatch(entries=rows(5, 6, term=2)))

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(6, 9)

    # --- reading a snapshot ---

    @pytest.mark.parametrize(
        "chunks",
        [(), (b"",), (b"x",), (b"", b"a", b"", b"b"), (b"abc" * 7,) * 1000, (bytes(range(256)) * 16_384,)],
        ids=["none", "empty", "one", "gaps", "many small", "4 MiB"],
    )
    async def test_a_snapshot_comes_back_byte_for_byte(self, open_log: OpenLog, chunks: tuple[bytes, ...]) -> None:
        """Where it was cut does not matter, and may differ when it is read."""
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(await log.stage_snapshot(meta(3), feed(*chunks))))
            assert await live(log) == (meta(3), b"".join(chunks))

        async with open_log() as log:
            assert (await log.load()).snapshot == meta(3)
            assert await live(log) == (meta(3), b"".join(chunks))

    async def test_reading_without_a_snapshot_is_refused(self, open_log: OpenLog) -> None:
        """There is nothing to be made up."""
        async with open_log() as log:
            await log.create(IDENTITY)
            with pytest.raises(StorageError):
                await live(log)

    @pytest.mark.parametrize("by", ["install", "compact"])
    async def test_an_opened_snapshot_stays_readable_when_superseded(self, open_log: OpenLog, by: str) -> None:
        """It is on its way to a slow follower; two newer ones are made meanwhile."""
        old = [b"old " * 20_000] * 10
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(entries=rows(1, 9)))
            await log.compact(await log.stage_snapshot(meta(2), feed(*old)), 1)
            async with log.read_snapshot() as (found, chunks):
                begin = await anext(chunks)
                for index in (5, 6):
                    token = await log.stage_snapshot(meta(index), feed(b"new"))
                    if by == "install":
                        await log.save(LogBatch(token))
                    else:
                        await log.compact(token, index)

                assert await live(log) == (meta(6), b"new")
                assert found == meta(2)
                assert begin + await joined(chunks) == b"".join(old)

        async with open_log() as log:
            assert (await log.load()).snapshot == meta(6)
            assert await live(log) == (meta(6), b"new")

    async def test_a_snapshot_has_many_readers_and_saves_go_on(self, open_log: OpenLog) -> None:
        """Two followers get it at once, one reader stops half-way, and the log grows meanwhile."""
        state = [b"state" * 20_000] * 10
        async with open_log() as log:
            await log.create(IDENTITY)
            await log.save(LogBatch(await log.stage_snapshot(meta(1), feed(*state))))
            with anyio.fail_after(PATIENCE):
                async with log.read_snapshot() as (_, first):
                    begin = await anext(first)
                    async with log.read_snapshot() as (_, second):
                        await anext(second)
                        await log.save(LogBatch(entries=rows(2, 5)))

                    await log.save(LogBatch(entries=rows(6, 8)))
                    assert begin + await joined(first) == b"".join(state)

        async with open_log() as log:
            assert (await recovered(log)).entries == rows(2, 8)

    # --- all of it ---

    @pytest.mark.parametrize("seed", range(5))
    async def test_random_histories_match_the_model(self, open_log: OpenLog, seed: int) -> None:
        """Saves, installs, compactions and restarts in any order leave what `MemoryDisk` says they leave."""
        dice = random.Random(seed)
        model = MemoryDisk()
        model.create(IDENTITY)
        async with open_log() as log:
            await log.create(IDENTITY)

        for _ in range(8):
            async with open_log() as log:
                assert await recovered(log) == await recovered_from(model)
                for _ in range(dice.randrange(12)):
                    await _random_step(dice, log, model)

                assert await recovered(log) == await recovered_from(model)


async def recovered_from(model: MemoryDisk) -> Recovered:
    """Return what the model recovers, as `recovered` does for a storage."""
    found = model.load()
    return Recovered(found.identity, found.hard_state, found.anchor, found.snapshot, list(found.entries))


async def _random_step(dice: random.Random, log: LogStorage, model: MemoryDisk) -> None:
    found = model.load()
    anchor, last = found.anchor.index, model.last_index
    term = found.hard_state.term + dice.randrange(2)
    state = bytes(dice.choices(range(256), k=dice.randrange(2000)))
    if dice.random() < 0.25 and last:  # a snapshot of our own
        index = dice.randint(max(1, anchor), last)
        snapshot_term = found.anchor.term if index == anchor else found.entries[index - anchor - 1][1]
        snapshot = meta(index, snapshot_term)
        up_to = dice.randint(0, index)
        await log.compact(await log.stage_snapshot(snapshot, feed(state)), up_to)
        model.compact(model.stage(snapshot, (state,)), up_to)
        assert await live(log) == (snapshot, state)
        return

    if found.snapshot is not None:
        anchor = max(anchor, found.snapshot.index)  # what a snapshot stands for was committed: it is never rewritten

    install = model_install = None
    if dice.random() < 0.2:  # a snapshot of a leader's
        last = anchor = dice.randint(anchor + 1, last + 10)
        install = await log.stage_snapshot(meta(anchor, term), feed(state))
        model_install = model.stage(meta(anchor, term), (state,))

    first = dice.randint(anchor + 1, last + 1)
    entries = rows(first, first + dice.randrange(6) - 1, term)
    if entries:
        last = entries[-1][0]

    hard_state = HardState(term, dice.randrange(4), dice.randint(anchor, last)) if dice.random() < 0.7 else None
    if found.hard_state.commit > last:  # a shorter log needs a lower commit, or load would rightly refuse it
        hard_state = HardState(term, 0, last)

    await log.save(LogBatch(install, hard_state, entries))
    model.save(LogBatch(model_install, hard_state, entries))
