from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields

import anyio
import pytest
from riteraft_core._plugins import CONSENSUS, Plugins
from riteraft_core.config import Limits
from riteraft_core.consensus.raftrs import RaftRs, RaftRsOptions
from riteraft_core.errors import ConsensusError, LostAcknowledgedData, Refused
from riteraft_core.protocols import Consensus, EngineContext, EngineLimits
from riteraft_core.types import Anchor, ConfState, EntryKind, HardState, Ready, Role, SnapshotMeta

import riteraft_raftrs

_: type[Consensus] = RaftRs

FOUNDED = SnapshotMeta(1, 1, ConfState(voters=(1,)))


def founder(logger: logging.Logger | None = None, limits: EngineLimits | None = None) -> EngineContext:
    """Build what the first node of a cluster finds on its disk."""
    return EngineContext(
        node_id=1,
        seed=7,
        hard_state=HardState(1, 0, 1),
        anchor=Anchor(1, 1),
        snapshot=FOUNDED,
        entries=(),
        limits=limits or EngineLimits(),
        logger=logger or logging.getLogger("test"),
    )


def joiner(node_id: int) -> EngineContext:
    """Build what a node that has just been given its id starts from: raft-rs takes no term 0."""
    return EngineContext(
        node_id=node_id, seed=7, hard_state=HardState(term=1), anchor=Anchor(), snapshot=None, entries=()
    )


def take(engine: RaftRs) -> Ready:
    """Take a Ready and call it durable at once, as a disk without delay would."""
    ready = engine.ready()
    assert ready is not None
    engine.persisted(ready.number)
    return ready


def drain(engine: RaftRs) -> list[Ready]:
    readies = []
    while (ready := engine.ready()) is not None:
        engine.persisted(ready.number)
        readies.append(ready)
    return readies


def leader(context: EngineContext | None = None) -> RaftRs:
    engine = RaftRs(context or founder())
    engine.campaign()
    drain(engine)
    assert engine.status().role is Role.LEADER
    return engine


def test_a_sole_voter_leads_and_commits() -> None:
    engine = RaftRs(founder())
    engine.campaign()
    ready = take(engine)
    assert (ready.role, ready.term, ready.leader) == (Role.LEADER, 2, 1)
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.vote) == (2, 1)
    drain(engine)

    assert engine.propose([(b"context", b"a"), (b"", b"b")]) == (3, 2)
    committed = [entry for ready in drain(engine) for entry in ready.committed]
    assert committed == [(3, 2, EntryKind.NORMAL, b"context", b"a"), (4, 2, EntryKind.NORMAL, b"", b"b")]


def test_nothing_to_do_is_none() -> None:
    assert leader().ready() is None


def test_a_ready_holds_only_plain_values_of_ours() -> None:
    engine = RaftRs(founder())
    engine.campaign()
    for ready in drain(engine):
        for field in fields(ready):
            assert "riteraft_raftrs" not in type(getattr(ready, field.name)).__module__


def test_a_conf_change_comes_back_with_its_conf_state() -> None:
    engine = leader()
    index, term = engine.propose_conf_change(b"why", [("add_learner", 2)])
    readies = drain(engine)

    (committed,) = [entry for ready in readies for entry in ready.committed]
    assert (committed[0], committed[1], committed[3]) == (index, term, b"why")
    (change,) = [change for ready in readies for change in ready.conf_states]
    assert change == (index, ConfState(voters=(1,), learners=(2,)), None)
    assert engine.status().conf_state.everyone == {1, 2}


def test_a_read_round_comes_back_under_its_context() -> None:
    engine = leader()
    engine.read_index(b"round 1")
    assert [state for ready in drain(engine) for state in ready.read_states] == [(2, b"round 1")]


