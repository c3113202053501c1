"""The leader's stewardship of members by plain calls; that whole clusters come to it is in tests/simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from riteraft_core._membership import Membership
from riteraft_core._proposals import Ticket
from riteraft_core._requests import Join, Reply, Status
from riteraft_core._stewardship import Stewardship
from riteraft_core.types import ConfState, EngineStatus, Identity, PeerProgress, Role

from riteraft_core import _envelope, _requests

from .scripted_engine import ScriptedEngine

US = Identity("orders", b"c" * 16, 0, 1, b"1" * 16)
ROUNDS = 3


class Desk:
    """A leader's stewardship of nodes 1 and 2, both voters, at commit index 9."""

    def __init__(self) -> None:
        self.membership = Membership.founded(US, "h1:1")
        self.counters: Counter[str] = Counter()
        self.admit(2, voters=(1, 2))
        self.engine = ScriptedEngine(
            EngineStatus(1, 2, 1, Role.LEADER, 1, 9, 2, 9, self.membership.conf_state, progress=progress((2, 9)))
        )
        self.stewardship = Stewardship(self.engine, US, ROUNDS, self.counters)

    def admit(self, node_id: int, voters: tuple[int, ...], learners: tuple[int, ...] = (), vote: bool = True) -> None:
        self.membership.allocate(bytes([node_id]) * 16, f"h{node_id}:1", vote)
        self.membership.change(ConfState(voters, learners), ())

    def see(self, *matched: tuple[int, int], commit: int = 9) -> None:
        """Let the engine say how far its peers are, and that it knows the members as we do."""
        conf_state = self.membership.conf_state
        self.engine.state = replace(
            self.engine.state, commit=commit, conf_state=conf_state, progress=progress(*matched)
        )

    def remove(self, node_id: int) -> Ticket:
        ticket = Ticket()
        self.stewardship.remove(self.membership, node_id, ticket)
        return ticket

    def join(self, disk: bytes = b"3" * 16, name: str = "") -> Ticket:
        ticket = Ticket()
        self.stewardship.join(self.membership, Join("orders", disk, "h3:1"), ticket, name)
        return ticket

    def manage(self) -> Sequence[Ticket]:
        return self.stewardship.manage(self.membership)

    def tick(self, leads: bool = True) -> None:
        self.stewardship.tick(self.membership, leads)


def progress(*matched: tuple[int, int], active: bool = True) -> tuple[PeerProgress, ...]:
    return tuple(PeerProgress(node_id, index, index + 1, "replicate", active) for node_id, index in matched)


def reply(ticket: Ticket) -> Reply:
    assert isinstance(ticket.outcome, Reply)
    return ticket.outcome


# --- one change at a time --------------------------------------------------------------------------------------------


def test_rule_21_nothing_wanted_asks_the_engine_nothing() -> None:
    desk = Desk()
    desk.engine.removed = True  # it refuses whatever it is asked
    assert list(desk.manage()) == []


def test_rule_21_a_removal_goes_before_a_joiner_and_a_joiner_before_a_promotion() -> None:
    desk = Desk()
    desk.admit(3, (1, 2), learners=(3,))
    desk.membership.allocate(b"4" * 16, "h4:1", True)
    desk.see((2, 9), (3, 9))
    for _ in range(ROUNDS + 1):
        desk.tick()

    ticket = desk.remove(2)
    desk.manage()
    desk.membership.change(ConfState((1,), (3,)), (2,))
    desk.see((3, 9))
    assert list(desk.stewardship.changed(desk.membership, (2,))) == [ticket]
    desk.manage()
    desk.membership.change(ConfState((1,), (3, 4)), ())
    assert list(desk.stewardship.changed(desk.membership, ())) == []
    desk.see((3, 9), (4, 0))
    for _ in range(ROUNDS):
        desk.tick()

    desk.manage()
    assert desk.engine.changes == [("remove", 2), ("add_learner", 4), ("add_voter", 3)]


@pytest.mark.parametrize(
    "busy", [{"pending_conf_change": True}, {"transferring_to": 2}, {"conf_state": ConfState((1, 2, 3))}]
)
def test_rule_21_no_change_is_proposed_beside_another(busy: dict[str, object]) -> None:
    # A ConfState that is not ours yet is that of a change which is committed and not applied here.
    desk = Desk()
    desk.remove(2)
    idle, desk.engine.state = desk.engine.state, replace(desk.engine.state, **busy)  # type: ignore[arg-type]
    desk.manage()
    assert desk.engine.changes == []
    desk.engine.state = idle
    desk.manage()
    assert desk.engine.changes == [("remove", 2)]


def test_rule_21_what_is_wanted_is_proposed_again_until_it_is_applied() -> None:
    desk = Desk()
    desk.membership.allocate(b"3" * 16, "h3:1", True)
    desk.manage()
    desk.manage()
    assert desk.engine.changes == [("add_learner", 3), ("add_learner", 3)]


def test_a_change_that_the_engine_holds_back_is_counted_and_stays_wanted() -> None:
    desk = Desk()
    ticket = desk.remove(2)
    desk.engine.refuse = "no_commit_in_term"
    assert list(desk.manage()) == []
    assert (desk.counters["held: no_commit_in_term"], ticket.outcome) == (1, None)
    desk.engine.refuse = None
    desk.manage()
    assert desk.engine.changes == [("remove", 2)]


def test_a_removal_that_would_leave_no_voter_is_refused() -> None:
    desk = Desk()
    ticket = desk.remove(2)
    desk.engine.refuse = "last_voter"
    assert list(desk.manage()) == [ticket]
    assert "last voter" in _requests.read_text(reply(ticket))
    assert list(desk.manage()) == []


