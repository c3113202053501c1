"""The replica by plain calls, over an engine that says what the test wants; whole clusters are in tests/simulation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from riteraft_core._effects import Apply, Ask, Compact, Effects, Save
from riteraft_core._envelope import Kind
from riteraft_core._membership import Membership
from riteraft_core._proposals import Proposal, Ticket
from riteraft_core._replica import STATE_FORMAT, Replica, ReplicaSettings, _decode_state, _encode_state, found
from riteraft_core._requests import Forward, Join, Moved, Read, Remove, Reply, Status, Who
from riteraft_core._sessions import Rejection, Sessions
from riteraft_core.errors import (
    CommandRejected,
    ConsensusError,
    NodeStopped,
    NotApplied,
    OutcomeUnknown,
    Removed,
)
from riteraft_core.types import (
    Anchor,
    CommittedEntry,
    ConfState,
    EngineStatus,
    EntryKind,
    HardState,
    Identity,
    LogBatch,
    Member,
    Principal,
    PrincipalRole,
    Ready,
    Recovered,
    Role,
    SnapshotMeta,
)

from riteraft_core import _envelope, _requests

from .scripted_engine import ScriptedEngine

ME, OTHER = 1, 2
HOME, AWAY = "127.0.0.1:7001", "127.0.0.1:7002"
US = Identity("orders", b"c" * 16, 0, ME, b"1" * 16)
NONCE = b"this life"
BOTH = ConfState((ME, OTHER))
STATE = EngineStatus(ME, 2, 0, Role.FOLLOWER, 0, 9, 2, 9, BOTH)


class Bench:
    """One replica of a cluster of two, at applied index 9, and its scripted engine."""

    def __init__(self, **settings: Any) -> None:
        self.engine = ScriptedEngine(STATE)
        membership = Membership.founded(US, HOME)
        membership.allocate(b"2" * 16, AWAY, True)
        membership.change(BOTH, ())
        self.meta = SnapshotMeta(9, 2, BOTH, _encode_state(membership, Sessions()))
        self.replica = Replica(
            self.engine,
            US,
            Recovered(US, HardState(2, 0, 9), Anchor(9, 2), self.meta),
            address=HOME,
            nonce=NONCE,
            settings=ReplicaSettings(**settings),
        )
        self.number = 0
        self.effects()

    def effects(self, **ready: Any) -> Effects:
        """Let the engine give one Ready, if any is described, and take the effects."""
        if ready:
            self.number += 1
            replica = self.replica
            known = {"term": replica.term, "role": replica.role, "leader": replica.leader}
            self.engine.readies.append(Ready(**{"number": self.number, **known, **ready}))

        return self.replica.effects()

    def propose(self, command: bytes) -> Proposal:
        proposal = self.replica.propose(command)
        assert proposal is not None
        return proposal

    def follow(self, term: int = 2) -> Effects:
        return self.effects(role=Role.FOLLOWER, leader=OTHER, term=term)

    def lead(self, term: int = 2) -> Effects:
        self.engine.state = replace(self.engine.state, term=term, role=Role.LEADER, leader=ME)
        return self.effects(role=Role.LEADER, leader=ME, term=term)

    def commit(self, *entries: CommittedEntry, **ready: Any) -> Effects:
        return self.effects(committed=entries, **ready)

    def open_session(self, index: int = 10) -> None:
        """Let our session's entry be committed and applied."""
        data = _envelope.pack_open_session(ME, NONCE + bytes(4))
        self.commit((index, 2, EntryKind.NORMAL, _envelope.context(Kind.OPEN_SESSION), data))
        assert self.replica.applied == index

    def told(self, name: str) -> list[tuple[Any, ...]]:
        return [what for what in self.engine.told if what[0] == name]


def command(index: int, sequence: int, data: bytes = b"x", session: int = 10, low: int = 1) -> CommittedEntry:
    return index, 2, EntryKind.NORMAL, _envelope.command_context(session, sequence, low), data


def applying(effects: Effects) -> Apply:
    assert effects.apply is not None
    return effects.apply


def forwarded(effects: Effects) -> Ask:
    (ask,) = [ask for ask in effects.asks if isinstance(_requests.decode(ask.payload), Forward)]
    return ask


def reply(ticket: Ticket) -> Reply:
    assert isinstance(ticket.outcome, Reply)
    return ticket.outcome


# --- the order around the disk ---------------------------------------------------------------------------------------


def test_messages_that_must_wait_leave_once_saved() -> None:
    bench = Bench()
    now, then = (OTHER, [b"now"]), (OTHER, [b"then"])
    row = (10, 2, b"row")
    effects = bench.effects(messages=[now], persisted_messages=[then], entries=[row], must_sync=True)
    assert effects.messages == [now]
    assert effects.write == Save(1, LogBatch(None, None, [row]))
    assert not bench.effects().messages
    bench.replica.saved(effects.write)
    assert bench.engine.told == [("persisted", 1)]  # before the message leaves (rule 14)
    assert bench.effects().messages == [then]