def test_what_raft_says_of_itself() -> None:
    engine = leader()
    engine.propose_conf_change(b"", [("add_learner", 2)])
    drain(engine)
    status = engine.status()

    assert (status.node_id, status.term, status.vote, status.leader) == (1, 2, 1, 1)
    assert (status.role, status.commit, status.first_index, status.last_index) == (Role.LEADER, 3, 2, 3)
    progress = {peer.node_id: peer for peer in status.progress}
    assert progress[2].state == "probe"
    assert progress[2].matched == 0


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda engine: engine.propose([(b"", b"x")]), "not_leader"),
        (lambda engine: engine.propose_conf_change(b"", [("add_learner", 2)]), "not_leader"),
        (lambda engine: engine.read_index(b"r"), "not_leader"),
        (lambda engine: engine.transfer_leader(1), "not_leader"),
    ],
    ids=["propose", "conf-change", "read", "transfer"],
)
def test_a_refusal_has_its_reason_and_its_cause(call: Callable[[RaftRs], object], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        call(RaftRs(founder()))
    assert caught.value.reason == reason
    assert isinstance(caught.value.__cause__, riteraft_raftrs.RaftRefused)


def test_a_panic_is_a_consensus_error_then_and_ever_after() -> None:
    engine = leader()
    with pytest.raises(riteraft_raftrs.RaftPanic):
        engine._node.panic_on_purpose()
    for call in (engine.tick, engine.ready, engine.status, lambda: engine.propose([(b"", b"x")])):
        with pytest.raises(ConsensusError, match="on purpose") as caught:
            call()
        assert isinstance(caught.value.__cause__, riteraft_raftrs.RaftPanic)


def test_lost_data_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rolled:
        def tick(self) -> None:
            raise riteraft_raftrs.LostAcknowledgedData("commit 9 is claimed, 3 is here")

    engine = RaftRs(founder())
    monkeypatch.setattr(engine, "_node", Rolled())
    with pytest.raises(LostAcknowledgedData, match="commit 9 is claimed") as caught:
        engine.tick()
    assert isinstance(caught.value.__cause__, riteraft_raftrs.LostAcknowledgedData)


def test_what_does_not_fit_together_is_refused_at_the_start() -> None:
    context = EngineContext(
        node_id=1, seed=7, hard_state=HardState(1, 0, 9), anchor=Anchor(1, 1), snapshot=FOUNDED, entries=()
    )
    with pytest.raises(ConsensusError, match="commit 9"):
        RaftRs(context)


def test_the_limits_reach_raft() -> None:
    engine = leader(founder(limits=EngineLimits(max_size_per_msg=1000, max_uncommitted_size=1000)))
    engine.propose([(b"", b"x" * 900)])
    with pytest.raises(Refused) as caught:
        engine.propose([(b"", b"x" * 900)])
    assert caught.value.reason == "full"


def test_any_limits_of_a_config_are_taken() -> None:
    tight = Limits(max_command_bytes=1, max_bytes_in_flight=1)
    for limits in (Limits(), tight):
        leader(founder(limits=limits.engine))


def test_raft_s_own_log_goes_to_the_logger_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("riteraft.test")
    with caplog.at_level(logging.DEBUG, logger="riteraft.test"):
        leader(founder(logger))
    assert any("became leader" in record.getMessage() for record in caplog.records)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}

    caplog.clear()
    with caplog.at_level(logging.INFO, logger="riteraft.test"):
        leader(founder(logger))
    assert caplog.records == []


def offered_snapshot() -> tuple[RaftRs, RaftRs, bytes, SnapshotMeta]:
    """Make a leader whose log begins after a snapshot, and a learner that needs it, up to the message between them."""
    one, two = leader(), RaftRs(joiner(2))
    index, term = one.propose_conf_change(b"", [("add_learner", 2)])
    drain(one)
    meta = SnapshotMeta(index, term, ConfState(voters=(1,), learners=(2,)))
    one.snapshot_made(meta.index, meta.term, meta.conf_state)
    one.compact(index)
    for _round in range(10):
        one.tick()
        one.tick()
        for ready in drain(one):
            if ready.snapshots:
                ((to, snapshot_index, message),) = ready.snapshots
                assert (to, snapshot_index) == (2, index)
                return one, two, message, meta
            for _to, messages in (*ready.messages, *ready.persisted_messages):
                two.step(1, messages)
        for ready in drain(two):
            for _to, messages in (*ready.messages, *ready.persisted_messages):
                one.step(2, messages)
    raise AssertionError("the leader offered no snapshot")


def test_a_snapshot_brings_a_new_member_up() -> None:
    one, two, message, meta = offered_snapshot()

    assert two.step_snapshot(1, message, meta.index, meta.term) is None
    ready = take(two)
    assert ready.snapshot == (meta.index, meta.term)
    assert two.status().conf_state == meta.conf_state
    one.report_snapshot(2, True)
    assert {peer.node_id: peer.state for peer in one.status().progress}[2] != "snapshot"


def test_a_snapshot_other_than_the_staged_one_is_dropped() -> None:
    _one, two, message, meta = offered_snapshot()

    for index, term in [(meta.index + 1, meta.term), (meta.index, meta.term + 1)]:
        assert two.step_snapshot(1, message, index, term) == "another snapshot"
    # A second metadata beside the first: protobuf readers would merge them.
    assert two.step_snapshot(1, message + bytes([9 << 3 | 2, 0]), meta.index, meta.term) == "another snapshot"
    for size in range(len(message)):
        assert two.step_snapshot(1, message[:size], meta.index, meta.term) is not None
    assert not any(ready.snapshot for ready in drain(two))
    assert two.step_snapshot(1, message, meta.index, meta.term) is None


def test_the_engine_is_opened_by_name() -> None:
    async def main() -> None:
        provider = Plugins.load().get(CONSENSUS, "raft-rs")
        async with provider.open(RaftRsOptions(), founder()) as engine:
            assert engine.status().node_id == 1

    anyio.run(main)
