"""Honest nodes on a bad network with slow disks: the gate drops nothing of theirs, and they agree.

A small simulation, driven by one seed: messages are lost, doubled and reordered, saves take their time, nodes crash
between a save's begin and its end, members come and go, logs are compacted.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from riteraft_raftrs import RaftRefused, RawNode, Ready

from .cluster import ConfTuple, Disk
from .eraftpb import decode

STEPS = 4000


@dataclass
class Machine:
    """One node with its disk, the saves that are under way, and what it applied."""

    node_id: int
    disk: Disk
    node: RawNode
    saves: deque[Ready] = field(default_factory=deque)
    staged: ConfTuple | None = None
    confs: dict[int, ConfTuple] = field(default_factory=dict)
    applied: int = 0


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.wire: list[tuple[int, int, bytes]] = []
        self.log: dict[int, tuple[int, int, bytes]] = {}
        self.dropped: list[str] = []
        self.machines: dict[int, Machine] = {}
        self.once_members: set[int] = {1, 2, 3}
        self.proposed = 0
        for node_id in (1, 2, 3):
            self.start(node_id, Disk.founded([1, 2, 3]))

    def start(self, node_id: int, disk: Disk) -> None:
        machine = Machine(node_id, disk, disk.open(node_id, self.random.randrange(1 << 64), max_size_per_msg=64))
        if disk.snapshot is not None:
            machine.applied = disk.snapshot[0]
            machine.confs[machine.applied] = disk.snapshot[2]
        self.machines[node_id] = machine

    def step(self) -> None:
        machine = self.random.choice(list(self.machines.values()))
        action = self.random.random()
        if action < 0.15:
            machine.node.tick()
        elif action < 0.45:
            self.take(machine)
        elif action < 0.6:
            self.save(machine)
        elif action < 0.92:
            self.carry()
        elif action < 0.97:
            self.propose(machine)
        elif action < 0.98:
            self.compact(machine)
        elif action < 0.985:
            self.change_members(machine)
        elif action < 0.987:
            self.start(machine.node_id, machine.disk)

    def take(self, machine: Machine) -> None:
        ready = machine.node.ready()
        if ready is None:
            return
        self.send(machine, ready.messages)
        for index, conf_state, refused in ready.conf_states:
            assert refused is None
            machine.confs[index] = conf_state
            self.once_members |= {*conf_state[0], *conf_state[1]}
        for index, term, kind, _, data in ready.committed:
            # Agreement, and nothing left out: the whole point.
            assert self.log.setdefault(index, (term, kind, data)) == (term, kind, data)
            assert index == machine.applied + 1
            machine.applied = index
        if ready.removed:
            del self.machines[machine.node_id]
            return
        if ready.snapshot is not None:
            machine.staged = machine.node.status().conf_state
        machine.saves.append(ready)
        if ready.snapshot_wanted:
            self.make_snapshot(machine)

    def save(self, machine: Machine) -> None:
        """Make a few Readies durable at once, tell of the last, then let their messages go."""
        batch = [machine.saves.popleft() for _ in range(self.random.randint(0, len(machine.saves)))]
        if not batch:
            return
        for ready in batch:
            machine.disk.save(ready, machine.staged)
        machine.node.persisted(batch[-1].number)
        for ready in batch:
            if ready.snapshot is not None:
                machine.applied = ready.snapshot[0]
                assert machine.staged is not None
                machine.confs[machine.applied] = machine.staged
            self.send(machine, ready.persisted_messages)
            for to, _, raw in ready.snapshots:
                self.stream(machine, to, raw)

    def stream(self, machine: Machine, to: int, raw: bytes) -> None:
        arrived = to in self.machines and self.random.random() < 0.7
        if arrived:
            self.machines[to].node.step_snapshot(machine.node_id, raw)
        machine.node.report_snapshot(to, arrived)

    def send(self, machine: Machine, batches: list[tuple[int, list[bytes]]]) -> None:
        for to, batch in batches:
            self.wire += [(machine.node_id, to, raw) for raw in batch]

    def carry(self) -> None:
        """Deliver one message out of many, mostly in order; now and then lose it, or keep it to come again."""
        if not self.wire:
            return
        place = 0 if self.random.random() < 0.7 else self.random.randrange(len(self.wire))
        fate = self.random.random()
        sender, to, raw = self.wire[place] if fate < 0.03 else self.wire.pop(place)
        if fate > 0.97 or to not in self.machines:
            return
        reasons = self.machines[to].node.step_many(sender, [raw])
        self.dropped += [f"{reason}: {decode(raw)}" for reason in reasons if not is_late(reason)]

    def propose(self, machine: Machine) -> None:
        try:
            self.proposed += 1
            data = b"%d" % self.proposed
            machine.node.propose_many([(b"", data)] * self.random.randint(1, 5))
        except RaftRefused:
            return

    def change_members(self, machine: Machine) -> None:
        status = machine.node.status()
        voters, learners = status.conf_state[:2]
        # An id is never used again: a leader still counts what the first node of that name acknowledged.
        newcomers = [id for id in range(1, 7) if id not in self.once_members]
        changes = [("add_learner", id) for id in newcomers[:1]] + [("add_voter", id) for id in learners[:1]]
        if len(voters) > 2:
            changes.append(("remove", self.random.choice(voters)))
        try:
            if self.random.random() < 0.3:
                machine.node.transfer_leader(self.random.choice(voters or [1]))
            else:
                machine.node.propose_conf_change(b"", self.random.sample(changes, self.random.randint(0, len(changes))))
        except RaftRefused:
            return
        for id in newcomers[:1]:
            if id not in self.machines:
                self.start(id, Disk())

    def settle(self) -> None:
        """Let the network heal and time pass until all members hold the same log."""
        for _ in range(20_000):
            machine = self.random.choice(list(self.machines.values()))
            if self.random.random() < 0.1:
                machine.node.tick()
            self.take(machine)
            if machine.node_id in self.machines:
                self.save(machine)
            for sender, to, raw in self.wire:
                if to in self.machines:
                    self.machines[to].node.step_many(sender, [raw])
            self.wire.clear()
            if self.is_settled():
                return
        raise AssertionError("they do not come to agree")

    def is_settled(self) -> bool:
        statuses = {id: machine.node.status() for id, machine in self.machines.items()}
        for leader in statuses.values():
            members = {id for ids in leader.conf_state[:4] for id in ids} if leader.role == "leader" else set()
            if members and all(
                id in statuses
                and statuses[id].term == leader.term
                and statuses[id].conf_state == leader.conf_state
                and self.machines[id].applied == leader.last_index
                for id in members
            ):
                return True
        return False

    def make_snapshot(self, machine: Machine) -> None:
        """Make one at the newest index whose row is durable."""
        last = machine.disk.rows[-1][0] if machine.disk.rows else machine.disk.anchor[0]
        index = min(machine.applied, last)
        if machine.disk.snapshot is None or index <= machine.disk.snapshot[0]:
            return
        if any(ready.snapshot for ready in machine.saves):
            return
        conf_state = machine.confs[max(at for at in machine.confs if at <= index)]
        term = self.log[index][0]
        machine.disk.snapshot = (index, term, conf_state)
        machine.node.snapshot_made(index, term, conf_state)

    def compact(self, machine: Machine) -> None:
        self.make_snapshot(machine)
        if machine.disk.snapshot is None:
            return
        index, term, _ = machine.disk.snapshot
        rows = [row for row in machine.disk.rows if row[0] <= index]
        if rows and rows[-1][:2] == (index, term):
            machine.node.compact(index)
            machine.disk.anchor = (index, term)
            machine.disk.rows = machine.disk.rows[len(rows) :]


def is_late(reason: str) -> bool:
    """Say whether an honest message may be dropped for this: it was right when it was sent."""
    return reason in {
        # Its sender is a member that this node does not know yet, or not any more.
        "response of no member",
        # This node was restarted meanwhile and has not heard of a leader since.
        "timeout now: not from our leader",
    }


@pytest.mark.parametrize("run", range(10))
def test_gate_drops_nothing_of_honest_peers(run: int) -> None:
    seed = random.randrange(1 << 32) + run
    print(f"seed {seed}")  # noqa: T201 (shown if the test fails)
    world = World(seed)
    try:
        for _ in range(STEPS):
            world.step()
        world.settle()
    except Exception as exc:
        raise AssertionError(f"seed {seed}") from exc
    assert world.dropped == [], seed