def test_what_gathers_during_one_save_is_the_next() -> None:
    bench = Bench()
    first = bench.effects(entries=[(10, 2, b"a")], must_sync=True).write
    assert first is not None
    assert bench.effects(entries=[(11, 2, b"b"), (12, 2, b"c")], must_sync=True).write is None
    assert bench.effects(entries=[(12, 3, b"d")], hard_state=HardState(3, 2, 9), must_sync=True).write is None
    bench.replica.saved(first)
    assert bench.effects().write == Save(3, LogBatch(None, HardState(3, 2, 9), [(11, 2, b"b"), (12, 3, b"d")]))


def test_a_ready_with_nothing_to_save_waits_for_those_before_it() -> None:
    bench = Bench()
    first = bench.effects(entries=[(10, 2, b"a")], must_sync=True).write
    assert first is not None
    assert not bench.effects(persisted_messages=[(OTHER, [b"later"])]).messages
    bench.replica.saved(first)
    assert bench.effects().messages == [(OTHER, [b"later"])]
    assert bench.told("persisted") == [("persisted", 1), ("persisted", 2)]


def test_a_commit_index_alone_is_not_worth_a_save_at_once() -> None:
    bench = Bench(lazy_commit_ticks=3)
    assert bench.effects(hard_state=HardState(2, 0, 10)).write is None
    for _ in range(2):
        bench.replica.tick()
        assert bench.effects().write is None

    bench.replica.tick()
    assert bench.effects().write == Save(0, LogBatch(hard_state=HardState(2, 0, 10)))


def test_a_commit_index_rides_along_with_the_next_save() -> None:
    bench = Bench()
    bench.effects(hard_state=HardState(2, 0, 10))
    write = bench.effects(entries=[(11, 2, b"a")], must_sync=True).write
    assert write == Save(2, LogBatch(None, HardState(2, 0, 10), [(11, 2, b"a")]))


def test_a_commit_is_announced_in_the_next_turn_and_by_calls_within_a_turn_never() -> None:
    # Whoever was answered proposes again when the loop has come round, and that append would carry the commit.
    bench = Bench()
    bench.lead()
    bench.open_session()
    bench.effects(hard_state=HardState(2, ME, 11))
    for _ in range(3):
        assert bench.replica.effects(turn=False).again, "asks to be called again in the next turn"

    assert not bench.told("announce_commit")
    assert not bench.effects().again
    assert len(bench.told("announce_commit")) == 1
    bench.effects()
    assert len(bench.told("announce_commit")) == 1


# --- writes ----------------------------------------------------------------------------------------------------------


def test_a_session_is_opened_before_the_first_command() -> None:
    bench = Bench()
    bench.lead()
    proposal = bench.propose(b"x")
    bench.effects()
    assert [_envelope.read_kind(context, 0) for context, _ in bench.engine.proposed] == [Kind.OPEN_SESSION]
    bench.open_session()
    bench.effects()
    assert bench.engine.proposed[1:] == [(_envelope.command_context(10, 1, 1), b"x")]
    assert proposal.attempt == (11, 2)


def test_a_command_is_answered_by_our_own_apply() -> None:
    bench = Bench()
    bench.lead()
    bench.open_session()
    good, bad = bench.propose(b"good"), bench.propose(b"bad")
    work = applying(bench.commit(command(11, 1, b"good"), command(12, 2, b"bad")))
    assert (work.commands, work.index) == ([b"good", b"bad"], 12)
    bench.replica.applied_batch(work, [b"done", Rejection("no", b"why")])
    assert bench.effects().answered == [good, bad]
    assert good.outcome == b"done"
    assert isinstance(bad.outcome, CommandRejected)
    assert (bad.outcome.message, bad.outcome.detail) == ("no", b"why")
    assert bench.replica.applied == 12


def test_a_second_copy_does_not_reach_the_store() -> None:
    bench = Bench()
    bench.lead()
    bench.open_session()
    work = applying(bench.commit(command(11, 1), command(12, 1), command(13, 2)))
    assert work.ids == [(10, 1), (10, 2)]
    assert work.repeats == [(10, 1)]


def test_a_command_of_an_unknown_session_does_not_reach_the_store() -> None:
    bench = Bench()
    assert bench.commit(command(10, 1, session=5)).apply is None
    assert bench.replica.applied == 10


def test_an_entry_of_an_unknown_kind_stops_the_node() -> None:
    bench = Bench()
    with pytest.raises(ConsensusError, match="log entry 10"):
        bench.commit((10, 2, EntryKind.NORMAL, b"\x01\x63", b""))


