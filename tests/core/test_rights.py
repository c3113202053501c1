"""Who may ask a node for what."""

from __future__ import annotations

import pytest
from riteraft_core._requests import AskStatus, Forward, Join, Moved, Propose, Read, Remove, Request, Who
from riteraft_core._rights import why_not
from riteraft_core.types import Principal, PrincipalRole

FORWARD, READ, JOIN, WHO = Forward(()), Read(), Join("orders", b"d" * 16, "h:1"), Who()
MOVED, STATUS, PROPOSE = Moved(2, "h:2"), AskStatus(), Propose(b"x", 1.0)
LEAVE, REMOVE = Remove(2), Remove(3)
ALL: set[Request] = {FORWARD, READ, JOIN, WHO, MOVED, STATUS, PROPOSE, LEAVE, REMOVE}
ANYONE: set[Request] = {WHO, STATUS, PROPOSE}


@pytest.mark.parametrize(
    ("role", "peer", "allowed"),
    [
        (PrincipalRole.NODE, 2, ALL - {REMOVE}),
        (PrincipalRole.NODE, None, ANYONE | {JOIN}),
        (PrincipalRole.CLIENT, None, ANYONE),
        (PrincipalRole.CLIENT, 2, ANYONE),
        (PrincipalRole.ADMIN, None, ANYONE | {LEAVE, REMOVE}),
        (None, 2, ALL),
        (None, None, ALL - {FORWARD, READ, MOVED}),
    ],
)
def test_the_table_of_rights(role: PrincipalRole | None, peer: int | None, allowed: set[Request]) -> None:
    principal = Principal(role, "orders", "me") if role is not None else None
    assert {request for request in ALL if why_not(request, peer, principal) is None} == allowed


def test_a_node_speaks_of_its_own_address_only() -> None:
    assert why_not(Moved(3, "h:3"), 2, None) == "a node speaks of its own address only"


def test_a_refusal_names_who_asked_and_what_it_takes() -> None:
    why = why_not(Remove(3), None, Principal(PrincipalRole.CLIENT, "orders", "app"))
    assert why is not None
    assert "riteraft://orders/client/app" in why
    assert "admin" in why
