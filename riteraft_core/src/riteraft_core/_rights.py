"""Who may ask a node for what: one table, looked at for every request.

Without certificates nobody can be told apart: a shared secret makes each of its holders a member, and without
authentication whoever reaches the port is one. What is left then is that a node speaks for itself only.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._requests import AskStatus, Forward, Join, Moved, Propose, Read, Remove, Request, Who
from .types import Principal, PrincipalRole

_ANYONE: frozenset[type[Request]] = frozenset({Who, AskStatus, Propose})
_MEMBERS: frozenset[type[Request]] = frozenset({Forward, Read, Moved})
_ALLOWED: Mapping[PrincipalRole, frozenset[type[Request]]] = {
    PrincipalRole.NODE: _ANYONE | _MEMBERS | {Join},
    PrincipalRole.CLIENT: _ANYONE,
    PrincipalRole.ADMIN: _ANYONE | {Remove},
}


def why_not(request: Request, peer: int | None, principal: Principal | None) -> str | None:
    """Return why a sender may not ask for this, or None.

    `peer` is the node id that it was let in under, `principal` whom its certificate names, if certificates are shown.
    """
    if isinstance(request, Moved) and request.node_id != peer:
        return "a node speaks of its own address only"

    if peer is None and type(request) in _MEMBERS:
        return "only members may ask for this"

    if principal is None or type(request) in _ALLOWED[principal.role]:
        return None

    if isinstance(request, Remove):
        if principal.role is PrincipalRole.NODE and request.node_id == peer:
            return None  # it leaves by itself

        return f"{principal.uri} may not remove node {request.node_id}: that takes an admin's certificate"

    return f"{principal.uri} may not ask for this"