def test_the_next_batch_waits_for_the_store() -> None:
    bench = Bench(max_batch_entries=1)
    bench.open_session()
    work = applying(bench.commit(command(11, 1), command(12, 2)))
    assert bench.effects().apply is None
    bench.replica.applied_batch(work, [b""])
    assert applying(bench.effects()).index == 12


@pytest.mark.parametrize(
    ("settings", "sizes", "batches"),
    [
        ({"max_batch_entries": 2}, [1] * 5, [2, 2, 1]),
        ({"max_batch_bytes": 10}, [4, 4, 4, 10, 11, 1, 1], [2, 1, 1, 1, 2]),
        ({"snapshot_entries": 1 << 60, "digest_entries": 3}, [1] * 7, [2, 3, 2]),
    ],
    ids=["by count", "by bytes, and one alone", "up to where a digest is taken"],
)
def test_what_is_applied_in_one_go_is_bounded(settings: dict[str, int], sizes: list[int], batches: list[int]) -> None:
    bench = Bench(**settings)
    bench.open_session()
    entries = [command(11 + n, 1 + n, bytes(size)) for n, size in enumerate(sizes)]
    effects = bench.commit(*entries)
    for length in batches:
        work = applying(effects)
        assert [len(data) for data in work.commands] == sizes[:length]
        assert work.size == sum(sizes[:length])
        del sizes[:length]
        bench.replica.applied_batch(work, [b""] * length)
        effects = bench.effects()
        if effects.digest is not None:
            bench.replica.digest_taken(effects.digest, b"same")
            effects = bench.effects()

    assert effects.apply is None


def test_commands_among_other_entries_are_applied_in_their_order() -> None:
    bench = Bench()
    bench.open_session()
    moved = (12, 2, EntryKind.NORMAL, _envelope.context(Kind.ADDRESS), _envelope.pack_address(OTHER, "moved:1"))
    empty = (13, 2, EntryKind.NORMAL, b"", b"")
    work = applying(bench.commit(command(11, 1, b"a"), moved, empty, command(14, 2, b"b"), command(15, 1, b"a")))
    assert (work.index, work.commands, work.ids, work.repeats) == (15, [b"a", b"b"], [(10, 1), (10, 2)], [(10, 1)])
    assert bench.replica.status().members[OTHER] == "moved:1"


def follower_with_one_forwarded() -> tuple[Bench, Proposal, Ask]:
    bench = Bench()
    bench.follow()
    bench.open_session()
    proposal = bench.propose(b"x")
    ask = forwarded(bench.effects())
    assert ask.address == AWAY
    assert _requests.decode(ask.payload) == Forward(((_envelope.command_context(10, 1, 1), b"x"),))
    return bench, proposal, ask


def test_a_forwarded_command_is_not_sent_again_while_the_leader_has_it() -> None:
    bench, proposal, ask = follower_with_one_forwarded()
    bench.replica.answered(ask, _requests.encode_reply(Reply(Status.OK, (11, 2))))
    assert proposal.attempt == (11, 2)
    for _ in range(50):
        bench.replica.tick()
        assert not [a for a in bench.effects().asks if a.proposals]


def test_a_lost_reply_leaves_the_outcome_unknown_and_is_retried() -> None:
    bench, proposal, ask = follower_with_one_forwarded()
    bench.replica.answered(ask, None)
    assert not bench.effects().asks  # not in a tight loop
    bench.replica.tick()
    again = forwarded(bench.effects())
    assert again.proposals == [proposal]
    bench.replica.answered(again, _requests.encode_reply(Reply.retry("full")))
    assert isinstance(bench.replica.abandon(proposal), OutcomeUnknown)


def test_garbage_for_a_reply_is_no_proof_of_anything() -> None:
    bench, proposal, ask = follower_with_one_forwarded()
    bench.replica.answered(ask, b"garbage")
    assert isinstance(bench.replica.abandon(proposal), OutcomeUnknown)


@pytest.mark.parametrize("no", [Reply.retry("full"), Reply.not_leader(0, None)])
def test_a_leader_that_did_not_take_it_leaves_it_not_applied(no: Reply) -> None:
    bench, proposal, ask = follower_with_one_forwarded()
    bench.replica.answered(ask, _requests.encode_reply(no))
    assert isinstance(bench.replica.abandon(proposal), NotApplied)


def test_a_leader_that_refuses_it_for_good_answers_it() -> None:
    bench, proposal, ask = follower_with_one_forwarded()
    bench.replica.answered(ask, _requests.encode_reply(Reply.refused("too large")))
    assert bench.effects().answered == [proposal]
    assert isinstance(proposal.outcome, NotApplied)
    assert "too large" in str(proposal.outcome)


