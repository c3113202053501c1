from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from riteraft_core._log_batch import merge
from riteraft_core._memory_storage import MemoryDisk
from riteraft_core.testing.log_storage_suite import IDENTITY, meta, rows
from riteraft_core.types import HardState, LogBatch


@dataclass
class Saves:
    """A disk, and a run of saves that raft could ask of it one after the other."""

    disk: MemoryDisk
    batches: list[LogBatch] = field(default_factory=list)


@st.composite
def saves(draw: st.DrawFn) -> Saves:
    disk = MemoryDisk()
    disk.create(IDENTITY)
    anchor, last = 0, draw(st.integers(0, 6))
    disk.save(LogBatch(entries=rows(1, last)))
    run = Saves(disk)
    for term in range(2, 2 + draw(st.integers(0, 6))):
        install = None
        if draw(st.integers(0, 4)) == 0:
            anchor = last = draw(st.integers(anchor + 1, last + 4))
            install = disk.stage(meta(anchor, term), (b"%d" % term,))

        hard_state = draw(st.none() | st.builds(HardState, st.just(term), st.integers(0, 3), st.just(anchor)))
        first = draw(st.integers(anchor + 1, last + 1))
        entries = rows(first, first + draw(st.integers(0, 4)) - 1, term)
        last = entries[-1][0] if entries else last
        run.batches.append(LogBatch(install, hard_state, entries))

    return run


@given(saves(), st.data())
def test_rule_7_merged_saves_equal_saves_one_by_one(run: Saves, data: st.DataObject) -> None:
    # Cut the run at random places: each part is one group commit.
    one_by_one, merged = run.disk.copy(), run.disk.copy()
    for batch in run.batches:
        one_by_one.save(batch)

    rest = run.batches
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        merged.save(merge(rest[:size]))
        rest = rest[size:]

    assert merged.load() == one_by_one.load()
    if one_by_one.load().snapshot is not None:
        assert merged.live == one_by_one.live


def test_a_lower_entry_deletes_all_that_was_gathered() -> None:
    assert merge([LogBatch(entries=rows(5, 6)), LogBatch(entries=rows(3, 3, term=2))]) == LogBatch(
        entries=rows(3, 3, term=2)
    )


def test_an_install_deletes_what_was_gathered_before_it() -> None:
    batches = [LogBatch(entries=rows(5, 6)), LogBatch("a", HardState(2, 0, 9)), LogBatch("b", None, rows(21, 21))]
    assert merge(batches) == LogBatch("b", HardState(2, 0, 9), rows(21, 21))


def test_a_gap_stays_a_gap_for_the_storage_to_refuse() -> None:
    merged = merge([LogBatch(entries=rows(1, 2)), LogBatch(entries=rows(4, 4))])
    assert [row[0] for row in merged.entries] == [1, 2, 4]


def test_nothing_merged_is_an_empty_batch() -> None:
    assert merge([]) == LogBatch(entries=[])
