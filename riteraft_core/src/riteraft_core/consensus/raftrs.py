"""The built-in consensus engine `raft-rs`: TiKV's raft through the native module riteraft-raftrs.

The rules around raft-rs live in the native module. Here its values become ours and its exceptions too: nothing else
may happen on this path, it is taken thousands of times a second.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict

from riteraft_raftrs import LostAcknowledgedData as NativeLostAcknowledgedData
from riteraft_raftrs import RaftPanic, RaftRefused, RawNode

from ..errors import ConsensusError, LostAcknowledgedData, Refused
from ..hookspecs import hookimpl
from ..protocols import Consensus, EngineContext, Provider
from ..types import ConfState, EngineStatus, HardState, PeerProgress, Ready, Role
from ._snapshot_message import snapshot_of

__all__ = ["RaftRs", "RaftRsOptions"]

P = ParamSpec("P")
R = TypeVar("R")

_ROLES = {role.value: role for role in Role}
_NATIVE = (RaftRefused, NativeLostAcknowledgedData, RaftPanic)


def _ours(exc: Exception) -> Exception:
    """Return our exception for one of the native module's."""
    if isinstance(exc, RaftRefused):
        return Refused(str(exc.args[0]))

    if isinstance(exc, NativeLostAcknowledgedData):
        return LostAcknowledgedData(str(exc))

    return ConsensusError(f"raft-rs panicked: {exc}")


def _translated(method: Callable[P, R]) -> Callable[P, R]:
    """Let `method` raise our exceptions in place of the native module's.

    Those that every message and every write calls spell it out: a call less for each.
    """

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except _NATIVE as exc:
            raise _ours(exc) from exc

    return call


class RaftRsOptions(BaseModel):
    """None: all that may be chosen stands in the config's own `timing` and `limits`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RaftRs:
    """One raft-rs node as a `Consensus`."""

    @_translated
    def __init__(self, context: EngineContext) -> None:
        """Build the node from what its storage recovered.

        :raises ConsensusError: it does not fit together, or not with the limits.
        """
        snapshot = context.snapshot
        self._logger = context.logger
        try:
            self._node = RawNode(
                node_id=context.node_id,
                hard_state=context.hard_state,
                anchor=context.anchor,
                snapshot=None if snapshot is None else (snapshot.index, snapshot.term, snapshot.conf_state.to_plain()),
                entries=context.entries,
                seed=context.seed,
                election_tick=context.timing.election_tick,
                heartbeat_tick=context.timing.heartbeat_tick,
                commit_notices=context.commit_notices,
                max_size_per_msg=context.limits.max_size_per_msg,
                max_inflight_msgs=context.limits.max_inflight_msgs,
                max_uncommitted_size=context.limits.max_uncommitted_size,
                max_committed_size_per_ready=context.limits.max_committed_size_per_ready,
            )
        except ValueError as exc:
            raise ConsensusError(f"raft-rs does not start from what was recovered: {exc}") from exc

    @_translated
    def tick(self) -> None:
        """See `Consensus.tick`."""
        self._node.tick()

    @_translated
    def campaign(self) -> None:
        """See `Consensus.campaign`."""
        self._node.campaign()

    def step(self, sender: int, messages: Sequence[bytes]) -> Sequence[str]:
        """See `Consensus.step`."""
        try:
            return self._node.step_many(sender, messages)
        except _NATIVE as exc:
            raise _ours(exc) from exc

    @_translated
    def step_snapshot(self, sender: int, message: bytes, index: int, term: int) -> str | None:
        """See `Consensus.step_snapshot`."""
        if snapshot_of(message) != (index, term):
            return "another snapshot"
        return self._node.step_snapshot(sender, message)

    def propose(self, entries: Sequence[tuple[bytes, bytes]]) -> tuple[int, int]:
        """See `Consensus.propose`."""
        try:
            return self._node.propose_many(entries)
        except _NATIVE as exc:
            raise _ours(exc) from exc

    @_translated
    def propose_conf_change(self, context: bytes, changes: Sequence[tuple[str, int]]) -> tuple[int, int]:
        """See `Consensus.propose_conf_change`."""
        return self._node.propose_conf_change(context, changes)

    @_translated
    def read_index(self, context: bytes) -> None:
        """See `Consensus.read_index`."""
        self._node.read_index(context)

    @_translated
    def transfer_leader(self, to: int) -> None:
        """See `Consensus.transfer_leader`."""
        self._node.transfer_leader(to)

    @_translated
    def announce_commit(self) -> None:
        """See `Consensus.announce_commit`."""
        self._node.announce_commit()

    @_translated
    def report_unreachable(self, peer: int) -> None:
        """See `Consensus.report_unreachable`."""
        self._node.report_unreachable(peer)

    @_translated
    def report_snapshot(self, peer: int, ok: bool) -> None:
        """See `Consensus.report_snapshot`."""
        self._node.report_snapshot(peer, ok)

    def ready(self) -> Ready | None:
        """See `Consensus.ready`."""
        try:
            native = self._node.ready()
        except _NATIVE as exc:
            raise _ours(exc) from exc

        if native is None:
            return None

        # raft's own log waits in a ring of bounded size, where newer lines push out older ones if nobody reads.
        if self._logger.isEnabledFor(logging.DEBUG):
            for level, line in self._node.take_log():
                self._logger.debug("raft-rs %s: %s", level, line)

        hard_state = native.hard_state
        return Ready(
            native.number,
            native.term,
            _ROLES[native.role],
            native.leader,
            native.messages,
            None if hard_state is None else HardState(*hard_state),
            native.must_sync,
            native.entries,
            native.snapshot,
            native.persisted_messages,
            native.snapshots,
            native.committed,
            [(index, ConfState.from_plain(plain), why) for index, plain, why in native.conf_states],
            native.read_states,
            native.snapshot_wanted,
            native.removed,
        )

    def persisted(self, number: int) -> None:
        """See `Consensus.persisted`."""
        try:
            self._node.persisted(number)
        except _NATIVE as exc:
            raise _ours(exc) from exc

    @_translated
    def snapshot_made(self, index: int, term: int, conf_state: ConfState) -> None:
        """See `Consensus.snapshot_made`."""
        self._node.snapshot_made(index, term, conf_state.to_plain())

    @_translated
    def compact(self, index: int) -> None:
        """See `Consensus.compact`."""
        self._node.compact(index)

    @_translated
    def status(self) -> EngineStatus:
        """See `Consensus.status`."""
        native = self._node.status()
        return EngineStatus(
            node_id=native.node_id,
            term=native.term,
            vote=native.vote,
            role=_ROLES[native.role],
            leader=native.leader,
            commit=native.commit,
            first_index=native.first_index,
            last_index=native.last_index,
            conf_state=ConfState.from_plain(native.conf_state),
            transferring_to=native.transferring_to,
            pending_conf_change=native.pending_conf_change,
            progress=[PeerProgress(*progress) for progress in native.progress],
        )


@asynccontextmanager
async def open_raft_rs(options: RaftRsOptions, context: EngineContext) -> AsyncIterator[Consensus]:
    """Open the engine; there is nothing to close."""
    yield RaftRs(context)


@hookimpl
def riteraft_consensus_engines() -> list[Provider[Consensus]]:
    """Return the engine `raft-rs`."""
    return [Provider("raft-rs", options=RaftRsOptions, open=open_raft_rs)]