def test_a_new_leader_is_sent_what_the_old_one_had_and_the_old_ones_reply_is_ignored() -> None:
    bench, proposal, ask = follower_with_one_forwarded()
    bench.follow(term=3)
    again = forwarded(bench.effects())
    assert again.proposals == [proposal]
    assert again.fresh == []
    bench.replica.answered(ask, _requests.encode_reply(Reply.retry("I was deposed")))
    assert isinstance(bench.replica.abandon(proposal), OutcomeUnknown)


def test_a_command_that_the_engine_holds_back_waits() -> None:
    # Rule 16: during a transfer a caller never sees that its proposal was dropped.
    bench = Bench()
    bench.lead()
    bench.open_session()
    bench.engine.refuse = "transferring"
    proposal = bench.propose(b"x")
    bench.effects()
    bench.engine.refuse = None
    bench.effects()
    assert bench.engine.proposed == [(_envelope.command_context(10, 1, 1), b"x")]
    assert proposal.handed_over


def test_stopping_answers_everyone() -> None:
    bench = Bench()
    bench.lead()
    bench.open_session()
    handed = bench.propose(b"x")
    bench.effects()
    fresh, reader = bench.propose(b"y"), bench.replica.read()
    asked = bench.replica.request(Read())
    joining = bench.replica.request(Join("orders", b"3" * 16, "h:3"))
    assert set(bench.replica.stop()) == {handed, fresh, reader, asked, joining}
    assert isinstance(handed.outcome, OutcomeUnknown)
    assert isinstance(fresh.outcome, NotApplied)
    assert isinstance(reader.outcome, NodeStopped)
    assert reply(asked).status is reply(joining).status is Status.RETRY


# --- requests of others ----------------------------------------------------------------------------------------------


def test_who_does_not_lead_names_who_does() -> None:
    bench = Bench()
    assert reply(bench.replica.request(Remove(OTHER))) == Reply.not_leader(0, None)
    bench.follow()
    for request in (Read(), Remove(OTHER), Forward(()), Join("orders", b"3" * 16, "h:3")):
        assert reply(bench.replica.request(request)) == Reply.not_leader(OTHER, AWAY)


def test_everyone_says_who_it_is() -> None:
    assert reply(Bench().replica.request(Who())).values == ("orders", b"c" * 16, ME)


def test_a_joiner_of_another_cluster_is_refused() -> None:
    outcome = reply(Bench().replica.request(Join("invoices", b"3" * 16, "h:3")))
    assert outcome.status is Status.REFUSED
    assert "'orders'" in _requests.read_text(outcome)


def test_an_entry_that_would_stop_every_node_is_not_appended() -> None:
    bench = Bench()
    bench.lead()
    for context, data in [
        (b"", b"no envelope"),
        (_envelope.context(Kind.ALLOCATE), b""),
        (_envelope.context(Kind.OPEN_SESSION), b"garbage"),
        (_envelope.context(Kind.COMMAND), b"too short"),
    ]:
        assert reply(bench.replica.request(Forward([(context, data)]))).status is Status.REFUSED

    assert bench.engine.proposed == []


def test_a_member_is_told_its_id_again() -> None:
    bench = Bench()
    bench.lead()
    outcome = reply(bench.replica.request(Join("orders", b"2" * 16, AWAY)))
    assert _requests.read_admitted(outcome).node_id == OTHER
    assert bench.engine.proposed == []


def test_a_joiner_is_let_in_once_its_id_is_in_the_log() -> None:
    bench = Bench()
    bench.lead()
    tickets = [bench.replica.request(Join("orders", b"3" * 16, "h:3")) for _ in range(2)]
    (context, data), _ = bench.engine.proposed
    bench.commit((10, 2, EntryKind.NORMAL, context, data), (11, 2, EntryKind.NORMAL, context, data))
    assert [_requests.read_admitted(reply(ticket)).node_id for ticket in tickets] == [3, 3]
    bench.replica.tick()
    bench.effects()
    assert bench.engine.changes == [("add_learner", 3)]


def test_a_joiner_is_known_by_the_name_in_its_certificate() -> None:
    bench = Bench()
    bench.lead()
    n3 = Principal(PrincipalRole.NODE, "orders", "n3")
    joining = bench.replica.request(Join("orders", b"3" * 16, "h:3"), None, n3)
    late = bench.replica.request(Join("orders", b"4" * 16, "h:4"), None, n3)
    (first, second) = bench.engine.proposed
    bench.commit((10, 2, EntryKind.NORMAL, *first), (11, 2, EntryKind.NORMAL, *second))
    assert _requests.read_admitted(reply(joining)).node_id == 3
    again = bench.replica.request(Join("orders", b"5" * 16, "h:5"), None, n3)
    bench.commit((12, 2, EntryKind.NORMAL, *bench.engine.proposed[-1]))
    for refused in (late, again):
        assert reply(refused).status is Status.REFUSED
        assert "'n3', which is node 3 already" in _requests.read_text(reply(refused))

    n4 = Principal(PrincipalRole.NODE, "orders", "n4")
    assert reply(bench.replica.request(Join("orders", b"3" * 16, "h:3"), None, n4)).status is Status.REFUSED
    assert reply(bench.replica.request(Join("orders", b"3" * 16, "h:3"), None, n3)).status is Status.OK


