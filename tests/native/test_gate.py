"""The gate in front of `step`, row by row: what no honest peer sends is dropped with a reason, and changes nothing.

Each case names what raft-rs would do with the message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from riteraft_raftrs import RawNode

from .cluster import Disk, drain, follower, give, leader
from .eraftpb import (
    ADD_VOTER,
    CONF_CHANGE,
    CONF_CHANGE_V2,
    ConfState,
    Entry,
    Kind,
    Message,
    Snapshot,
    conf_change,
    conf_change_v2,
)

HUGE = 1 << 62


def candidate() -> RawNode:
    """Node 1 of three, its vote for itself in term 2 not durable yet, so not asked for."""
    node = Disk.founded([1, 2, 3]).open(1)
    node.campaign()
    drain(node)
    give(node, Message(Kind.PRE_VOTE_RESPONSE, 1, 2, 2))
    drain(node, persist=False)
    assert node.status().role == "candidate"
    return node


def committed_follower() -> RawNode:
    return follower(5, committed=5)


def learner() -> RawNode:
    """Node 2, a learner of leader 1."""
    node = Disk.founded([1, 3], [2]).open(2)
    give(node, Message(Kind.HEARTBEAT, 2, 1, 2))
    drain(node)
    return node


def entries(*terms: int) -> list[Entry]:
    return [Entry(index, term, b"x") for index, term in enumerate(terms, start=6)]


def changes(kind: int, data: bytes) -> list[Entry]:
    return [Entry(6, 2, data, kind=kind)]


APPEND = Message(Kind.APPEND, 2, 1, 2, index=5, log_term=2)
HEARTBEAT = Message(Kind.HEARTBEAT, 2, 1, 2)
RESPONSE = Message(Kind.APPEND_RESPONSE, 1, 2, 2, index=2)
VOTE = Message(Kind.VOTE, 2, 3, 3, index=5, log_term=2)
PRE_VOTE = replace(VOTE, kind=Kind.PRE_VOTE)
TIMEOUT = Message(Kind.TIMEOUT_NOW, 2, 1, 2)
OLD = Message(Kind.APPEND, 2, 1, 2, index=4, log_term=2)
DISORDER = "append: entry terms out of order"
BAD_CHANGE = "append: bad conf change or entry type"

Case = tuple[str, Callable[[], RawNode], Message, str]

ANY: list[Case] = [
    ("unknown type: panics", follower, replace(HEARTBEAT, kind=99), "unknown message type"),
    ("term 0 skips the term check", follower, replace(HEARTBEAT, term=0), "term 0"),
    ("vote of term 0: panics", follower, replace(VOTE, term=0), "term 0"),
    ("pre-vote of term 0: panics", follower, replace(PRE_VOTE, term=0), "term 0"),
    ("term 2^64-1 wraps", follower, replace(APPEND, term=(1 << 64) - 1), "term out of range"),
    ("term 2^62", follower, replace(APPEND, term=HUGE), "term out of range"),
    ("term that leaps", follower, replace(APPEND, term=3 + (1 << 32)), "term out of range"),
    ("index", follower, replace(APPEND, index=HUGE), "number out of range"),
    ("commit", follower, replace(APPEND, commit=HUGE), "number out of range"),
    ("log term", follower, replace(APPEND, log_term=HUGE), "number out of range"),
    ("commit term", follower, replace(VOTE, commit_term=HUGE), "number out of range"),
    ("for another", follower, replace(HEARTBEAT, to=3), "not for us"),
    ("from us", follower, replace(HEARTBEAT, sender=2), "not from its sender"),
    ("entries elsewhere", follower, replace(HEARTBEAT, entries=entries(2)), "entries in a message that has none"),
]

LOCAL: list[Case] = [
    (Kind(kind).name, node, Message(kind, to, 3, 2, entries=[Entry(0, 0, b"x")]), "never from the network")
    for kind in (
        Kind.HUP,
        Kind.BEAT,
        Kind.PROPOSE,
        Kind.UNREACHABLE,
        Kind.SNAP_STATUS,
        Kind.CHECK_QUORUM,
        Kind.TRANSFER_LEADER,
        Kind.READ_INDEX,
        Kind.READ_INDEX_RESPONSE,
    )
    for node, to in ((follower, 2), (leader, 1))
]

APPENDS: list[Case] = [
    (
        "log term 0 past the end matches: a false acknowledgement",
        follower,
        replace(APPEND, index=1000, log_term=0),
        "append: term and index disagree on the start",
    ),
    (
        "log term at the start",
        follower,
        replace(APPEND, index=0, log_term=2),
        "append: term and index disagree on the start",
    ),
    ("log term above term", follower, replace(APPEND, log_term=3), "append: log term above its term"),
    ("gap after the first", follower, replace(APPEND, entries=[Entry(9, 2)]), "append: gap in entries"),
    ("gap inside", follower, replace(APPEND, entries=[Entry(6, 2), Entry(8, 2)]), "append: gap in entries"),
    ("entry before its place", follower, replace(APPEND, entries=[Entry(3, 2)]), "append: gap in entries"),
    ("entry of term 0", follower, replace(APPEND, entries=entries(0)), DISORDER),
    ("entry of a term before", follower, replace(APPEND, entries=entries(1)), DISORDER),
    ("entry of a later term", follower, replace(APPEND, entries=entries(3)), DISORDER),
    ("terms that descend", follower, replace(APPEND, term=4, entries=entries(4, 3)), DISORDER),
    ("entry type 9", follower, replace(APPEND, entries=changes(9, b"")), BAD_CHANGE),
    ("undecodable change", follower, replace(APPEND, entries=changes(CONF_CHANGE, b"\xff")), BAD_CHANGE),
    ("undecodable change v2", follower, replace(APPEND, entries=changes(CONF_CHANGE_V2, b"\xff")), BAD_CHANGE),
    ("change type 9", follower, replace(APPEND, entries=changes(CONF_CHANGE, conf_change(9, 4))), BAD_CHANGE),
    (
        "change type 9 in v2",
        follower,
        replace(APPEND, entries=changes(CONF_CHANGE_V2, conf_change_v2((ADD_VOTER, 4), (9, 5)))),
        BAD_CHANGE,
    ),
    (
        "unknown transition",
        follower,
        replace(APPEND, entries=changes(CONF_CHANGE_V2, conf_change_v2((ADD_VOTER, 4), transition=7))),
        BAD_CHANGE,
    ),
    (
        "change of node 0",
        follower,
        replace(APPEND, entries=changes(CONF_CHANGE, conf_change(ADD_VOTER, 0))),
        BAD_CHANGE,
    ),
    (
        "conflict at the commit",
        committed_follower,
        replace(OLD, term=9, entries=[Entry(5, 9)]),
        "append: conflicts with a committed entry",
    ),
    (
        "another leader of the term",
        follower,
        replace(APPEND, sender=3),
        "append: not from the leader of its term",
    ),
    ("to a leader", leader, replace(APPEND, to=1, sender=2), "append: not from the leader of its term"),
]

HEARTBEATS: list[Case] = [
    ("commit past the log: panics", follower, replace(HEARTBEAT, commit=6), "heartbeat: commit past our log"),
    ("the same of a later term", follower, replace(HEARTBEAT, term=9, commit=6), "heartbeat: commit past our log"),
    ("another leader", follower, replace(HEARTBEAT, sender=3), "heartbeat: not from the leader of its term"),
]

RESPONSES: list[Case] = [
    ("index past the log is counted", leader, replace(RESPONSE, index=1000), "append response: past our log"),
    ("hint", leader, replace(RESPONSE, reject=True, reject_hint=3), "append response: past our log"),
    ("asks for a snapshot", leader, replace(RESPONSE, request_snapshot=2), "append response: asks for a snapshot"),
    ("no member", leader, replace(RESPONSE, sender=9), "response of no member"),
    ("vote of no member", candidate, Message(Kind.VOTE_RESPONSE, 1, 9, 2), "response of no member"),
    ("pre-vote of no member", candidate, Message(Kind.PRE_VOTE_RESPONSE, 1, 9, 2), "response of no member"),
    ("heartbeat of no member", leader, Message(Kind.HEARTBEAT_RESPONSE, 1, 9, 2), "response of no member"),
    (
        "foreign context",
        leader,
        Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2, context=b"x"),
        "heartbeat response: context is not ours",
    ),
]

VOTES: list[Case] = [
    ("vote context", follower, replace(VOTE, context=b"x"), "vote: unknown context"),
    ("pre-vote context", follower, replace(PRE_VOTE, context=b"x"), "vote: unknown context"),
    (
        "answer to a request that waits for the disk: panics",
        candidate,
        Message(Kind.VOTE_RESPONSE, 1, 2, 2),
        "vote response: to a request never sent",
    ),
]

TIMEOUTS: list[Case] = [
    ("from another than the leader", follower, replace(TIMEOUT, sender=3), "timeout now: not from our leader"),
    ("of a later term", follower, replace(TIMEOUT, term=3), "timeout now: not from our leader"),
    ("of an earlier term", follower, replace(TIMEOUT, term=1), ""),
    ("to a learner", learner, TIMEOUT, "timeout now: we are no voter"),
]


def view(node: RawNode) -> tuple[object, ...]:
    status = node.status()
    return status.role, status.term, status.vote, status.leader, status.commit, status.last_index, status.progress


@pytest.mark.parametrize(
    ("make", "message", "reason"),
    [
        pytest.param(make, message, reason, id=f"{row}: {name}")
        for row, cases in {
            "any": ANY,
            "local": LOCAL,
            "append": APPENDS,
            "heartbeat": HEARTBEATS,
            "response": RESPONSES,
            "vote": VOTES,
            "timeout now": TIMEOUTS,
        }.items()
        for name, make, message, reason in cases
    ],
)
def test_gate_drops_what_no_honest_peer_sends(make: Callable[[], RawNode], message: Message, reason: str) -> None:
    node = make()
    before = view(node)
    assert give(node, message) == ([reason] if reason else [])
    assert view(node) == before
    assert drain(node, persist=False) == []
    for _ in range(100):
        node.tick()
    drain(node)


def test_gate_checks_the_sender_against_the_connection() -> None:
    node = follower()
    assert node.step_many(3, [HEARTBEAT.encode()]) == ["not from its sender"]


def test_gate_takes_undecodable_bytes_for_a_reason() -> None:
    node = follower()
    assert node.step_many(1, [b"\xff", HEARTBEAT.encode(), b"\x08"]) == ["undecodable", "undecodable"]
    assert node.step_snapshot(1, b"\xff") == "undecodable"


def test_gate_takes_a_snapshot_by_its_own_way_only() -> None:
    node = follower()
    message = Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=Snapshot(50, 2, ConfState([1, 2, 3])))
    assert give(node, message) == ["snapshot out of band"]
    assert node.step_snapshot(1, HEARTBEAT.encode()) == "snapshot: another type"
    assert drain(node) == []


GOOD = ConfState([1, 2, 3])
BAD_CONF = "snapshot: bad conf state"


@pytest.mark.parametrize(
    ("snapshot", "reason"),
    [
        pytest.param(snapshot, reason, id=name)
        for name, snapshot, reason in [
            ("empty", None, "snapshot: no metadata"),
            ("index 0", Snapshot(0, 2, GOOD), "snapshot: index out of range"),
            ("index 2^62", Snapshot(HUGE, 2, GOOD), "snapshot: index out of range"),
            ("term 0", Snapshot(50, 0, GOOD), "snapshot: term out of range"),
            ("later term", Snapshot(50, 3, GOOD), "snapshot: term out of range"),
            ("no conf state", Snapshot(50, 2), "snapshot: no conf state"),
            ("no voters: panics", Snapshot(50, 2, ConfState([], [2])), BAD_CONF),
            ("node 0: panics", Snapshot(50, 2, ConfState([0, 2])), BAD_CONF),
            ("voter and learner: panics", Snapshot(50, 2, ConfState([1, 2], [2])), BAD_CONF),
            ("outgoing and learner: panics", Snapshot(50, 2, ConfState([1], [2], [2])), BAD_CONF),
            ("next learner without outgoing: panics", Snapshot(50, 2, ConfState([1, 2], [], [], [3])), BAD_CONF),
            ("next learner that votes: panics", Snapshot(50, 2, ConfState([1, 2], [], [2], [2])), BAD_CONF),
            ("auto leave without outgoing: panics", Snapshot(50, 2, ConfState([1, 2], auto_leave=True)), BAD_CONF),
            ("doubled voters: let through", Snapshot(50, 2, ConfState([1, 2, 2])), BAD_CONF),
            ("without us: ignored for ever", Snapshot(50, 2, ConfState([1, 3])), "snapshot: we are not in it"),
            ("before our commit", Snapshot(4, 2, GOOD), "snapshot: before our commit"),
            ("conflict at the commit", Snapshot(5, 1, GOOD), "snapshot: conflicts with a committed entry"),
        ]
    ],
)
def test_gate_row_snapshot(snapshot: Snapshot | None, reason: str) -> None:
    node = committed_follower()
    before = view(node)
    assert node.step_snapshot(1, Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=snapshot).encode()) == reason
    assert view(node) == before
    assert drain(node) == []


def test_gate_row_snapshot_from_whom() -> None:
    node = committed_follower()
    good = Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=Snapshot(50, 2, GOOD))
    assert node.step_snapshot(3, good.encode()) == "not from its sender"
    other = replace(good, sender=3)
    assert node.step_snapshot(3, other.encode()) == "snapshot: not from the leader of its term"
    earlier = replace(good, term=1, snapshot=Snapshot(50, 1, GOOD))
    assert node.step_snapshot(1, earlier.encode()) == "snapshot: of an earlier term"
    assert node.step_snapshot(1, replace(good, snapshot=Snapshot(50, 2, ConfState([1, 3], [2]))).encode()) is None
    assert drain(node)[0].snapshot == (50, 2)


def test_gate_lets_an_old_message_through_to_be_answered() -> None:
    # A leader that slept: what it says may contradict us by now, and our answer tells it so.
    node = committed_follower()
    give(node, replace(HEARTBEAT, sender=3, term=7))
    drain(node)
    assert give(node, replace(OLD, term=3, entries=[Entry(5, 3)])) == []
    assert [peer for ready in drain(node) for peer, _ in ready.persisted_messages] == [1]


def test_gate_lets_every_honest_kind_through() -> None:
    node = follower()
    assert give(node, replace(APPEND, commit=1000, entries=entries(2, 2))) == []
    assert give(node, replace(APPEND, entries=changes(CONF_CHANGE_V2, conf_change_v2()))) == []
    assert give(node, replace(HEARTBEAT, commit=6, context=b"a leader's own round")) == []
    assert give(node, replace(PRE_VOTE, context=b"CampaignTransfer")) == []
    assert give(node, TIMEOUT) == []
    assert node.status().role == "candidate"
