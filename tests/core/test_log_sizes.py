from __future__ import annotations

import random

import pytest
from riteraft_core._log_sizes import MARKS_IN_A_TAIL, LogSizes


@pytest.mark.parametrize("seed", range(20))
def test_a_tail_is_as_long_as_its_bytes_allow(seed: int) -> None:
    chance = random.Random(seed)
    tail_bytes = chance.choice([0, 1, 100, 5_000, 100_000])
    sizes = LogSizes(7, tail_bytes)
    entries: list[int] = []
    for _ in range(300):
        batch = [chance.choice([0, 1, 50, 700]) for _ in range(chance.randrange(1, 5))]
        entries += batch
        sizes.add(7 + len(entries), sum(batch))
        if chance.random() < 0.1:
            start = sizes.tail_start()
            kept = sum(entries[start - 7 :])
            assert kept <= tail_bytes
            # One batch less exactly kept, and what was passed over for want of a mark.
            slack = 4 * 700 + tail_bytes // MARKS_IN_A_TAIL
            assert start == 7 or kept + slack >= tail_bytes or start == 7 + len(entries)


def test_no_more_marks_are_kept_than_the_tail_needs() -> None:
    sizes = LogSizes(0, 1000 * MARKS_IN_A_TAIL)
    for index in range(1, 100_000):
        sizes.add(index, 10)

    assert len(sizes._marks) <= 1000 + 1
    sizes.tail_start()
    assert len(sizes._marks) <= MARKS_IN_A_TAIL + 1


def test_a_log_that_begins_anew_knows_nothing_before() -> None:
    sizes = LogSizes(0, 100)
    sizes.add(5, 80)
    sizes.restart(50)
    sizes.add(51, 60)
    assert sizes.tail_start() == 50
    sizes.add(52, 60)
    assert sizes.tail_start() == 51