def test_a_member_from_before_certificates_has_its_name_put_into_the_log() -> None:
    bench = Bench()
    bench.replica.name = "n1"
    assert bench.replica.wrong_name() is None
    bench.lead()
    bench.effects()
    ((context, data),) = bench.engine.proposed
    assert (_envelope.read_kind(context, 1), _envelope.read_name(data)) == (Kind.NAME, (ME, "n1"))
    bench.commit((10, 2, EntryKind.NORMAL, context, data))
    assert bench.replica.member is not None
    assert bench.replica.member.name == "n1"
    for _ in range(3 * bench.replica.settings.retry_ticks):
        bench.replica.tick()
        bench.effects()
    assert len(bench.engine.proposed) == 1
    bench.replica.name = "n9"
    assert "under the name 'n1'" in (bench.replica.wrong_name() or "")


def test_a_node_speaks_in_the_log_for_itself_only() -> None:
    bench = Bench()
    bench.lead()
    n2 = Principal(PrincipalRole.NODE, "orders", "n2")
    name = _envelope.context(Kind.NAME)
    for context, data, principal in [
        (_envelope.context(Kind.OPEN_SESSION), _envelope.pack_open_session(ME, b"nonce"), n2),
        (_envelope.context(Kind.ADDRESS), _envelope.pack_address(ME, "h:9"), n2),
        (name, _envelope.pack_name(ME, "n2"), n2),
        (name, _envelope.pack_name(OTHER, "n3"), n2),
        (name, _envelope.pack_name(OTHER, "n2"), None),
    ]:
        outcome = reply(bench.replica.request(Forward([(context, data)]), OTHER, principal))
        assert outcome.status is Status.REFUSED

    assert bench.engine.proposed == []
    taken = bench.replica.request(Forward([(name, _envelope.pack_name(OTHER, "n2"))]), OTHER, n2)
    assert reply(taken).status is Status.OK


def test_a_state_without_names_is_read() -> None:
    # Format 1, of the releases before certificates.
    rows = [3, [[ME, HOME, b"1" * 16, True], [OTHER, AWAY, b"2" * 16, False]]]
    state = msgpack.packb((1, rows, Sessions().to_plain()))
    membership, _ = _decode_state(SnapshotMeta(9, 2, BOTH, state))
    assert membership.members[OTHER] == Member(OTHER, AWAY, b"2" * 16, False, "")
    with pytest.raises(ConsensusError, match="format 9"):
        _decode_state(SnapshotMeta(9, 2, BOTH, msgpack.packb((9, rows, Sessions().to_plain()))))


def test_lost_leadership_sends_everyone_who_waits_to_the_new_leader() -> None:
    bench = Bench()
    bench.lead()
    tickets = [
        bench.replica.request(Read()),
        bench.replica.request(Join("orders", b"3" * 16, "h:3")),
        bench.replica.request(Remove(OTHER)),
    ]
    assert set(bench.follow(term=3).answered) == set(tickets)
    assert all(reply(ticket) == Reply.not_leader(OTHER, AWAY) for ticket in tickets)


def test_a_removal_is_answered_when_it_is_committed() -> None:
    bench = Bench()
    bench.lead()
    ticket = bench.replica.request(Remove(OTHER))
    bench.effects()
    assert bench.engine.changes == [("remove", OTHER)]
    context = _envelope.conf_change_context([("remove", OTHER)])
    alone = ConfState((ME,))
    bench.commit((10, 2, EntryKind.CONF_CHANGE, context, b""), conf_states=[(10, alone, None)])
    assert reply(ticket).status is Status.OK
    assert bench.replica.is_sole_voter
    assert bench.replica.peers() == {}


