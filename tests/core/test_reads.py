from __future__ import annotations

from riteraft_core._reads import Reads


def test_many_readers_share_one_round() -> None:
    reads = Reads()
    readers = [reads.add(remote=False) for _ in range(3)]
    reads.start_round()
    assert not reads.wants_round
    assert reads.finish_round(7) == []
    assert reads.take_applied(6) == []
    assert reads.take_applied(7) == readers
    assert reads.take_applied(7) == []


def test_who_comes_while_a_round_runs_waits_for_the_next() -> None:
    # The running round proves only what was committed before it was started.
    reads = Reads()
    first = reads.add(remote=False)
    reads.start_round()
    second = reads.add(remote=False)
    reads.finish_round(5)
    assert reads.take_applied(100) == [first]
    assert reads.wants_round
    reads.start_round()
    reads.finish_round(6)
    assert reads.take_applied(6) == [second]


def test_readers_of_other_nodes_are_done_once_the_index_is_known() -> None:
    reads = Reads()
    here, there = reads.add(remote=False), reads.add(remote=True)
    reads.start_round()
    assert reads.finish_round(5) == [there]
    assert reads.take_applied(5) == [here]


def test_a_failed_round_is_asked_again_by_all_of_it() -> None:
    reads = Reads()
    first = reads.add(remote=False)
    reads.start_round()
    second = reads.add(remote=False)
    reads.fail_round()
    assert reads.wants_round
    reads.start_round()
    reads.finish_round(5)
    assert reads.take_applied(5) == [first, second]


def test_lost_leadership_sends_the_readers_of_others_away() -> None:
    reads = Reads()
    running, here = reads.add(remote=True), reads.add(remote=False)
    reads.start_round()
    waiting = reads.add(remote=True)
    assert reads.take_remote() == [running, waiting]
    reads.finish_round(5)
    assert reads.take_applied(5) == [here]
    assert not reads.wants_round


def test_a_reader_that_gave_up_is_forgotten_wherever_it_is() -> None:
    reads = Reads()
    parked = reads.add(remote=False)
    reads.start_round()
    reads.finish_round(5)
    running = reads.add(remote=False)
    reads.start_round()
    waiting = reads.add(remote=False)
    for reader in (parked, running, waiting, waiting):
        reads.drop(reader)

    assert reads.take_all() == []


def test_everyone_is_taken_out_at_the_end() -> None:
    reads = Reads()
    parked = reads.add(remote=False)
    reads.start_round()
    reads.finish_round(5)
    running = reads.add(remote=True)
    reads.start_round()
    waiting = reads.add(remote=False)
    assert reads.take_all() == [waiting, running, parked]
    assert reads.take_applied(5) == []
