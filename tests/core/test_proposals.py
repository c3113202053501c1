from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from riteraft_core._proposals import Proposal, Proposals
from riteraft_core.errors import NotApplied, OutcomeUnknown

MIB = 1024 * 1024


def proposals(max_count: int = 100, max_bytes: int = 1000) -> Proposals:
    return Proposals(max_count, max_bytes)


def sequences(batch: Iterable[Proposal]) -> list[int]:
    return [proposal.sequence for proposal in batch]


def test_they_are_taken_in_order() -> None:
    table = proposals()
    added = [table.add(b"%d" % n) for n in range(5)]
    assert table.take(3) == added[:3]
    assert table.take(3) == added[3:]
    assert not table.has_queued


def test_a_batch_is_bounded_by_bytes_but_never_empty() -> None:
    table = proposals()
    for size in (50, 4, 4, 4):
        table.add(bytes(size))

    assert [len(p.command) for p in table.take(10, 9)] == [50]
    assert [len(p.command) for p in table.take(10, 9)] == [4, 4]
    assert [len(p.command) for p in table.take(10, 9)] == [4]


def test_a_quarter_of_the_bytes_is_under_way_at_once_and_one_command_always() -> None:
    table = proposals(max_bytes=40)
    first, second, third, large, last = (table.add(bytes(size)) for size in (4, 4, 4, 11, 1))
    assert table.take(10) == [first, second]
    assert table.take(10) == []
    assert table.has_queued
    table.close(first.sequence)  # what is answered makes room, and what has to go again
    assert table.take(10) == [third]
    table.put_back([second, third])
    table.put_back([second, third])
    assert table.take(10) == [second, third]
    table.close(second.sequence)
    table.close(third.sequence)
    assert table.take(10) == [large]
    assert table.take(10) == []
    table.close(large.sequence)
    table.close(large.sequence)
    assert table.take(10) == [last]


def test_a_small_command_does_not_wait_for_larger_ones() -> None:
    table = proposals(max_bytes=64 * MIB)
    large = [table.add(bytes(MIB // 4)) for _ in range(100)]
    assert table.take(1000) == large[:2]  # half a MiB
    small = [table.add(b"x") for _ in range(10)]
    assert table.take(1000) == small
    for proposal in small:
        table.close(proposal.sequence)

    table.close(large[0].sequence)
    assert table.take(1000) == [large[2]]


def test_large_commands_alone_have_a_quarter_of_the_bytes_under_way() -> None:
    table = proposals(max_bytes=64 * MIB)
    small = table.add(b"x")
    large = [table.add(bytes(MIB // 4)) for _ in range(100)]
    assert table.take(1000) == [small]
    table.close(small.sequence)
    for count in range(16):  # until 8 MiB of them came after the last small one
        batch = table.take(1000)
        assert batch == large[2 * count : 2 * count + 2]
        for proposal in batch:
            table.close(proposal.sequence)

    assert table.take(1000) == large[32:96]


def test_large_commands_wait_for_the_small_ones_in_flight_but_not_for_all_of_them() -> None:
    table = proposals(max_bytes=64 * MIB)
    large = [table.add(bytes(MIB // 4)) for _ in range(6)]
    small = [table.add(bytes(4096)) for _ in range(20)]
    assert table.take(6) == small[:6]
    assert table.take(6) == small[6:12]
    assert table.take(6) == [*large[:2], *small[12:16]]  # eight went before them
    assert table.take(6) == small[16:]
    assert table.take(6) == []
    for proposal in [*small, *large[:2]]:
        table.close(proposal.sequence)

    assert table.take(6) == large[2:4]


def test_what_is_put_back_stands_in_front_and_in_order() -> None:
    table = proposals()
    first, second, third = (table.add(b"x") for _ in range(3))
    table.put_back(table.take(2))
    table.put_back([first, second])  # twice does no harm
    assert table.take(10) == [first, second, third]


def test_what_was_given_up_is_not_taken() -> None:
    table = proposals()
    first, second = table.add(b"x"), table.add(b"y")
    table.close(first.sequence)
    table.close(first.sequence)
    assert table.take(10) == [second]
    assert table.bytes == 1
    table.put_back([first])
    assert not table.has_queued


def test_low_is_the_lowest_that_is_waited_for() -> None:
    table = proposals()
    first, second, third = (table.add(b"x") for _ in range(3))
    assert table.low == 1
    table.close(second.sequence)
    assert table.low == 1
    table.close(first.sequence)
    assert table.low == 3
    table.close(third.sequence)
    assert table.low == 4


def test_room_is_bounded_by_the_sessions_window() -> None:
    # One old command that hangs holds newer ones back, or every node's table of answers would grow without bound.
    table = proposals(max_count=3)
    hanging = table.add(b"x")
    for _ in range(2):
        table.close(table.add(b"x").sequence)

    assert not table.has_room(1)
    table.close(hanging.sequence)
    assert table.has_room(1)


def test_room_is_bounded_by_bytes() -> None:
    table = proposals(max_bytes=10)
    assert table.has_room(100)  # alone, or a large one would never get in
    table.add(bytes(8))
    assert table.has_room(2)
    assert not table.has_room(3)


def test_a_new_term_requeues_what_an_older_one_appended() -> None:
    table = proposals()
    lost, kept, unknown, queued = (table.add(b"x") for _ in range(4))
    table.take(3)
    lost.attempt, kept.attempt = (10, 2), (11, 3)
    table.requeue_before(3)
    assert table.take(10) == [lost, unknown, queued]
    table.requeue_all()
    assert table.take(10) == [lost, kept, unknown, queued]


def test_what_the_caller_is_told_depends_on_whether_a_copy_may_be_anywhere() -> None:
    proposal = proposals().add(b"x")
    assert isinstance(proposal.failure("why"), NotApplied)
    proposal.handed_over = True
    assert isinstance(proposal.failure("why"), OutcomeUnknown)


actions = st.sampled_from(["add", "take", "put back", "close", "requeue"])
sizes = st.sampled_from([1, 4096, 4097, MIB // 3, MIB])


@given(st.lists(st.tuples(actions, st.integers(0, 10), sizes), max_size=60))
def test_nothing_is_queued_twice_or_forgotten(steps: list[tuple[str, int, int]]) -> None:
    table = proposals(max_bytes=4 * MIB)
    taken: list[Proposal] = []
    for action, number, size in steps:
        waiting = list(table)
        if action == "add":
            table.add(bytes(size))
        elif action == "take":
            taken = table.take(number)
        elif action == "put back":
            table.put_back(taken)
        elif action == "close" and waiting:
            table.close(waiting[number % len(waiting)].sequence)
        else:
            table.requeue_all()

        assert table.low == min((p.sequence for p in table), default=table._next)
        assert table.bytes == sum(len(p.command) for p in table)
        for lane in (table._small, table._large):
            ours = [p for p in table if p.lane is lane]
            assert lane.open == len(ours)
            assert lane.bytes_under_way == sum(len(p.command) for p in ours if not p.queued)
            assert {p.sequence for p in ours if p.queued} == {p.sequence for p in lane.queue if p.queued}
            assert len([p for p in lane.queue if p.queued]) == len([p for p in ours if p.queued])

    # Whatever is under way is answered one day, and then nothing is left.
    table.requeue_all()
    order: list[Proposal] = []
    while batch := table.take(1000):
        order += batch
        for proposal in batch:
            table.close(proposal.sequence)

    assert not len(table)
    for lane in (table._small, table._large):
        ended = sequences(p for p in order if p.lane is lane)
        assert ended == sorted(ended)