def test_nobody_hears_of_a_removal_before_its_commit_is_durable() -> None:
    # Of two voters the one that stays must not forget, in a crash, that it needs the other's vote no more.
    bench = Bench()
    bench.lead()
    ticket = bench.replica.request(Remove(OTHER))
    bench.effects()
    context = _envelope.conf_change_context([("remove", OTHER)])
    write = bench.commit(
        (10, 2, EntryKind.CONF_CHANGE, context, b""),
        conf_states=[(10, ConfState((ME,)), None)],
        hard_state=HardState(2, 0, 10),
        messages=[(OTHER, [b"commit 10"])],
    ).write
    assert write == Save(2, LogBatch(None, HardState(2, 0, 10), []))
    later = bench.commit(command(11, 1), messages=[(OTHER, [b"commit 11"])])
    assert (later.messages, bench.replica.applied, ticket.outcome) == ((), 9, None)
    bench.replica.saved(write)
    effects = bench.commit(command(12, 2), messages=[(OTHER, [b"commit 12"])])
    assert effects.messages == [(OTHER, [b"commit 10"]), (OTHER, [b"commit 11"]), (OTHER, [b"commit 12"])]
    assert reply(ticket).status is Status.OK
    assert bench.replica.applied == 12


def test_a_removal_that_raft_refused_is_told_so() -> None:
    bench = Bench()
    bench.lead()
    ticket = bench.replica.request(Remove(OTHER))
    bench.effects()
    context = _envelope.conf_change_context([("remove", OTHER)])
    bench.commit((10, 2, EntryKind.CONF_CHANGE, context, b""), conf_states=[(10, BOTH, "last voter")])
    assert reply(ticket).status is Status.REFUSED


def test_a_removal_of_one_that_is_gone_is_done_already() -> None:
    bench = Bench()
    bench.lead()
    assert reply(bench.replica.request(Remove(99))).status is Status.REFUSED  # it never was
    context = _envelope.conf_change_context([("remove", OTHER)])
    bench.commit((10, 2, EntryKind.CONF_CHANGE, context, b""), conf_states=[(10, ConfState((ME,)), None)])
    assert reply(bench.replica.request(Remove(OTHER))).status is Status.OK
    assert reply(bench.replica.request(Remove(ME))).status is Status.REFUSED  # the last voter


# --- addresses -------------------------------------------------------------------------------------------------------


def test_everyone_is_told_where_we_are_until_it_answers() -> None:
    bench = Bench(retry_ticks=5)
    assert not bench.effects().asks  # not while it still recovers
    bench.replica.tick()
    (ask,) = bench.effects().asks
    assert (ask.address, _requests.decode(ask.payload)) == (AWAY, Moved(ME, HOME))
    bench.replica.answered(ask, None)
    for _ in range(5):
        bench.replica.tick()

    (ask,) = bench.effects().asks
    bench.replica.answered(ask, _requests.encode_reply(reply(Bench().replica.request(Moved(ME, HOME)))))
    for _ in range(10):
        bench.replica.tick()
        assert not bench.effects().asks


def test_a_member_that_moved_is_dialled_where_it_says() -> None:
    bench = Bench()
    outcome = reply(bench.replica.request(Moved(OTHER, "h:9")))
    assert _requests.read_directory(outcome).moved == {OTHER: "h:9"}
    assert bench.effects().peers == {OTHER: "h:9"}
    bench.replica.request(Moved(ME, "h:9"))
    bench.replica.request(Moved(99, "h:9"))
    assert bench.effects().peers == {OTHER: "h:9"}
    bench.replica.request(Moved(OTHER, AWAY))
    assert bench.effects().peers == {OTHER: AWAY}


@pytest.mark.parametrize(("applied", "believed"), [(9, AWAY), (10, "h:9")])
def test_an_address_in_the_log_is_believed_of_one_that_is_further(applied: int, believed: str) -> None:
    bench = Bench()
    bench.replica.tick()
    (ask,) = bench.effects().asks
    answer = _requests.directory_reply(_requests.Directory(applied, {ME: "old", OTHER: "h:9"}, {}))
    bench.replica.answered(ask, _requests.encode_reply(answer))
    assert bench.effects().peers == {OTHER: believed}


# --- reads -----------------------------------------------------------------------------------------------------------


def test_a_reader_on_the_leader_waits_for_the_round_and_the_apply() -> None:
    bench = Bench()
    bench.lead()
    bench.open_session()
    reader = bench.replica.read()
    bench.effects()
    ((_, context),) = bench.told("read_index")
    work = applying(bench.commit(command(11, 1), read_states=[(11, context)]))
    assert reader.outcome is None
    bench.replica.applied_batch(work, [b""])
    assert reader.outcome is True


def test_a_round_of_another_life_answers_nobody() -> None:
    bench = Bench()
    bench.lead()
    reader = bench.replica.read()
    bench.effects()
    bench.effects(read_states=[(9, b"another context")])
    assert reader.outcome is None


def test_two_rounds_never_have_the_same_name() -> None:
    bench = Bench()
    bench.lead()
    for _ in range(2):
        bench.replica.read()
        bench.effects()
        bench.effects(read_states=[(9, bench.told("read_index")[-1][1])])

    contexts = [context for _, context in bench.told("read_index")]
    assert len(set(contexts)) == 2
    assert all(context.startswith(ME.to_bytes(8, "big") + NONCE) for context in contexts)


