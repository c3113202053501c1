"""`Node`: the task group around a `Replica`. It waits, sends, writes and applies; it decides nothing."""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from . import _requests, _rights
from ._applier import Applier
from ._complaints import Complaints
from ._effects import Apply, Ask, Effects, SendSnapshot, Write
from ._plugins import Plugins
from ._proposals import Ticket
from ._recovery import Parts, Recovery, carry_out_write
from ._replica import Replica
from ._requests import AskStatus, Propose, Remove, Reply, Status
from ._sessions import Answer
from ._signal import Signal, Slot
from ._snapshots import Snapshots
from ._store import check_store, load_store
from ._waiter import one_shots
from .config import Config
from .errors import (
    Busy,
    CommandRejected,
    NodeStopped,
    NotApplied,
    OutcomeUnknown,
    PeerUnreachable,
    ReadError,
    Removed,
    RiteraftError,
    StorageError,
)
from .protocols import Store
from .security import Mode
from .types import Hello, NodeStatus, Principal, Refusal, RefusalCode, Role, SnapshotMeta

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Node", "open_node"]

STALL_CHECKPOINTS = 8
"""Turns the event loop gets, after it stood still, before the next tick: what arrived meanwhile is stepped first."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The Store is to take the live snapshot."""

    meta: SnapshotMeta


@dataclass(frozen=True, slots=True)
class Rest:
    """The Store is to apply what is left of a batch; `answers` are those it gave already."""

    work: Apply
    answers: list[Answer]


@dataclass(frozen=True, slots=True)
class Digest:
    """The Store is to tell what its state at this index comes to."""

    index: int


StoreWork: TypeAlias = Rest | SnapshotMeta | Restore | Digest
"""What the one task that calls the Store is given: apply, snapshot, restore, digest."""


