"""Who takes part: conf states and conf changes, checked before raft-rs sees them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import rraft
from riteraft_core.types import ConfState

from . import _wire
from ._wire import ADD_LEARNER, ADD_VOTER, REMOVE, Entry

LIMIT = 1 << 62
"""Numbers from outside stay below this, so that no sum in raft-rs can wrap."""

_CHANGES = {"add_voter": ADD_VOTER, "add_learner": ADD_LEARNER, "remove": REMOVE}

Changes = Sequence[tuple[int, int]]
"""(type, node id) of each part of a conf change."""


def problem(conf: ConfState) -> str | None:
    """Say what is wrong with a conf state, if anything.

    Each of these made raft-rs panic when it restored the state, but for doubled voters, which it let through.
    """
    for ids in (conf.voters, conf.learners, conf.voters_outgoing, conf.learners_next):
        if 0 in ids:
            return "node id 0"
        if any(node_id >= LIMIT for node_id in ids):
            return "a node id out of range"
        if len(set(ids)) != len(ids):
            return "an id twice in one set"

    if not conf.voters:
        return "no voters"
    if set(conf.learners) & {*conf.voters, *conf.voters_outgoing}:
        return "a voter that is a learner"
    if not set(conf.learners_next) <= set(conf.voters_outgoing) - set(conf.voters):
        return "a next learner that is no outgoing voter"
    if conf.auto_leave and not conf.voters_outgoing:
        return "auto_leave without outgoing voters"

    return None


def decode(entry: Entry) -> bytes | None:
    """Return an entry's conf change as an encoded ConfChangeV2; None for a normal entry.

    :raises ValueError: it is none, or one that panics where it is applied; the text says why.
    """
    if entry.kind == _wire.NORMAL:
        return None

    try:
        # Each object has a name: a method of one that nothing holds any more is refused by rraft-py.
        if entry.kind == _wire.CONF_CHANGE:
            simple = rraft.ConfChange.decode(entry.data)
            transition, changes = 0, _wire.read_conf_change(simple.encode())
        elif entry.kind == _wire.CONF_CHANGE_V2:
            joint = rraft.ConfChangeV2.decode(entry.data)
            transition, changes = _wire.read_conf_change_v2(joint.encode())
        else:
            raise ValueError("unknown entry type")
    except RuntimeError as exc:
        raise ValueError("undecodable conf change") from exc

    if transition > 2:  # automatic, implicit, explicit
        raise ValueError("unknown conf change transition")

    for kind, node_id in changes:
        if kind not in _CHANGES.values():
            raise ValueError("unknown conf change type")
        if not 0 < node_id < LIMIT:
            raise ValueError("conf change of no node")

    return _wire.write_conf_change_v2(changes, transition)


def from_pairs(pairs: Sequence[tuple[str, int]]) -> Changes:
    """Build a conf change out of pairs of `add_voter`, `add_learner` or `remove` and a node id.

    :raises ValueError: an unknown kind, or an id that no node has.
    """
    for kind, node_id in pairs:
        if kind not in _CHANGES:
            raise ValueError(f"conf change {kind!r}: not add_voter, add_learner or remove")
        if not 0 < node_id < LIMIT:
            raise ValueError(f"conf change {kind} {node_id}: no node has this id")

    return [(_CHANGES[kind], node_id) for kind, node_id in pairs]


def voters_after(conf: ConfState, changes: Changes) -> frozenset[int]:
    """Return who would vote once `changes` is entered; rraft-py has no `Changer` to ask."""
    voters = set(conf.voters)
    for kind, node_id in changes:
        if kind == ADD_VOTER:
            voters.add(node_id)
        else:
            voters.discard(node_id)

    return frozenset(voters)


def is_leave(encoded: bytes) -> bool:
    """Say whether an encoded ConfChangeV2 is the leave of a joint state."""
    return _wire.read_conf_change_v2(encoded) == (0, [])


def voters_without(conf: ConfState, encoded: bytes, node_id: int) -> list[Collection[int]] | None:
    """Return who votes after an encoded ConfChangeV2, in both halves, if it takes `node_id` out; else None."""
    transition, changes = _wire.read_conf_change_v2(encoded)
    outgoing: Collection[int] = ()
    if is_leave(encoded):
        voters: Collection[int] = conf.voters
        learners = {*conf.learners, *conf.learners_next}
        possible = bool(conf.voters_outgoing)
    else:
        voters = voters_after(conf, changes)
        learners = set(conf.learners)
        for kind, changed in changes:
            learners.discard(changed)
            if kind == ADD_LEARNER:
                learners.add(changed)

        possible = bool(voters) and not conf.voters_outgoing
        if len(changes) > 1 or transition:
            outgoing = conf.voters

    if not possible or node_id not in conf or node_id in {*voters, *outgoing, *learners}:
        return None

    return [voters, outgoing] if outgoing else [voters]
