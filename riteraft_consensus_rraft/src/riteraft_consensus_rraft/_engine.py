"""One raft node: rraft-py's `RawNode` with the rules around it.

rraft-py gives away pointers into raft-rs as `…Ref` objects that nothing keeps alive: each is fetched in the call that
uses it and gone when that call returns. Each method checks first and touches raft-rs only if the call cannot go
wrong: what raft-rs answers is either silence or a panic.
"""

from __future__ import annotations

import functools
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import rraft
from riteraft_core.errors import ConsensusError, LostAcknowledgedData, Refused
from riteraft_core.protocols import EngineContext
from riteraft_core.types import (
    Anchor,
    CommittedEntry,
    ConfState,
    EngineStatus,
    EntryKind,
    HardState,
    LogRow,
    PeerMessages,
    PeerProgress,
    Ready,
    Role,
)

from . import _conf, _timeouts, _wire
from ._conf import LIMIT
from ._farewell import Farewell
from ._gate import HEARTBEAT_PAST_LOG, Dropped, Gate
from ._suspicion import Suspicion
from ._tail import Tail, TailEntry

P = ParamSpec("P")
R = TypeVar("R")

MAX_ROUNDS = 1024
"""ReadIndex contexts remembered; heartbeat answers to older rounds come too late to be missed."""

_ROLES = {
    "Follower": Role.FOLLOWER,
    "PreCandidate": Role.PRE_CANDIDATE,
    "Candidate": Role.CANDIDATE,
    "Leader": Role.LEADER,
}
_KINDS = {
    "EntryNormal": EntryKind.NORMAL,
    "EntryConfChange": EntryKind.CONF_CHANGE,
    "EntryConfChangeV2": EntryKind.CONF_CHANGE_V2,
}

# Said to ourselves, or never said by us at all: no peer would take them.
_NEVER_SENT = {_wire.PROPOSE, _wire.READ_INDEX, _wire.READ_INDEX_RESPONSE, _wire.TRANSFER_LEADER}


class Misused(ValueError):
    """The caller broke the contract; raft was not touched."""


