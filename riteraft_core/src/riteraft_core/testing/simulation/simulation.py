"""A whole cluster in one thread, with virtual time, from one seed.

    net = Simulation(seed=7)
    net.cut(1, 3)
    net.run_until(lambda: net.leader in {1, 2})
    net.heal()

Everything random is drawn from one generator, so the same seed and the same calls give the same run to the last byte.
The rules of `Checks` are looked after all the time; `settle` looks at what must come true once the faults are over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from random import Random

from ... import _requests
from ..._effects import SendSnapshot
from ..._replica import ReplicaSettings
from ..._requests import Join, Remove, Reply, Request, Who
from ...protocols import EngineLimits, EngineTiming
from ...types import Refusal, Role, SnapshotMeta
from .calls import Read, Write
from .checks import Checks, Violation
from .clock import VirtualClock
from .links import Links
from .node import SimulatedNode
from .store import REJECTED

PORT = 7000


class Simulation:
    """Nodes by number, from 1 on. Seconds are virtual."""

    def __init__(
        self,
        seed: int = 0,
        size: int = 3,
        *,
        settings: ReplicaSettings | None = None,
        limits: EngineLimits | None = None,
        tick: float = 0.05,
    ) -> None:
        """Found a cluster of one, and let `size` - 1 nodes join, one after the other."""
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.links = Links(self.random)
        self.checks = Checks()
        self.settings = settings or ReplicaSettings()
        self.limits = limits or EngineLimits()
        self.timing = EngineTiming()
        self.tick = tick
        self.cluster_id = self.random.randbytes(16)
        self.nodes: dict[int, SimulatedNode] = {}
        self.disk_times = (0.0005, 0.005)
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.told: list[str] = []
        """What happened, newest last: for people, when a run fails."""
        self._hash = hashlib.blake2b(digest_size=16)
        self._ports = PORT
        for number in range(1, size + 1):
            self.add(founder=number == 1)

    # --- looking -------------------------------------------------------------------------------------------------

    def __getitem__(self, number: int) -> SimulatedNode:
        return self.nodes[number]

    @property
    def leader(self) -> int | None:
        """Who leads in the newest term that has a running leader, or None."""
        leaders = [node for node in self.nodes.values() if node.role is Role.LEADER]
        best = max(leaders, key=lambda node: node.replica.term if node.replica else 0, default=None)
        return best.number if best is not None else None

    @property
    def followers(self) -> list[int]:
        """Who runs and does not lead."""
        leader = self.leader
        return [node.number for node in self.nodes.values() if node.serves and node.number != leader]

    @property
    def trace(self) -> str:
        """A hash over all that happened so far."""
        return self._hash.hexdigest()

    def note(self, what: str) -> None:
        """Put something into the trace."""
        line = f"{self.clock.now:.4f} {what}"
        self._hash.update(line.encode())
        self.told.append(line)

    # --- time ----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass."""
        over = False

        def end() -> None:
            nonlocal over
            over = True

        self.clock.call_in(seconds, end)
        while not over:
            self.clock.step()

    def run_until(self, done: Callable[[], bool], within: float = 30.0, *, every: float = 0.0) -> None:
        """Let time pass until something is so; it is looked at after each action, or only `every` so many seconds.

        :raises Violation: it did not come true.
        """
        over = False

        def end() -> None:
            nonlocal over
            over = True

        self.clock.call_in(within, end)
        while not done():
            if over:
                raise Violation(f"not within {within} s; {self.describe()}")

            look_at = self.clock.now + every
            self.clock.step()
            while self.clock.now < look_at and not over:
                self.clock.step()

    def disk_time(self) -> float:
        """Draw how long one durable write takes."""
        return self.random.uniform(*self.disk_times)

    # --- members -------------------------------------------------------------------------------------------------

    def add(self, *, founder: bool = False, wait: bool = True) -> SimulatedNode:
        """Start a node with an empty folder, and wait until it votes."""
        number = len(self.nodes) + 1
        node = self.nodes[number] = SimulatedNode(self, number, self.new_address())
        node.start(founder=founder)
        if wait:
            self.run_until(lambda: self.is_voter(number), every=0.05)

        return node

    def new_address(self) -> str:
        """Return an address nobody has had yet."""
        self._ports += 1
        return f"127.0.0.1:{self._ports}"

    def is_voter(self, number: int) -> bool:
        """Say whether a node votes, as far as it and the leader know."""
        node, leader = self.nodes[number], self.leader
        return (
            leader is not None
            and node.serves
            and all(
                replica is not None and node.node_id in replica.status().voters
                for replica in (node.replica, self.nodes[leader].replica)
            )
        )

    def crash(self, *numbers: int) -> None:
        """Kill nodes."""
        for number in numbers:
            self.nodes[number].crash()

    def restart(self, *numbers: int) -> None:
        """Start nodes that were killed or stopped."""
        for number in numbers:
            self.nodes[number].start()

    # --- the network ---------------------------------------------------------------------------------------------

    def cut(self, one: int, other: int) -> None:
        """Lose everything between two nodes."""
        self.links.cut(one, other)

    def cut_one_way(self, source: int, target: int) -> None:
        """Lose everything from one node to another."""
        self.links.cut_one_way(source, target)

    def isolate(self, number: int) -> None:
        """Lose everything from and to one node."""
        for other in self.nodes:
            if other != number:
                self.links.cut(number, other)

    def split(self, *groups: Iterable[int]) -> None:
        """Let only the nodes within each group reach one another."""
        self.links.split(*groups)

    def heal(self) -> None:
        """End every fault of the network."""
        self.links.heal()

    def at(self, address: str | None) -> SimulatedNode | None:
        """Return the running node that listens at an address."""
        return next((node for node in self.nodes.values() if node.running and node.address == address), None)

    def send(self, source: SimulatedNode, address: str | None, peer: int, messages: list[bytes]) -> None:
        """Carry raft messages; each may get lost, come twice, or come after a later one."""
        target = self.at(address)
        if target is None or not self.links.open(source.number, target.number):
            if self.random.random() < 0.5:
                source.later(self.links.delay(), lambda: source.unreachable(peer))

            return

        node = target
        for raw in messages:
            self._hash.update(raw)
            for _ in range(self.links.copies()):
                node.later(self.links.delay(), lambda raw=raw: self._deliver(source, node, peer, raw))  # type: ignore[misc]

    def _deliver(self, source: SimulatedNode, target: SimulatedNode, peer: int, raw: bytes) -> None:
        if self._let_in(source, target, peer):
            target.take_messages(source.node_id, [raw])

    def _let_in(self, source: SimulatedNode, target: SimulatedNode, peer: int) -> bool:
        """Do what a handshake does."""
        if not self.links.open(source.number, target.number):
            return False

        refusal = target.admit(source.hello(peer))
        if refusal is not None and self.links.open(target.number, source.number):
            self._refuse(source, refusal)

        return refusal is None

    def _refuse(self, source: SimulatedNode, refusal: Refusal) -> None:
        identity = source.identity
        source.later(self.links.delay(), lambda: source.refused(refusal) if source.identity is identity else None)

    def request(
        self,
        source: SimulatedNode,
        address: str,
        request: Request,
        answered: Callable[[bytes | None], None],
        *,
        within: float = 2.0,
    ) -> None:
        """Carry a request and its reply; None is answered if either gets lost, whether it was carried out or not."""
        payload = _requests.encode(request)
        life = source.life
        open_ = True

        def end(raw: bytes | None) -> None:
            nonlocal open_
            if open_:
                open_ = False
                answered(raw)

        source.later(within, lambda: end(None))
        target = self.at(address)
        if target is None:
            source.later(self.links.delay(), lambda: end(None))
            return

        node = target

        def arrive() -> None:
            if isinstance(request, Join | Who) or self._let_in(source, node, 0):
                self._hash.update(payload)
                node.take_request(_requests.decode(payload), reply)
            elif self.random.random() < 0.5:
                source.later(self.links.delay(), lambda: end(None), life=life)

        def reply(outcome: Reply) -> None:
            if self.links.open(node.number, source.number) and self.links.copies():
                raw = _requests.encode_reply(outcome)
                source.later(self.links.delay(), lambda: end(raw), life=life)

        if self.links.open(source.number, node.number) and self.links.copies():
            node.later(self.links.delay(), arrive)

    def stream(
        self,
        source: SimulatedNode,
        address: str | None,
        stream: SendSnapshot,
        meta: SnapshotMeta,
        data: bytes,
        ended: Callable[[bool], None],
    ) -> None:
        """Carry a snapshot; it may arrive and its sender not know."""
        target = self.at(address)
        open_ = True

        def end(ok: bool) -> None:
            nonlocal open_
            if open_:
                open_ = False
                ended(ok)

        source.later(10.0, lambda: end(False))
        if target is None:
            source.later(self.links.delay(), lambda: end(False))
            return

        node, life = target, source.life
        self.note(f"{source} streams snapshot {meta.index} to {node}")

        def arrive() -> None:
            if self._let_in(source, node, stream.to):
                node.take_snapshot(source.node_id, stream.message, SnapshotMeta.decode(meta.encode()), data, answer)
            else:
                answer(False)

        def answer(ok: bool) -> None:
            if self.links.open(node.number, source.number) and self.links.copies():
                source.later(self.links.delay(), lambda: end(ok), life=life)

        if self.links.open(source.number, node.number) and self.links.copies():
            node.later(self.links.delay() + self.random.uniform(0, 0.5), arrive)

    # --- the programs --------------------------------------------------------------------------------------------

    def write(self, number: int, *, rejected: bool = False, timeout: float | None = 10.0) -> Write:
        """Have a node propose a command that nobody proposed before."""
        call = Write(number, b"%s%d" % (REJECTED if rejected else b"c", len(self.writes)))
        self.writes.append(call)
        self.nodes[number].propose(call, timeout)
        return call

    def read(self, number: int, timeout: float | None = 10.0) -> Read:
        """Pass a read barrier on a node."""
        call = Read(number, self.checks.visible)
        self.reads.append(call)
        self.nodes[number].read(call, timeout)
        return call

    def remove(self, number: int) -> None:
        """Ask the leader, as an operator would, to take a node out."""
        leader = self.leader
        if leader is not None:
            self.nodes[leader].take_request(Remove(self.nodes[number].node_id), lambda reply: None)

    def transfer(self) -> int | None:
        """Have the leader hand over; return to which node id."""
        leader = self.leader
        replica = self.nodes[leader].replica if leader is not None else None
        return replica.transfer() if replica is not None else None

    # --- the end -------------------------------------------------------------------------------------------------

    def settle(self, within: float = 60.0) -> None:
        """End all faults, and see that the cluster comes back with everything that was promised.

        :raises Violation: no leader, no progress, or a node that does not catch up, within the given time.
        """
        self.heal()
        self.note("everything heals")
        for node in self.nodes.values():
            node.slow_disk = node.slow_store = 0.0
            if node.paused:
                node.resume()

            if not node.running and not node.disk.left:
                node.start()

        self.run_until(lambda: self.leader is not None, within, every=0.1)
        self.run_until(self._everyone_is_in, within, every=0.1)
        # Whoever waits on a node that lives, and never gave up, is answered.
        self.run_until(self._everyone_is_answered, within, every=0.1)
        self.run_until(lambda: all(node.has_room for node in self.nodes.values()), within, every=0.1)
        calls = [self.write(node.number, timeout=within) for node in self.nodes.values() if node.serves]
        reads = [self.read(node.number, timeout=within) for node in self.nodes.values() if node.serves]
        self.run_until(lambda: all(call.outcome is not None for call in calls), within, every=0.1)
        for call in calls:
            if not call.acknowledged and not self.nodes[call.node].disk.left:
                raise Violation(f"after healing {call.command!r} on node {call.node} ended with {call.outcome!r}")

        self.run_until(lambda: all(r.answered or self.nodes[r.node].disk.left for r in reads), within, every=0.1)
        self.run_until(self._everyone_is_equal, within, every=0.1)
        for command in self.checks.acknowledged:
            for node in self.nodes.values():
                if node.serves and command not in node.store.history:
                    raise Violation(f"{command!r} was acknowledged and is not on node {node.number}")

    def _everyone_is_in(self) -> bool:
        """Every node that did not leave is a voter, and no node that left still is one."""
        leader = self.leader
        replica = self.nodes[leader].replica if leader is not None else None
        if replica is None:
            return False

        status = replica.status()
        for node in self.nodes.values():
            if node.node_id not in status.members and node.serves and not any(map(self.at, node.peers.values())):
                # It was removed, and everyone it knew lives elsewhere by now: there is nobody who could tell it.
                self.note(f"{node} is lost")
                node.disk.left = True
                node.crash()

        return set(status.voters) == {node.node_id for node in self.nodes.values() if not node.disk.left}

    def _everyone_is_answered(self) -> bool:
        return all(call.over for call in self.writes) and all(call.over for call in self.reads)

    def _everyone_is_equal(self) -> bool:
        running = [node for node in self.nodes.values() if not node.disk.left]
        applied = {node.replica.applied if node.replica is not None else None for node in running}
        return len(applied) == 1 and all(node.store.history == self.checks.order for node in running)

    def describe(self) -> str:
        """Say how every node stands, for a failure's text."""
        lines = [f"at {self.clock.now:.2f} s leader is {self.leader}"]
        for node in self.nodes.values():
            replica = node.replica
            if replica is None:
                lines.append(f"{node}: {'left' if node.disk.left else 'joining' if node.running else 'down'}")
                continue

            lines.append(f"{node}: {len(node.store.history)} commands, {replica.status()}, {replica.engine_status()}")

        return "\n".join(lines)
