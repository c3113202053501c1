"""One node of the simulation: a real replica and a real engine; clock, disk, network and Store are simulated.

It does what `Node` and its tasks do, in virtual time, and like them decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ... import _requests
from ..._effects import Apply, Ask, Effects, SendSnapshot, Write
from ..._effects import Compact as CompactWrite
from ..._membership import FOUNDER_ID
from ..._proposals import Proposal, Ticket
from ..._reads import ReadTicket
from ..._replica import FOUNDING, Replica, found
from ..._requests import Join, Remove, Reply, Request, Status
from ..._sessions import Rejection
from ...consensus.raftrs import RaftRs
from ...errors import CommandRejected, NotApplied, Refused, Removed, RiteraftError
from ...protocols import EngineContext
from ...types import (
    HardState,
    Hello,
    Identity,
    LogBatch,
    NodeStatus,
    Ready,
    Recovered,
    Refusal,
    RefusalCode,
    Role,
    SnapshotMeta,
)
from .calls import Read, WakeUp
from .calls import Write as WriteCall
from .disk import SimulatedDisk
from .store import HistoryStore

if TYPE_CHECKING:
    from .simulation import Simulation

CLUSTER = "simulated"


class WatchedEngine(RaftRs):
    """The engine, with the checks looking at each Ready."""

    def __init__(self, context: EngineContext, node: SimulatedNode) -> None:
        super().__init__(context)
        self._watcher = node
        self._term = context.hard_state.term

    def ready(self) -> Ready | None:
        """See `Consensus.ready`."""
        ready = super().ready()
        if ready is not None:
            node = self._watcher
            assert ready.term >= self._term
            self._term = ready.term
            if ready.role is Role.LEADER:
                node.net.checks.leads(node.node_id, ready.term)

            node.net.checks.commits(node.node_id, node.disk, ready.committed)
            for index, conf_state, _ in ready.conf_states:
                node.net.checks.changes(node.node_id, index, conf_state)

        return ready


class SimulatedNode:
    """A process that can be killed, and its folder, that stays."""

    def __init__(self, net: Simulation, number: int, address: str) -> None:
        self.net = net
        self.number = number
        """What the simulation calls it; the node id is given through the log and may differ."""
        self.address = address
        self.disk = SimulatedDisk(net.random.randbytes(16))
        self.store = HistoryStore()
        self.replica: Replica | None = None
        self.identity: Identity | None = None
        self.running = False
        self.paused = False
        self.slow_disk = 0.0
        """Seconds that each write takes on top."""
        self.slow_store = 0.0
        """The same for a batch of commands in the Store."""
        self._life = 0
        self._held: list[Callable[[], None]] = []
        self._waiting: list[WriteCall | Read] = []
        self.peers: dict[int, str] = {}
        """The map its transport was given."""
        self._drive_due = False
        self._receiving = False
        self._sending: set[int] = set()
        self._leaving = False
        self._store_lags = False
        """A snapshot is installed and the Store does not have it yet."""

    def __repr__(self) -> str:
        return f"<node {self.number}>"

    @property
    def node_id(self) -> int:
        """The id it was given; 0 before."""
        return self.identity.node_id if self.identity is not None else 0

    @property
    def serves(self) -> bool:
        """Whether it runs and is a member, as far as it knows."""
        return self.running and self.replica is not None

    def status(self) -> NodeStatus:
        """Return its view of itself and its cluster."""
        return self._replica().status()

    @property
    def has_snapshot(self) -> bool:
        """Whether it holds any state: a joiner serves before it does."""
        return self.replica is not None and self.replica.applied > 0

    @property
    def has_room(self) -> bool:
        """Whether a small command may be proposed now; a node that is gone holds nobody up."""
        return self.replica is None or self.replica.has_room(100)

    @property
    def role(self) -> Role | None:
        """Its role; None while it does not serve or stands still."""
        return self.replica.role if self.replica is not None and not self.paused else None

    # --- life --------------------------------------------------------------------------------------------------

    def start(self, *, founder: bool = False) -> None:
        """Start the process; it restarts, founds or joins as its folder says."""
        assert not self.running
        assert not self.disk.left, "its folder may not be used again"
        self.running = True
        self._life += 1
        recovered = self.disk.load()
        self.net.note(f"{self} starts with {recovered.hard_state}")
        if recovered.identity is not None:
            self.identity = recovered.identity
            self._call(lambda: self._recover(recovered))
        elif founder:
            identity = Identity(CLUSTER, self.net.cluster_id, 0, FOUNDER_ID, self.disk.disk_id)
            self.disk.create(identity)
            token = self.disk.stage(found(identity, self.address), HistoryStore().snapshot())
            self.disk.save(LogBatch(token, FOUNDING))
            self.identity = identity
            self._call(lambda: self._recover(self.disk.load()))
        else:
            self._join()

    def crash(self) -> None:
        """Kill the process: whatever had not reached the disk is gone."""
        if self.running:
            self.net.note(f"{self} crashes")
            self._end()

    def stop(self) -> None:
        """Stop the process in order: everyone who waits is answered."""
        if self.running:
            self.net.note(f"{self} stops")
            if self.replica is not None:
                self._wake_callers(self.replica.stop())

            self._end()

    def pause(self) -> None:
        """Let the process stand still, as SIGSTOP does."""
        self.paused = self.running

    def resume(self) -> None:
        """Let it go on: what arrived meanwhile comes first, then one tick, not a burst."""
        self.paused = False
        held, self._held = self._held, []
        for action in held:
            action()

    @property
    def life(self) -> int:
        """Which life of the process this is: what was meant for one must not reach the next."""
        return self._life

    def later(self, seconds: float, action: Callable[[], None], *, life: int | None = None, wake: bool = True) -> None:
        """Do something within this life of the process, or a given one; then see what the replica wants done."""
        meant = self._life if life is None else life

        def run() -> None:
            if self._life != meant or not self.running:
                return

            if self.paused:
                self._held.append(run)
                return

            self._call(action, wake)

        self.net.clock.call_in(seconds, run)

    def _end(self) -> None:
        self.running = self.paused = False
        self._life += 1
        for call in self._waiting:
            call.lost = not call.over

        self._waiting.clear()
        self.replica = None
        self._held.clear()
        self._sending.clear()
        self._drive_due = self._receiving = self._leaving = self._store_lags = False

    def _call(self, action: Callable[[], None], wake: bool = True) -> None:
        try:
            action()
        except Removed as exc:
            self._removed(str(exc))
        else:
            if wake:
                self._wake()

    def _removed(self, why: str) -> None:
        self.net.note(f"{self} is out: {why}")
        if self.replica is not None:
            self._wake_callers(self.replica.stop())

        self.disk.left = True
        self._end()

    def _recover(self, recovered: Recovered) -> None:
        assert self.identity is not None
        hard_state = recovered.hard_state if recovered.hard_state.term else HardState(term=1)
        self.store = HistoryStore()
        if recovered.snapshot is not None:
            self.store.restore(self.disk.snapshot()[1])
            self.net.checks.holds(self.node_id, self.store.history)

        engine = WatchedEngine(
            EngineContext(
                node_id=self.node_id,
                seed=self.net.random.getrandbits(63),
                hard_state=hard_state,
                anchor=recovered.anchor,
                snapshot=recovered.snapshot,
                entries=recovered.entries,
                commit_notices=False,
                timing=self.net.timing,
                limits=self.net.limits,
            ),
            self,
        )
        replica = Replica(
            engine,
            self.identity,
            Recovered(self.identity, hard_state, recovered.anchor, recovered.snapshot, recovered.entries),
            address=self.address,
            nonce=self.net.random.randbytes(16),
            hints=self.disk.hints,
            settings=self.net.settings,
        )
        committed = replica.engine_status().commit
        while replica.applied < committed:
            effects = replica.effects()
            if effects.write is not None:
                self._write(effects.write)
                replica.saved(effects.write)

            if effects.apply is not None:
                replica.applied_batch(effects.apply, self._apply(effects.apply))
            elif effects.snapshot is not None:
                data = self.store.snapshot()
                replica.snapshot_taken()
                replica.snapshot_staged(effects.snapshot, self.disk.stage(effects.snapshot, data))

        self.replica = replica
        self.peers = replica.peers()
        self.later(self.net.random.uniform(0, self.net.tick), self._tick)
        if replica.is_sole_voter:
            replica.campaign()

    def _join(self) -> None:
        """Ask any member to be let in, again and again; the folder's disk id makes it the same join each time."""
        request = Join(CLUSTER, self.disk.disk_id, self.address)
        addresses = [node.address for node in self.net.nodes.values() if node is not self and node.serves]
        if not addresses:
            self.later(1.0, self._join)
            return

        def take(raw: bytes | None, may_follow: bool = True) -> None:
            reply = None if raw is None else _requests.decode_reply(raw)
            if reply is not None and reply.status is Status.OK:
                admitted = _requests.read_admitted(reply)
                self.disk.hints = dict(admitted.addresses)
                self.identity = Identity(CLUSTER, admitted.cluster_id, 0, admitted.node_id, self.disk.disk_id)
                self.disk.create(self.identity)
                self._recover(self.disk.load())
                return

            assert reply is None or reply.status is not Status.REFUSED, reply
            leader = _requests.read_leader(reply) if reply is not None else None
            if leader is not None and may_follow:
                self.net.request(self, leader, request, lambda raw: take(raw, may_follow=False), within=10.0)
            else:
                self.later(self.net.random.uniform(0.1, 1.0), self._join)

        self.net.request(self, self.net.random.choice(addresses), request, take, within=10.0)

    # --- what the program does -----------------------------------------------------------------------------------

    def propose(self, call: WriteCall, timeout: float | None) -> None:
        """Propose a command and give up after a while, or never."""
        replica = self._replica()
        proposal = replica.propose(call.command)
        if proposal is None:
            call.outcome = NotApplied("no room")
            self.net.checks.disowns(call.command)
            return

        self._waiting.append(call)
        self._wake()
        proposal.waiter = WakeUp(lambda: self._end_write(call, proposal))

        def give_up() -> None:
            if proposal.outcome is None:
                proposal.outcome = self._replica().abandon(proposal)
                self._end_write(call, proposal)

        if timeout is not None:
            self.later(timeout, give_up)

    def _end_write(self, call: WriteCall, proposal: Proposal) -> None:
        outcome = proposal.outcome
        if isinstance(outcome, CommandRejected):
            outcome = Rejection(outcome.message, outcome.detail)

        assert isinstance(outcome, bytes | Rejection | RiteraftError)
        assert call.outcome is None, "answered twice"
        call.outcome = outcome
        self.net.note(f"{self} {call.command!r} -> {outcome!r}")
        if isinstance(outcome, NotApplied):
            self.net.checks.disowns(call.command)
        elif not isinstance(outcome, RiteraftError):
            self.net.checks.acknowledges(call.command, outcome)

    def read(self, call: Read, timeout: float | None) -> None:
        """Pass a read barrier, then read the Store; give up after a while, or never."""
        replica = self._replica()
        self._waiting.append(call)
        ticket = replica.read()
        self._wake()

        def end() -> None:
            if ticket.outcome is True:
                call.seen = len(self.store.history)
                self.net.note(f"{self} reads {call.seen}")
                self.net.checks.reads(self.number, call.floor, call.seen)
            else:
                call.failed = True

        def give_up() -> None:
            if ticket.outcome is None:
                self._replica().abandon_read(ticket)
                call.failed = True

        ticket.waiter = WakeUp(end)
        if timeout is not None:
            self.later(timeout, give_up)

    def leave(self) -> None:
        """Do what `Node.leave` does: hand over if we lead, else ask the leader, until it is done."""
        if not self._leaving:
            self._leaving = True
            self._leave()

    def _leave(self) -> None:
        replica = self._replica()
        again = self.net.random.uniform(0.5, 1.5) * self.net.tick

        def take(raw: bytes | None) -> None:
            reply = None if raw is None else _requests.decode_reply(raw)
            if reply is not None and reply.status is Status.OK:
                raise Removed("it left")

            if reply is None or reply.status is not Status.REFUSED:
                self.later(again, self._leave)

        if replica.role is Role.LEADER:
            if replica.is_sole_voter:
                return

            replica.transfer()
        elif (address := replica.address_of(replica.leader)) is not None:
            self.net.request(self, address, Remove(self.node_id), take)
            return

        self.later(again, self._leave)

    # --- the tasks -----------------------------------------------------------------------------------------------

    def _replica(self) -> Replica:
        assert self.replica is not None
        return self.replica

    def _tick(self) -> None:
        self.later(self.net.tick, self._tick)
        self._replica().tick()

    def _wake(self) -> None:
        if not self._drive_due and self.serves:
            self._drive_due = True
            self.later(self.net.random.choice((0.0, 0.0, 0.001)), self._drive, wake=False)

    def _drive(self) -> None:
        self._drive_due = False
        replica = self._replica()
        effects = replica.effects()
        self._carry_out(effects)
        if effects.again:
            self._wake()

        try:
            status = replica.engine_status()
        except Refused:  # it was removed just now
            return

        applied = self.disk.snapshot_index if self._store_lags else replica.applied
        self.net.checks.stands(self.number, self.disk, applied, status.commit, status.last_index)

    def _carry_out(self, effects: Effects) -> None:
        net = self.net
        if effects.peers is not None:
            self.peers = dict(effects.peers)

        for peer, messages in effects.messages:
            for raw in messages:
                net.checks.leaves(self.node_id, self.disk, raw)

            net.send(self, self.peers.get(peer), peer, messages)

        if effects.write is not None:
            self._begin_write(effects.write)

        if effects.apply is not None:
            self._begin_apply(effects.apply)
        elif effects.restore is not None:
            self.later(net.random.uniform(0, 0.05), self._restore)
        elif effects.snapshot is not None:
            self._begin_snapshot(effects.snapshot)
        elif effects.digest is not None:
            self._begin_digest(effects.digest)

        self._wake_callers(effects.answered)
        for ask in effects.asks:
            self._ask(ask)

        for stream in effects.send_snapshots:
            self._send_snapshot(stream)

        for token in effects.discards:
            self.later(net.random.uniform(0, 0.05), lambda token=token: self.disk.discard(token))  # type: ignore[misc]

        for note in effects.notes:
            net.note(f"{self} {note}")

    def _wake_callers(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            if ticket.waiter is not None:
                ticket.waiter.set_result(None)

    def _begin_write(self, write: Write) -> None:
        replica = self._replica()

        def durable() -> None:
            self._write(write)
            # A crash may come between the bytes and the word that they are there.
            self.later(self.net.random.choice((0.0, 0.0005)), lambda: replica.saved(write))

        self.later(self.net.disk_time() + self.slow_disk, durable)

    def _write(self, write: Write) -> None:
        self.net.note(f"{self} writes {type(write).__name__}")
        if isinstance(write, CompactWrite):
            self.disk.compact(write.token, write.index)
            return

        before = self.disk.hard_state
        self.net.checks.replaces(self.node_id, self.disk, write.batch)
        self.disk.save(write.batch)
        self._store_lags = self._store_lags or write.batch.install is not None
        self.net.checks.saves(self.node_id, self.disk, before, write.batch)

    def _begin_apply(self, work: Apply) -> None:
        replica = self._replica()
        random = self.net.random
        seconds = 0.0 if random.random() < 0.8 else random.uniform(0, 0.1)
        self.later(seconds + self.slow_store, lambda: replica.applied_batch(work, self._apply(work)))

    def _apply(self, work: Apply) -> list[bytes | Rejection]:
        answers = []
        for command in work.commands:
            self.net.checks.applies(self.number, len(self.store.history), command)
            answers.append(self.store.apply(command))

        return answers

    def _restore(self) -> None:
        meta, data = self.disk.snapshot()
        self.store.restore(data)
        self.net.checks.holds(self.node_id, self.store.history)
        self._store_lags = False
        self._replica().restored(meta)

    def _begin_snapshot(self, meta: SnapshotMeta) -> None:
        replica = self._replica()
        self.net.checks.snapshots(self.number, meta)

        def take() -> None:
            data = self.store.snapshot()
            replica.snapshot_taken()
            self.later(self.net.random.uniform(0, 0.2), lambda: stage(data))

        def stage(data: bytes) -> None:
            token = self.disk.stage(meta, data)
            self.later(0.0, lambda: replica.snapshot_staged(meta, token))

        self.later(self.net.random.choice((0.0, 0.05)), take)

    def _begin_digest(self, index: int) -> None:
        replica = self._replica()
        seconds = self.net.random.choice((0.0, 0.05))
        self.later(seconds, lambda: replica.digest_taken(index, self.store.digest()))

    def _ask(self, ask: Ask) -> None:
        replica = self._replica()
        self.net.request(self, ask.address, _requests.decode(ask.payload), lambda raw: replica.answered(ask, raw))

    def _send_snapshot(self, stream: SendSnapshot) -> None:
        replica = self._replica()
        meta, data = self.disk.snapshot()
        if stream.to in self._sending or meta.index != stream.index:
            self.later(0.0, lambda: replica.snapshot_sent(stream, False))
            return

        self._sending.add(stream.to)

        def end(ok: bool) -> None:
            self._sending.discard(stream.to)
            replica.snapshot_sent(stream, ok)

        self.net.stream(self, self.peers.get(stream.to), stream, meta, data, end)

    # --- what the transport hands in -----------------------------------------------------------------------------

    def admit(self, hello: Hello) -> Refusal | None:
        """See `Handler.admit`."""
        if self.replica is None:
            return Refusal(RefusalCode.NOT_READY, "not yet")

        return self.replica.admit(hello)

    def hello(self, to: int) -> Hello:
        """Say who we are."""
        if self.identity is None:
            return Hello(b"", 0, 0, self.disk.disk_id, to)

        return Hello(self.identity.cluster_id, 0, self.node_id, self.disk.disk_id, to)

    def refused(self, refusal: Refusal) -> None:
        """See `Handler.refused`."""
        if refusal.code is RefusalCode.REMOVED:
            raise Removed(refusal.text)

        assert refusal.code in (RefusalCode.NOT_READY, RefusalCode.RECEIVER), refusal

    def take_messages(self, peer: int, messages: list[bytes]) -> None:
        """See `Handler.messages`."""
        if self.replica is not None:
            self.replica.step(peer, messages)

    def unreachable(self, peer: int) -> None:
        """See `Handler.unreachable`."""
        if self.replica is not None:
            self.replica.unreachable(peer)

    def take_request(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """See `Handler.request`."""
        if self.replica is None:
            reply(Reply.retry("starting"))
            return

        replica = self.replica
        ticket: Ticket = replica.request(request)

        def end() -> None:
            assert isinstance(ticket.outcome, Reply)
            reply(ticket.outcome)

        def give_up() -> None:
            if ticket.outcome is None:
                replica.drop_request(ticket)
                assert not isinstance(ticket, ReadTicket) or ticket.remote
                reply(Reply.retry("no answer in time"))

        if ticket.outcome is not None:
            end()
        else:
            ticket.waiter = WakeUp(end)
            self.later(10.0, give_up)

    def take_snapshot(
        self, peer: int, message: bytes, meta: SnapshotMeta, data: bytes, end: Callable[[bool], None]
    ) -> None:
        """See `Handler.snapshot`."""
        replica = self.replica
        if replica is None or self._receiving or not replica.needs_snapshot(meta):
            end(False)
            return

        self._receiving = True

        def staged() -> None:
            token = self.disk.stage(meta, data)
            self._receiving = False
            self._replica().step_snapshot(peer, message, meta, token)
            end(True)

        self.later(self.net.random.uniform(0, 0.3), staged)