def test_a_reader_on_a_follower_asks_the_leader() -> None:
    bench = Bench()
    bench.follow()
    bench.open_session()
    reader = bench.replica.read()
    (ask,) = bench.effects().asks
    assert (ask.address, _requests.decode(ask.payload)) == (AWAY, Read())
    bench.replica.answered(ask, _requests.encode_reply(Reply(Status.OK, (11,))))
    assert reader.outcome is None
    bench.replica.applied_batch(applying(bench.commit(command(11, 1))), [b""])
    assert bench.effects().answered == [reader]


def test_a_reader_whose_leader_is_deposed_asks_the_next() -> None:
    bench = Bench()
    bench.follow()
    reader = bench.replica.read()
    (old,) = bench.effects().asks
    bench.follow(term=3)
    (new,) = bench.effects().asks
    bench.replica.answered(old, _requests.encode_reply(Reply(Status.OK, (9,))))
    assert reader.outcome is None
    bench.replica.answered(new, _requests.encode_reply(Reply(Status.OK, (9,))))
    assert reader.outcome is True


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_made_at_the_applied_index_and_the_log_cut_behind_it() -> None:
    bench = Bench(snapshot_entries=8, tail_entries=2)  # node 1 makes its snapshots at 4, 12, 20, ...
    bench.open_session()
    work = applying(bench.commit(command(11, 1), command(12, 2), command(13, 3)))
    assert work.index == 12
    bench.replica.applied_batch(work, [b"", b""])
    effects = bench.effects()
    assert effects.snapshot is not None
    assert effects.apply is None
    assert (effects.snapshot.index, effects.snapshot.conf_state) == (12, BOTH)
    assert bench.effects().apply is None  # the Store is busy
    bench.replica.snapshot_taken()
    assert bench.effects().apply is not None
    bench.replica.snapshot_staged(effects.snapshot, "token")
    write = bench.effects().write
    assert write == Compact("token", 10, effects.snapshot)
    assert bench.told("snapshot_made") == []
    bench.replica.saved(write)
    assert bench.told("snapshot_made") == [("snapshot_made", 12, 2)]
    assert bench.told("compact") == [("compact", 10)]


def test_no_two_nodes_make_their_snapshots_at_the_same_index() -> None:
    settings = ReplicaSettings(snapshot_entries=100)
    first = []
    for node_id in range(1, 8):
        bench = Bench()
        us = replace(US, node_id=node_id)
        recovered = Recovered(us, HardState(2, 0, 9), Anchor(9, 2), bench.meta)
        replica = Replica(bench.engine, us, recovered, address=HOME, nonce=NONCE, settings=settings)
        first.append(replica._next_snapshot_index)

    assert all(9 < index <= 109 for index in first)
    assert min(abs(one - other) for one in first for other in first if one != other) >= 8
    assert len(set(first)) == len(first)


def test_a_snapshot_is_made_after_so_many_bytes_and_its_tail_is_bounded_by_bytes() -> None:
    # Fifty commands of a megabyte each would otherwise lie in memory until ten thousand of them are there.
    bench = Bench(snapshot_bytes=2_500, tail_bytes=1_500)  # node 1 makes its first after about 950
    bench.open_session()
    made = []
    for sequence in range(1, 8):
        work = applying(bench.commit(command(10 + sequence, sequence, bytes(1_000))))
        bench.replica.applied_batch(work, [b""])
        effects = bench.effects()
        if effects.snapshot is not None:
            bench.replica.snapshot_taken()
            bench.replica.snapshot_staged(effects.snapshot, "token")
            write = bench.effects().write
            assert isinstance(write, Compact)
            bench.replica.saved(write)
            made.append((write.meta.index, write.index))

    assert made == [(11, 9), (14, 13), (17, 16)]


def test_no_two_nodes_make_their_snapshots_after_the_same_bytes() -> None:
    first = []
    for node_id in range(1, 8):
        bench = Bench()
        us = replace(US, node_id=node_id)
        recovered = Recovered(us, HardState(2, 0, 9), Anchor(9, 2), bench.meta)
        settings = ReplicaSettings(snapshot_bytes=1_000)
        replica = Replica(bench.engine, us, recovered, address=HOME, nonce=NONCE, settings=settings)
        first.append(replica._bytes_at_snapshot + 1_000)

    assert all(0 < size <= 1_000 for size in first)
    assert min(abs(one - other) for one in first for other in first if one != other) >= 80
    assert len(set(first)) == len(first)


