from __future__ import annotations

import dataclasses

import msgpack
import pytest
from riteraft_core._membership import Membership
from riteraft_core.types import ConfState, Hello, Identity, Member, Principal, PrincipalRole, RefusalCode

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
    assert membership.allocate(b"2" * 16, "h2:9", True) == membership.members[2]
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


# --- certificates ----------------------------------------------------------------------------------------------------


def shown(name: str, role: PrincipalRole = PrincipalRole.NODE, cluster: str = "orders", node_id: int = 2) -> Hello:
    return dataclasses.replace(hello(node_id), principal=Principal(role, cluster, name))


@pytest.fixture
def named() -> Membership:
    """Return that of n1 and n2, and of node 3, that came without a certificate; node 4 was removed."""
    membership = Membership.founded(US, HOME, "n1")
    membership.allocate(b"2" * 16, "h2:1", True, "n2")
    membership.allocate(b"3" * 16, "h3:1", True)
    membership.allocate(b"4" * 16, "h4:1", True, "n4")
    membership.change(ConfState((1, 2, 3, 4)), ())
    membership.change(ConfState((1, 2, 3)), (4,))
    return membership


def test_a_member_with_its_own_certificate_is_let_in(named: Membership) -> None:
    assert named.admit(US, shown("n2")) is None


@pytest.mark.parametrize(
    ("stranger", "words"),
    [
        (shown("n1"), "node 2 is 'n2'; 'n1' is node 1"),
        (shown("n9"), "node 2 is 'n2'"),
        (shown("n2", PrincipalRole.CLIENT), "may ask but not replicate"),
        (shown("n2", PrincipalRole.ADMIN), "may ask but not replicate"),
        (shown("n2", cluster="invoices"), "riteraft://invoices/node/n2, and this is cluster 'orders'"),
        (shown("n2", cluster="invoices", node_id=0), "riteraft://invoices/node/n2"),
        (shown("n2", node_id=3), "node 3 has shown no certificate yet; 'n2' is node 2"),
    ],
)
def test_another_name_is_forbidden(named: Membership, stranger: Hello, words: str) -> None:
    refusal = named.admit(US, stranger)
    assert refusal is not None
    assert refusal.code is RefusalCode.FORBIDDEN
    assert words in refusal.text


def test_every_certificate_of_the_cluster_may_come_to_ask(named: Membership) -> None:
    for role in PrincipalRole:
        assert named.admit(US, shown("anything", role, node_id=0)) is None


def test_a_removed_node_is_told_so_even_if_its_name_lives_on(named: Membership) -> None:
    named.allocate(b"5" * 16, "h5:1", True, "n4")
    refusal = named.admit(US, shown("n4", node_id=4))
    assert refusal is not None
    assert refusal.code is RefusalCode.REMOVED


def test_a_newer_member_than_we_know_is_let_in_by_any_nodes_certificate(named: Membership) -> None:
    # Rule 18: it may bear the name of a member whose removal we have not heard of.
    assert named.admit(US, shown("n2", node_id=5)) is None


def test_a_member_that_came_without_a_certificate_gets_its_name_once(named: Membership) -> None:
    said = Hello(b"c" * 16, 0, 3, b"3" * 16, 1, Principal(PrincipalRole.NODE, "orders", "n3"))
    assert named.admit(US, said) is None
    for name in ("n2", "n3", "n4"):  # another's is passed over, the first that is free stays
        named.bind(3, name)
    assert named.members[3].name == "n3"
    named.bind(99, "n99")
    assert 99 not in named.members


def test_no_two_members_have_one_name(named: Membership) -> None:
    assert named.allocate(b"6" * 16, "h6:1", True, "n2") is None
    assert named.next_id == 5


def test_names_come_back_and_older_rows_have_none(named: Membership) -> None:
    plain = named.to_plain()
    assert Membership.from_plain(msgpack.unpackb(msgpack.packb(plain)), named.conf_state).members == named.members
    older = [plain[0], [row[:4] for row in plain[1]]]
    assert {m.name for m in Membership.from_plain(older, named.conf_state).members.values()} == {""}
