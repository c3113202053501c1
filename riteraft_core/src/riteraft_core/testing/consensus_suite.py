"""What every `Consensus` must do, as tests that an engine runs against itself.

An engine's whole test file is a subclass and two fixtures:

    class TestQuorum(ConsensusSuite):
        @pytest.fixture
        def open_engine(self) -> OpenEngine:
            return Quorum

        @pytest.fixture
        def cause_panic(self) -> Callable[[Consensus], object]:
            return lambda engine: engine.divide_by_zero()

`open_engine` makes an engine from its context; `cause_panic` makes what is inside an engine fail as a bug of its own
would, which must come out as `ConsensusError`. A check that an engine cannot keep is named in its `cannot_keep`, with
the reason.

The checks are those of the Raft paper and Ongaro's thesis, of raft-rs's own `harness/tests`, and one or more for each
rule of the project's `docs/consensus-rules.md` that an engine keeps: the name says which.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from riteraft_core.errors import ConsensusError, LostAcknowledgedData, Refused
from riteraft_core.protocols import Consensus, EngineContext, EngineTiming
from riteraft_core.types import Anchor, ConfState, EntryKind, HardState, PeerProgress, Role, SnapshotMeta

from .engine_cluster import (
    EngineDisk,
    Lab,
    OpenEngine,
    acknowledge,
    append,
    conf,
    drain,
    give,
    give_snapshot,
    kinds,
    refusal,
    sent,
)
from .eraftpb import (
    ADD_LEARNER,
    ADD_VOTER,
    CONF_CHANGE,
    CONF_CHANGE_V2,
    REMOVE,
    Entry,
    Kind,
    Message,
    Snapshot,
    conf_change,
    conf_change_v2,
    decode,
    decode_entry,
)

__all__ = ["ConsensusSuite"]

HUGE = 1 << 62
"""Numbers from outside stay below this."""

MISUSE = (ValueError, ConsensusError)
"""What a caller meets who breaks the contract: an engine may be broken by it or not."""

ROWS = [Entry(index, 1, b"x").row for index in range(3, 8)]
DISK = EngineDisk(HardState(4, 2, 5), Anchor(2, 1), (2, 1, conf([1, 2, 3])), ROWS)
"""A log of term 1 with the entries 3..7, cut behind its snapshot at 2."""

GateCase = tuple[str, Callable[[Lab], Consensus], Message, str]
"""(what raft would do with it, who gets it, the message, why it is dropped)."""


def _entries(*terms: int) -> list[Entry]:
    return [Entry(index, term, b"x") for index, term in enumerate(terms, start=6)]


def _changes(kind: int, data: bytes) -> list[Entry]:
    return [Entry(6, 2, data, kind=kind)]


APPEND = Message(Kind.APPEND, 2, 1, 2, index=5, log_term=2)
HEARTBEAT = Message(Kind.HEARTBEAT, 2, 1, 2)
RESPONSE = Message(Kind.APPEND_RESPONSE, 1, 2, 2, index=2)
VOTE = Message(Kind.VOTE, 2, 3, 3, index=5, log_term=2)
PRE_VOTE = replace(VOTE, kind=Kind.PRE_VOTE)
TIMEOUT = Message(Kind.TIMEOUT_NOW, 2, 1, 2)
OLD = Message(Kind.APPEND, 2, 1, 2, index=4, log_term=2)
CLAIM = replace(HEARTBEAT, commit=9)

PAST = "heartbeat: commit past our log"
START = "append: term and index disagree on the start"
DISORDER = "append: entry terms out of order"
GAP = "append: gap in entries"
BAD_CHANGE = "append: bad conf change or entry type"
BAD_CONF = "snapshot: bad conf state"

GATE: Mapping[str, list[GateCase]] = {
    "any": [
        ("unknown type: panics", Lab.follower, replace(HEARTBEAT, kind=99), "unknown message type"),
        ("term 0 skips the term check", Lab.follower, replace(HEARTBEAT, term=0), "term 0"),
        ("vote of term 0: panics", Lab.follower, replace(VOTE, term=0), "term 0"),
        ("pre-vote of term 0: panics", Lab.follower, replace(PRE_VOTE, term=0), "term 0"),
        ("term 2^64-1 wraps", Lab.follower, replace(APPEND, term=(1 << 64) - 1), "term out of range"),
        ("term 2^62", Lab.follower, replace(APPEND, term=HUGE), "term out of range"),
        ("term that leaps", Lab.follower, replace(APPEND, term=3 + (1 << 32)), "term out of range"),
        ("index", Lab.follower, replace(APPEND, index=HUGE), "number out of range"),
        ("commit", Lab.follower, replace(APPEND, commit=HUGE), "number out of range"),
        ("log term", Lab.follower, replace(APPEND, log_term=HUGE), "number out of range"),
        ("commit term", Lab.follower, replace(VOTE, commit_term=HUGE), "number out of range"),
        ("for another", Lab.follower, replace(HEARTBEAT, to=3), "not for us"),
        ("from us", Lab.follower, replace(HEARTBEAT, sender=2), "not from its sender"),
        (
            "entries elsewhere",
            Lab.follower,
            replace(HEARTBEAT, entries=_entries(2)),
            "entries in a message that has none",
        ),
    ],
    "local": [
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
        for node, to in ((Lab.follower, 2), (Lab.leader, 1))
    ],
    "append": [
        ("log term 0 past the end: a false answer", Lab.follower, replace(APPEND, index=1000, log_term=0), START),
        ("log term at the start", Lab.follower, replace(APPEND, index=0, log_term=2), START),
        ("log term above term", Lab.follower, replace(APPEND, log_term=3), "append: log term above its term"),
        ("gap after the first", Lab.follower, replace(APPEND, entries=[Entry(9, 2)]), GAP),
        ("gap inside", Lab.follower, replace(APPEND, entries=[Entry(6, 2), Entry(8, 2)]), GAP),
        ("entry before its place", Lab.follower, replace(APPEND, entries=[Entry(3, 2)]), GAP),
        ("entry of term 0", Lab.follower, replace(APPEND, entries=_entries(0)), DISORDER),
        ("entry of a term before", Lab.follower, replace(APPEND, entries=_entries(1)), DISORDER),
        ("entry of a later term", Lab.follower, replace(APPEND, entries=_entries(3)), DISORDER),
        ("terms that descend", Lab.follower, replace(APPEND, term=4, entries=_entries(4, 3)), DISORDER),
        ("entry type 9", Lab.follower, replace(APPEND, entries=_changes(9, b"")), BAD_CHANGE),
        ("undecodable change", Lab.follower, replace(APPEND, entries=_changes(CONF_CHANGE, b"\xff")), BAD_CHANGE),
        ("undecodable change v2", Lab.follower, replace(APPEND, entries=_changes(CONF_CHANGE_V2, b"\xff")), BAD_CHANGE),
        (
            "change type 9",
            Lab.follower,
            replace(APPEND, entries=_changes(CONF_CHANGE, conf_change(9, 4))),
            BAD_CHANGE,
        ),
        (
            "change type 9 in v2",
            Lab.follower,
            replace(APPEND, entries=_changes(CONF_CHANGE_V2, conf_change_v2((ADD_VOTER, 4), (9, 5)))),
            BAD_CHANGE,
        ),
        (
            "unknown transition",
            Lab.follower,
            replace(APPEND, entries=_changes(CONF_CHANGE_V2, conf_change_v2((ADD_VOTER, 4), transition=7))),
            BAD_CHANGE,
        ),
        (
            "change of node 0",
            Lab.follower,
            replace(APPEND, entries=_changes(CONF_CHANGE, conf_change(ADD_VOTER, 0))),
            BAD_CHANGE,
        ),
        (
            "conflict at the commit",
            Lab.committed_follower,
            replace(OLD, term=9, entries=[Entry(5, 9)]),
            "append: conflicts with a committed entry",
        ),
        ("two leaders", Lab.follower, replace(APPEND, sender=3), "append: not from the leader of its term"),
        ("to a leader", Lab.leader, replace(APPEND, to=1, sender=2), "append: not from the leader of its term"),
    ],
    "heartbeat": [
        ("commit past the log: panics", Lab.follower, replace(HEARTBEAT, commit=6), PAST),
        ("the same of a later term", Lab.follower, replace(HEARTBEAT, term=9, commit=6), PAST),
        ("two leaders", Lab.follower, replace(HEARTBEAT, sender=3), "heartbeat: not from the leader of its term"),
    ],
    "response": [
        ("index past the log counts", Lab.leader, replace(RESPONSE, index=1000), "append response: past our log"),
        ("hint", Lab.leader, replace(RESPONSE, reject=True, reject_hint=3), "append response: past our log"),
        (
            "asks for a snapshot",
            Lab.leader,
            replace(RESPONSE, request_snapshot=2),
            "append response: asks for a snapshot",
        ),
        ("no member", Lab.leader, replace(RESPONSE, sender=9), "response of no member"),
        ("vote of no member", Lab.candidate, Message(Kind.VOTE_RESPONSE, 1, 9, 2), "response of no member"),
        ("pre-vote of no member", Lab.candidate, Message(Kind.PRE_VOTE_RESPONSE, 1, 9, 2), "response of no member"),
        ("heartbeat of no member", Lab.leader, Message(Kind.HEARTBEAT_RESPONSE, 1, 9, 2), "response of no member"),
        (
            "foreign context",
            Lab.leader,
            Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2, context=b"x"),
            "heartbeat response: context is not ours",
        ),
    ],
    "vote": [
        ("vote context", Lab.follower, replace(VOTE, context=b"x"), "vote: unknown context"),
        ("pre-vote context", Lab.follower, replace(PRE_VOTE, context=b"x"), "vote: unknown context"),
        (
            "answer to a request that waits for the disk: panics",
            Lab.candidate,
            Message(Kind.VOTE_RESPONSE, 1, 2, 2),
            "vote response: to a request never sent",
        ),
    ],
    "timeout now": [
        ("not from the leader", Lab.follower, replace(TIMEOUT, sender=3), "timeout now: not from our leader"),
        ("of a later term", Lab.follower, replace(TIMEOUT, term=3), "timeout now: not from our leader"),
        ("of an earlier term", Lab.follower, replace(TIMEOUT, term=1), ""),
        ("to a learner", Lab.learner, TIMEOUT, "timeout now: we are no voter"),
    ],
}

GOOD = conf([1, 2, 3])
SNAPSHOTS: list[tuple[str, Snapshot | None, str]] = [
    ("empty", None, "snapshot: no metadata"),
    ("index 0", Snapshot(0, 2, GOOD), "snapshot: index out of range"),
    ("index 2^62", Snapshot(HUGE, 2, GOOD), "snapshot: index out of range"),
    ("term 0", Snapshot(50, 0, GOOD), "snapshot: term out of range"),
    ("later term", Snapshot(50, 3, GOOD), "snapshot: term out of range"),
    ("no conf state", Snapshot(50, 2), "snapshot: no conf state"),
    ("no voters: panics", Snapshot(50, 2, conf([], [2])), BAD_CONF),
    ("node 0: panics", Snapshot(50, 2, conf([0, 2])), BAD_CONF),
    ("voter and learner: panics", Snapshot(50, 2, conf([1, 2], [2])), BAD_CONF),
    ("outgoing and learner: panics", Snapshot(50, 2, conf([1], [2], [2])), BAD_CONF),
    ("next learner without outgoing: panics", Snapshot(50, 2, conf([1, 2], learners_next=(3,))), BAD_CONF),
    ("next learner that votes: panics", Snapshot(50, 2, conf([1, 2], [], [2], learners_next=(2,))), BAD_CONF),
    ("auto leave without outgoing: panics", Snapshot(50, 2, conf([1, 2], auto_leave=True)), BAD_CONF),
    ("doubled voters: let through", Snapshot(50, 2, conf([1, 2, 2])), BAD_CONF),
    ("without us: ignored for ever", Snapshot(50, 2, conf([1, 3])), "snapshot: we are not in it"),
    ("before our commit", Snapshot(4, 2, GOOD), "snapshot: before our commit"),
    ("conflict at the commit", Snapshot(5, 1, GOOD), "snapshot: conflicts with a committed entry"),
]

BAD_DISKS: list[tuple[str, EngineDisk]] = [
    ("term 0", replace(DISK, hard_state=HardState(0, 0, 5))),
    ("commit above the last row", replace(DISK, hard_state=HardState(4, 2, 8))),
    ("anchor without a term", replace(DISK, anchor=Anchor(2, 0))),
    ("anchor of a later term", replace(DISK, anchor=Anchor(2, 5))),
    ("gap behind the anchor", replace(DISK, rows=ROWS[1:])),
    ("gap in the rows", replace(DISK, rows=[*ROWS[:2], ROWS[3]])),
    ("row of a later term", replace(DISK, rows=[*ROWS, Entry(8, 5).row])),
    ("terms that descend", replace(DISK, rows=[*ROWS, Entry(8, 2).row, Entry(9, 1).row])),
    ("undecodable row", replace(DISK, rows=[*ROWS, (8, 1, b"\xff")])),
    ("row of another index", replace(DISK, rows=[*ROWS, (8, 1, Entry(9, 1).encode())])),
    ("unknown entry type", replace(DISK, rows=[*ROWS, Entry(8, 1, kind=9).row])),
    ("undecodable conf change", replace(DISK, rows=[*ROWS, Entry(8, 1, b"\xff", kind=CONF_CHANGE_V2).row])),
    ("unknown conf change", replace(DISK, rows=[*ROWS, Entry(8, 1, conf_change(9, 4), kind=CONF_CHANGE).row])),
    ("anchor without a snapshot", replace(DISK, snapshot=None)),
    ("snapshot before the anchor", replace(DISK, snapshot=(1, 1, conf([1])))),
    ("snapshot after the rows", replace(DISK, snapshot=(8, 1, conf([1])))),
    ("snapshot of another term", replace(DISK, snapshot=(2, 2, conf([1])))),
    ("snapshot without voters", replace(DISK, snapshot=(2, 1, conf([])))),
    ("snapshot with doubled voters", replace(DISK, snapshot=(2, 1, conf([1, 1])))),
    ("snapshot whose voter learns", replace(DISK, snapshot=(2, 1, conf([1], [1])))),
]


def _view(node: Consensus) -> tuple[object, ...]:
    status = node.status()
    return status.role, status.term, status.vote, status.leader, status.commit, status.last_index, status.progress


def _calls(node: Consensus) -> list[Callable[[], object]]:
    """Every call there is."""
    return [
        node.tick,
        node.campaign,
        lambda: node.step(1, []),
        lambda: node.step_snapshot(1, Message(Kind.SNAPSHOT, 1, 2, 2, snapshot=Snapshot(9, 2, GOOD)).encode(), 9, 2),
        lambda: node.propose([(b"", b"x")]),
        lambda: node.propose_conf_change(b"", [("remove", 2)]),
        lambda: node.read_index(b"x"),
        lambda: node.transfer_leader(2),
        node.announce_commit,
        lambda: node.report_unreachable(2),
        lambda: node.report_snapshot(2, True),
        node.ready,
        lambda: node.persisted(1),
        lambda: node.snapshot_made(1, 1, conf([1])),
        lambda: node.compact(1),
        node.status,
    ]


def _commit(node: Consensus, changes: Sequence[tuple[str, int]]) -> list[tuple[int, ConfState, str | None]]:
    """Propose a change at a leader and let the others acknowledge it."""
    index, _ = node.propose_conf_change(b"why", changes)
    drain(node)
    acknowledge(node, index)
    return [state for ready in drain(node) for state in ready.conf_states]


class ConsensusSuite:
    """Subclass it, with the fixtures `open_engine` and `cause_panic`."""

    cannot_keep: ClassVar[Mapping[str, str]] = {}
    """Name of a check → why this engine fails it. It must fail: a reason that is no longer true is found."""

    @pytest.fixture(autouse=True)
    def _mark_what_it_cannot_keep(self, request: pytest.FixtureRequest) -> None:
        unknown = [name for name in self.cannot_keep if not hasattr(self, name)]
        assert not unknown, f"no such checks: {unknown}"
        reason = self.cannot_keep.get(request.function.__name__)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def lab(self, open_engine: OpenEngine) -> Lab:
        """Open engines in the states that checks begin with."""
        return Lab(open_engine)

    # --- elections (Raft paper §5.2, §5.4.1) ---

    def test_paper_5_1_a_later_term_makes_a_follower_of_anyone(self, lab: Lab) -> None:
        """A node that learns of a later term steps down, whatever it was."""
        for make in (Lab.follower, Lab.candidate, Lab.leader):
            node = make(lab)
            me = node.status().node_id
            assert give(node, Message(Kind.APPEND, me, 3, 9, index=1, log_term=1)) == []
            status = node.status()
            assert (status.role, status.term, status.leader) == (Role.FOLLOWER, 9, 3)

    def test_paper_5_2_a_node_starts_as_follower_and_campaigns_when_nobody_leads(self, lab: Lab) -> None:
        """Silence for an election timeout makes a voter ask the others, PreVote first."""
        node = lab.founded(1, [1, 2, 3])
        assert node.status().role is Role.FOLLOWER
        for _ in range(40):
            node.tick()

        assert node.status().role is Role.PRE_CANDIDATE
        asked = sent(drain(node))
        assert {(message.kind, message.to) for message in asked} == {(Kind.PRE_VOTE, 2), (Kind.PRE_VOTE, 3)}

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_paper_5_2_a_quorum_elects_one_leader(self, lab: Lab, size: int) -> None:
        """A leader has a quorum's votes, and everybody knows it."""
        cluster = lab.cluster(size)
        cluster.elect(1)
        assert [cluster[node_id].status().leader for node_id in cluster.nodes] == [1] * size
        assert {cluster[node_id].status().term for node_id in cluster.nodes} == {2}
        assert cluster.dropped == []

    def test_paper_5_2_no_leader_without_a_quorum(self, lab: Lab) -> None:
        """Two of five cannot elect."""
        cluster = lab.cluster(5)
        cluster.cut = {3, 4, 5}
        cluster.tick(300, only=[1, 2])
        assert cluster.leader is None

    def test_paper_5_2_one_vote_a_term_first_come_first_served(self, lab: Lab) -> None:
        """A second candidate of the same term is rejected, the first one answered again."""
        node = lab.founded(2, [1, 2, 3])
        answers = []
        for sender in (1, 3, 1):
            give(node, Message(Kind.VOTE, 2, sender, 2, index=1, log_term=1))
            answers += [(m.to, m.reject) for m in sent(drain(node))]

        assert answers == [(1, False), (3, True), (1, False)]

    def test_paper_5_2_a_vote_survives_a_restart(self, lab: Lab) -> None:
        """Term and vote are in the hard state: a restarted node cannot vote twice in one term."""
        disk = EngineDisk.founded([1, 2, 3])
        node = lab.open(disk, 2)
        give(node, Message(Kind.VOTE, 2, 1, 2, index=1, log_term=1))
        for ready in drain(node):
            disk.save(ready)

        node = lab.open(disk, 2)
        assert (node.status().term, node.status().vote) == (2, 1)
        give(node, Message(Kind.VOTE, 2, 3, 2, index=1, log_term=1))
        assert [(m.to, m.reject) for m in sent(drain(node))] == [(3, True)]

    @pytest.mark.parametrize(
        ("index", "log_term", "granted"), [(5, 2, True), (4, 2, False), (9, 1, False), (2, 3, True), (6, 2, True)]
    )
    def test_paper_5_4_1_a_vote_only_for_a_log_that_is_up_to_date(
        self, lab: Lab, index: int, log_term: int, granted: bool
    ) -> None:
        """The later last term wins, then the longer log."""
        node = lab.follower(5)
        for _ in range(40):
            node.tick()  # its leader's lease is over

        drain(node)
        give(node, Message(Kind.VOTE, 2, 3, 9, index=index, log_term=log_term))
        assert [m.reject for m in sent(drain(node))] == [not granted]

    def test_paper_5_2_a_candidate_steps_down_for_a_leader_of_its_term(self, lab: Lab) -> None:
        """An append of the same term settles the election."""
        node = lab.candidate(persist=True)
        give(node, Message(Kind.APPEND, 1, 3, 2, index=1, log_term=1))
        assert (node.status().role, node.status().leader) == (Role.FOLLOWER, 3)

    def test_paper_5_2_rejections_of_a_quorum_end_a_candidacy(self, lab: Lab) -> None:
        """A candidate that cannot win any more waits."""
        node = lab.candidate(persist=True)
        for peer in (2, 3):
            give(node, Message(Kind.VOTE_RESPONSE, 1, peer, 2, reject=True))

        assert node.status().role is Role.FOLLOWER

    # --- the log (Raft paper §5.3, §5.4.2) ---

    def test_paper_5_3_a_leader_replicates_and_commits(self, lab: Lab) -> None:
        """What a leader takes is applied everywhere, in order."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        commands = [b"%d" % step for step in range(50)]
        for command in commands:
            cluster[1].propose([(b"", command)])

        cluster.pump()
        cluster.tick(4)
        assert cluster.all_data() == dict.fromkeys((1, 2, 3), commands)

    def test_paper_5_3_a_commit_needs_a_quorum(self, lab: Lab) -> None:
        """A leader alone commits nothing; an answer of one peer of two is enough."""
        node = lab.leader()
        node.propose([(b"", b"x")])
        assert [entry for ready in drain(node) for entry in ready.committed] == []
        acknowledge(node, 3, peers=[2])
        assert [entry[4] for ready in drain(node) for entry in ready.committed] == [b"x"]

    @pytest.mark.parametrize(
        ("index", "log_term", "reject"), [(5, 2, False), (3, 2, False), (6, 2, True), (5, 3, True), (1, 1, False)]
    )
    def test_paper_5_3_an_append_must_match_what_is_before_it(
        self, lab: Lab, index: int, log_term: int, reject: bool
    ) -> None:
        """The check of (index, term) before the entries; a rejection gives a hint."""
        node = lab.follower(5)
        give(node, append(2, 1, 3, index=index, log_term=log_term, terms=[3]))
        [answer] = [m for m in sent(drain(node)) if m.kind == Kind.APPEND_RESPONSE]
        assert answer.reject == reject
        if not reject:
            assert answer.index == index + 1

    def test_paper_5_3_matching_entries_are_not_written_again(self, lab: Lab) -> None:
        """A repeated append changes nothing and is answered."""
        node = lab.follower(5)
        give(node, append(2, 1, 2, index=2, log_term=2, terms=[2, 2]))
        readies = drain(node)
        assert [ready.entries for ready in readies if ready.entries] == []
        assert [m.index for m in sent(readies)] == [4]

    @pytest.mark.parametrize("terms", [[], [2], [2, 2, 2], [2, 2, 2, 2, 2], [3, 3], [2, 2, 2, 3, 3, 3]])
    def test_paper_5_3_a_new_leader_makes_the_others_logs_its_own(self, lab: Lab, terms: list[int]) -> None:
        """Missing and superfluous entries alike (figure 7): the leader's log wins."""
        rows = [Entry(index, term, b"%d" % term).row for index, term in enumerate([2, 2, 2, 4, 4, 6], start=2)]
        mine = EngineDisk(HardState(8, 0, 1), Anchor(1, 1), (1, 1, GOOD), rows)
        other = [Entry(index, term, b"%d" % term).row for index, term in enumerate(terms, start=2)]
        theirs = EngineDisk(HardState(8, 0, 1), Anchor(1, 1), (1, 1, GOOD), other)
        cluster = lab.cluster(disks={1: mine, 2: theirs, 3: EngineDisk.founded([1, 2, 3])})
        cluster.elect(1)
        cluster.tick(5)
        assert cluster.disks[2].rows == cluster.disks[1].rows == cluster.disks[3].rows
        assert cluster.disks[1].rows[:6] == rows
        assert cluster.dropped == []

    def test_paper_5_4_2_only_entries_of_its_own_term_are_committed_by_counting(self, lab: Lab) -> None:
        """Figure 8: entries of earlier terms commit with the first of this one, never before."""
        rows = [Entry(2, 2, b"old").row]
        node = lab.open(EngineDisk(HardState(3, 0, 1), Anchor(1, 1), (1, 1, GOOD), rows), 1)
        node.campaign()
        drain(node)
        give(node, Message(Kind.PRE_VOTE_RESPONSE, 1, 2, 4))
        drain(node)
        give(node, Message(Kind.VOTE_RESPONSE, 1, 2, 4))
        drain(node)
        acknowledge(node, 2)
        assert node.status().commit == 1
        acknowledge(node, 3, peers=[2])
        assert [entry[0] for ready in drain(node) for entry in ready.committed] == [2, 3]

    def test_paper_5_3_followers_are_told_of_a_new_commit(self, lab: Lab) -> None:
        """By a message of its own."""
        node = lab.leader()
        node.propose([(b"", b"x")])
        drain(node)
        acknowledge(node, 3, peers=[2])
        assert {(m.to, m.commit) for m in sent(drain(node))} == {(2, 3), (3, 3)}

    def test_paper_5_3_without_notices_a_commit_waits_to_be_announced(self, open_engine: OpenEngine) -> None:
        """Or for the next append: under load that halves the messages."""
        node = Lab(lambda context: open_engine(replace(context, commit_notices=False))).leader()
        node.propose([(b"", b"x")])
        drain(node)
        acknowledge(node, 3, peers=[2])
        assert sent(drain(node)) == []
        node.announce_commit()
        # Node 3 too, though its acknowledgement is still on its way.
        assert {(m.kind, m.to, m.commit) for m in sent(drain(node))} == {(Kind.APPEND, 2, 3), (Kind.APPEND, 3, 3)}

    def test_paper_5_3_only_a_leader_announces_a_commit(self, lab: Lab) -> None:
        """Nothing happens on another node."""
        node = lab.committed_follower()
        node.announce_commit()
        assert drain(node) == []

    def test_messages_go_to_each_peer_in_order(self, lab: Lab) -> None:
        """A transport that keeps their order keeps raft's."""
        node = lab.leader()
        node.propose([(b"", b"first")])
        node.propose([(b"", b"second")])
        ready = node.ready()
        assert ready is not None
        for peer, batch in ready.messages:
            appends = [decode(raw) for raw in batch]
            assert [(m.to, m.entries[0].data) for m in appends] == [(peer, b"first"), (peer, b"second")]

        assert {peer for peer, _ in ready.messages} == {2, 3}

    def test_lost_appends_are_sent_again(self, lab: Lab) -> None:
        """After `report_unreachable` the peer is probed, and gets what it misses."""
        node = lab.leader()
        node.propose([(b"", b"lost")])
        drain(node)
        node.report_unreachable(2)
        assert PeerProgress(2, 2, 3, "probe", True) in node.status().progress
        give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2))
        again = [m for m in sent(drain(node)) if m.to == 2]
        assert [entry.data for message in again for entry in message.entries] == [b"lost"]

    # --- flow control (raft-rs test_raft_flow_control) ---

    def test_rule_23_appends_under_way_to_one_peer_are_bounded(self, lab: Lab) -> None:
        """A full window sends nothing; an answer, or a heartbeat's, makes room."""
        node = lab.leader(max_inflight_msgs=4)
        for step in range(6):
            node.propose([(b"", b"%d" % step)])

        def to_two() -> list[list[int]]:
            appends = [message for message in sent(drain(node)) if message.to == 2]
            return [[entry.index for entry in message.entries] for message in appends]

        assert to_two() == [[3], [4], [5], [6]]
        node.propose([(b"", b"more")])
        assert to_two() == []
        give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2))
        assert to_two() == [[7, 8, 9]]
        node.propose([(b"", b"more")])
        assert to_two() == []
        acknowledge(node, 4, peers=[2])
        assert to_two() == [[10]]

    def test_rule_23_a_message_carries_a_bounded_number_of_bytes(self, lab: Lab) -> None:
        """A peer that is behind gets many messages of a bounded size, not one of any size."""
        node = lab.leader(max_size_per_msg=4096)
        for _ in range(20):
            node.propose([(b"", b"x" * 1000)])
            drain(node)

        node.report_unreachable(2)
        give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2))
        sizes = []
        while appends := [m for m in sent(drain(node)) if m.to == 2 and m.entries]:
            sizes += [len(message.encode()) for message in appends]
            acknowledge(node, appends[-1].entries[-1].index, peers=[2])

        assert len(sizes) > 4
        assert max(sizes) < 4096 + 1100

    # --- PreVote and CheckQuorum (thesis §9.6, §6.2) ---

    def test_prevote_a_node_that_was_cut_off_does_not_disturb(self, lab: Lab) -> None:
        """It asks without raising its term: when it comes back its leader leads on in the old one."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster.cut = {3}
        cluster.tick(200)
        assert cluster[3].status().term == 2
        cluster.cut = set()
        cluster.tick(10)
        assert (cluster.leader, cluster[1].status().term) == (1, 2)
        assert cluster[3].status().leader == 1

    def test_prevote_is_rejected_while_a_leader_is_heard(self, lab: Lab) -> None:
        """Nobody who hears its leader helps another to its place."""
        node = lab.follower(5)
        assert give(node, replace(PRE_VOTE, index=9, log_term=2)) == []
        assert [m for m in sent(drain(node)) if not m.reject] == []

    def test_checkquorum_a_leader_that_hears_no_quorum_steps_down(self, lab: Lab) -> None:
        """Its clients are told to look elsewhere."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster.cut = {1}
        cluster.tick(45, only=[1])
        assert cluster[1].status().role is not Role.LEADER
        cluster.tick_until(lambda: cluster.leader is not None)
        assert cluster.leader in {2, 3}

    def test_checkquorum_a_vote_is_ignored_while_a_leader_is_heard(self, lab: Lab) -> None:
        """Even one of a later term: else a removed node could depose leaders for ever."""
        node = lab.follower(5)
        give(node, replace(VOTE, term=9))
        assert node.status().term == 2
        assert drain(node) == []

    # --- what waits for the disk ---

    def test_rule_1_messages_wait_for_term_and_vote(self, lab: Lab) -> None:
        """The Ready that makes a voter leader holds its term, its vote and its first append.

        Sent before the save, a crash in between lets two histories live under one index and term.
        """
        node = lab.founded(1, [1], [2])
        node.campaign()
        readies = drain(node, persist=False)
        assert readies[0].hard_state == HardState(2, 1, 1)
        assert readies[0].must_sync
        node.propose([(b"", b"more")])
        readies += drain(node, persist=False)
        assert sent(readies, held=False) == []
        assert Kind.APPEND in kinds(sent(readies, held=True))

        # Once the vote is durable the leader's messages run ahead of its disk.
        node.persisted(readies[-1].number)
        assert give(node, Message(Kind.APPEND_RESPONSE, 1, 2, 2, index=2)) == []
        node.propose([(b"", b"again")])
        later = drain(node, persist=False)
        assert later[-1].entries
        assert Kind.APPEND in kinds(sent(later, held=False))
        assert sent(later, held=True) == []

    def test_rule_1_a_vote_waits_for_the_disk(self, lab: Lab) -> None:
        """The paper's "persistent state, updated before responding"."""
        node = lab.founded(2, [1, 2, 3])
        give(node, Message(Kind.VOTE, 2, 3, 2, index=1, log_term=1))
        [ready] = drain(node, persist=False)
        assert ready.hard_state == HardState(2, 3, 1)
        assert ready.must_sync
        assert sent([ready], held=False) == []
        assert kinds(sent([ready], held=True)) == [Kind.VOTE_RESPONSE]

    def test_rule_1_a_commit_index_alone_need_not_be_synced(self, lab: Lab) -> None:
        """It is a hint: a crash loses nothing but it."""
        node = lab.follower(5)
        give(node, replace(HEARTBEAT, commit=5))
        [ready] = drain(node)
        assert ready.hard_state == HardState(2, 0, 5)
        assert not ready.must_sync
        assert [entry[0] for entry in ready.committed] == [2, 3, 4, 5]

    def test_rule_1_an_acknowledgement_waits_for_the_disk(self, lab: Lab) -> None:
        """A follower's answer says that its entries are durable, and nothing is handed out before they are."""
        node = lab.follower(5)
        give(node, append(2, 1, 2, index=5, log_term=2, commit=6, terms=[2]))
        readies = drain(node, persist=False)
        assert sent(readies, held=False) == []
        assert kinds(sent(readies, held=True)) == [Kind.APPEND_RESPONSE]
        assert [entry[0] for ready in readies for entry in ready.committed] == [2, 3, 4, 5]
        node.persisted(readies[-1].number)
        assert [entry[0] for ready in drain(node) for entry in ready.committed] == [6]

    def test_rule_7_persisted_is_told_for_the_highest_number_only(self, lab: Lab) -> None:
        """Three saves were merged into one: the word about the last stands for all of them."""
        node = lab.founded(1, [1])
        node.campaign()
        drain(node)
        number = 0
        for data in (b"a", b"b", b"c"):
            node.propose([(b"", data)])
            ready = node.ready()
            assert ready is not None
            assert not ready.committed
            number = ready.number

        node.persisted(number)
        node.persisted(number - 1)
        assert [entry[4] for ready in drain(node) for entry in ready.committed] == [b"a", b"b", b"c"]

    def test_rule_7_an_append_replaces_a_conflicting_tail(self, lab: Lab) -> None:
        """The old entries' save is long done; only the new entry's own word makes it count."""
        node = lab.follower(5, committed=3)
        give(node, append(2, 3, 3, index=3, log_term=2, terms=[3]))
        [ready] = drain(node, persist=False)
        assert [row[:2] for row in ready.entries] == [(4, 3)]
        assert node.status().last_index == 4
        give(node, Message(Kind.HEARTBEAT, 2, 3, 3, commit=4))
        assert [entry[0] for later in drain(node, persist=False) for entry in later.committed] == []
        node.persisted(ready.number)
        assert [entry[:2] for later in drain(node) for entry in later.committed] == [(4, 3)]

    def test_rule_7_a_late_word_about_the_disk_is_ignored_and_an_early_one_refused(self, lab: Lab) -> None:
        """Nothing can be durable that was never handed out."""
        node = lab.leader()
        node.persisted(1)
        with pytest.raises(MISUSE):
            node.persisted(1000)

    # --- what a node starts from ---

    def test_rule_2_a_restarted_node_never_leads_by_itself(self, lab: Lab) -> None:
        """The first node of a cluster too: it elects, or follows."""
        node = lab.founded(1, [1])
        assert node.status().role is Role.FOLLOWER
        assert drain(node) == []

    def test_rule_4_raft_starts_at_its_snapshot_and_replays_the_rest(self, lab: Lab) -> None:
        """Applied = the snapshot's index, always."""
        node = lab.open(DISK, 2)
        [ready] = drain(node)
        assert [entry[0] for entry in ready.committed] == [3, 4, 5]
        assert ready.hard_state is None
        status = node.status()
        assert (status.term, status.vote, status.commit, status.first_index, status.last_index) == (4, 2, 5, 3, 7)
        assert status.conf_state == GOOD

    def test_rule_4_a_restarted_cluster_elects_and_goes_on(self, lab: Lab) -> None:
        """Nothing acknowledged is lost by a restart of all."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster[1].propose([(b"", b"before")])
        cluster.pump()
        for node_id in (1, 2, 3):
            cluster.restart(node_id)
            assert cluster[node_id].status().role is Role.FOLLOWER

        cluster.tick_until(lambda: cluster.leader is not None)
        cluster[cluster.leader or 0].propose([(b"", b"after")])
        cluster.pump()
        # Each node applied the first command twice: once before the restart, once when it was replayed.
        assert [cluster.data(node_id) for node_id in (1, 2, 3)] == [[b"before", b"before", b"after"]] * 3

    def test_rule_5_commit_at_load_is_at_least_the_snapshot(self, lab: Lab) -> None:
        """A snapshot that is ahead of the saved commit panics raft-rs at every start unless it is told so."""
        node = lab.open(replace(DISK, hard_state=HardState(4, 2, 3), snapshot=(6, 1, GOOD)), 2)
        assert node.status().commit == 6
        assert drain(node) == []

    def test_rule_5_a_snapshot_is_of_entries_that_were_handed_out_and_are_durable(self, lab: Lab) -> None:
        """And the log is cut only behind a durable snapshot."""
        with pytest.raises(MISUSE):
            lab.follower(5).snapshot_made(5, 2, GOOD)
        with pytest.raises(MISUSE):
            lab.follower(5).compact(5)
        with pytest.raises(MISUSE):
            lab.committed_follower().snapshot_made(5, 1, GOOD)
        with pytest.raises(MISUSE):
            lab.committed_follower().snapshot_made(5, 2, conf([]))

        node = lab.committed_follower()
        node.snapshot_made(5, 2, GOOD)
        node.compact(4)
        node.compact(3)
        assert node.status().first_index == 5

    def test_rule_5_a_compacted_log_still_knows_the_term_before_its_first_entry(self, lab: Lab) -> None:
        """A storage that forgets it panics at the next election."""
        node = lab.committed_follower()
        node.snapshot_made(5, 2, GOOD)
        node.compact(5)
        assert give(node, append(2, 1, 2, index=5, log_term=2, terms=[2])) == []
        [answer] = sent(drain(node))
        assert (answer.index, answer.reject) == (6, False)
        for _ in range(100):
            node.tick()

        assert node.status().role is Role.PRE_CANDIDATE

    @pytest.mark.parametrize("disk", [pytest.param(disk, id=name) for name, disk in BAD_DISKS])
    def test_rule_5_a_disk_that_raft_would_panic_at_is_refused(self, lab: Lab, disk: EngineDisk) -> None:
        """At the start, with a text, and not when it is too late."""
        with pytest.raises(ConsensusError):
            lab.open(disk, 2)

    @pytest.mark.parametrize("limit", ["max_size_per_msg", "max_inflight_msgs", "max_uncommitted_size"])
    def test_limits_that_raft_cannot_work_with_are_refused(self, lab: Lab, limit: str) -> None:
        """`max_size_per_msg` of 0 would mean one entry a message."""
        with pytest.raises(ConsensusError):
            lab.open(DISK, 2, **{limit: 0})

    def test_timing_that_raft_cannot_work_with_is_refused(self, open_engine: OpenEngine) -> None:
        """An election must take longer than a heartbeat."""
        snapshot = SnapshotMeta(1, 1, GOOD)
        for timing in (EngineTiming(2, 2), EngineTiming(20, 0)):
            with pytest.raises(ConsensusError):
                open_engine(EngineContext(1, 7, HardState(1, 0, 1), Anchor(1, 1), snapshot, (), timing=timing))

    def test_a_node_id_that_no_node_has_is_refused(self, lab: Lab) -> None:
        """Ids begin at 1."""
        with pytest.raises(ConsensusError):
            lab.open(DISK, 0)

    def test_a_joint_state_survives_a_restart(self, lab: Lab) -> None:
        """All five parts of it."""
        joint = conf([1, 2, 4], [5], [1, 2, 3], learners_next=(3,), auto_leave=True)
        assert lab.open(replace(DISK, snapshot=(2, 1, joint)), 2).status().conf_state == joint

    # --- snapshots ---

    def test_rule_6_an_installed_snapshot_replaces_the_log_and_survives_a_restart(self, lab: Lab) -> None:
        """A follower that is too far behind goes on from it."""
        cluster = lab.cluster(3, max_size_per_msg=1)
        cluster.elect(1)
        cluster.cut = {3}
        cluster[1].propose([(b"", b"%d" % step) for step in range(20)])
        cluster.pump()
        made = cluster.make_snapshot(1)
        cluster.cut = set()
        cluster.tick_until(lambda: cluster[3].status().last_index >= made)
        assert cluster.disks[3].snapshot == cluster.disks[1].snapshot
        cluster.restart(3)
        assert cluster[3].status().first_index == made + 1
        cluster[1].propose([(b"", b"after")])
        cluster.tick(5)
        assert cluster.data(3) == [b"after"]
        assert cluster.dropped == []

    def test_rule_9_nothing_moves_while_a_snapshot_is_on_its_way_to_disk(self, lab: Lab) -> None:
        """An election here panics in raft-rs: it would hold committed entries that are not applied."""
        node, number = lab.installing()
        for _ in range(100):
            node.tick()

        node.campaign()
        assert give(node, TIMEOUT) == ["timeout now: a snapshot is being installed"]
        assert refusal(lambda: node.transfer_leader(1)) == "installing"
        assert node.status().role is Role.FOLLOWER
        assert drain(node, persist=False) == []

        node.persisted(number)
        for _ in range(100):
            node.tick()

        assert node.status().role is Role.PRE_CANDIDATE

    def test_rule_9_a_snapshot_is_answered_once_it_is_durable(self, lab: Lab) -> None:
        """Its commit is durable with it."""
        node = lab.follower(5)
        assert give_snapshot(node, 100, 2) is None
        [ready] = drain(node, persist=False)
        assert (ready.snapshot, ready.hard_state, ready.must_sync) == ((100, 2), HardState(2, 0, 100), True)
        assert sent([ready], held=False) == []
        [answer] = sent([ready], held=True)
        assert (answer.kind, answer.index) == (Kind.APPEND_RESPONSE, 100)

    def test_rule_9_the_log_goes_on_behind_a_snapshot_that_is_not_durable_yet(self, lab: Lab) -> None:
        """Entries after it are taken, and handed out once both are durable."""
        node, number = lab.installing()
        assert give(node, append(2, 1, 2, index=100, log_term=2, commit=101, terms=[2, 2])) == []
        [ready] = drain(node, persist=False)
        assert [row[0] for row in ready.entries] == [101, 102]
        assert not ready.committed
        node.persisted(number)
        assert [entry for later in drain(node, persist=False) for entry in later.committed] == []
        node.persisted(ready.number)
        assert [entry[0] for later in drain(node) for entry in later.committed] == [101]
        node.compact(100)
        assert node.status().first_index == 101

    def test_rule_9_one_snapshot_at_a_time(self, lab: Lab) -> None:
        """A second one waits for the first one's disk."""
        node, number = lab.installing()
        assert give_snapshot(node, 200, 2) == "snapshot: another one is being installed"
        node.persisted(number)
        assert give_snapshot(node, 200, 2) is None
        [ready] = drain(node)
        assert ready.snapshot == (200, 2)

    def test_rule_9_a_snapshot_of_our_own_that_was_overtaken_is_of_no_use(self, lab: Lab) -> None:
        """The installed one stays the newest."""
        node, number = lab.installing()
        node.persisted(number)
        node.snapshot_made(5, 2, GOOD)
        node.compact(100)
        assert node.status().first_index == 101

    def test_rule_9_a_snapshot_changes_who_takes_part(self, lab: Lab) -> None:
        """Its ConfState is in force at once."""
        node = lab.follower(5)
        assert give_snapshot(node, 100, 2, conf([1, 2], [4])) is None
        assert node.status().conf_state == conf([1, 2], [4])

    def test_a_snapshot_that_the_log_reaches_already_is_not_installed(self, lab: Lab) -> None:
        """It only proves a commit."""
        node = lab.follower(5)
        assert give_snapshot(node, 4, 2) is None
        [ready] = drain(node)
        assert ready.snapshot is None
        assert node.status().commit == 4
        assert node.status().conf_state == GOOD

    def test_a_snapshot_other_than_the_staged_one_is_dropped(self, lab: Lab) -> None:
        """The sender's header says what is staged, its message what raft believes: both must say the same."""
        node = lab.follower(5)
        message = Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=Snapshot(100, 2, GOOD)).encode()
        assert node.step_snapshot(1, message, 99, 2)
        assert node.step_snapshot(1, message, 100, 1)
        assert drain(node) == []

    def test_rule_12_a_snapshot_is_given_only_to_one_it_holds(self, lab: Lab) -> None:
        """A joiner ignores a snapshot without itself for ever: a new one is asked for instead."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster.make_snapshot(1)
        cluster[1].propose_conf_change(b"", [("add_learner", 4)])
        cluster.add(4)
        cluster.tick(10)
        assert cluster.wanted == {1}
        assert cluster[4].status().last_index == 0

        made = cluster.make_snapshot(1, compact=False)
        cluster.tick(10)
        status = cluster[4].status()
        assert status.conf_state == conf([1, 2, 3], [4])
        assert status.last_index >= made
        assert cluster.dropped == []

    def _behind(self, lab: Lab) -> Consensus:
        """Open a leader whose peer 3 needs a snapshot and was just sent one."""
        node = lab.leader()
        node.propose([(b"", b"x")] * 3)
        drain(node)
        acknowledge(node, 5, peers=[2])
        drain(node)
        node.snapshot_made(4, 2, GOOD)
        node.compact(4)
        node.report_unreachable(3)
        give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))
        [ready] = drain(node)
        [(to, index, raw)] = ready.snapshots
        assert (to, index, decode(raw).snapshot) == (3, 4, Snapshot(4, 2))
        assert sent([ready]) == []
        assert not ready.snapshot_wanted
        return node

    def test_rule_12_a_peer_behind_the_log_gets_the_newest_snapshot(self, lab: Lab) -> None:
        """While it streams nothing else is sent to that peer."""
        node = self._behind(lab)
        give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))
        assert drain(node) == []
        node.propose([(b"", b"y")])
        assert {message.to for message in sent(drain(node))} == {2}

    def test_rule_13_a_failed_snapshot_is_sent_again(self, lab: Lab) -> None:
        """At the peer's next sign of life."""
        node = self._behind(lab)
        node.report_snapshot(3, False)
        give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))
        [ready] = drain(node)
        assert [(to, index) for to, index, _ in ready.snapshots] == [(3, 4)]

    def test_rule_13_a_finished_snapshot_is_followed_by_the_log(self, lab: Lab) -> None:
        """The peer goes on where the snapshot ends."""
        node = self._behind(lab)
        node.report_snapshot(3, True)
        give(node, Message(Kind.APPEND_RESPONSE, 1, 3, 2, index=4))
        appends = [m for m in sent(drain(node)) if m.to == 3]
        assert [entry.index for message in appends for entry in message.entries] == [5]

    def test_rule_13_a_report_about_a_peer_that_gets_none_changes_nothing(self, lab: Lab) -> None:
        """It may come late, or about one that is gone."""
        node = lab.leader()
        before = _view(node)
        for peer in (2, 9):
            node.report_snapshot(peer, True)
            node.report_snapshot(peer, False)
            if peer == 9:
                node.report_unreachable(peer)

        assert _view(node) == before

    # --- who takes part ---

    def test_rule_10_a_simple_change_is_in_force_when_it_is_handed_out(self, lab: Lab) -> None:
        """Each with its index and the ConfState after it."""
        node = lab.leader()
        assert _commit(node, [("add_learner", 4)]) == [(3, conf([1, 2, 3], [4]), None)]
        assert node.status().conf_state == conf([1, 2, 3], [4])
        assert _commit(node, [("add_voter", 4)]) == [(4, conf([1, 2, 3, 4]), None)]
        assert _commit(node, [("remove", 4)]) == [(5, GOOD, None)]

    def test_rule_10_a_joint_change_leaves_by_itself(self, lab: Lab) -> None:
        """raft-rs appends the leave only if it hears of "applied" after the change was put in force."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster.add(4)
        cluster[1].propose_conf_change(b"", [("add_voter", 4), ("remove", 3)])
        cluster.pump()
        joint = conf([1, 2, 4], [], [1, 2, 3], auto_leave=True)
        assert cluster.confs[1] == [(3, joint, None), (4, conf([1, 2, 4]), None)]
        assert cluster.confs[2] == cluster.confs[1]
        assert cluster[1].status().conf_state == conf([1, 2, 4])

    def test_rule_10_a_joint_decision_needs_both_halves(self, lab: Lab) -> None:
        """Thesis §4.3: the old voters count until the joint state is left."""
        node = lab.leader()
        index, _ = node.propose_conf_change(b"", [("add_voter", 4), ("add_voter", 5), ("remove", 3)])
        drain(node)
        acknowledge(node, index)
        drain(node)
        assert node.status().conf_state.voters_outgoing == (1, 2, 3)
        leave = node.status().last_index
        acknowledge(node, leave, peers=[4, 5])
        assert node.status().commit == index
        acknowledge(node, leave, peers=[3])
        assert node.status().commit == leave

    def test_rule_10_a_voter_that_becomes_a_learner_waits_for_the_leave(self, lab: Lab) -> None:
        """It votes with the outgoing half until then."""
        node = lab.leader()
        index, _ = node.propose_conf_change(b"", [("add_voter", 4), ("add_learner", 3)])
        drain(node)
        acknowledge(node, index)
        states = [state for ready in drain(node) for state in ready.conf_states]
        joint = conf([1, 2, 4], [], [1, 2, 3], learners_next=(3,), auto_leave=True)
        assert states == [(index, joint, None)]
        acknowledge(node, node.status().last_index, peers=[2, 3, 4])
        states = [state for ready in drain(node) for state in ready.conf_states]
        assert [state for _, state, _ in states] == [conf([1, 2, 4], [3])]

    def test_rule_10_a_leader_that_finds_itself_joint_leaves_at_a_tick(self, lab: Lab) -> None:
        """Whoever entered this joint state meant to leave it himself and is gone."""
        joint = conf([1, 2, 4], [], [1, 2, 3])
        disks = {node_id: EngineDisk(HardState(1, 0, 1), Anchor(1, 1), (1, 1, joint)) for node_id in (1, 2, 3, 4)}
        cluster = lab.cluster(disks=disks)
        cluster.elect(2)
        assert cluster[2].status().conf_state == joint
        cluster.tick(only=[2])
        assert cluster[2].status().conf_state == conf([1, 2, 4])
        cluster.tick(10)
        assert cluster.removed == {3}

    def test_rule_10_a_refused_change_reads_the_same_on_every_replica(self, lab: Lab) -> None:
        """Each was allowed when it was proposed; only the last still is when it is applied."""
        entries = [
            Entry(2, 2, conf_change_v2((REMOVE, 2), (REMOVE, 1)), kind=CONF_CHANGE_V2),
            Entry(3, 2, conf_change_v2(), kind=CONF_CHANGE_V2),
            Entry(4, 2, conf_change_v2((ADD_VOTER, 4)), kind=CONF_CHANGE_V2),
        ]
        for node_id in (2, 3):
            node = lab.founded(node_id, [1, 2], [3])
            give(node, Message(Kind.APPEND, node_id, 1, 2, index=1, log_term=1, commit=4, entries=entries))
            assert [state for ready in drain(node) for state in ready.conf_states] == [
                (2, conf([1, 2], [3]), "removed all voters"),
                (3, conf([1, 2], [3]), "can't leave a non-joint config"),
                (4, conf([1, 2, 4], [3]), None),
            ]

    def test_rule_10_changes_of_both_kinds_are_applied(self, lab: Lab) -> None:
        """A log may hold the older kind of entry too."""
        node = lab.follower(5)
        entries = [
            Entry(6, 2, conf_change(ADD_LEARNER, 4), kind=CONF_CHANGE),
            Entry(7, 2, conf_change_v2((ADD_VOTER, 4)), kind=CONF_CHANGE_V2),
        ]
        give(node, replace(APPEND, commit=7, entries=entries))
        readies = drain(node)
        states = [state for ready in readies for state in ready.conf_states]
        assert states == [(6, conf([1, 2, 3], [4]), None), (7, conf([1, 2, 3, 4]), None)]
        handed_out = [entry[2] for ready in readies for entry in ready.committed if entry[0] > 5]
        assert handed_out == [EntryKind.CONF_CHANGE, EntryKind.CONF_CHANGE_V2]

    def test_rule_10_to_raft_applied_means_handed_out(self, lab: Lab) -> None:
        """A change is pending until then."""
        node = lab.leader()
        node.propose_conf_change(b"", [("add_learner", 4)])
        assert node.status().pending_conf_change
        assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 5)])) == "pending_conf_change"
        drain(node)
        acknowledge(node, 3)
        assert node.status().pending_conf_change
        drain(node)
        assert not node.status().pending_conf_change

    def test_rule_11_a_leader_is_not_made_to_remove_itself(self, lab: Lab) -> None:
        """It hands leadership over first."""
        node = lab.leader()
        assert refusal(lambda: node.propose_conf_change(b"", [("remove", 1)])) == "removes_leader"
        assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 1)])) == "removes_leader"
        both = [("add_voter", 4), ("remove", 1)]
        assert refusal(lambda: node.propose_conf_change(b"", both)) == "removes_leader"
        assert drain(node) == []

    def test_rule_11_a_removed_node_takes_no_more_calls(self, lab: Lab) -> None:
        """raft-rs panics at the next save or answer of one that is no member any more."""
        node = lab.follower(5)
        entries = [
            Entry(6, 2, conf_change_v2((REMOVE, 2)), kind=CONF_CHANGE_V2),
            Entry(7, 2, b"not ours to apply"),
        ]
        give(node, replace(APPEND, commit=7, entries=entries))
        readies = drain(node)
        assert [ready.removed for ready in readies] == [False, True]
        assert [entry[0] for ready in readies for entry in ready.committed] == [2, 3, 4, 5, 6]
        assert readies[-1].conf_states == [(6, conf([1, 3]), None)]
        for call in _calls(node):
            assert refusal(call) == "removed"

    def test_rule_11_a_leader_that_is_removed_all_the_same_stops(self, lab: Lab) -> None:
        """Proposed by its predecessor, committed by it: the removed one leads at that moment."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster.cut = {3}
        cluster.lose = lambda message: message.kind == Kind.APPEND_RESPONSE
        cluster[1].propose_conf_change(b"", [("remove", 2)])
        cluster.pump()
        cluster.lose = lambda message: False
        cluster.cut = {1}
        cluster.tick_until(lambda: cluster[2].status().commit >= 3 and cluster.confs[3] == [(3, conf([1, 3]), None)])
        assert not cluster.removed, "one of the two that stay does not know of it"
        cluster.cut = set()
        cluster.tick_until(lambda: cluster.removed == {2})
        assert cluster.last_ready[2].role is Role.LEADER
        assert cluster.confs[1] == cluster.confs[2] == [(3, conf([1, 3]), None)]

    @pytest.mark.parametrize("silence", [3, 100])
    def test_rule_11_of_two_voters_the_one_that_stays_knows_it_before_the_other_goes(
        self, lab: Lab, silence: int
    ) -> None:
        """Else it would need the vote of one that is gone; also if that one is deposed meanwhile, its log longer."""
        cluster = lab.cluster(2)
        cluster.elect(1)
        cluster.lose = lambda message: message.kind == Kind.APPEND_RESPONSE
        cluster[1].propose_conf_change(b"", [("remove", 2)])
        cluster.pump()
        cluster.cut = {1}
        cluster.tick_until(lambda: cluster[1].status().role is not Role.LEADER)
        cluster.cut = set()
        # The removed one leads and commits its removal, but the news of that is lost.
        cluster.lose = lambda message: message.kind in (Kind.APPEND, Kind.HEARTBEAT) and message.commit >= 3
        cluster.elect(2)
        assert cluster[2].status().commit >= 3
        cluster[2].propose([(b"", b"more")])
        with pytest.raises(Refused, match="pending_conf_change"):
            cluster[2].propose_conf_change(b"", [("add_learner", 9)])

        cluster.tick(silence)
        assert not cluster.removed
        assert not cluster.confs[1]
        cluster.lose = lambda message: False
        cluster.tick_until(lambda: cluster.removed == {2})
        assert cluster.confs[1] == [(3, conf([1]), None)]
        cluster.tick_until(lambda: cluster[1].status().role is Role.LEADER)

    def test_rule_11_a_stranger_to_its_own_conf_state_is_not_removed(self, lab: Lab) -> None:
        """A joiner replays changes from before it took part: only a member can be removed."""
        node = lab.open(EngineDisk(HardState(1, 0, 1), Anchor(1, 1), (1, 1, conf([1, 2]))), 5)
        change = Entry(2, 1, conf_change_v2((REMOVE, 2)), kind=CONF_CHANGE_V2)
        give(node, Message(Kind.APPEND, 5, 1, 1, index=1, log_term=1, commit=2, entries=[change]))
        assert [ready.removed for ready in drain(node)] == [False, False]
        assert give(node, append(5, 1, 1, index=2, log_term=1, terms=[1])) == []

    @pytest.mark.parametrize("changes", [[("promote", 4)], [("add_voter", 0)], [("remove", 1 << 62)]])
    def test_a_change_of_no_node_or_no_kind_is_an_error(self, lab: Lab, changes: list[tuple[str, int]]) -> None:
        """It is the caller's fault, not raft's."""
        with pytest.raises(MISUSE):
            lab.leader().propose_conf_change(b"", changes)

    # --- learners (thesis §4.2.1) ---

    def test_learners_neither_vote_nor_stand(self, lab: Lab) -> None:
        """Not by time, not by `campaign`, not by TimeoutNow."""
        node = lab.learner()
        for _ in range(100):
            node.tick()

        node.campaign()
        assert node.status().role is Role.FOLLOWER
        assert drain(node) == []

    def test_learners_get_the_log_and_do_not_count(self, lab: Lab) -> None:
        """A learner's answer commits nothing."""
        node = lab.leader()
        _commit(node, [("add_learner", 4)])
        give(node, Message(Kind.APPEND_RESPONSE, 1, 4, 2, index=3))
        drain(node)
        node.propose([(b"", b"x")])
        assert 4 in {message.to for message in sent(drain(node))}
        give(node, Message(Kind.APPEND_RESPONSE, 1, 4, 2, index=4))
        assert node.status().commit == 3
        acknowledge(node, 4, peers=[3])
        assert node.status().commit == 4

    def test_learners_that_are_made_voters_count(self, lab: Lab) -> None:
        """A joiner: a learner first, a voter when it has caught up."""
        cluster = lab.cluster(1)
        cluster.elect(1)
        cluster[1].propose([(b"", b"before")])
        cluster.pump()
        cluster[1].propose_conf_change(b"", [("add_learner", 2)])
        cluster.add(2)
        cluster.pump()
        cluster.tick(4)
        if cluster.wanted:
            cluster.make_snapshot(1, compact=False)

        cluster.tick(10)
        assert cluster[2].status().conf_state == conf([1], [2])
        cluster[1].propose_conf_change(b"", [("add_voter", 2)])
        cluster.tick(5)
        assert cluster[2].status().conf_state == conf([1, 2])
        cluster.cut = {1}
        cluster[1].propose([(b"", b"alone")])
        cluster.pump()
        assert b"alone" not in cluster.data(1)

    # --- proposals ---

    def test_rule_15_a_batch_is_one_proposal(self, lab: Lab) -> None:
        """All or none, with the place of the first."""
        node = lab.leader()
        assert node.propose([(b"c1", b"a"), (b"c2", b"b")]) == (3, 2)
        assert node.propose([(b"c3", b"")]) == (5, 2)
        [ready] = drain(node)
        assert [decode_entry(raw).data for _, _, raw in ready.entries] == [b"a", b"b", b""]
        assert [row[:2] for row in ready.entries] == [(3, 2), (4, 2), (5, 2)]
        acknowledge(node, 5)
        assert [entry for ready in drain(node) for entry in ready.committed] == [
            (3, 2, EntryKind.NORMAL, b"c1", b"a"),
            (4, 2, EntryKind.NORMAL, b"c2", b"b"),
            (5, 2, EntryKind.NORMAL, b"c3", b""),
        ]

    def test_rule_15_an_empty_batch_is_an_error(self, lab: Lab) -> None:
        """raft-rs panics at an empty MsgPropose."""
        with pytest.raises(MISUSE):
            lab.leader().propose([])

    def test_rule_15_a_follower_forwards_nothing(self, lab: Lab) -> None:
        """raft-rs's answer is Ok, and the proposal may vanish on its way."""
        node = lab.follower(5)
        assert refusal(lambda: node.propose([(b"", b"x")])) == "not_leader"
        assert refusal(lambda: node.propose_conf_change(b"", [("remove", 3)])) == "not_leader"
        assert refusal(lambda: node.transfer_leader(3)) == "not_leader"
        assert refusal(lambda: node.read_index(b"x")) == "not_leader"
        assert drain(node) == []

    def test_rule_15_a_full_leader_says_so(self, lab: Lab) -> None:
        """While nothing is uncommitted one batch of any size is taken: else a large command could never be."""
        node = lab.leader(max_uncommitted_size=100, max_size_per_msg=100)
        node.propose([(b"", b"x" * 150)])
        drain(node)
        assert refusal(lambda: node.propose([(b"", b"y")])) == "full"
        assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 4)])) == "full"
        assert not node.status().pending_conf_change
        acknowledge(node, 3)
        drain(node)
        assert node.propose([(b"", b"y" * 60)]) == (4, 2)
        assert refusal(lambda: node.propose([(b"", b"z" * 41)])) == "full"
        assert node.propose([(b"", b"z" * 40)]) == (5, 2)
        assert node.status().last_index == 5

    def test_rule_15_while_a_transfer_runs_nothing_is_taken(self, lab: Lab) -> None:
        """It is given up after an election timeout, while the quorum still answers."""
        node = lab.leader()
        node.transfer_leader(2)
        assert node.status().transferring_to == 2
        assert Kind.TIMEOUT_NOW in kinds(sent(drain(node), held=False))
        assert refusal(lambda: node.propose([(b"", b"x")])) == "transferring"
        assert refusal(lambda: node.propose_conf_change(b"", [("remove", 3)])) == "transferring"
        for _ in range(20):
            node.tick()
            give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))

        assert node.status().transferring_to == 0
        assert node.propose([(b"", b"x")]) == (3, 2)

    def test_rule_15_a_transfer_to_one_that_cannot_lead_is_refused(self, lab: Lab) -> None:
        """raft-rs says nothing."""
        node = lab.leader()
        _commit(node, [("add_learner", 4)])
        assert refusal(lambda: node.transfer_leader(1)) == "is_leader"
        assert refusal(lambda: node.transfer_leader(9)) == "unknown_node"
        assert refusal(lambda: node.transfer_leader(4)) == "learner"

    def test_rule_15_a_transfer_is_quick(self, lab: Lab) -> None:
        """One message, one election, no timeout."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster[1].transfer_leader(3)
        cluster.pump()
        assert cluster.leader == 3

    def test_rule_15_a_transfer_brings_the_other_up_to_date_first(self, lab: Lab) -> None:
        """Thesis §3.10: else it could not win."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster.cut = {3}
        cluster[1].propose([(b"", b"x")])
        cluster.pump()
        cluster.cut = set()
        cluster[1].transfer_leader(3)
        cluster.tick(5)
        assert cluster.leader == 3
        assert cluster.data(3) == [b"x"]

    def test_rule_15_a_second_conf_change_is_refused_not_swallowed(self, lab: Lab) -> None:
        """raft-rs answers Ok and writes an empty entry in its place."""
        node = lab.leader()
        node.propose_conf_change(b"first", [("add_learner", 4)])
        assert refusal(lambda: node.propose_conf_change(b"second", [("add_learner", 5)])) == "pending_conf_change"
        [ready] = drain(node)
        [entry] = [decode_entry(raw) for _, _, raw in ready.entries]
        written = conf_change_v2((ADD_LEARNER, 4))
        assert (entry.kind, entry.context, entry.data) == (CONF_CHANGE_V2, b"first", written)

    def test_rule_15_a_change_while_joint_is_refused(self, lab: Lab) -> None:
        """So is a leave while not."""
        assert refusal(lambda: lab.leader().propose_conf_change(b"", [])) == "joint"
        disk = EngineDisk(HardState(1, 0, 1), Anchor(1, 1), (1, 1, conf([1], [2], [1, 3])))
        node = lab.open(disk, 1)
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
        states = [state for ready in drain(node) for state in ready.conf_states]
        assert states == [(3, conf([1], [2]), None)]

    def test_rule_15_the_last_voter_stays(self, lab: Lab) -> None:
        """Nobody would be left to vote."""
        node = lab.founded(1, [1], [2])
        node.campaign()
        drain(node)
        assert refusal(lambda: node.propose_conf_change(b"", [("remove", 1)])) == "last_voter"
        assert refusal(lambda: node.propose_conf_change(b"", [("add_learner", 1)])) == "last_voter"
        assert refusal(lambda: node.propose_conf_change(b"", [("remove", 1), ("remove", 2)])) == "last_voter"
        assert drain(node) == []

    def test_rule_14_a_sole_voter_waits_for_its_disk(self, lab: Lab) -> None:
        """It would win at once, and raft panics if it leads with entries that are not durable."""
        node = lab.founded(2, [1, 2])
        removal = Entry(2, 2, conf_change_v2((REMOVE, 1)), kind=CONF_CHANGE_V2)
        give(node, Message(Kind.APPEND, 2, 1, 2, index=1, log_term=1, commit=1, entries=[removal]))
        drain(node)
        give(node, append(2, 1, 2, index=2, log_term=2, commit=2, terms=[2]))
        readies = drain(node, persist=False)
        assert readies[-1].conf_states == [(2, conf([2]), None)]
        for _ in range(100):
            node.tick()

        node.campaign()
        assert give(node, TIMEOUT) == ["timeout now: our log is not durable"]
        assert node.status().role is Role.FOLLOWER
        node.persisted(readies[-1].number)
        node.campaign()
        assert node.status().role is Role.LEADER

    # --- reads (thesis §6.4) ---

    def test_rule_17_a_round_is_answered_by_a_quorum(self, lab: Lab) -> None:
        """And by nobody else."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        cluster[1].propose([(b"", b"x")])
        cluster.pump()
        cluster[1].read_index(b"round 1")
        cluster.pump()
        assert cluster.read_states[1] == [(3, b"round 1")]
        cluster.cut = {2, 3}
        cluster[1].read_index(b"round 2")
        cluster.pump()
        assert cluster.read_states[1] == [(3, b"round 1")]
        assert cluster.read_states[2] == cluster.read_states[3] == []

    def test_rule_17_a_sole_voter_is_its_own_quorum(self, lab: Lab) -> None:
        """No message is needed."""
        cluster = lab.cluster(1)
        cluster.elect(1)
        cluster[1].read_index(b"alone")
        cluster.pump()
        assert cluster.read_states[1] == [(2, b"alone")]

    def test_rule_17_no_round_before_the_first_commit_of_a_term(self, lab: Lab) -> None:
        """raft-rs drops the question in silence."""
        cluster = lab.cluster(3)
        cluster.lose = lambda message: message.kind == Kind.APPEND
        cluster.elect(1)
        assert refusal(lambda: cluster[1].read_index(b"early")) == "no_commit_in_term"
        cluster.lose = lambda message: False
        cluster.tick(10)
        cluster[1].read_index(b"later")
        cluster.pump()
        assert cluster.read_states[1] == [(2, b"later")]

    def test_rule_17_an_empty_context_is_an_error(self, lab: Lab) -> None:
        """It would never be answered."""
        with pytest.raises(MISUSE):
            lab.leader().read_index(b"")

    def test_rule_17_read_index_is_neither_sent_nor_taken(self, lab: Lab) -> None:
        """Forwarded by raft-rs, contexts of two nodes collide, and an answer to an earlier life is a stale read."""
        node = lab.follower(5)
        asked = Message(Kind.READ_INDEX, 2, 3, 2, entries=[Entry(0, 0, b"x")])
        answered = Message(Kind.READ_INDEX_RESPONSE, 2, 1, 2, index=2, entries=[Entry(0, 0, b"x")])
        assert give(node, asked) == ["never from the network"]
        assert give(node, answered) == ["never from the network"]
        assert drain(node) == []

        # A leader that steps down with a question open forwards nothing either.
        led = lab.leader()
        led.read_index(b"open")
        drain(led)
        give(led, Message(Kind.HEARTBEAT, 1, 3, 5))
        assert kinds(sent(drain(led))) == [Kind.HEARTBEAT_RESPONSE]

    def test_rule_17_only_contexts_of_ours_are_believed(self, lab: Lab) -> None:
        """A late answer to a round that is over still shows that its sender lives."""
        node = lab.leader()
        node.read_index(b"ours")
        drain(node)
        answer = Message(Kind.HEARTBEAT_RESPONSE, 1, 2, 2, context=b"theirs")
        assert give(node, answer) == ["heartbeat response: context is not ours"]
        assert [ready.read_states for ready in drain(node)] == []
        assert give(node, replace(answer, context=b"ours")) == []
        assert [state for ready in drain(node) for state in ready.read_states] == [(2, b"ours")]
        assert give(node, replace(answer, sender=3, context=b"ours")) == []
        assert drain(node) == []

    # --- a disk that lost what it had acknowledged ---

    def test_rule_19_a_leader_that_insists_on_lost_entries_stops_the_node(self, lab: Lab) -> None:
        """A commit past our log was acknowledged by us: the disk has lost it."""
        node = lab.committed_follower()
        for _ in range(20):
            assert give(node, CLAIM) == [PAST]
            node.tick()

        assert give(node, CLAIM) == [PAST]
        with pytest.raises(LostAcknowledgedData, match="9"):
            node.tick()

    def test_rule_19_a_single_claim_proves_nothing(self, lab: Lab) -> None:
        """A bug or a forger could have sent it."""
        node = lab.committed_follower()
        assert give(node, CLAIM) == [PAST]
        for _ in range(40):
            node.tick()

        assert node.status().role is Role.PRE_CANDIDATE

    def test_rule_19_an_append_that_reaches_the_claim_clears_it(self, lab: Lab) -> None:
        """One that does not changes nothing."""
        node = lab.committed_follower()
        for _ in range(15):
            give(node, CLAIM)
            node.tick()

        assert give(node, append(2, 1, 2, index=5, log_term=2, commit=5, terms=[2, 2, 2, 2])) == []
        drain(node)
        for _ in range(40):
            assert give(node, CLAIM) == []
            node.tick()

        assert node.status().commit == 9
        node = lab.committed_follower()
        for _ in range(20):
            give(node, append(2, 1, 2, index=5, log_term=2, commit=5))
            give(node, CLAIM)
            node.tick()

        give(node, CLAIM)
        with pytest.raises(LostAcknowledgedData):
            node.tick()

    def test_rule_19_the_claims_of_a_deposed_leader_are_forgotten(self, lab: Lab) -> None:
        """Only the leader of our own term is believed."""
        node = lab.committed_follower()
        for _ in range(15):
            give(node, CLAIM)
            node.tick()

        assert give(node, replace(HEARTBEAT, sender=3, term=3)) == []
        drain(node)
        for _ in range(40):
            give(node, CLAIM)
            give(node, replace(CLAIM, sender=1, term=7))
            give(node, replace(HEARTBEAT, sender=3, term=3))
            node.tick()

        assert node.status().term == 3

    # --- heartbeats and slow disks ---

    def test_rule_20_heartbeat_answers_do_not_wait_for_the_disk(self, lab: Lab) -> None:
        """The save of an entry takes a second: a follower that is silent for so long deposes its leader."""
        node = lab.follower(5)
        give(node, append(2, 1, 2, index=5, log_term=2, terms=[2]))
        give(node, replace(HEARTBEAT, context=b"round"))
        [ready] = drain(node, persist=False)
        [answer] = sent([ready], held=False)
        assert (answer.kind, answer.context) == (Kind.HEARTBEAT_RESPONSE, b"round")
        assert kinds(sent([ready], held=True)) == [Kind.APPEND_RESPONSE]

    def test_rule_20_unless_a_term_is_unsaved(self, lab: Lab) -> None:
        """Then the answer speaks of a term that a crash would take back."""
        node = lab.follower(5)
        later = replace(HEARTBEAT, sender=3, term=3)
        give(node, later)
        readies = drain(node, persist=False)
        give(node, later)
        readies += drain(node, persist=False)
        assert sent(readies, held=False) == []
        assert kinds(sent(readies, held=True)) == [Kind.HEARTBEAT_RESPONSE] * 2
        node.persisted(readies[-1].number)
        give(node, later)
        assert kinds(sent(drain(node), held=False)) == [Kind.HEARTBEAT_RESPONSE]

    # --- elections that a seed decides ---

    def _elections(self, lab: Lab, seed: int, node_id: int = 1, ticks: int = 300) -> list[int]:
        """Return the ticks at which a node that hears nothing starts an election."""
        node = lab.open(EngineDisk.founded([1, 2, 3]), node_id, seed)
        started = []
        for tick in range(ticks):
            node.tick()
            if any(ready.messages or ready.persisted_messages for ready in drain(node)):
                started.append(tick)

        return started

    def test_rule_24_the_same_seed_gives_the_same_elections(self, lab: Lab) -> None:
        """A simulation can be repeated."""
        first = self._elections(lab, seed=42)
        assert first
        assert self._elections(lab, seed=42) == first
        assert self._elections(lab, seed=43) != first

    def test_rule_24_timeouts_lie_between_one_and_two_election_timeouts(self, lab: Lab) -> None:
        """Raft paper §5.2, as the contract says."""
        for seed in range(10):
            started = self._elections(lab, seed)
            waits = [after - before for before, after in zip([-1, *started], started, strict=False)]
            assert all(20 <= wait < 40 for wait in waits), waits

    def test_rule_24_nodes_that_tie_once_part_later(self, lab: Lab) -> None:
        """The term does not change while PreVotes fail: the count of own campaigns must be part of the draw."""
        for node_id in (1, 2):
            started = self._elections(lab, seed=5, node_id=node_id, ticks=3000)
            assert len(set(map(int.__sub__, started[1:], started))) > 5

    def test_rule_24_a_whole_cluster_repeats_itself(self, lab: Lab) -> None:
        """Leaders, and the losses of leaders, come at the same ticks."""

        def leaders(seed: int) -> list[int | None]:
            cluster = lab.cluster(3, seed=seed)
            history = []
            for tick in range(300):
                cluster.tick()
                history.append(cluster.leader)
                if tick % 100 == 99 and cluster.leader is not None:
                    cluster.cut = {cluster.leader}

            return history

        assert leaders(1) == leaders(1)
        assert len({tuple(leaders(seed)) for seed in range(4)}) > 1

    # --- panics ---

    def test_rule_25_the_first_panic_is_the_last_thing_that_happens(
        self, lab: Lab, cause_panic: Callable[[Consensus], object]
    ) -> None:
        """It is an Exception like others, and the engine is unusable from then on."""
        node = lab.leader()
        with pytest.raises(ConsensusError) as first:
            cause_panic(node)

        assert str(first.value)
        for call in _calls(node):
            with pytest.raises(ConsensusError):
                call()

    def test_rule_25_other_engines_go_on(self, lab: Lab, cause_panic: Callable[[Consensus], object]) -> None:
        """A panic stops one node, not the process."""
        cluster = lab.cluster(3)
        cluster.elect(1)
        with pytest.raises(ConsensusError):
            cause_panic(cluster[1])

        cluster.removed = {1}
        cluster.tick_until(lambda: cluster.leader is not None)
        assert cluster.leader in {2, 3}

    def test_rule_25_an_engine_that_panicked_can_be_dropped(
        self, lab: Lab, cause_panic: Callable[[Consensus], object]
    ) -> None:
        """Whatever its parts look like then."""
        node = lab.follower(5)
        with pytest.raises(ConsensusError):
            cause_panic(node)

        del node
        gc.collect()

    def test_rule_25_a_caught_panic_writes_nothing(
        self, lab: Lab, cause_panic: Callable[[Consensus], object], capfd: pytest.CaptureFixture[str]
    ) -> None:
        """What is known of it is in the exception; stderr belongs to the program."""
        node = lab.leader()
        with pytest.raises(ConsensusError):
            cause_panic(node)

        assert capfd.readouterr() == ("", "")

    # --- the gate ---

    @pytest.mark.parametrize(
        ("make", "message", "reason"),
        [
            pytest.param(make, message, reason, id=f"{row}: {name}")
            for row, cases in GATE.items()
            for name, make, message, reason in cases
        ],
    )
    def test_gate_drops_what_no_honest_peer_sends(
        self, lab: Lab, make: Callable[[Lab], Consensus], message: Message, reason: str
    ) -> None:
        """With a reason, and nothing changes by it."""
        node = make(lab)
        before = _view(node)
        assert give(node, message) == ([reason] if reason else [])
        assert _view(node) == before
        assert drain(node, persist=False) == []
        for _ in range(100):
            node.tick()

        drain(node)

    def test_gate_checks_the_sender_against_the_connection(self, lab: Lab) -> None:
        """A message speaks for the peer that it came from, for no other."""
        assert lab.follower().step(3, [HEARTBEAT.encode()]) == ["not from its sender"]

    def test_gate_takes_undecodable_bytes_for_a_reason(self, lab: Lab) -> None:
        """Never for an exception, and the good ones among them are taken."""
        node = lab.follower()
        assert node.step(1, [b"\xff", HEARTBEAT.encode(), b"\x08"]) == ["undecodable", "undecodable"]
        assert node.step_snapshot(1, b"\xff", 1, 1)

    def test_gate_takes_a_snapshot_by_its_own_way_only(self, lab: Lab) -> None:
        """Its data must be staged first."""
        node = lab.follower()
        message = Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=Snapshot(50, 2, GOOD))
        assert give(node, message) == ["snapshot out of band"]
        assert node.step_snapshot(1, HEARTBEAT.encode(), 50, 2)
        assert drain(node) == []

    @pytest.mark.parametrize(
        ("snapshot", "reason"), [pytest.param(snapshot, reason, id=name) for name, snapshot, reason in SNAPSHOTS]
    )
    def test_gate_row_snapshot(self, lab: Lab, snapshot: Snapshot | None, reason: str) -> None:
        """A bad ConfState panics where it is restored, or leaves us out for ever."""
        node = lab.committed_follower()
        before = _view(node)
        raw = Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=snapshot).encode()
        index, term = (snapshot.index, snapshot.term) if snapshot is not None else (1, 1)
        # A snapshot without index or term is another one than the staged to an engine that looks at that first.
        assert node.step_snapshot(1, raw, index, term) in {reason, "another snapshot"}
        assert _view(node) == before
        assert drain(node) == []

    def test_gate_row_snapshot_from_whom(self, lab: Lab) -> None:
        """From the leader of the term, and of no earlier one."""
        node = lab.committed_follower()
        good = Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=Snapshot(50, 2, GOOD))
        assert node.step_snapshot(3, good.encode(), 50, 2) == "not from its sender"
        other = replace(good, sender=3)
        assert node.step_snapshot(3, other.encode(), 50, 2) == "snapshot: not from the leader of its term"
        earlier = replace(good, term=1, snapshot=Snapshot(50, 1, GOOD))
        assert node.step_snapshot(1, earlier.encode(), 50, 1) == "snapshot: of an earlier term"
        assert give_snapshot(node, 50, 2, conf([1, 3], [2])) is None
        assert drain(node)[0].snapshot == (50, 2)

    def test_gate_lets_an_old_message_through_to_be_answered(self, lab: Lab) -> None:
        """A leader that slept may contradict us by now, and our answer tells it so."""
        node = lab.committed_follower()
        give(node, replace(HEARTBEAT, sender=3, term=7))
        drain(node)
        assert give(node, replace(OLD, term=3, entries=[Entry(5, 3)])) == []
        assert [message.to for message in sent(drain(node))] == [1]

    def test_gate_lets_every_honest_kind_through(self, lab: Lab) -> None:
        """A gate that shuts out honest peers stops the cluster."""
        node = lab.follower()
        assert give(node, replace(APPEND, commit=1000, entries=_entries(2, 2))) == []
        assert give(node, replace(APPEND, entries=_changes(CONF_CHANGE_V2, conf_change_v2()))) == []
        assert give(node, replace(HEARTBEAT, commit=6, context=b"a leader's own round")) == []
        assert give(node, replace(PRE_VOTE, context=b"CampaignTransfer")) == []
        assert give(node, TIMEOUT) == []
        assert node.status().role is Role.CANDIDATE

    @pytest.mark.parametrize(
        "make",
        [Lab.follower, Lab.leader, Lab.candidate, Lab.learner],
        ids=["follower", "leader", "candidate", "learner"],
    )
    def test_gate_turns_noise_into_reasons(self, lab: Lab, make: Callable[[Lab], Consensus]) -> None:
        """Messages that are nearly right, at any moment: no exception may come of them."""
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")  # noqa: T201 - shown if it fails
        reasons: set[str] = set()
        for story in range(15):
            draw = random.Random(seed + story)
            node = make(lab)
            try:
                reasons.update(_noise(draw, node))
            except LostAcknowledgedData:
                pass  # the noise insisted on entries that we lack
            except Refused as refused:
                if refused.reason != "removed":  # the noise committed our own removal
                    raise

        assert len(reasons) > 5


def _noise(draw: random.Random, node: Consensus) -> Iterator[str]:
    """Throw messages at a node that goes on with its own work; yield why they were dropped."""
    newest = 0
    for _ in range(draw.randrange(1, 200)):
        what = draw.random()
        if what < 0.65:
            message = _plausible(draw, node)
            raw = message.encode()
            if draw.random() < 0.05:
                noisy = bytearray(raw)
                noisy[draw.randrange(len(noisy))] = draw.randrange(256)
                raw = bytes(noisy)

            if message.snapshot is not None:
                snapshot = message.snapshot
                yield node.step_snapshot(message.sender, raw, snapshot.index, snapshot.term) or "taken"
            else:
                yield from node.step(message.sender, [raw])
        elif what < 0.8:
            node.tick()
        elif what < 0.92:
            ready = node.ready()
            newest = newest if ready is None else ready.number
        elif what < 0.99:
            node.persisted(newest)
        else:
            node.campaign()


def _plausible(draw: random.Random, node: Consensus) -> Message:
    """Return a message that a peer of the node might send, if not at this moment."""
    status = node.status()
    last = status.last_index
    kind = draw.choice([Kind.APPEND, Kind.APPEND, Kind.APPEND_RESPONSE, Kind.HEARTBEAT, Kind.HEARTBEAT_RESPONSE,
                        Kind.SNAPSHOT, Kind.VOTE, Kind.VOTE_RESPONSE, Kind.PRE_VOTE, Kind.PRE_VOTE_RESPONSE,
                        Kind.TIMEOUT_NOW, Kind.READ_INDEX])  # fmt: skip
    term = status.term + draw.choice((0, 0, 0, 0, 0, 1))
    sender = draw.choice([node_id for node_id in (1, 2, 3, status.leader or 3) if node_id != status.node_id])
    index = max(0, last - draw.choice((0, 0, 1, 2)))
    numbers: dict[str, Any] = {}
    if kind == Kind.APPEND:
        entries = [_entry(draw, index + step, term) for step in range(1, draw.choice((1, 2, 3)))]
        log_term = min(draw.choice((1, 2, status.term)), term) if index else 0
        numbers = {"index": index, "log_term": log_term, "entries": entries, "commit": draw.choice((0, index, last))}
    elif kind == Kind.HEARTBEAT:
        numbers = {"commit": draw.choice((0, status.commit, last, last + 1)), "context": draw.choice((b"", b"round"))}
    elif kind == Kind.SNAPSHOT:
        ids = {status.node_id, *draw.sample(range(1, 6), draw.randrange(4))}
        numbers = {"snapshot": Snapshot(last + draw.randrange(4), draw.choice((1, term)), conf(sorted(ids)))}
    elif kind == Kind.APPEND_RESPONSE:
        reject = draw.random() < 0.3
        numbers = {"index": draw.randrange(last + 2), "reject": reject, "reject_hint": index if reject else 0}
    elif kind in {Kind.VOTE, Kind.PRE_VOTE}:
        numbers = {"index": index, "log_term": draw.choice((1, term)), "commit": last, "commit_term": term}
    elif kind in {Kind.VOTE_RESPONSE, Kind.PRE_VOTE_RESPONSE}:
        numbers = {"reject": draw.random() < 0.2}

    message = Message(kind, status.node_id, sender, term, **numbers)
    if draw.random() < 0.1:
        name = draw.choice(("kind", "to", "term", "log_term", "index", "commit", "commit_term", "reject_hint"))
        spoilt: dict[str, Any] = {name: draw.choice((0, 1, 5, 100, 1 << 32, HUGE - 1, HUGE, (1 << 64) - 1))}
        message = replace(message, **spoilt)

    return message


def _entry(draw: random.Random, index: int, term: int) -> Entry:
    kind = draw.choice((0, 0, 0, CONF_CHANGE, CONF_CHANGE_V2))
    change = (draw.randrange(3), draw.randrange(1, 6))
    data = {0: b"x", CONF_CHANGE: conf_change(*change), CONF_CHANGE_V2: conf_change_v2(change)}[kind]
    return Entry(index, term, data, kind=kind)
