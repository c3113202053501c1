"""What a leader takes, and the names of what it refuses (rule 15)."""

from __future__ import annotations

import pytest

from .cluster import Cluster, Disk, acknowledge, conf, drain, follower, give, leader, refusal, sent
from .eraftpb import CONF_CHANGE_V2, Kind, Message, conf_change_v2, decode_entry


def test_rule_15_a_batch_is_one_proposal() -> None:
    node = leader()
    assert node.propose_many([(b"c1", b"a"), (b"c2", b"b")]) == (3, 2)
    assert node.propose_many([(b"c3", b"")]) == (5, 2)
    [ready] = drain(node)
    assert [decode_entry(raw).data for _, _, raw in ready.entries] == [b"a", b"b", b""]
    assert [row[:2] for row in ready.entries] == [(3, 2), (4, 2), (5, 2)]
    acknowledge(node, 5)
    assert [entry for ready in drain(node) for entry in ready.committed] == [
        (3, 2, 0, b"c1", b"a"),
        (4, 2, 0, b"c2", b"b"),
        (5, 2, 0, b"c3", b""),
    ]


def test_rule_15_an_empty_batch_is_an_error() -> None:
    # raft-rs panics at an empty MsgPropose.
    with pytest.raises(ValueError, match="no entries"):
        leader().propose_many([])


def test_rule_15_a_follower_forwards_nothing() -> None:
    # raft-rs's answer is Ok, and the proposal may vanish on its way.
    node = follower(5)
    assert refusal(lambda: node.propose_many([(b"", b"x")])) == "not_leader"
    assert refusal(lambda: node.propose_conf_change(b"", [("remove", 3)])) == "not_leader"
    assert refusal(lambda: node.transfer_leader(3)) == "not_leader"
    assert refusal(lambda: node.read_index(b"x")) == "not_leader"
    assert drain(node) == []


def test_rule_15_a_full_leader_says_so() -> None:
    node = leader(max_uncommitted_size=100, max_size_per_msg=100)
    # While nothing is uncommitted one batch of any size is taken: else a large command could never be.
    node.propose_many([(b"", b"x" * 150)])
    drain(node)
    assert refusal(lambda: node.propose_many([(b"", b"y")])) == "full"
    assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 4)])) == "full"
    acknowledge(node, 3)
    drain(node)
    assert node.propose_many([(b"", b"y" * 60)]) == (4, 2)
    assert refusal(lambda: node.propose_many([(b"", b"z" * 41)])) == "full"
    assert node.propose_many([(b"", b"z" * 40)]) == (5, 2)
    assert node.status().last_index == 5


def test_rule_15_while_a_transfer_runs_nothing_is_taken() -> None:
    node = leader()
    node.transfer_leader(2)
    assert node.status().transferring_to == 2
    assert Kind.TIMEOUT_NOW in [message.kind for message in sent(drain(node), held=False)]
    assert refusal(lambda: node.propose_many([(b"", b"x")])) == "transferring"
    assert refusal(lambda: node.propose_conf_change(b"", [("remove", 3)])) == "transferring"
    # Given up after an election timeout, while the quorum still answers.
    for _ in range(20):
        node.tick()
        give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))
    assert node.status().transferring_to == 0
    assert node.propose_many([(b"", b"x")]) == (3, 2)


def test_rule_15_a_transfer_to_one_that_cannot_lead_is_refused() -> None:
    node = leader()
    index, _ = node.propose_conf_change(b"", [("add_learner", 4)])
    drain(node)
    acknowledge(node, index)
    drain(node)
    assert refusal(lambda: node.transfer_leader(1)) == "is_leader"
    assert refusal(lambda: node.transfer_leader(9)) == "unknown_node"
    assert refusal(lambda: node.transfer_leader(4)) == "learner"


def test_rule_15_a_transfer_is_quick() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].transfer_leader(3)
    cluster.pump()
    assert cluster.leader == 3


def test_rule_15_a_second_conf_change_is_refused_not_swallowed() -> None:
    # raft-rs answers Ok and writes an empty entry in its place.
    node = leader()
    node.propose_conf_change(b"first", [("add_learner", 4)])
    assert refusal(lambda: node.propose_conf_change(b"second", [("add_learner", 5)])) == "pending_conf_change"
    [ready] = drain(node)
    [entry] = [decode_entry(raw) for _, _, raw in ready.entries]
    assert (entry.kind, entry.context, entry.data) == (CONF_CHANGE_V2, b"first", conf_change_v2((2, 4)))


def test_rule_15_joint_and_leave_are_told_apart() -> None:
    node = leader()
    assert refusal(lambda: node.propose_conf_change(b"", [])) == "joint"
    index, _ = node.propose_conf_change(b"", [("add_voter", 4), ("remove", 3)])
    drain(node)
    acknowledge(node, index)
    drain(node)
    assert refusal(lambda: node.propose_conf_change(b"", [("add_voter", 5)])) == "pending_conf_change"


def test_rule_15_a_change_while_joint_is_refused() -> None:
    disk = Disk((1, 0, 1), (1, 1), (1, 1, ([1], [2], [1, 3], [], False)))
    node = disk.open(1)
    node.campaign()
    drain(node)
    give(node, Message(Kind.PRE_VOTE_RESPONSE, 1, 3, 2))
    drain(node)
    give(node, Message(Kind.VOTE_RESPONSE, 1, 3, 2))
    drain(node)
    acknowledge(node, 2, peers=[3])
    drain(node)
    assert refusal(lambda: node.propose_conf_change(b"", [("add_voter", 5)])) == "joint"
    index, _ = node.propose_conf_change(b"leave", [])
    drain(node)
    acknowledge(node, index, peers=[3])
    assert [state for ready in drain(node) for state in ready.conf_states] == [(3, conf([1], [2]), None)]


def test_rule_15_the_last_voter_stays() -> None:
    node = Disk.founded([1], [2]).open(1)
    node.campaign()
    drain(node)
    assert refusal(lambda: node.propose_conf_change(b"", [("remove", 1)])) == "last_voter"
    assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 1)])) == "last_voter"
    assert refusal(lambda: node.propose_conf_change(b"", [("remove", 1), ("remove", 2)])) == "last_voter"
    assert drain(node) == []


def test_lost_appends_are_sent_again() -> None:
    node = leader()
    node.propose_many([(b"", b"lost")])
    drain(node)
    node.report_unreachable(2)
    assert (2, 2, 3, "probe", True) in node.status().progress
    give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2))
    again = [m for m in sent(drain(node)) if m.to == 2]
    assert [entry.data for message in again for entry in message.entries] == [b"lost"]
