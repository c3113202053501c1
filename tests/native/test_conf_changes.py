"""Who takes part: simple and joint changes, and what happens to a node that is removed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from riteraft_raftrs import RaftRefused, RawNode

from .cluster import Cluster, ConfTuple, Disk, acknowledge, append, conf, drain, follower, give, leader, refusal
from .eraftpb import (
    ADD_VOTER,
    CONF_CHANGE_V2,
    REMOVE,
    Entry,
    Kind,
    Message,
    conf_change_v2,
)


def commit(node: RawNode, changes: Sequence[tuple[str, int]]) -> list[tuple[int, ConfTuple, str | None]]:
    """Propose a change at a leader and let the others acknowledge it."""
    index, _ = node.propose_conf_change(b"why", changes)
    drain(node)
    acknowledge(node, index)
    return [state for ready in drain(node) for state in ready.conf_states]


def test_rule_10_a_simple_change_is_in_force_when_it_is_handed_out() -> None:
    node = leader()
    assert commit(node, [("add_learner", 4)]) == [(3, conf([1, 2, 3], [4]), None)]
    assert node.status().conf_state == conf([1, 2, 3], [4])
    assert commit(node, [("add_voter", 4)]) == [(4, conf([1, 2, 3, 4]), None)]
    assert commit(node, [("remove", 4)]) == [(5, conf([1, 2, 3]), None)]


def test_rule_10_a_joint_change_leaves_by_itself() -> None:
    # raft-rs appends the leave only if it hears of "applied" after the change was put in force.
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.add(4)
    cluster[1].propose_conf_change(b"", [("add_voter", 4), ("remove", 3)])
    cluster.pump()
    joint: ConfTuple = ([1, 2, 4], [], [1, 2, 3], [], True)
    assert cluster.confs[1] == [(3, joint, None), (4, conf([1, 2, 4]), None)]
    assert cluster.confs[2] == cluster.confs[1]
    assert cluster[1].status().conf_state == conf([1, 2, 4])


def test_rule_10_a_leader_that_finds_itself_joint_leaves_at_a_tick() -> None:
    # Whoever entered this joint state meant to leave it himself and is gone: raft-rs would stay joint for ever.
    joint: ConfTuple = ([1, 2, 4], [], [1, 2, 3], [], False)
    disks = {id: Disk((1, 0, 1), (1, 1), (1, 1, joint)) for id in (1, 2, 3, 4)}
    cluster = Cluster(disks=disks)
    cluster.elect(2)
    assert cluster[2].status().conf_state == joint
    cluster.tick(only=[2])
    assert cluster[2].status().conf_state == conf([1, 2, 4])
    cluster.tick(10)
    assert cluster.removed == {3}


def test_rule_10_a_refused_change_reads_the_same_on_every_replica() -> None:
    # Each of them was allowed when it was proposed; only the first still is when it is applied.
    entries = [
        Entry(2, 2, conf_change_v2((REMOVE, 2), (REMOVE, 1)), kind=CONF_CHANGE_V2),
        Entry(3, 2, conf_change_v2(), kind=CONF_CHANGE_V2),
        Entry(4, 2, conf_change_v2((ADD_VOTER, 4)), kind=CONF_CHANGE_V2),
    ]
    outcomes = []
    for node_id in (2, 3):
        node = Disk.founded([1, 2], [3]).open(node_id)
        give(node, Message(Kind.APPEND, node_id, 1, 2, index=1, log_term=1, commit=4, entries=entries))
        outcomes.append([state for ready in drain(node) for state in ready.conf_states])
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] == [
        (2, conf([1, 2], [3]), "removed all voters"),
        (3, conf([1, 2], [3]), "can't leave a non-joint config"),
        (4, conf([1, 2, 4], [3]), None),
    ]


def test_rule_10_to_raft_applied_means_handed_out() -> None:
    node = leader()
    node.propose_conf_change(b"", [("add_learner", 4)])
    assert node.status().pending_conf_change
    assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 5)])) == "pending_conf_change"
    drain(node)
    acknowledge(node, 3)
    assert node.status().pending_conf_change
    drain(node)
    assert not node.status().pending_conf_change


def test_rule_11_a_leader_is_not_made_to_remove_itself() -> None:
    node = leader()
    assert refusal(lambda: node.propose_conf_change(b"", [("remove", 1)])) == "removes_leader"
    assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 1)])) == "removes_leader"
    assert refusal(lambda: node.propose_conf_change(b"", [("add_voter", 4), ("remove", 1)])) == "removes_leader"
    assert drain(node) == []


def calls(node: RawNode) -> list[object]:
    return [
        node.tick,
        node.campaign,
        lambda: node.step_many(1, []),
        lambda: node.step_snapshot(1, b""),
        lambda: node.propose_many([(b"", b"x")]),
        lambda: node.propose_conf_change(b"", [("remove", 2)]),
        lambda: node.read_index(b"x"),
        lambda: node.transfer_leader(2),
        lambda: node.report_unreachable(2),
        lambda: node.report_snapshot(2, True),
        node.ready,
        lambda: node.persisted(1),
        lambda: node.snapshot_made(1, 1, conf([1])),
        lambda: node.compact(1),
        node.status,
    ]


def test_rule_11_a_removed_node_takes_no_more_calls() -> None:
    # raft-rs panics at the next save or answer of a leader that is no member any more.
    node = follower(5)
    entries = [
        Entry(6, 2, conf_change_v2((REMOVE, 2)), kind=CONF_CHANGE_V2),
        Entry(7, 2, b"not ours to apply"),
    ]
    give(node, Message(Kind.APPEND, 2, 1, 2, index=5, log_term=2, commit=7, entries=entries))
    readies = drain(node)
    assert [ready.removed for ready in readies] == [False, True]
    assert [entry[0] for ready in readies for entry in ready.committed] == [2, 3, 4, 5, 6]
    assert readies[-1].conf_states == [(6, conf([1, 3]), None)]
    for call in calls(node):
        assert callable(call)
        with pytest.raises(RaftRefused, match=r"^removed$"):
            call()
    assert node.take_log()


def test_rule_11_a_leader_that_is_removed_all_the_same_stops_once_most_of_the_others_know() -> None:
    # Proposed by its predecessor, committed by it: the removed one leads at that moment.
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut = {3}
    cluster.lose = lambda message: message.kind == Kind.APPEND_RESPONSE
    cluster[1].propose_conf_change(b"", [("remove", 2)])
    cluster.pump()
    cluster.lose = lambda message: False
    cluster.cut = {1}
    cluster.tick_until(lambda: cluster.confs[3] == [(3, conf([1, 3]), None)])
    assert not cluster.removed
    cluster.cut = set()
    cluster.tick_until(lambda: cluster.removed == {2})
    assert cluster.last_ready[2].role == "leader"
    assert cluster.confs[1] == cluster.confs[2] == [(3, conf([1, 3]), None)]


def test_rule_11_a_stranger_to_its_own_conf_state_is_not_removed() -> None:
    # A joiner replays changes from before it took part: only a member can be removed.
    node = Disk((1, 0, 1), (1, 1), (1, 1, conf([1, 2]))).open(5)
    change = Entry(2, 1, conf_change_v2((REMOVE, 2)), kind=CONF_CHANGE_V2)
    give(node, Message(Kind.APPEND, 5, 1, 1, index=1, log_term=1, commit=2, entries=[change]))
    assert [ready.removed for ready in drain(node)] == [False, False]
    assert give(node, append(5, 1, 1, index=2, log_term=1, terms=[1])) == []


@pytest.mark.parametrize("changes", [[("promote", 4)], [("add_voter", 0)], [("remove", 1 << 62)]])
def test_a_change_of_no_node_or_no_kind_is_an_error(changes: list[tuple[str, int]]) -> None:
    with pytest.raises(ValueError, match=changes[0][0]):
        leader().propose_conf_change(b"", changes)