def _guarded(
    method: Callable[Concatenate[Rraft, P], R],
) -> Callable[Concatenate[Rraft, P], R]:
    """Let `method` raise no exception but ours, and nothing happen after a panic or our own removal."""

    @functools.wraps(method)
    def call(self: Rraft, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._broken is not None:
            raise ConsensusError(self._broken)
        if self._removed:
            raise Refused("removed")

        try:
            return method(self, *args, **kwargs)
        except BaseException as exc:
            # The frames hold Refs, and the traceback holds the frames for as long as anybody keeps the exception.
            traceback.clear_frames(exc.__traceback__)
            if isinstance(exc, (Refused, LostAcknowledgedData, Misused)) or not _is_failure(exc):
                raise

            self._throw_away(exc)

    return call


def _is_failure(exc: BaseException) -> bool:
    """Say whether raft-rs or rraft-py failed; Ctrl-C is none of theirs.

    PyO3's PanicException derives from BaseException, and no module that could be imported holds it.
    """
    return isinstance(exc, Exception) or type(exc).__name__ == "PanicException"


class Rraft:
    """One rraft-py node as a `Consensus`."""

    def __init__(self, context: EngineContext) -> None:
        """Build the node from what its storage recovered.

        :raises ConsensusError: it does not fit together, or not with the limits.
        """
        self._raw: Any
        self._broken: str | None = None
        """What raft-rs panicked at: from then on nobody knows what its parts look like."""
        self._removed = False
        self._told = 0
        """The highest commit index that a leader other than us told us since the start."""
        self._farewell: Farewell | None = None
        self._context = context
        self._suspicion = Suspicion()
        self._rounds: dict[bytes, None] = {}
        """Contexts of our ReadIndex rounds, oldest first; also of those that are over: a late answer to one of these
        still says that its sender lives."""
        self._campaigns = 0
        """How many elections we began: part of the draw of the next timeout."""
        self._drawn: tuple[tuple[int, int], int] = ((-1, -1), 0)
        self._handed_out = 0
        self._durable = 0
        """Numbers of the newest Ready that was handed out, and of the newest that is durable."""
        self._unsaved_votes: deque[int] = deque()
        """Numbers of the Readies that changed term or vote and are not durable yet."""
        self._vote = context.hard_state[:2]
        """Term and vote of the newest Ready."""
        self._taken: tuple[int, int, ConfState] | None = None
        """The snapshot that raft took from a peer, until it is durable: nothing else may move meanwhile (rule 9)."""
        self._installing: int | None = None
        """The number of the Ready that carried it."""
        self._conf_state = ConfState()
        """rraft-py shows raft's own only in part; it changes where we are told of it: at a conf change, a snapshot."""

        try:
            self._start()
        except BaseException as exc:
            traceback.clear_frames(exc.__traceback__)
            if not _is_failure(exc):
                raise

            raise ConsensusError(f"rraft-py does not start from what was recovered: {exc}") from exc

    def _start(self) -> None:
        context = self._context
        timing, limits = context.timing, context.limits
        _check_settings(context)
        entries = [_read_row(row) for row in context.entries]
        snapshot = None
        if context.snapshot is not None:
            snapshot = (context.snapshot.index, context.snapshot.term, context.snapshot.conf_state)
            self._conf_state = _in_order(context.snapshot.conf_state)

        _check_recovered(context.hard_state, context.anchor, snapshot, entries)
        self._tail = Tail(context.hard_state, context.anchor, snapshot, entries)
        config = rraft.Config(
            id=context.node_id,
            election_tick=timing.election_tick,
            heartbeat_tick=timing.heartbeat_tick,
            min_election_tick=timing.election_tick,
            max_election_tick=timing.election_tick * 2,
            applied=self._tail.snapshot_index,
            max_size_per_msg=limits.max_size_per_msg,
            max_inflight_msgs=limits.max_inflight_msgs,
            max_uncommitted_size=limits.max_uncommitted_size,
            max_committed_size_per_ready=limits.max_committed_size_per_ready,
            pre_vote=True,
            check_quorum=True,
            skip_bcast_commit=not context.commit_notices,
            # Leases are not raft-rs's business: its own serve stale reads (rule 8).
            read_only_option=rraft.ReadOnlyOption.Safe,
        )
        # raft-rs's own log goes to stderr, from the level that RUST_LOG names, errors only without it.
        self._raw = rraft.RawNode(config, rraft.Storage(self._tail), rraft.default_logger())
        self._draw_timeout(self._raw.get_raft())

    def _throw_away(self, exc: BaseException) -> NoReturn:
        self._broken = f"raft-rs panicked: {exc}"
        del self._raw
        raise ConsensusError(self._broken) from exc

    # --- time ----------------------------------------------------------------------------------------------------

    @_guarded
    def tick(self) -> None:
        """See `Consensus.tick`."""
        raft = self._raw.get_raft()
        if self._taken is not None or self._sole_voter_waits(raft):
            return

        term = raft.get_term()
        claim = self._suspicion.tick(term, self._context.timing.election_tick)
        if claim is not None:
            leader, commit = claim
            raise LostAcknowledgedData(
                f"leader {leader} of term {term} holds an acknowledgement of ours up to index {commit}, "
                f"our log ends at {raft.get_raft_log().last_index()}"
            )

        led = self._leads(raft)
        if self._raw.tick() and not led:
            self._campaigns += 1

        # raft-rs leaves a joint state by itself only if it led when that state was entered (rule 10).
        if (
            self._conf_state.voters_outgoing
            and self._leads(raft)
            and not self._has_pending_conf(raft)
            and raft.get_lead_transferee() is None
        ):
            with suppress(Refused):  # the next tick asks again
                self._append(raft, [(_wire.CONF_CHANGE_V2, b"", b"")])

        self._draw_timeout(raft)

    @_guarded
    def campaign(self) -> None:
        """See `Consensus.campaign`."""
        raft = self._raw.get_raft()
        # raft-rs asks nothing here: a learner would stand for election, a joiner without voters would win.
        if not raft.promotable() or self._taken is not None or self._sole_voter_waits(raft):
            return

        self._campaigns += 1
        self._raw.campaign()
        self._draw_timeout(raft)

    def _draw_timeout(self, raft: Any) -> None:
        drawn_for = (raft.get_term(), self._campaigns)
        if self._drawn[0] != drawn_for:
            least = self._context.timing.election_tick
            timeout = _timeouts.draw(self._context.seed, self._context.node_id, *drawn_for, least, least * 2)
            self._drawn = (drawn_for, timeout)

        raft.set_randomized_election_timeout(self._drawn[1])

    # --- messages ------------------------------------------------------------------------------------------------

    @_guarded
    def step(self, sender: int, messages: Sequence[bytes]) -> Sequence[str]:
        """See `Consensus.step`."""
        raft = self._raw.get_raft()
        dropped = []
        for raw in messages:
            try:
                self._step(raft, sender, raw)
            except Dropped as reason:
                dropped.append(str(reason))

        self._draw_timeout(raft)
        return dropped

    def _step(self, raft: Any, sender: int, raw: bytes) -> None:
        message, view = _decode(raw)
        try:
            self._gate(raft).check(view, sender)
        except Dropped as reason:
            if str(reason) == HEARTBEAT_PAST_LOG and view.term == raft.get_term():
                self._suspicion.heartbeat(sender, view.term, view.commit)

            raise

        if view.kind == _wire.TIMEOUT_NOW:
            self._campaigns += 1

        self._step_checked(message)
        if view.kind == _wire.APPEND:
            self._suspicion.append(sender, raft.get_raft_log().last_index())
        if view.kind in (_wire.APPEND, _wire.HEARTBEAT):
            self._told = max(self._told, view.commit)

    @_guarded
    def step_snapshot(self, sender: int, message: bytes, index: int, term: int) -> str | None:
        """See `Consensus.step_snapshot`."""
        raft = self._raw.get_raft()
        try:
            decoded, view = _decode(message)
            if view.snapshot is None or (view.snapshot.index, view.snapshot.term) != (index, term):
                raise Dropped("another snapshot")

            self._gate(raft).check_snapshot(view, sender)
            # The data is staged elsewhere; raft would carry it along for nothing.
            decoded.get_snapshot().clear_data()
            self._step_checked(decoded)
        except Dropped as reason:
            return str(reason)

        if raft.snap() is not None:  # else our log reached that far already
            assert view.snapshot.conf_state is not None
            self._taken = (index, term, view.snapshot.conf_state)
            self._conf_state = view.snapshot.conf_state

        self._draw_timeout(raft)
        return None

    def _step_checked(self, message: Any) -> None:
        try:
            self._raw.step(message)
        except rraft.RaftError as exc:
            raise Dropped("refused by raft") from exc

    def _gate(self, raft: Any) -> Gate:
        return Gate(
            raft,
            self._conf_state,
            self._rounds,
            installing=self._taken is not None,
            sole_voter_waits=self._sole_voter_waits(raft),
            vote_saved=not self._unsaved_votes and self._vote == (raft.get_term(), raft.get_vote()),
        )

    @_guarded
    def announce_commit(self) -> None:
        """See `Consensus.announce_commit`.

        By an append: a heartbeat says no more than a follower is known to match.
        """
        raft = self._raw.get_raft()
        if self._leads(raft):
            raft.bcast_append()

    @_guarded
    def report_unreachable(self, peer: int) -> None:
        """See `Consensus.report_unreachable`."""
        self._raw.report_unreachable(peer)

    @_guarded
    def report_snapshot(self, peer: int, ok: bool) -> None:
        """See `Consensus.report_snapshot`."""
        self._raw.report_snapshot(peer, rraft.SnapshotStatus.Finish if ok else rraft.SnapshotStatus.Failure)

    # --- proposals and questions ---------------------------------------------------------------------------------

    @_guarded
    def propose(self, entries: Sequence[tuple[bytes, bytes]]) -> tuple[int, int]:
        """See `Consensus.propose`."""
        if not entries:
            raise Misused("propose: no entries")

        raft = self._raw.get_raft()
        self._check_may_propose(raft)
        return self._append(raft, [(_wire.NORMAL, context, data) for context, data in entries])

    @_guarded
    def propose_conf_change(self, context: bytes, changes: Sequence[tuple[str, int]]) -> tuple[int, int]:
        """See `Consensus.propose_conf_change`; what raft-rs would turn into an empty entry is refused by name."""
        try:
            parts = _conf.from_pairs(changes)
        except ValueError as exc:
            raise Misused(str(exc)) from exc

        raft = self._raw.get_raft()
        self._check_may_propose(raft)
        if self._has_pending_conf(raft):
            raise Refused("pending_conf_change")

        joint = bool(self._conf_state.voters_outgoing)
        if joint != (not parts):
            raise Refused("joint")
        if not joint:
            # As every replica will do when it is committed: all that can fail is that nobody is left to vote.
            voters = _conf.voters_after(self._conf_state, parts)
            if not voters:
                raise Refused("last_voter")
            if self._context.node_id not in voters:
                raise Refused("removes_leader")

        pending_before = raft.get_pending_conf_index()
        try:
            return self._append(raft, [(_wire.CONF_CHANGE_V2, context, _wire.write_conf_change_v2(parts))])
        except Refused:
            # raft-rs notes the change as pending before it finds that there is no room for it, and rraft-py does not
            # show how much room there is.
            raft.set_pending_conf_index(pending_before)
            raise

    def _check_may_propose(self, raft: Any) -> None:
        if not self._leads(raft):
            raise Refused("not_leader")
        if raft.get_lead_transferee() is not None:
            raise Refused("transferring")

    def _append(self, raft: Any, entries: Sequence[tuple[int, bytes, bytes]]) -> tuple[int, int]:
        """Append (entry type, context, data) as one message to ourselves: all or none (rule 15)."""
        place = (raft.get_raft_log().last_index() + 1, raft.get_term())
        # Bytes, not setters: those of rraft-py take a list of numbers, one for each byte.
        proposal = rraft.Message.decode(_wire.write_proposal(self._context.node_id, entries))
        try:
            self._raw.step(proposal)
        except rraft.ProposalDroppedError as exc:
            # Every reason to drop it was asked for above but the size, which raft-rs knows best.
            raise Refused("full") from exc

        return place

    @_guarded
    def read_index(self, context: bytes) -> None:
        """See `Consensus.read_index`; never on behalf of a peer, never as a follower (rule 17)."""
        if not context:
            raise Misused("read_index: an empty context is never answered")

        raft = self._raw.get_raft()
        if not self._leads(raft):
            raise Refused("not_leader")
        if not raft.commit_to_current_term():
            raise Refused("no_commit_in_term")

        self._rounds[context] = None
        if len(self._rounds) > MAX_ROUNDS:
            del self._rounds[next(iter(self._rounds))]

        self._raw.read_index(context)

    @_guarded
    def transfer_leader(self, to: int) -> None:
        """See `Consensus.transfer_leader`."""
        raft = self._raw.get_raft()
        if self._taken is not None:
            raise Refused("installing")
        if not self._leads(raft):
            raise Refused("not_leader")
        if to == self._context.node_id:
            raise Refused("is_leader")
        if to not in self._conf_state:
            raise Refused("unknown_node")
        if to not in self._conf_state.voters:
            raise Refused("learner")

        self._raw.transfer_leader(to)

    # --- effects -------------------------------------------------------------------------------------------------

    @_guarded
    def ready(self) -> Ready | None:
        """Take what there is to do: entries go into the tail, conf changes into force, in this order."""
        raft = self._raw.get_raft()
        may_leave = self._may_leave(raft)
        if not self._raw.has_ready() and not self._tail.wanted and not may_leave:
            return None

        owner = self._raw.ready()
        ready = owner.make_ref()
        number: int = ready.number()
        self._handed_out = number
        hard_state = self._take_hard_state(ready.hs(), number)
        must_sync: bool = ready.must_sync()
        leads = self._leads(raft)
        messages = [
            message.encode() for message in (ready.take_messages() if leads else ready.take_persisted_messages())
        ]
        read_states = [(state.get_index(), bytes(state.get_request_ctx())) for state in ready.take_read_states()]
        committed = [_read_committed(entry.make_ref()) for entry in ready.take_committed_entries()]
        last_committed = committed[-1][0] if committed else None
        if self._farewell is not None:
            self._farewell.entries += committed
            committed = []
            if may_leave:
                committed, self._farewell = self._farewell.entries, None

        installed = None
        if ready.snapshot():
            assert self._taken is not None
            installed = self._taken[:2]
            self._installing = number
            self._farewell = None
            self._tail.restart_after(Anchor(*installed))

        rows: list[LogRow] = []
        tail: list[TailEntry] = []
        for entry in ready.take_entries():
            ref = entry.make_ref()
            encoded = ref.encode()
            index, term = ref.get_index(), ref.get_term()
            rows.append((index, term, encoded))
            tail.append((term, entry, len(encoded)))

        if rows:
            self._tail.append(rows[0][0], tail)

        # Before any conf change: applying one may append to what raft still holds, and it compares that with `ready`.
        self._raw.advance_append_async(ready)
        term, role, leader = raft.get_term(), _ROLES[repr(raft.get_state())], raft.get_leader_id()
        now, later, snapshots = self._sort_messages(messages, leads=leads)
        committed, conf_states = self._apply_conf_changes(raft, committed, may_leave=may_leave)
        if self._farewell is not None and self._farewell.leaves_joint:
            # Told that it is applied, raft-rs would find itself joint still, and append another leave.
            last_committed = committed[-1][0] if committed else None

        if last_committed is not None and not self._removed:
            log = raft.get_raft_log()
            before = log.last_index()
            self._raw.advance_apply_to(last_committed)
            if log.last_index() > before:
                # The leave of a joint state: raft-rs appends it, but tells nobody before the next heartbeat.
                raft.bcast_append()

        return Ready(
            number=number,
            term=term,
            role=role,
            leader=leader,
            messages=now,
            hard_state=hard_state,
            must_sync=must_sync,
            entries=rows,
            snapshot=installed,
            persisted_messages=later,
            snapshots=snapshots,
            committed=committed,
            conf_states=conf_states,
            read_states=read_states,
            snapshot_wanted=self._tail.take_wanted(),
            removed=self._removed,
        )

    def _take_hard_state(self, state: Any, number: int) -> HardState | None:
        if state is None:
            return None

        hard_state = HardState(state.get_term(), state.get_vote(), state.get_commit())
        if self._vote != hard_state[:2]:
            self._vote = hard_state[:2]
            self._unsaved_votes.append(number)

        return hard_state

    def _sort_messages(
        self, messages: Sequence[bytes], *, leads: bool
    ) -> tuple[list[PeerMessages], list[PeerMessages], list[tuple[int, int, bytes]]]:
        """Say of each message whether it may leave before this Ready is durable (rules 1 and 20)."""
        now: dict[int, list[bytes]] = {}
        later: dict[int, list[bytes]] = {}
        snapshots = []
        for raw in messages:
            kind, to = _wire.read_head(raw)
            if kind in _NEVER_SENT:
                continue
            if kind == _wire.SNAPSHOT:
                metadata = _wire.read_message(raw).snapshot
                assert metadata is not None
                snapshots.append((to, metadata.index, raw))
                continue

            # A heartbeat's answer promises nothing but our term: were it to wait, a slow disk would depose a leader.
            beside = leads or kind == _wire.HEARTBEAT_RESPONSE
            outbox = now if beside and not self._unsaved_votes else later
            outbox.setdefault(to, []).append(raw)

        return list(now.items()), list(later.items()), snapshots

    def _may_leave(self, raft: Any) -> bool:
        """Say whether our removal, which was kept back, may take effect (rule 11)."""
        farewell = self._farewell
        if farewell is None:
            return False
        if self._told >= farewell.index:
            return True
        if not self._leads(raft):
            return False

        acknowledged = {}
        for item in raft.prs().collect():
            node_id, progress = item.id(), item.progress()
            acknowledged[node_id] = progress.get_committed_index()

        return farewell.is_known(lambda node_id: acknowledged.get(node_id, 0))

    def _apply_conf_changes(
        self, raft: Any, committed: list[CommittedEntry], *, may_leave: bool
    ) -> tuple[list[CommittedEntry], list[tuple[int, ConfState, str | None]]]:
        """Put each committed conf change in force, before raft is told that all is applied (rule 10).

        Our own removal, and all after it, is kept back unless we `may_leave` or were told that it is committed (rule
        11). To raft that is applied, too: as long as it has one that is not, it does not stand for election.
        """
        conf_states: list[tuple[int, ConfState, str | None]] = []
        for place, (index, term, kind, _, data) in enumerate(committed):
            if kind == EntryKind.NORMAL:
                continue

            if not may_leave and index > self._told:
                farewell = self._farewell_at(committed, place)
                if farewell is not None:
                    self._farewell = farewell
                    if self._leads(raft):
                        raft.bcast_append()

                    return committed[:place], conf_states

            was_in = self._context.node_id in self._conf_state
            refused = self._put_in_force(_wire.Entry(index, term, kind, data))
            conf_states.append((index, self._conf_state, refused))
            if was_in and self._context.node_id not in self._conf_state:
                # What comes after our removal is not ours to apply, and raft must not be touched any more: it
                # panics at the next save or answer.
                self._removed = True
                return committed[: place + 1], conf_states

        return committed, conf_states

    def _farewell_at(self, committed: list[CommittedEntry], place: int) -> Farewell | None:
        """Return what is to be kept back if the entry at `place` is our removal."""
        index, term, kind, _, data = committed[place]
        try:
            change = _conf.decode(_wire.Entry(index, term, kind, data))
        except ValueError:
            return None

        if change is None:
            return None

        voters = _conf.voters_without(self._conf_state, change, self._context.node_id)
        return None if voters is None else Farewell(committed[place:], voters, _conf.is_leave(change))

    def _put_in_force(self, entry: _wire.Entry) -> str | None:
        """Apply one conf change; return why it was refused."""
        try:
            change = _conf.decode(entry)
        except ValueError as exc:
            return str(exc)

        try:
            conf_state = self._raw.apply_conf_change_v2(rraft.ConfChangeV2.decode(change))
        except rraft.RaftError as exc:
            return str(exc)

        self._conf_state = _wire.read_conf_state(conf_state.encode())
        return None

    @_guarded
    def persisted(self, number: int) -> None:
        """See `Consensus.persisted`."""
        if number > self._handed_out:
            raise Misused(f"persisted({number}): the newest Ready is {self._handed_out}")
        if number <= self._durable:
            return

        self._durable = number
        while self._unsaved_votes and self._unsaved_votes[0] <= number:
            self._unsaved_votes.popleft()

        self._raw.on_persist_ready(number)
        if self._installing is not None and self._installing <= number:
            # One step with the line above: an election between the two would panic (rule 9).
            assert self._taken is not None
            index, term, conf_state = self._taken
            self._installing = self._taken = None
            self._raw.advance_apply_to(index)
            self._tail.offer(index, term, conf_state)

    # --- snapshots and the log -----------------------------------------------------------------------------------

    @_guarded
    def snapshot_made(self, index: int, term: int, conf_state: ConfState) -> None:
        """See `Consensus.snapshot_made`."""
        log = self._raw.get_raft().get_raft_log()
        why = _conf.problem(conf_state)
        own = self._tail.term_at(index)
        if not 0 < index <= log.get_applied():
            raise Misused(f"snapshot_made({index}): entries up to {log.get_applied()} were handed out")
        if index > log.get_persisted():
            raise Misused(f"snapshot_made({index}): rows up to {log.get_persisted()} are durable")
        if why is not None:
            raise Misused(f"snapshot_made({index}): its conf state has {why}")
        if own not in (None, term):
            raise Misused(f"snapshot_made({index}): its term is {term}, the log's {own}")

        self._tail.offer(index, term, conf_state)

    @_guarded
    def compact(self, index: int) -> None:
        """See `Consensus.compact`."""
        if index > self._tail.snapshot_index:
            raise Misused(f"compact({index}): the newest durable snapshot is at {self._tail.snapshot_index}")

        self._tail.compact(index)

    # --- what there is to see ------------------------------------------------------------------------------------

    @_guarded
    def status(self) -> EngineStatus:
        """See `Consensus.status`."""
        raft = self._raw.get_raft()
        log = raft.get_raft_log()
        return EngineStatus(
            node_id=self._context.node_id,
            term=raft.get_term(),
            vote=raft.get_vote(),
            role=_ROLES[repr(raft.get_state())],
            leader=raft.get_leader_id(),
            commit=log.get_committed(),
            first_index=log.first_index(),
            last_index=log.last_index(),
            conf_state=self._conf_state,
            transferring_to=raft.get_lead_transferee() or 0,
            pending_conf_change=self._has_pending_conf(raft),
            progress=self._progress(raft),
        )

    def _progress(self, raft: Any) -> list[PeerProgress]:
        """How far a leader knows its peers to be, by id; nothing on others."""
        if not self._leads(raft):
            return []

        found = []
        for item in raft.prs().collect():
            node_id, progress = item.id(), item.progress()
            if node_id != self._context.node_id:
                found.append(
                    PeerProgress(
                        node_id,
                        progress.get_matched(),
                        progress.get_next_idx(),
                        repr(progress.get_state()).lower(),
                        progress.get_recent_active(),
                    )
                )

        return sorted(found, key=lambda progress: progress.node_id)

    def _has_pending_conf(self, raft: Any) -> bool:
        """Say whether a conf change may be in the log that is not in force yet."""
        return bool(raft.has_pending_conf()) or self._farewell is not None

    def _leads(self, raft: Any) -> bool:
        return bool(raft.get_state() == rraft.StateRole.Leader)

    def _sole_voter_waits(self, raft: Any) -> bool:
        """Say whether we are the only voter, and not all of our log is durable (rule 14).

        A sole voter wins at once, and raft panics if it then holds entries that are not durable. Both halves of a joint
        state may hold nobody but us.
        """
        if {*self._conf_state.voters, *self._conf_state.voters_outgoing} != {self._context.node_id}:
            return False

        log = raft.get_raft_log()
        return not self._leads(raft) and raft.promotable() and log.get_persisted() < log.last_index()


def _decode(raw: bytes) -> tuple[Any, _wire.Message]:
    """Decode a peer's message; the view of it is read from what raft-rs's own codec makes of it.

    So there is one reader of foreign bytes, and what the gate looked at is what raft gets.
    """
    try:
        message = rraft.Message.decode(raw)
    except RuntimeError as exc:
        raise Dropped("undecodable") from exc

    return message, _wire.read_message(message.encode())


def _read_committed(ref: Any) -> CommittedEntry:
    kind = _KINDS[repr(ref.get_entry_type())]
    return ref.get_index(), ref.get_term(), kind, ref.get_context(), ref.get_data()


def _read_row(row: LogRow) -> TailEntry:
    """Decode one row of a storage."""
    index, term, encoded = row
    try:
        entry = rraft.Entry.decode(encoded)
    except RuntimeError as exc:
        raise Misused(f"entry {index}: undecodable: {exc}") from exc

    view = _wire.read_entry(entry.encode())
    if (view.index, view.term) != (index, term):
        raise Misused(f"entry {index}: its row says term {term}, its bytes index {view.index} and term {view.term}")

    try:
        _conf.decode(view)
    except ValueError as exc:
        raise Misused(f"entry {index}: {exc}") from exc

    return term, entry, len(encoded)


def _in_order(conf: ConfState) -> ConfState:
    voters, learners, outgoing, learners_next, auto_leave = conf.to_plain()
    return ConfState.from_plain((sorted(voters), sorted(learners), sorted(outgoing), sorted(learners_next), auto_leave))


def _check_settings(context: EngineContext) -> None:
    if not 0 < context.node_id < LIMIT:
        raise Misused(f"node_id {context.node_id}: not a node's id")
    if context.limits.max_size_per_msg == 0:
        raise Misused("max_size_per_msg 0: raft-rs takes it for one entry a message")


def _check_recovered(
    hard_state: HardState, anchor: Anchor, snapshot: tuple[int, int, ConfState] | None, entries: Sequence[TailEntry]
) -> None:
    """Look for what raft-rs would panic at, now or later, in what a disk gave back."""
    term, vote, commit = hard_state
    if not 0 < term < LIMIT or vote >= LIMIT:
        raise Misused(f"hard_state: term {term}, vote {vote}")
    if anchor.index >= LIMIT or (anchor.index == 0) != (anchor.term == 0) or anchor.term > term:
        raise Misused(f"anchor: index {anchor.index}, term {anchor.term} at hard state term {term}")

    last, last_term = anchor
    for entry_term, entry, _ in entries:
        index = entry.get_index()
        if index != last + 1:
            raise Misused(f"entry {index}: follows {last}")
        if not max(last_term, 1) <= entry_term <= term:
            raise Misused(f"entry {index}: term {entry_term} after {last_term} at hard state term {term}")

        last, last_term = index, entry_term

    if commit > last:
        raise Misused(f"hard_state: commit {commit} is past the last entry {last}")
    if snapshot is None:
        if anchor.index:
            raise Misused(f"anchor: index {anchor.index} without a snapshot")

        return

    index, snapshot_term, conf_state = snapshot
    if not max(anchor.index, 1) <= index <= last:
        raise Misused(f"snapshot: index {index} is outside {anchor.index}..={last}")

    own = anchor.term if index == anchor.index else entries[index - anchor.index - 1][0]
    if snapshot_term != own:
        raise Misused(f"snapshot: term {snapshot_term} at index {index}, where the log has {own}")

    why = _conf.problem(conf_state)
    if why is not None:
        raise Misused(f"snapshot: its conf state has {why}")
