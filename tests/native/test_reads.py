"""Linearizable reads: ReadIndex rounds of the leader's own (rule 17)."""

from __future__ import annotations

import pytest

from .cluster import Cluster, drain, follower, give, kinds, leader, refusal, sent
from .eraftpb import Entry, Kind, Message


def test_rule_17_a_round_is_answered_by_a_quorum() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].propose_many([(b"", b"x")])
    cluster.pump()
    cluster[1].read_index(b"round 1")
    cluster.pump()
    assert cluster.read_states[1] == [(3, b"round 1")]
    cluster.cut = {2, 3}
    cluster[1].read_index(b"round 2")
    cluster.pump()
    assert cluster.read_states[1] == [(3, b"round 1")]
    assert cluster.read_states[2] == cluster.read_states[3] == []


def test_rule_17_a_sole_voter_is_its_own_quorum() -> None:
    cluster = Cluster(1)
    cluster.elect(1)
    cluster[1].read_index(b"alone")
    cluster.pump()
    assert cluster.read_states[1] == [(2, b"alone")]


def test_rule_17_no_round_before_the_first_commit_of_a_term() -> None:
    # raft-rs drops the question in silence.
    cluster = Cluster(3)
    cluster.lose = lambda message: message.kind == Kind.APPEND
    cluster.elect(1)
    assert refusal(lambda: cluster[1].read_index(b"early")) == "no_commit_in_term"
    cluster.lose = lambda message: False
    cluster.tick(10)
    cluster[1].read_index(b"later")
    cluster.pump()
    assert cluster.read_states[1] == [(2, b"later")]


def test_rule_17_an_empty_context_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty context"):
        leader().read_index(b"")


def test_rule_17_read_index_is_neither_sent_nor_taken() -> None:
    # Forwarded by raft-rs, the contexts of two nodes collide, and an answer to an earlier life is a stale read.
    node = follower(5)
    assert refusal(lambda: node.read_index(b"x")) == "not_leader"
    asked = Message(Kind.READ_INDEX, 2, 3, 2, entries=[Entry(0, 0, b"x")])
    answered = Message(Kind.READ_INDEX_RESPONSE, 2, 1, 2, index=2, entries=[Entry(0, 0, b"x")])
    assert give(node, asked) == ["never from the network"]
    assert give(node, answered) == ["never from the network"]
    assert drain(node) == []

    # A leader that steps down with a question open forwards nothing either.
    led = leader()
    led.read_index(b"open")
    drain(led)
    give(led, Message(Kind.HEARTBEAT, 1, 3, 5))
    assert kinds(sent(drain(led))) == [Kind.HEARTBEAT_RESPONSE]


def test_rule_17_only_contexts_of_ours_are_believed() -> None:
    node = leader()
    node.read_index(b"ours")
    drain(node)
    answer = Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2, context=b"theirs")
    assert give(node, answer) == ["heartbeat response: context is not ours"]
    assert [ready.read_states for ready in drain(node)] == []
    assert give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2, context=b"ours")) == []
    assert [ready.read_states for ready in drain(node)] == [[(2, b"ours")]]
    # The third node's answer comes after the round is over: it still shows that the node lives.
    assert give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2, context=b"ours")) == []
    assert drain(node) == []