# --- learners --------------------------------------------------------------------------------------------------------


def test_rule_21_a_learner_that_kept_up_long_enough_becomes_a_voter() -> None:
    desk = Desk()
    desk.admit(3, (1, 2), learners=(3,))
    for commit in range(10, 10 + ROUNDS):  # always at the index of the tick before
        desk.see((3, commit - 1), commit=commit)
        desk.tick()
        desk.manage()

    assert desk.engine.changes == []  # of the first tick there is no index to compare with
    desk.see((3, 20), commit=20)
    desk.tick()
    desk.manage()
    assert desk.engine.changes == [("add_voter", 3)]


@pytest.mark.parametrize("break_off", ["lag", "silence", "deposed", "change"])
def test_rule_21_a_learner_that_falls_behind_once_begins_anew(break_off: str) -> None:
    desk = Desk()
    desk.admit(3, (1, 2), learners=(3,))
    desk.see((3, 9))
    for _ in range(ROUNDS):
        desk.tick()

    if break_off == "lag":
        desk.see((3, 8))
        desk.tick()
    elif break_off == "silence":
        desk.engine.state = replace(desk.engine.state, progress=progress((3, 9), active=False))
        desk.tick()
    elif break_off == "deposed":
        desk.tick(leads=False)
    else:
        desk.stewardship.changed(desk.membership, ())

    desk.see((3, 9))
    for _ in range(ROUNDS - 1):
        desk.tick()
        desk.manage()

    assert desk.engine.changes == []
    desk.tick()
    desk.manage()
    assert desk.engine.changes == [("add_voter", 3)]


def test_a_learner_that_wants_no_vote_gets_none() -> None:
    desk = Desk()
    desk.admit(3, (1, 2), learners=(3,), vote=False)
    desk.see((3, 9))
    for _ in range(2 * ROUNDS):
        desk.tick()
        desk.manage()

    assert desk.engine.changes == []


# --- who waits -------------------------------------------------------------------------------------------------------


def test_all_who_ask_for_one_removal_are_answered_by_it() -> None:
    desk = Desk()
    tickets = [desk.remove(2), desk.remove(2)]
    desk.membership.change(ConfState((1,)), (2,))
    assert list(desk.stewardship.changed(desk.membership, (2,))) == tickets
    assert [reply(ticket).status for ticket in tickets] == [Status.OK, Status.OK]


def test_a_change_that_dropped_nobody_answers_nobody() -> None:
    desk = Desk()
    ticket = desk.remove(2)
    assert list(desk.stewardship.changed(desk.membership, (2,))) == []
    assert ticket.outcome is None


def test_whom_raft_refused_to_remove_is_told_why_by_its_id() -> None:
    desk = Desk()
    ticket = desk.remove(2)
    assert list(desk.stewardship.refused((2, 3), "odd")) == [ticket]
    assert "remove node 2: odd" in _requests.read_text(reply(ticket))


def test_rule_11_a_leader_hands_over_before_it_is_removed() -> None:
    desk = Desk()
    desk.admit(3, (1, 2, 3))
    desk.admit(4, (1, 2, 3), learners=(4,))
    desk.see((2, 7), (3, 8), (4, 9))  # the furthest may not lead
    assert reply(desk.remove(1)).status is Status.RETRY
    assert desk.engine.told == [("transfer_leader", 3)]
    desk.manage()
    assert desk.engine.changes == []


def test_there_may_be_nobody_to_hand_over_to() -> None:
    desk = Desk()
    desk.engine.state = replace(desk.engine.state, progress=progress((1, 9), (2, 9), active=False))
    assert desk.stewardship.transfer() is None
    desk.see((2, 9))
    desk.engine.refuse = "transferring"
    assert desk.stewardship.transfer() is None


def test_a_joiner_that_the_engine_does_not_take_may_ask_again() -> None:
    desk = Desk()
    desk.engine.refuse = "full"
    assert reply(desk.join()) == Reply.retry("full")
    assert list(desk.stewardship.end(Reply.retry("stopping"))) == []


def test_joiners_are_answered_by_their_own_disk() -> None:
    desk = Desk()
    third, fourth = desk.join(b"3" * 16), desk.join(b"4" * 16)
    (context, data), _ = desk.engine.proposed
    disk_id, address, wants_vote, name = _envelope.read_allocate(context, data)
    member = desk.membership.allocate(disk_id, address, wants_vote, name)
    assert list(desk.stewardship.allocated(desk.membership, disk_id, name, member)) == [third]
    admitted = _requests.read_admitted(reply(third))
    assert (admitted.node_id, admitted.addresses) == (3, {1: "h1:1", 2: "h2:1", 3: "h3:1"})
    assert fourth.outcome is None


def test_who_no_longer_waits_is_not_answered_and_its_removal_goes_on() -> None:
    desk = Desk()
    ticket = desk.remove(2)
    desk.stewardship.drop(ticket)
    desk.manage()
    assert desk.engine.changes == [("remove", 2)]
    assert list(desk.stewardship.end(Reply.retry("stopping"))) == []


def test_who_leads_no_more_wants_nothing_of_what_it_was_asked() -> None:
    desk = Desk()
    tickets = [desk.join(), desk.remove(2)]
    assert list(desk.stewardship.end(Reply.not_leader(2, "h2:1"))) == tickets
    assert [ticket.outcome for ticket in tickets] == [Reply.not_leader(2, "h2:1")] * 2
    desk.manage()
    assert desk.engine.changes == []
