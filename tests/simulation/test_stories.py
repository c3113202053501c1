"""Short stories about clusters: each tells a situation, and the rule of docs/consensus-rules.md that must hold in it.

The simulation itself checks every promise at every step (see `Checks`), so a story mostly has to happen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from riteraft_core._envelope import Kind
from riteraft_core._replica import ReplicaSettings
from riteraft_core._requests import Forward, Moved, Reply, Request, Status
from riteraft_core._requests import Remove as RemoveRequest
from riteraft_core.errors import NotApplied, OutcomeUnknown
from riteraft_core.testing.simulation import SimulatedNode, Simulation, Weather, Write

from riteraft_core import _envelope

Answered: TypeAlias = Callable[[bytes | None], None]

EAGER = ReplicaSettings(snapshot_entries=10, tail_entries=0)
"""Snapshots all the time and no log behind them: whoever is away for a moment needs one."""


@pytest.fixture
def net() -> Simulation:
    return Simulation(seed=7)


def leads(net: Simulation) -> int:
    assert net.leader is not None
    return net.leader


def write_some(net: Simulation, number: int, count: int) -> list[Write]:
    """Have a node propose a few commands, one after the other, and wait for their answers."""
    calls = []
    for _ in range(count):
        calls.append(net.write(number))
        net.run_until(lambda: calls[-1].outcome is not None)

    return calls


def carries(node: SimulatedNode, call: Write) -> bool:
    """Say whether a command is in a node's log on disk."""
    return any(call.command in data for _, data in node.disk.rows)


# --- writes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("milliseconds", range(1, 40, 3))
def test_a_write_retried_across_a_leader_change_is_applied_once(net: Simulation, milliseconds: int) -> None:
    # Rules 3 and 22: the leader dies at some moment between taking a follower's command and telling it.
    leader, origin = leads(net), net.followers[0]
    calls = [net.write(origin) for _ in range(5)]
    net.run(milliseconds / 1000)
    net.crash(leader)
    net.run_until(lambda: all(call.outcome is not None for call in calls))
    assert all(call.acknowledged for call in calls)
    net.settle()


def test_a_pipelined_command_may_overtake_a_retried_one(net: Simulation) -> None:
    # Rule 3: commands 1 to 3 are appended by a leader that nobody hears; later ones reach the log before these again.
    leader, origin = leads(net), net.followers[0]
    write_some(net, leader, 1)
    early = [net.write(leader) for _ in range(3)]
    net.isolate(leader)
    net.run_until(lambda: net.leader not in (leader, None))
    write_some(net, origin, 2)
    net.heal()
    late = [net.write(leader) for _ in range(3)]
    net.run_until(lambda: all(call.acknowledged for call in (*early, *late)))
    net.settle()


