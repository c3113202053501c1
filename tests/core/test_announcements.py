"""Announcing one's address by plain calls; that a cluster finds itself again is in tests/simulation."""

from __future__ import annotations

import pytest
from riteraft_core._announcements import AGAIN, Announcements
from riteraft_core._effects import Ask
from riteraft_core._membership import Membership
from riteraft_core._requests import Directory, Moved, Reply, Status
from riteraft_core.types import Identity

from riteraft_core import _requests

US = Identity("orders", b"c" * 16, 0, 1, b"1" * 16)
HERE = "h1:1"


@pytest.fixture
def membership() -> Membership:
    membership = Membership.founded(US, HERE)
    membership.allocate(b"2" * 16, "h2:1", True)
    membership.allocate(b"3" * 16, "h3:1", True)
    return membership


def told(membership: Membership, announcements: Announcements) -> list[str]:
    """Have every announcement of one round answered; return to whom they went."""
    asks = announcements.next_round(membership)
    for ask in asks:
        assert announcements.answered(membership, 9, ask, directory())

    return [ask.address for ask in asks]


def directory(applied: int = 9, settled: dict[int, str] | None = None, moved: dict[int, str] | None = None) -> bytes:
    return _requests.encode_reply(_requests.directory_reply(Directory(applied, settled or {}, moved or {})))


def test_who_answered_is_not_told_again(membership: Membership) -> None:
    announcements = Announcements(1, HERE)
    second, third = announcements.next_round(membership)
    assert _requests.decode(second.payload) == Moved(1, HERE)
    assert announcements.answered(membership, 9, second, directory())
    assert not announcements.answered(membership, 9, third, None)
    assert told(membership, announcements) == ["h3:1"]
    assert told(membership, announcements) == []


@pytest.mark.parametrize(
    "raw", [b"", b"garbage", _requests.encode_reply(Reply.retry("not now")), _requests.encode_reply(Reply(Status.OK))]
)
def test_what_is_no_directory_is_no_answer(membership: Membership, raw: bytes) -> None:
    announcements = Announcements(1, HERE)
    for ask in announcements.next_round(membership):
        assert not announcements.answered(membership, 9, ask, raw)

    assert told(membership, announcements) == ["h2:1", "h3:1"]


def test_everyone_is_told_again_now_and_then(membership: Membership) -> None:
    # A peer that starts anew has forgotten it.
    announcements = Announcements(1, HERE)
    rounds = [told(membership, announcements) for _ in range(2 * AGAIN)]
    assert [number for number, addresses in enumerate(rounds, start=1) if addresses] == [1, AGAIN, 2 * AGAIN]


def test_everyone_is_told_all_the_time_while_the_log_does_not_hold_it(membership: Membership) -> None:
    announcements = Announcements(1, "h1:9")
    assert all(told(membership, announcements) == ["h2:1", "h3:1"] for _ in range(3))
    membership.set_address(1, "h1:9")
    assert told(membership, announcements) == []


def test_a_reply_to_an_older_round_does_not_count(membership: Membership) -> None:
    announcements = Announcements(1, HERE)
    old, _ = announcements.next_round(membership)
    new, _ = announcements.next_round(membership)
    assert old not in announcements
    assert new in announcements
    assert Ask(new.address, new.payload) not in announcements


def test_a_peer_is_believed_of_the_others_and_not_of_us(membership: Membership) -> None:
    announcements = Announcements(1, HERE)
    ask, *_ = announcements.next_round(membership)
    announcements.answered(membership, 9, ask, directory(10, {1: "old", 2: "h2:2", 3: "h3:2"}, {1: "older", 3: "h3:3"}))
    assert membership.addresses() == {1: HERE, 2: "h2:2", 3: "h3:3"}


def test_a_peer_that_is_behind_is_believed_in_what_it_was_told_alone(membership: Membership) -> None:
    announcements = Announcements(1, HERE)
    ask, *_ = announcements.next_round(membership)
    announcements.answered(membership, 9, ask, directory(9, {2: "h2:0", 3: "h3:0"}, {3: "h3:3"}))
    assert membership.addresses() == {1: HERE, 2: "h2:1", 3: "h3:3"}


def test_a_member_is_believed_of_itself_and_told_of_the_others(membership: Membership) -> None:
    announcements = Announcements(1, HERE)
    reply = announcements.heard(membership, 9, Moved(2, "h2:2"))
    assert _requests.read_directory(reply) == Directory(9, membership.settled(), {2: "h2:2"})
    assert announcements.heard(membership, 9, Moved(1, "h1:9")).status is Status.OK
    assert announcements.heard(membership, 9, Moved(99, "h99:1")).status is Status.OK
    assert membership.moved == {2: "h2:2"}
    announcements.heard(membership, 9, Moved(2, "h2:1"))
    assert membership.moved == {}
