from __future__ import annotations

import msgpack
import pytest
from riteraft_core._membership import Membership
from riteraft_core.types import ConfState, Hello, Identity, Member, RefusalCode

US = Identity("orders", b"c" * 16, 0, 1, b"1" * 16)
HOME = "127.0.0.1:7001"


@pytest.fixture
def membership() -> Membership:
    """Return that of node 1, with nodes 2 and 3 let in, and 3 removed again."""
    membership = Membership.founded(US, HOME)
    membership.allocate(b"2" * 16, "h2:1", True)
    membership.allocate(b"3" * 16, "h3:1", True)
    membership.change(ConfState((1, 2, 3)), ())
    membership.change(ConfState((1, 2)), (3,))
    return membership


def hello(node_id: int = 2, disk: bytes = b"2" * 16, cluster: bytes = b"c" * 16, group: int = 0, to: int = 1) -> Hello:
    return Hello(cluster, group, node_id, disk, to)


def test_ids_are_dense_and_never_used_again(membership: Membership) -> None:
    assert sorted(membership.members) == [1, 2]
    assert membership.allocate(b"4" * 16, "h4:1", False) == Member(4, "h4:1", b"4" * 16, False)


def test_the_same_disk_gets_the_same_id(membership: Membership) -> None:
    assert membership.allocate(b"2" * 16, "h2:9", True).node_id == 2
    assert membership.next_id == 4


def test_a_member_is_let_in(membership: Membership) -> None:
    assert membership.admit(US, hello()) is None
    assert membership.admit(US, hello(to=0)) is None


def test_who_has_no_identity_is_let_in_to_ask(membership: Membership) -> None:
    assert membership.admit(US, Hello(b"", 0, 0, b"", 0)) is None


def test_a_removed_node_is_refused_and_told(membership: Membership) -> None:
    # Rule 18: an id below the next one that is no member was removed.
    refusal = membership.admit(US, hello(3, b"3" * 16))
    assert refusal is not None
    assert refusal.code is RefusalCode.REMOVED


def test_a_newer_member_than_we_know_is_let_in(membership: Membership) -> None:
    # Rule 18: it is we who lag; to refuse it could cost the quorum for good.
    assert membership.admit(US, hello(4, b"4" * 16)) is None


@pytest.mark.parametrize(
    ("stranger", "code"),
    [
        (hello(cluster=b"x" * 16), RefusalCode.CLUSTER),
        (hello(cluster=b""), RefusalCode.CLUSTER),
        (hello(group=1), RefusalCode.GROUP),
        (hello(to=2), RefusalCode.RECEIVER),
        (hello(1, b"1" * 16), RefusalCode.FORBIDDEN),
        (hello(disk=b"x" * 16), RefusalCode.DISK),
    ],
)
def test_a_stranger_is_refused_by_name(membership: Membership, stranger: Hello, code: RefusalCode) -> None:
    refusal = membership.admit(US, stranger)
    assert refusal is not None
    assert refusal.code is code


def test_nobody_is_a_stranger_to_a_joiner_without_a_snapshot() -> None:
    joiner = Membership.provisional({1: HOME})
    assert joiner.admit(Identity("orders", b"c" * 16, 0, 5, b"5" * 16), hello(2, to=5)) is None
    assert joiner.addresses() == {1: HOME}


def test_only_who_is_dropped_is_gone(membership: Membership) -> None:
    membership.allocate(b"4" * 16, "h4:1", True)  # given its id, not yet a learner
    assert membership.change(ConfState((1, 2)), ()) == []
    assert membership.change(ConfState((1,)), (2, 4, 99)) == [2, 4]
    assert sorted(membership.members) == [1]


def test_an_address_of_one_that_is_gone_changes_nothing(membership: Membership) -> None:
    membership.set_address(3, "h3:9")
    assert membership.settled() == {1: HOME, 2: "h2:1"}


def test_what_a_member_says_of_its_address_counts_until_the_log_says_it(membership: Membership) -> None:
    membership.moved[2] = "h2:9"
    assert membership.addresses()[2] == "h2:9"
    assert membership.settled()[2] == "h2:1"
    membership.set_address(2, "h2:10")
    assert membership.addresses()[2] == "h2:10"
    membership.moved[2] = "h2:11"
    membership.change(ConfState((1,)), (2,))
    assert membership.addresses() == {1: HOME}


def test_a_snapshot_holds_all_of_it_but_hearsay(membership: Membership) -> None:
    membership.moved[2] = "h2:9"
    again = Membership.from_plain(msgpack.unpackb(msgpack.packb(membership.to_plain())), membership.conf_state)
    assert (again.members, again.next_id, again.conf_state) == (
        membership.members,
        membership.next_id,
        membership.conf_state,
    )
    assert again.addresses() == membership.settled()