def test_a_lost_reply_to_a_forwarded_write_loses_nothing(net: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rule 22: the origin's own apply answers, whatever became of the leader's reply.
    carry = net.request

    def lose_replies(source: SimulatedNode, address: str, request: Request, answered: Answered, **options: Any) -> None:
        lost = isinstance(request, Forward)
        carry(source, address, request, lambda raw: answered(None if lost else raw), **options)

    monkeypatch.setattr(net, "request", lose_replies)
    calls = write_some(net, net.followers[0], 5)
    assert all(call.acknowledged for call in calls)
    net.settle()


def test_a_minority_acknowledges_nothing(net: Simulation) -> None:
    leader = leads(net)
    write_some(net, leader, 1)
    net.isolate(leader)
    call, read = net.write(leader, timeout=5), net.read(leader, timeout=5)
    net.run(6)
    assert isinstance(call.outcome, OutcomeUnknown)
    assert read.failed
    net.settle()


def test_a_command_that_was_never_handed_over_is_not_applied(net: Simulation) -> None:
    one, other, third = net.nodes
    net.isolate(third)
    net.crash(one, other)
    net.run(5)  # it no longer believes in its leader
    call = net.write(third, timeout=1)
    net.run(2)
    assert isinstance(call.outcome, NotApplied)
    net.settle()


def test_a_rejection_reaches_the_proposer_on_a_follower(net: Simulation) -> None:
    call = net.write(net.followers[0], rejected=True)
    net.run_until(lambda: call.outcome is not None)
    assert call.acknowledged
    net.settle()


def test_writes_wait_while_leadership_is_handed_over(net: Simulation) -> None:
    # Rule 16: a caller never sees that a proposal was dropped.
    calls = []
    for _ in range(5):
        net.transfer()
        calls += [net.write(number) for number in net.nodes for _ in range(3)]
        net.run(0.3)

    net.run_until(lambda: all(call.acknowledged for call in calls))
    net.settle()


def test_killing_everyone_at_once_loses_nothing(net: Simulation) -> None:
    for _ in range(5):
        calls = [net.write(number) for number in net.nodes for _ in range(5)]
        net.run_until(lambda calls=calls: any(call.acknowledged for call in calls))  # type: ignore[misc]
        net.crash(*net.nodes)
        net.restart(*net.nodes)
        net.run_until(lambda: net.leader is not None)

    net.settle()


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_late_copy_of_an_older_session_does_no_harm(net: Simulation) -> None:
    # Rule 3: a node's OPEN_SESSION of an earlier life was held up in the network. It closes the session in use, in the
    # midst of commands under way: those are sent again under the next session, and applied once.
    leader, origin = leads(net), net.followers[0]
    write_some(net, origin, 1)
    for delay in range(10):
        calls = [net.write(origin) for _ in range(3)]
        net.run(delay / 1000)
        old = _envelope.pack_open_session(net[origin].node_id, b"an earlier life %d" % delay)
        replies: list[Reply] = []
        net[leader].later(
            0.0,
            lambda old=old, replies=replies: net[leader].take_request(  # type: ignore[misc]
                Forward([(_envelope.context(Kind.OPEN_SESSION), old)]), replies.append
            ),
        )
        calls += [net.write(origin) for _ in range(3)]
        net.run_until(lambda calls=calls: all(call.acknowledged for call in calls))  # type: ignore[misc]
        assert replies[0].status is Status.OK

    net.settle()


def test_a_snapshot_that_jumps_over_a_command_answers_its_waiter() -> None:
    # Rule 9: a follower's command is committed while the follower is away; it comes back by a snapshot.
    net = Simulation(seed=7, settings=EAGER)
    leader, (origin, other) = leads(net), net.followers
    write_some(net, origin, 1)
    call = net.write(origin, timeout=60)
    net.run_until(lambda: carries(net[leader], call))
    net.isolate(origin)
    write_some(net, other, 30)
    assert net[leader].disk.first > net[origin].disk.last
    assert call.outcome is None
    net.heal()
    net.run_until(lambda: call.outcome is not None)
    assert call.acknowledged
    net.settle()


def test_a_snapshot_overtakes_what_is_still_to_be_applied() -> None:
    # Rule 9: the applier drops its queue before the Store is restored, or it would apply entries the snapshot holds.
    net = Simulation(seed=7, settings=replace(EAGER, max_batch_entries=1))
    follower, other = net.followers
    write_some(net, other, 1)
    net[follower].slow_store = 2.0
    write_some(net, other, 9)  # the follower is eight behind
    net.isolate(follower)
    write_some(net, other, 30)
    net.heal()
    net.run_until(lambda: net[follower].disk.snapshot_index > 20)
    assert len(net[follower].store.history) < 10
    net.settle()


def test_a_snapshot_whose_taker_could_not_say_so_is_not_streamed_for_ever() -> None:
    # It was installed; its acknowledgement and the answer to the stream got lost.
    net = Simulation(seed=7, settings=EAGER)
    leader, (follower, other) = leads(net), net.followers
    net.isolate(follower)
    write_some(net, other, 30)
    net.heal()
    net.run_until(lambda: any("streams snapshot" in line and f"<node {follower}>" in line for line in net.told[-3:]))
    net.cut_one_way(follower, leader)
    snapshot = net[leader].disk.snapshot_index
    net.run_until(lambda: net[follower].disk.snapshot_index >= snapshot)
    net.run(12)  # the sender gives up waiting
    net.settle()
    write_some(net, follower, 1)


def test_a_snapshot_without_the_session_leaves_the_outcome_unknown() -> None:
    # Rule 9: as before, but the session itself is gone by the time the snapshot is made.
    net = Simulation(seed=7, settings=EAGER)
    leader, (origin, other) = leads(net), net.followers
    write_some(net, origin, 1)
    call = net.write(origin, timeout=60)
    net.run_until(lambda: carries(net[leader], call))
    net.isolate(origin)
    old = _envelope.pack_open_session(net[origin].node_id, b"an earlier life")
    net[leader].take_request(Forward([(_envelope.context(Kind.OPEN_SESSION), old)]), lambda reply: None)
    write_some(net, other, 30)
    net.heal()
    net.run_until(lambda: call.outcome is not None)
    assert isinstance(call.outcome, OutcomeUnknown)
    net.settle()


# --- reads -----------------------------------------------------------------------------------------------------------


def test_a_deposed_leader_serves_no_stale_read(net: Simulation) -> None:
    # Rule 17: it does not know yet that it is deposed.
    leader, follower = leads(net), net.followers[0]
    write_some(net, leader, 1)
    net.isolate(leader)
    net.run_until(lambda: net.leader not in (leader, None))
    call = write_some(net, follower, 1)[0]
    read = net.read(leader, timeout=60)
    net.run(3)
    assert not read.answered
    net.heal()
    net.run_until(lambda: read.answered)
    assert call.command in net[leader].store.history
    net.settle()


def test_a_leader_that_stood_still_serves_no_stale_read(net: Simulation) -> None:
    leader, follower = leads(net), net.followers[0]
    write_some(net, leader, 1)
    net[leader].pause()
    net.run_until(lambda: net.leader not in (leader, None))
    write_some(net, follower, 3)
    net[leader].resume()
    read = net.read(leader)
    net.run_until(lambda: read.answered)
    net.settle()


def test_many_readers_share_one_round(net: Simulation) -> None:
    follower = net.followers[0]
    reads = [net.read(follower) for _ in range(50)]
    net.run_until(lambda: all(read.answered for read in reads))
    net.settle()


# --- elections -------------------------------------------------------------------------------------------------------


def test_a_restarted_node_elects_or_follows() -> None:
    # Rule 3 of the design: no node makes itself leader by force, the only one of a cluster neither.
    alone = Simulation(seed=7, size=1)
    term = alone[1].status().term
    alone.crash(1)
    alone.restart(1)
    alone.run_until(lambda: alone.leader == 1)
    assert alone[1].status().term == term + 1

    net = Simulation(seed=7)
    leader, follower = leads(net), net.followers[0]
    term = net[leader].status().term
    net.crash(follower)
    net.restart(follower)
    net.run(5)
    assert (net.leader, net[leader].status().term) == (leader, term)
    net.settle()


@pytest.mark.parametrize("deaf", [True, False])
def test_a_one_way_cut_does_not_depose_the_leader(net: Simulation, deaf: bool) -> None:
    # A follower that hears nothing, or that nobody hears: PreVote and CheckQuorum keep the term.
    leader, follower = leads(net), net.followers[0]
    term = net[leader].status().term
    for other in net.nodes:
        if other != follower:
            net.cut_one_way(*((other, follower) if deaf else (follower, other)))

    net.run(20)
    assert (net.leader, net[leader].status().term) == (leader, term)
    write_some(net, leader, 3)
    net.heal()
    net.run(5)
    assert (net.leader, net[leader].status().term) == (leader, term)
    net.settle()


def test_a_cut_between_two_nodes_leaves_a_leader_that_reaches_a_majority() -> None:
    net = Simulation(seed=7)
    net.cut(1, 3)
    net.run_until(lambda: net.leader in {1, 2})
    write_some(net, 2, 3)
    net.heal()
    net.settle()


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_slow_disk_deposes_nobody(net: Simulation, who: str) -> None:
    # Rule 20: heartbeats do not wait for the disk.
    leader, follower = leads(net), net.followers[0]
    term = net[leader].status().term
    net[leader if who == "leader" else follower].slow_disk = 3.0
    calls = [net.write(leader, timeout=30) for _ in range(3)]
    net.run(20)
    assert all(call.acknowledged for call in calls)
    assert (net.leader, net[leader].status().term) == (leader, term)
    net.settle()


# --- members ---------------------------------------------------------------------------------------------------------


def test_a_leader_leaves_by_handing_over(net: Simulation) -> None:
    # Rule 11: it never removes itself.
    leader = leads(net)
    net[leader].leave()
    net.run_until(lambda: net[leader].disk.left)
    net.run_until(lambda: net.leader not in (leader, None))
    net.settle()


def test_the_last_voter_may_not_leave() -> None:
    net = Simulation(seed=7, size=1)
    replies: list[Reply] = []
    net[1].take_request(RemoveRequest(1), replies.append)
    assert replies[0].status is Status.REFUSED
    net.settle()


def test_the_last_of_two_does_not_forget_that_it_is_alone() -> None:
    # The removal is committed, the other has heard of it and is gone; a crash must not bring back a cluster of two.
    net = Simulation(seed=7, size=2)
    leader, follower = leads(net), net.followers[0]
    net[follower].leave()
    net.run_until(lambda: net[follower].disk.left)
    net.crash(leader)
    net.restart(leader)
    net.run_until(lambda: net.leader == leader)
    net.settle()


def test_a_leader_that_is_to_be_removed_hands_over(net: Simulation) -> None:
    # Rule 11: it never removes itself; whoever asked asks the next leader.
    leader = leads(net)
    net.remove(leader)
    net.run_until(lambda: net.leader not in (leader, None))
    net.settle()


def test_a_removed_node_is_told(net: Simulation) -> None:
    # Rule 18: it was away when it was removed; the refusal of its old peers is its only news.
    follower, other = net.followers
    net.isolate(follower)
    net.remove(follower)
    net.run_until(lambda: len(net[other].status().voters) == 2)
    net.heal()
    net.run_until(lambda: net[follower].disk.left)
    net.settle()


def test_a_removed_node_that_was_down_is_told(net: Simulation) -> None:
    follower, other = net.followers
    net.crash(follower)
    net.remove(follower)
    net.run_until(lambda: len(net[other].status().voters) == 2)
    net.restart(follower)
    net.run_until(lambda: net[follower].disk.left)
    net.settle()


def test_a_newer_member_than_one_knows_is_let_in(net: Simulation) -> None:
    # Rule 18: to refuse it could cost the quorum, when it is we who lag.
    follower = net.followers[0]
    net.isolate(follower)
    newer = net.add(wait=False)
    net.isolate(follower)
    net.run_until(lambda: net.is_voter(newer.number))
    assert newer.node_id not in net[follower].status().members
    assert net[follower].admit(newer.hello(net[follower].node_id)) is None
    net.settle()


def test_a_joiner_gets_a_snapshot_that_holds_it() -> None:
    # Rule 12: an older one would be ignored by the joiner for ever.
    net = Simulation(seed=7, settings=EAGER)
    write_some(net, 1, 35)
    newcomer = net.add()
    snapshot, _ = newcomer.disk.snapshot()
    assert newcomer.node_id in snapshot.conf_state
    net.settle()


def test_a_join_whose_answer_was_lost_gets_the_same_id(net: Simulation) -> None:
    # Rule 21: the reply is lost after the id was given out; the joiner asks again, and so after a crash.
    net.links.weather = Weather(loss=0.3)
    newcomer = net.add(wait=False)
    for _ in range(5):
        net.run(0.5)
        newcomer.crash()
        newcomer.start()

    net.heal()
    net.run_until(lambda: net.is_voter(newcomer.number))
    assert newcomer.node_id == 4
    assert sorted(net[1].status().members) == [1, 2, 3, 4]
    net.settle()


def test_a_member_that_never_came_can_be_removed(net: Simulation) -> None:
    # Its id was given out, it stands in the membership, and raft does not know it yet or only as a learner.
    leader = leads(net)
    newcomer = net.add(wait=False)
    net.run_until(lambda: 4 in net[leader].status().members)
    newcomer.crash()
    newcomer.disk.left = True  # thrown away
    replies: list[Reply] = []
    net[leader].later(0.0, lambda: net[leader].take_request(RemoveRequest(4), replies.append))
    net.run_until(lambda: bool(replies))
    assert replies[0].status is Status.OK
    net.run(5)
    assert sorted(net[leader].status().members) == [1, 2, 3]
    net.settle()


def test_a_node_may_come_back_at_another_address(net: Simulation) -> None:
    follower = net.followers[0]
    net.crash(follower)
    net[follower].address = net.new_address()
    net.restart(follower)
    net.run_until(lambda: net[leads(net)].status().members[follower] == net[follower].address)
    net.settle()


def test_two_of_three_may_come_back_at_other_addresses(net: Simulation) -> None:
    # Nobody leads, so the log cannot take the new addresses; and without them nobody can lead.
    net.crash(*net.nodes)
    for number in (2, 3):
        net[number].address = net.new_address()

    net.restart(*net.nodes)
    net.settle()


def test_an_address_of_a_stranger_is_not_kept(net: Simulation) -> None:
    replies: list[Reply] = []
    net[1].take_request(Moved(99, "127.0.0.1:1"), replies.append)
    assert 99 not in net[1].status().members
    net.settle()
