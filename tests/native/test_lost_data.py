"""A disk that lost what it had acknowledged (rule 19)."""

from __future__ import annotations

import pytest

from riteraft_raftrs import LostAcknowledgedData, RawNode

from .cluster import append, drain, follower, give
from .eraftpb import Kind, Message

CLAIM = Message(Kind.HEARTBEAT, 2, 1, 2, commit=9)
PAST = "heartbeat: commit past our log"


def rolled_back() -> RawNode:
    """A follower whose log ends at 5 and whose leader has an acknowledgement of 9."""
    return follower(5, committed=5)


def test_rule_19_a_leader_that_insists_on_lost_entries_stops_the_node() -> None:
    node = rolled_back()
    for _ in range(20):
        assert give(node, CLAIM) == [PAST]
        node.tick()
    assert give(node, CLAIM) == [PAST]
    with pytest.raises(LostAcknowledgedData, match=r"leader 1 of term 2 .* up to index 9, our log ends at 5"):
        node.tick()
    assert node.status().commit == 5


def test_rule_19_a_single_claim_proves_nothing() -> None:
    node = rolled_back()
    assert give(node, CLAIM) == [PAST]
    for _ in range(40):
        node.tick()
    assert node.status().role == "pre-candidate"


def test_rule_19_an_append_that_reaches_the_claim_clears_it() -> None:
    node = rolled_back()
    for _ in range(15):
        give(node, CLAIM)
        node.tick()
    assert give(node, append(2, 1, 2, index=5, log_term=2, commit=5, terms=[2, 2, 2, 2])) == []
    drain(node)
    for _ in range(40):
        assert give(node, CLAIM) == []
        node.tick()
    assert node.status().commit == 9


def test_rule_19_an_append_that_does_not_reach_it_changes_nothing() -> None:
    node = rolled_back()
    for _ in range(20):
        give(node, append(2, 1, 2, index=5, log_term=2, commit=5))
        give(node, CLAIM)
        node.tick()
    give(node, CLAIM)
    with pytest.raises(LostAcknowledgedData):
        node.tick()


def test_rule_19_the_claims_of_a_deposed_leader_are_forgotten() -> None:
    node = rolled_back()
    for _ in range(15):
        give(node, CLAIM)
        node.tick()
    assert give(node, Message(Kind.HEARTBEAT, 2, 3, 3)) == []
    drain(node)
    for _ in range(15):
        give(node, CLAIM)
        give(node, Message(Kind.HEARTBEAT, 2, 3, 3))
        node.tick()


def test_rule_19_only_the_leader_of_our_term_is_believed() -> None:
    node = rolled_back()
    for _ in range(40):
        forged = Message(Kind.HEARTBEAT, 2, 3, 2, commit=9)
        assert give(node, forged) == ["heartbeat: not from the leader of its term"]
        give(node, Message(Kind.HEARTBEAT, 2, 1, 2))
        node.tick()
    later = Message(Kind.HEARTBEAT, 2, 3, 7, commit=9)
    for _ in range(40):
        assert give(node, later) == [PAST]
        give(node, Message(Kind.HEARTBEAT, 2, 1, 2))
        node.tick()
    assert node.status().term == 2