class Node:
    """A running member of a cluster; made by `open_node`.

    Commands may be proposed and reads made on any node. Every method must be called on the event loop that runs it.
    """

    def __init__(self, config: Config, logger: logging.Logger) -> None:
        """Not for use outside of `open_node`."""
        self._config = config
        self._max_command_bytes = config.limits.max_command_bytes
        self._logger = logger
        self._parts: Parts | None = None
        self._snapshots: Snapshots | None = None
        self._tasks: TaskGroup | None = None
        self._new_waiter = one_shots()
        self._wake = Signal()
        self._writes = Slot[Write]()
        self._store_work = Slot[StoreWork]()
        self._progress: anyio.Event | None = None
        self._stop_requested = anyio.Event()
        self._stopped = False
        self._leaving = False
        self._left = False
        self._winding_down = False
        self._callers = 0
        self._driving = False
        self._removed = False
        self._failure: Exception | None = None
        self._waiting_for_room: deque[anyio.Event] = deque()
        self._refusals: dict[int, RefusalCode] = {}
        self._complaints = Complaints(logger)

    # --- the public face -----------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        """What this node is now."""
        return self._running().replica.role

    @property
    def leader(self) -> int | None:
        """The node id of the leader this node knows of, or None."""
        return self._running().replica.leader or None

    def status(self) -> NodeStatus:
        """Return this node's view of itself and its cluster.

        :raises NodeStopped: the node has stopped.
        """
        parts = self._running()
        # A transport may count what it refused.
        refused = {f"transport: {why}": count for why, count in getattr(parts.transport, "counters", {}).items()}
        status = parts.replica.status()
        return dataclasses.replace(status, counters={**status.counters, **self._complaints.counters, **refused})

    async def propose(self, command: bytes, *, timeout: float | None = None, wait: bool = True) -> bytes:
        """Have a command applied on every node; return the Store's answer, once this node itself has applied it.

        `timeout` is in seconds; without one the call waits as long as it takes. A full node makes the caller wait,
        or with `wait=False` raises `Busy` at once. To cancel the call is to give up waiting: the command may still
        take effect.

        :raises CommandRejected: the Store said no.
        :raises NotApplied: the command did not and will not take effect; send it again if you like.
        :raises OutcomeUnknown: it may or may not take effect.
        :raises NodeStopped: the node has stopped.
        """
        if not isinstance(command, bytes):
            raise TypeError(f"a command must be bytes, not {type(command).__name__}")

        if len(command) > self._max_command_bytes:
            raise ValueError(
                f"a command of {len(command)} bytes is over limits.max_command_bytes = {self._max_command_bytes}"
            )

        deadline = math.inf if timeout is None else anyio.current_time() + timeout
        while True:
            replica = self._open_for_commands()
            proposal = replica.propose(command)
            if proposal is not None:
                break

            if not wait:
                raise Busy("too many commands or bytes are in flight; send the command again later")

            await self._wait_for_room(deadline)

        self._wake.set()
        if self._waiting_for_room and replica.has_room(0):
            self._make_room(1)  # one answer may make room for many: each one let in looks whether there is more

        waiter = proposal.waiter = self._new_waiter()
        self._callers += 1
        try:
            if timeout is None:
                await waiter
            else:
                with anyio.CancelScope(deadline=deadline):
                    await waiter
        finally:
            self._callers -= 1
            if proposal.outcome is None:
                proposal.outcome = replica.abandon(proposal)
                self._make_room(1)

        if isinstance(proposal.outcome, bytes):
            return proposal.outcome

        assert isinstance(proposal.outcome, Exception)
        raise proposal.outcome

    async def read_barrier(self, *, timeout: float | None = None) -> None:
        """Wait until this node has applied all that was committed when the call began (ReadIndex, thesis §6.4).

        What the program then reads from its own Store is linearizable. `timeout` is in seconds.

        :raises ReadError: no proof of freshness in that time; ask again.
        :raises NodeStopped: the node has stopped.
        """
        replica = self._running().replica
        ticket = replica.read()
        try:
            with anyio.move_on_after(timeout):
                await self._outcome(ticket)
        finally:
            if ticket.outcome is None:
                replica.abandon_read(ticket)

        if ticket.outcome is None:
            raise ReadError(f"no leader proved the read fresh within {timeout:g} s")

        if isinstance(ticket.outcome, Exception):
            raise ticket.outcome

    async def leave(self, *, timeout: float | None = None) -> None:
        """Leave the cluster: return once that is committed; the node then stops and its folder is marked as left.

        A leader hands over first. `timeout` is in seconds.

        :raises CommandRejected: this is the last voter; stop it instead.
        :raises OutcomeUnknown: it was not confirmed in that time; the node may be a member or not, and goes on.
        :raises NodeStopped: the node has stopped.
        """
        parts = self._running()
        self._leaving = True
        try:
            with anyio.move_on_after(timeout):
                await self._leave(parts)
        finally:
            self._leaving = self._left
            if self._removed and not self._left:
                self._end(Removed("this node left its cluster; nobody waited any more to be told so"))

        if not self._left:
            raise OutcomeUnknown(f"leaving was not confirmed within {timeout} s")

    async def remove(self, node_id: int, *, timeout: float | None = None) -> None:
        """Take another member out of the cluster, whether it runs or not: return once that is committed.

        It needs a quorum of those that are members until then. A node that was removed before is no error. `timeout`
        is in seconds.

        :raises CommandRejected: no node ever had this id, or it is the last voter.
        :raises OutcomeUnknown: it was not confirmed in that time; the node may be a member or not.
        :raises NodeStopped: this node has stopped.
        """
        parts = self._running()
        if node_id == parts.replica.identity.node_id:
            raise ValueError(f"node {node_id} is this node itself: use `leave`")

        with anyio.move_on_after(timeout):
            while True:
                reply = await self._request_removal(parts, node_id)
                if reply is not None and reply.status is Status.OK:
                    return

                if reply is not None and reply.status is Status.REFUSED:
                    raise CommandRejected(_requests.read_text(reply))

                self._running()
                await self._next_progress()

        raise OutcomeUnknown(f"the removal of node {node_id} was not confirmed within {timeout} s")

    def stop(self) -> None:
        """Ask the node to stop; `wait_stopped` then returns, and the end of the `open_node` block sees to the rest."""
        self._stop_requested.set()

    async def wait_stopped(self, *, signals: bool = True) -> None:
        """Wait for `stop` or `leave`, and, in the main thread unless `signals` is False, for Ctrl-C or SIGTERM."""
        async with anyio.create_task_group() as tasks:
            if signals and threading.current_thread() is threading.main_thread():
                tasks.start_soon(self._stop_on_signal)

            await self._stop_requested.wait()
            tasks.cancel_scope.cancel()

    # --- calls in progress ---------------------------------------------------------------------------------------

    async def _wait_for_room(self, deadline: float) -> None:
        room = anyio.Event()
        self._waiting_for_room.append(room)
        try:
            with anyio.CancelScope(deadline=deadline):
                await room.wait()
        except BaseException:
            if room.is_set():
                self._make_room(1)  # cancelled just now: the room it was given is the next one's

            raise
        finally:
            if not room.is_set():
                self._waiting_for_room.remove(room)

        if not room.is_set():
            raise NotApplied("too many commands or bytes were in flight until the time was up")

    def _make_room(self, count: int) -> None:
        while self._waiting_for_room and count > 0:
            self._waiting_for_room.popleft().set()
            count -= 1

    async def _outcome(self, ticket: Ticket) -> None:
        self._wake.set()
        if ticket.outcome is None:
            waiter = ticket.waiter = self._new_waiter()
            await waiter

    async def _leave(self, parts: Parts) -> None:
        replica = parts.replica
        node_id = replica.identity.node_id
        while not self._removed:
            reply = await self._request_removal(parts, node_id)  # a leader hands over first, or says why it cannot go
            if reply is not None:
                if reply.status is Status.OK:
                    break

                if reply.status is Status.REFUSED:
                    raise CommandRejected(_requests.read_text(reply))

            if not self._removed:
                self._running()
                await self._next_progress()

        # From here on nothing may undo it: the cluster has agreed.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(parts.folder.mark_left)

        self._left = True
        self._logger.info("left cluster %r", replica.identity.cluster)
        self._stop_requested.set()

    async def _request_removal(self, parts: Parts, node_id: int) -> Reply | None:
        """Ask the leader, that may be this node, to remove a node; None if nobody answered."""
        request = Remove(node_id)
        if parts.replica.role is not Role.LEADER:
            return await self._ask_leader(parts, _requests.encode(request))

        ticket = parts.replica.request(request)
        try:
            await self._outcome(ticket)
        finally:
            parts.replica.drop_request(ticket)

        return ticket.outcome if isinstance(ticket.outcome, Reply) else None

    async def _ask_leader(self, parts: Parts, payload: bytes) -> Reply | None:
        address = parts.replica.address_of(parts.replica.leader)
        if address is None:
            return None

        with anyio.move_on_after(2 * self._config.timing.election_timeout):
            try:
                return _requests.decode_reply(await parts.transport.request(address, payload))
            except (PeerUnreachable, ValueError) as exc:
                self._logger.debug("request to the leader: %s", exc)

        return None

    async def _stop_on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for number in received:
                self._logger.info("stopping on %s", number.name)
                self._stop_requested.set()

    def _running(self) -> Parts:
        if self._parts is None or self._stopped:
            raise NodeStopped("the node has stopped")

        return self._parts

    def _open_for_commands(self) -> Replica:
        if self._winding_down:
            raise NodeStopped("the node is stopping")

        if self._parts is None or self._stopped:  # `_running`, spelled out: a call less for each command
            raise NodeStopped("the node has stopped")

        return self._parts.replica

    # --- the life of a node --------------------------------------------------------------------------------------

    async def _start(self, parts: Parts, stack: AsyncExitStack) -> None:
        tasks = self._tasks = await stack.enter_async_context(anyio.create_task_group())
        self._snapshots = Snapshots(parts, self._logger, self._config.limits.max_snapshot_bytes)
        self._parts = parts
        tasks.start_soon(self._guarded, self._write_forever, parts)
        tasks.start_soon(self._guarded, self._work_on_store_forever, parts)
        tasks.start_soon(self._guarded, self._drive_forever, parts)
        tasks.start_soon(self._guarded, self._tick_forever, parts.replica)
        if parts.replica.is_sole_voter:
            parts.replica.campaign()  # an election like any other, but there is nobody to wait for

        self._wake.set()

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run one of the node's tasks: its failure ends the node, as itself and not within a group."""
        try:
            await task(*args)
        except Exception as exc:
            self._fail(exc)
        except anyio.get_cancelled_exc_class():
            if not anyio.get_current_task().has_pending_cancellation():
                # Nobody cancelled us: asyncio's own exception got out of a library, and the group would end in peace.
                self._fail(_cancelled_from_within(task.__name__.strip("_")))

            raise

    def _fail(self, exc: Exception) -> None:
        """End the node for this reason; the first one counts."""
        if self._failure is not None or self._removed:
            return

        if isinstance(exc, Removed):
            self._removed = True
            if self._leaving:
                self._note_progress()  # just what `leave` waits for
                return

        self._end(exc)

    def _end(self, exc: Exception) -> None:
        self._failure = exc
        if isinstance(exc, RiteraftError):
            self._logger.error("the node stops: %s", exc)
        else:
            self._logger.error("the node stops on an unforeseen error", exc_info=exc)

        self._answer_everyone()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def _answer_everyone(self) -> None:
        """Give each waiter its answer: nobody is left hanging by a node that ends."""
        self._stopped = True
        if self._parts is not None:
            self._wake_callers(self._parts.replica.stop())

        self._make_room(len(self._waiting_for_room))
        self._note_progress()
        self._stop_requested.set()

    async def _wind_down(self) -> None:
        """Give leadership away before stopping, and wait for the answers that are still to come.

        So the others need not wait for an election timeout, and no caller is left in doubt without need.
        """
        if self._parts is None or self._stopped or self._left:
            return

        self._winding_down = True
        self._make_room(len(self._waiting_for_room))  # to be told
        replica = self._parts.replica
        with anyio.move_on_after(self._config.timing.election_timeout):
            while (replica.role is Role.LEADER and replica.transfer() is not None) or self._callers:
                self._wake.set()
                await self._next_progress()

    # --- tasks ---------------------------------------------------------------------------------------------------

    async def _drive_forever(self, parts: Parts) -> None:
        """Carry out effects whenever something happened; all that happened within one turn is one batch."""
        while True:
            await self._wake.wait()
            self._drive_now(parts, turn=True)

    def _drive(self, parts: Parts, turn: bool) -> None:
        effects = parts.replica.effects(turn=turn)
        if effects.apply is not None:
            # What is to be sent and written goes first: the others need not wait for our Store. Whether there is more
            # to do in the next turn is seen at the end, or that would come before those who are answered now.
            work, effects.apply, effects.again = effects.apply, None, False
            self._carry_out(parts, effects)
            answers = parts.applier.apply_at_once(work.commands, work.index)
            if len(answers) < len(work.commands):
                self._store_work.put(Rest(work, answers))
                return

            parts.replica.applied_batch(work, answers)
            self._note_progress()
            effects = parts.replica.effects(turn=False)

        self._carry_out(parts, effects)

    def _drive_now(self, parts: Parts, *, turn: bool = False) -> None:
        """Carry out effects in this turn: what others wait for need not wait for the event loop to come round."""
        if self._stopped:
            return

        if self._driving:  # a transport, or the Store, called us back from within
            self._wake.set()
            return

        self._driving = True
        try:
            self._drive(parts, turn)
        except Exception as exc:
            self._fail(exc)
        except anyio.get_cancelled_exc_class():
            self._fail(_cancelled_from_within("drive"))  # nobody else can cancel what never waits
        finally:
            self._driving = False

    def _carry_out(self, parts: Parts, effects: Effects) -> None:
        assert self._tasks is not None
        if effects.peers is not None:
            parts.transport.set_peers(effects.peers)

        for peer, messages in effects.messages:
            parts.transport.send(peer, messages)

        # Room for one each: the replica gives out the next only when the last was reported done.
        if effects.write is not None:
            self._writes.put(effects.write)

        if effects.apply is not None:
            self._store_work.put(Rest(effects.apply, []))
        elif effects.restore is not None:
            self._store_work.put(Restore(effects.restore))
        elif effects.snapshot is not None:
            self._store_work.put(effects.snapshot)
        elif effects.digest is not None:
            self._store_work.put(Digest(effects.digest))

        if effects.answered:
            self._wake_callers(effects.answered)

        for ask in effects.asks:
            self._tasks.start_soon(self._guarded, self._ask, parts, ask)

        for stream in effects.send_snapshots:
            self._tasks.start_soon(self._guarded, self._send_snapshot, stream)

        for token in effects.discards:
            self._tasks.start_soon(self._guarded, parts.storage.discard_snapshot, token)

        for note in effects.notes:
            self._logger.info("%s", note)

        if effects.again:
            self._wake.set()

    def _wake_callers(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            waiter = ticket.waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

        if self._waiting_for_room:
            self._make_room(len(tickets))

    async def _write_forever(self, parts: Parts) -> None:
        while True:
            write = await self._writes.take()
            await carry_out_write(parts.storage, write)
            parts.replica.saved(write)
            self._drive_now(parts)

    async def _work_on_store_forever(self, parts: Parts) -> None:
        assert self._tasks is not None
        replica = parts.replica
        while True:
            work = await self._store_work.take()
            if isinstance(work, Rest):
                answers = await parts.applier.apply(work.work.commands, work.work.index, work.answers)
                replica.applied_batch(work.work, answers)
            elif isinstance(work, Restore):
                async with parts.storage.read_snapshot() as (meta, chunks):
                    await parts.applier.restore(chunks)

                replica.restored(meta)
            elif isinstance(work, Digest):
                replica.digest_taken(work.index, await parts.applier.digest())
            else:
                data = await parts.applier.snapshot()
                replica.snapshot_taken()
                # Beside the next entries: the state is taken, writing it down must not hold them up.
                self._tasks.start_soon(self._guarded, self._stage_snapshot, work, data)

            self._wake.set()
            self._note_progress()

    async def _tick_forever(self, replica: Replica) -> None:
        interval = self._config.timing.tick
        due = anyio.current_time() + interval
        while True:
            await anyio.sleep_until(due)
            now = anyio.current_time()
            if now - due > interval:
                # The loop stood still. A burst of ticks would depose a leader that is well; first step what it sent.
                for _ in range(STALL_CHECKPOINTS):
                    await anyio.lowlevel.checkpoint()

                due = now

            replica.tick()
            due += interval
            self._wake.set()
            self._note_progress()

    def _note_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    async def _next_progress(self) -> None:
        if self._progress is None:
            self._progress = anyio.Event()

        await self._progress.wait()

    async def _ask(self, parts: Parts, ask: Ask) -> None:
        raw = None
        with anyio.move_on_after(2 * self._config.timing.election_timeout):
            try:
                raw = await parts.transport.request(ask.address, ask.payload)
            except PeerUnreachable as exc:
                self._logger.debug("request to the leader: %s", exc)

        parts.replica.answered(ask, raw)
        self._wake.set()

    async def _stage_snapshot(self, meta: SnapshotMeta, data: bytes) -> None:
        assert self._snapshots is not None
        await self._snapshots.stage(meta, data)
        self._wake.set()

    async def _send_snapshot(self, stream: SendSnapshot) -> None:
        assert self._snapshots is not None
        await self._snapshots.send(stream)
        self._wake.set()

    # --- what the transport hands in (Handler) -------------------------------------------------------------------

    def admit(self, hello: Hello) -> Refusal | None:
        """See `Handler.admit`."""
        if self._parts is None or self._stopped:
            return Refusal(RefusalCode.NOT_READY, "this node is no member of a cluster yet, or no longer")

        if self._parts.security.mode is Mode.TLS and hello.principal is None:
            return Refusal(RefusalCode.FORBIDDEN, "no certificate with a name was shown")

        return self._parts.replica.admit(hello)

    def messages(self, peer: int, messages: Sequence[bytes]) -> None:
        """See `Handler.messages`."""
        parts = self._parts
        if parts is None or self._stopped or self._removed:
            return

        try:
            parts.replica.step(peer, messages)
        except Exception as exc:
            self._fail(exc)
        else:
            self._drive_now(parts)

    def unreachable(self, peer: int) -> None:
        """See `Handler.unreachable`."""
        parts = self._parts
        if parts is None or self._stopped or self._removed:
            return

        try:
            parts.replica.unreachable(peer)
        except Exception as exc:
            self._fail(exc)
        else:
            self._drive_now(parts)

    async def request(self, peer: int | None, payload: bytes, principal: Principal | None = None) -> bytes:
        """See `Handler.request`."""
        if self._parts is None or self._stopped:
            return _requests.encode_reply(Reply.retry("this node is starting or stopping"))

        try:
            request = _requests.decode(payload, stranger=peer is None)
        except ValueError as exc:
            return _requests.encode_reply(self._refuse("malformed", peer, principal, str(exc)))

        del payload  # as large as a command, which would otherwise be there twice until it is applied
        if principal is None and self._parts.security.mode is Mode.TLS:
            why_not: str | None = "no certificate with a name was shown"
        else:
            why_not = _rights.why_not(request, peer, principal)

        if why_not is not None:
            return _requests.encode_reply(self._refuse(type(request).__name__, peer, principal, why_not))

        if isinstance(request, AskStatus):
            return _requests.encode_reply(_requests.status_reply(self.status()))

        if isinstance(request, Propose):
            return _requests.encode_reply(await self._propose_for(request))

        replica = self._parts.replica
        ticket = replica.request(request, peer, principal)
        try:
            with anyio.move_on_after(10 * self._config.timing.election_timeout):
                await self._outcome(ticket)
        finally:
            if ticket.outcome is None:
                replica.drop_request(ticket)

        reply = ticket.outcome if isinstance(ticket.outcome, Reply) else Reply.retry("no answer in time")
        return _requests.encode_reply(reply)

    def _refuse(self, what: str, peer: int | None, principal: Principal | None, why: str) -> Reply:
        sender = principal.uri if principal is not None else f"node {peer}" if peer else "a sender without a node id"
        self._complaints.add(f"refused request: {what}", f"refused a request of {sender}: {why}")
        return Reply.refused(why)

    async def _propose_for(self, request: Propose) -> Reply:
        """Carry out a client's `Propose`; never waits for room, so that no client holds up another."""
        try:
            return Reply(Status.OK, (await self.propose(request.command, timeout=request.timeout, wait=False),))
        except CommandRejected as exc:
            return Reply(Status.REJECTED, (exc.message, exc.detail))
        except (NotApplied, NodeStopped) as exc:
            return Reply.retry(str(exc))
        except OutcomeUnknown as exc:
            return Reply(Status.UNKNOWN, (str(exc),))
        except ValueError as exc:
            return Reply.refused(str(exc))

    async def snapshot(self, peer: int, header: bytes, chunks: AsyncIterator[bytes]) -> None:
        """See `Handler.snapshot`.

        :raises ValueError: the header cannot be read, or the snapshot is of no use to this node.
        """
        if self._snapshots is None or self._stopped:
            raise ValueError("not ready for a snapshot")

        try:
            await self._snapshots.receive(peer, header, chunks)
        except RiteraftError as exc:
            if not isinstance(exc, PeerUnreachable):
                self._fail(exc)

            raise

        self._wake.set()

    def refused(self, peer: int, refusal: Refusal) -> None:
        """See `Handler.refused`: being told of its removal is the only news a removed node gets (rule 18)."""
        if refusal.code is RefusalCode.REMOVED:
            self._fail(Removed(refusal.text))
        elif refusal.code is RefusalCode.DISK:
            self._fail(StorageError(refusal.text))
        elif refusal.code is RefusalCode.NOT_READY:
            self._logger.debug("node %d is not ready yet: %s", peer, refusal.text)  # every join begins like this
        elif self._refusals.get(peer) is not refusal.code:
            self._refusals[peer] = refusal.code
            self._logger.warning("node %d refused this node: %s", peer, refusal.text)


@asynccontextmanager
async def open_node(
    config: Config,
    store: Store | None = None,
    *,
    plugins: Plugins | None = None,
    logger: logging.Logger | None = None,
) -> AsyncIterator[Node]:
    """Run a node for the time of the block.

    The block is entered when the node has recovered (or has been let into its cluster) and listens, not when a leader
    is known. Leaving it stops the node: a leader hands over first. If the node dies, the block is cancelled and the
    cause is raised here, as that one exception.

    `store` wins over the config's. `plugins` is the table of plugins to choose from; by default, what is installed.

    :raises ConfigError: the config cannot be used; nothing was changed.
    :raises PluginError: a plugin that the config names is missing or broken.
    :raises StorageError: what the folder holds cannot be trusted, or a write failed.
    :raises StoreError: the Store raised something other than `CommandRejected`.
    :raises ConsensusError: the consensus engine panicked.
    :raises LostAcknowledgedData: the node's disk forgot entries that the node had acknowledged.
    :raises Removed: the node was removed from its cluster.
    """
    applier = Applier(load_store(config) if store is None else check_store(store))
    node = Node(config, logger or logging.getLogger("riteraft"))
    raised: Exception | None = None
    try:
        async with AsyncExitStack() as stack:
            try:
                recovery = Recovery(config, plugins or Plugins.load(), applier, node, node._logger, stack)
                parts = await recovery.run()
                await node._start(parts, stack)
                yield node
                await node._wind_down()
            except Exception as exc:
                raised = exc  # the task group would wrap it
            finally:
                node._answer_everyone()
                if node._tasks is not None:
                    node._tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # a plugin's own tasks failed
        node._fail(_first_error(group))

    if isinstance(node._failure, Removed) and node._parts is not None:
        await anyio.to_thread.run_sync(node._parts.folder.mark_left)

    if node._failure is not None and node._failure is not raised:
        raise node._failure from raised

    if raised is not None:
        raise raised


def _cancelled_from_within(what: str) -> RiteraftError:
    return RiteraftError(
        f"{what} was cancelled from within: a plugin or the Store let an asyncio CancelledError of its own out; it "
        f"must catch that"
    )


def _first_error(group: BaseExceptionGroup[BaseException]) -> Exception:
    """Return one error of a group; Python 3.10 has no `except*`, so callers must never meet a group."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            return _first_error(exc)

        if isinstance(exc, Exception):
            return exc

    raise group