def test_the_tail_before_a_restart_counts_after_it() -> None:
    bench = Bench()
    rows = [(index, 2, bytes(1_000)) for index in range(2, 12)]
    replica = Replica(
        bench.engine,
        US,
        Recovered(US, HardState(2, 0, 9), Anchor(1, 1), bench.meta, rows),
        address=HOME,
        nonce=NONCE,
        settings=ReplicaSettings(tail_bytes=3_000),
    )
    assert replica._log_sizes.tail_start() == 6  # of the snapshot's nine, those after it being yet to be applied


def test_the_log_a_peer_needs_after_its_snapshot_is_kept() -> None:
    # Rule 13: what streams is pinned.
    bench = Bench(tail_entries=0)
    effects = bench.effects(snapshots=[(OTHER, 9, b"message")])
    (stream,) = effects.send_snapshots or bench.effects().send_snapshots
    assert (stream.to, stream.index, stream.message) == (OTHER, 9, b"message")
    bench.replica.snapshot_staged(replace(bench.meta, index=12), "token")
    write = bench.effects().write
    assert isinstance(write, Compact)
    assert write.index == 9
    bench.replica.snapshot_sent(stream, True)
    assert bench.told("report_snapshot") == [("report_snapshot", OTHER, True)]


def test_a_peers_snapshot_is_installed_restored_and_adopted() -> None:
    bench = Bench()
    bench.follow()
    bench.open_session()
    waiting = [bench.propose(b"%d" % n) for n in range(2)]
    forwarded(bench.effects())
    membership, sessions = Membership.from_plain([4, [[ME, HOME, US.disk_id, True]]], BOTH), Sessions()
    sessions.open(10, ME, NONCE + bytes(4))
    sessions.admit(10, 1, 1)
    sessions.complete([(10, 1)], [b"done"])
    meta = SnapshotMeta(50, 2, BOTH, _encode_state(membership, sessions))
    bench.engine.readies.append(Ready(9, 2, Role.FOLLOWER, OTHER, snapshot=(50, 2), must_sync=True))
    bench.replica.step_snapshot(OTHER, b"message", meta, "token")
    effects = bench.effects()
    assert effects.write == Save(9, LogBatch("token", None, []))
    assert effects.restore is None
    bench.replica.saved(effects.write)
    assert bench.effects().restore == meta
    bench.replica.restored(meta)
    assert bench.replica.applied == 50
    assert [proposal.outcome for proposal in waiting] == [b"done", None]  # rule 9


def test_an_older_snapshot_is_not_needed_but_one_we_have_is_answered() -> None:
    # Its sender may not know that we have it: only raft's answer lets it go on.
    bench = Bench()
    assert not bench.replica.needs_snapshot(replace(bench.meta, index=8))
    assert bench.replica.needs_snapshot(replace(bench.meta, index=9))


def test_a_snapshot_that_raft_does_not_want_is_discarded() -> None:
    bench = Bench()
    bench.replica.step_snapshot(OTHER, b"message", replace(bench.meta, index=50), "token")
    assert bench.effects().discards == ["token"]


def test_a_snapshot_that_was_never_staged_stops_the_node() -> None:
    with pytest.raises(ConsensusError, match="never staged"):
        Bench().effects(snapshot=(50, 2), must_sync=True)


def test_a_snapshot_of_a_newer_format_stops_the_node() -> None:
    meta = found(US, HOME)
    state = bytes([meta.state[0], STATE_FORMAT + 1]) + meta.state[2:]
    with pytest.raises(ConsensusError, match="format"):
        Replica(
            ScriptedEngine(STATE),
            US,
            Recovered(US, HardState(1, 0, 1), Anchor(1, 1), replace(meta, state=state)),
            address=HOME,
            nonce=NONCE,
        )


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_removed_node_says_so_and_nothing_else() -> None:
    # Rule 11: from the Ready that removes it on, the engine takes no call, and a tick may come before `effects` does.
    bench = Bench()
    reader = bench.replica.read()
    context = _envelope.conf_change_context([("remove", ME)])
    bench.commit(
        (10, 2, EntryKind.CONF_CHANGE, context, b""), conf_states=[(10, ConfState((OTHER,)), None)], removed=True
    )
    bench.engine.removed = True
    bench.replica.tick()
    bench.replica.step(OTHER, [b"message"])
    bench.replica.unreachable(OTHER)
    assert bench.replica.transfer() is None
    assert not bench.replica.needs_snapshot(replace(bench.meta, index=50))
    bench.replica.step_snapshot(OTHER, b"message", replace(bench.meta, index=50), "token")
    with pytest.raises(NodeStopped):
        bench.replica.status()

    with pytest.raises(Removed, match="node 1 was removed from cluster 'orders'"):
        bench.replica.effects()

    assert bench.replica.stop() == [reader]


def test_dropped_messages_are_counted() -> None:
    bench = Bench()
    bench.replica.step(OTHER, [b"odd"])
    assert bench.replica.status().counters["dropped: odd"] == 1
