"""Both engines, given the same calls, say the same: reasons, effects, states, timeouts. Noise included."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from riteraft_core.consensus.raftrs import RaftRs
from riteraft_core.errors import LostAcknowledgedData, Refused
from riteraft_core.protocols import Consensus
from riteraft_core.testing.consensus_suite import _plausible
from riteraft_core.testing.engine_cluster import EngineDisk, Lab, conf
from riteraft_core.types import Anchor, HardState, Ready

pytest.importorskip("rraft", reason="rraft-py is not installed here: `nox -s rraft` builds and tests it")

from riteraft_consensus_rraft import Rraft

STORIES = 40


def joint(lab: Lab) -> Consensus:
    state = conf([1, 2, 4], [5], [1, 2, 3], learners_next=(3,), auto_leave=True)
    return lab.open(EngineDisk(HardState(1, 0, 1), Anchor(1, 1), (1, 1, state)), 1)


def sole_voter(lab: Lab) -> Consensus:
    return lab.founded(1, [1], [2, 3])


def joiner(lab: Lab) -> Consensus:
    return lab.open(EngineDisk(), 4)


def plain(value: Any) -> Any:
    """Make what the two give comparable: one gives tuples where the other gives lists."""
    if isinstance(value, Ready):
        # raft-rs keeps peers in hash order; each peer's messages have an order, the peers have none.
        outboxes = [
            sorted((to, list(batch)) for to, batch in box) for box in (value.messages, value.persisted_messages)
        ]
        rest = {name: getattr(value, name) for name in Ready.__slots__ if not name.endswith("messages")}
        return outboxes, plain({**rest, "snapshots": sorted(value.snapshots)})

    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]

    return tuple(plain(part) for part in value) if type(value) is tuple else value


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return plain(call())
    except Refused as exc:
        return "refused", exc.reason
    except LostAcknowledgedData as exc:
        return "lost", str(exc)
    except ValueError:
        return "misused"


def event(draw: random.Random, node: Consensus, newest: int) -> Callable[[Consensus], Any]:
    """Choose what happens next; it may look at one engine, and happens to both."""
    what = draw.random()
    status = node.status()
    if what < 0.45:
        message = _plausible(draw, node)
        raw = message.encode()
        if message.snapshot is not None:
            staged = max(1, message.snapshot.index), message.snapshot.term
            return lambda engine: engine.step_snapshot(message.sender, raw, *staged)

        return lambda engine: list(engine.step(message.sender, [raw]))
    if what < 0.55:
        return lambda engine: engine.tick()
    if what < 0.72:
        return lambda engine: engine.ready()
    if what < 0.84:
        return lambda engine: engine.persisted(newest)
    if what < 0.86:
        return lambda engine: engine.campaign()

    peer = draw.randrange(1, 7)
    calls: list[Callable[[Consensus], Any]] = [
        lambda engine: engine.propose([(b"context", b"data"), (b"", b"")]),
        lambda engine: engine.propose_conf_change(b"why", [(kind, peer)]),
        lambda engine: engine.propose_conf_change(b"", [("add_voter", 5), (kind, peer)]),
        lambda engine: engine.propose_conf_change(b"", []),
        lambda engine: engine.read_index(b"round"),
        lambda engine: engine.transfer_leader(peer),
        lambda engine: engine.announce_commit(),
        lambda engine: engine.report_unreachable(peer),
        lambda engine: engine.report_snapshot(peer, peer % 2 == 0),
        lambda engine: engine.snapshot_made(status.commit, status.term, status.conf_state),
        lambda engine: engine.compact(max(0, status.commit - peer)),
    ]
    kind = draw.choice(("add_voter", "add_learner", "remove"))
    return draw.choice(calls)


@pytest.mark.parametrize("make", [Lab.follower, Lab.leader, Lab.candidate, Lab.learner, joint, sole_voter, joiner])
def test_both_engines_do_the_same(make: Callable[[Lab], Consensus]) -> None:
    seed = random.randrange(1 << 32)
    for story in range(STORIES):
        draw = random.Random(seed + story)
        engines = [make(Lab(RaftRs)), make(Lab(Rraft))]
        newest = 0
        for step in range(draw.randrange(1, 120)):
            try:
                happens = event(draw, engines[0], newest)
            except Refused:
                break  # removed

            first, second = (outcome(partial(happens, engine)) for engine in engines)
            assert first == second, f"seed {seed}, story {story}, step {step}"
            if isinstance(first, tuple) and len(first) == 2 and isinstance(first[1], dict):
                newest = first[1]["number"]

            states = [outcome(partial(_view, engine)) for engine in engines]
            assert states[0] == states[1], f"seed {seed}, story {story}, step {step}"


def _view(engine: Consensus) -> Any:
    status = engine.status()
    return {name: getattr(status, name) for name in type(status).__slots__}
