"""A few engines in one process: messages by hand, disks that are plain values, time by calls to `tick`.

`Lab` opens single engines in the states that a check begins with; `EngineCluster` lets several talk until all is
quiet. Nothing here waits and nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from riteraft_core.errors import Refused
from riteraft_core.protocols import Consensus, EngineContext, EngineLimits
from riteraft_core.types import (
    Anchor,
    CommittedEntry,
    ConfState,
    EntryKind,
    HardState,
    LogRow,
    Ready,
    Role,
    SnapshotMeta,
)

from .eraftpb import Entry, Kind, Message, Snapshot, decode

__all__ = [
    "EngineCluster",
    "EngineDisk",
    "Lab",
    "OpenEngine",
    "acknowledge",
    "append",
    "conf",
    "drain",
    "give",
    "give_snapshot",
    "kinds",
    "refusal",
    "sent",
]

OpenEngine = Callable[[EngineContext], Consensus]


def conf(voters: Iterable[int], learners: Iterable[int] = (), outgoing: Iterable[int] = (), **others: Any) -> ConfState:
    """Return a ConfState from any collections of ids."""
    return ConfState(tuple(voters), tuple(learners), tuple(outgoing), **others)


@dataclass
class EngineDisk:
    """What one node has made durable. A joiner's holds nothing but term 1."""

    hard_state: HardState = HardState(1, 0, 0)
    anchor: Anchor = Anchor()
    snapshot: tuple[int, int, ConfState] | None = None
    rows: list[LogRow] = field(default_factory=list)

    @classmethod
    def founded(cls, voters: Iterable[int], learners: Iterable[int] = ()) -> EngineDisk:
        """Return what a founder writes (rule 2): a snapshot at index 1 that holds the first members."""
        return cls(HardState(1, 0, 1), Anchor(1, 1), (1, 1, conf(voters, learners)))

    def save(self, ready: Ready, conf_state: ConfState | None = None) -> None:
        """Make a Ready durable; `conf_state` belongs to the snapshot that it installs."""
        if ready.snapshot is not None:
            assert conf_state is not None
            self.anchor = Anchor(*ready.snapshot)
            self.snapshot = (*ready.snapshot, conf_state)
            self.rows = []

        if ready.entries:
            first = ready.entries[0][0]
            self.rows = [row for row in self.rows if row[0] < first] + list(ready.entries)

        if ready.hard_state is not None:
            self.hard_state = ready.hard_state


class Lab:
    """Opens engines."""

    def __init__(self, open_engine: OpenEngine) -> None:
        self._open_engine = open_engine

    def open(self, disk: EngineDisk, node_id: int, seed: int = 7, **limits: int) -> Consensus:
        """Open an engine on what a disk holds."""
        snapshot = None if disk.snapshot is None else SnapshotMeta(*disk.snapshot)
        return self._open_engine(
            EngineContext(
                node_id=node_id,
                seed=seed,
                hard_state=disk.hard_state,
                anchor=disk.anchor,
                snapshot=snapshot,
                entries=list(disk.rows),
                limits=replace(EngineLimits(), **limits),
            )
        )

    def founded(self, node_id: int, voters: Iterable[int], learners: Iterable[int] = ()) -> Consensus:
        """Open an engine on a founder's disk."""
        return self.open(EngineDisk.founded(voters, learners), node_id)

    def cluster(self, size: int = 3, **settings: Any) -> EngineCluster:
        """Open a cluster; see `EngineCluster`."""
        return EngineCluster(self, size, **settings)

    def follower(self, last: int = 5, *, committed: int = 1, **limits: int) -> Consensus:
        """Open node 2 of three at term 2, led by 1, with durable entries up to `last`."""
        node = self.open(EngineDisk.founded([1, 2, 3]), 2, **limits)
        terms = [2] * (last - 1)
        assert give(node, append(2, 1, 2, index=1, log_term=1, commit=committed, terms=terms)) == []
        drain(node)
        return node

    def committed_follower(self) -> Consensus:
        """Open a follower whose log is committed to its end."""
        return self.follower(5, committed=5)

    def learner(self) -> Consensus:
        """Open node 2, a learner of leader 1."""
        node = self.founded(2, [1, 3], [2])
        give(node, Message(Kind.HEARTBEAT, 2, 1, 2))
        drain(node)
        return node

    def candidate(self, *, persist: bool = False) -> Consensus:
        """Open node 1 of three, its vote for itself in term 2 durable or not, so asked for or not."""
        node = self.founded(1, [1, 2, 3])
        node.campaign()
        drain(node)
        give(node, Message(Kind.PRE_VOTE_RESPONSE, 1, 2, 2))
        drain(node, persist=persist)
        assert node.status().role is Role.CANDIDATE
        return node

    def leader(self, **limits: int) -> Consensus:
        """Open node 1 of three, leader of term 2, its first entry (index 2) committed and handed out."""
        node = self.open(EngineDisk.founded([1, 2, 3]), 1, **limits)
        node.campaign()
        drain(node)
        assert give(node, Message(Kind.PRE_VOTE_RESPONSE, 1, 2, 2)) == []
        drain(node)
        assert give(node, Message(Kind.VOTE_RESPONSE, 1, 2, 2)) == []
        drain(node)
        acknowledge(node, 2)
        drain(node)
        status = node.status()
        assert (status.role, status.commit) == (Role.LEADER, 2)
        return node

    def installing(self) -> tuple[Consensus, int]:
        """Open a follower that took a snapshot at index 100; return it and the number of the Ready that holds it."""
        node = self.follower(5)
        assert give_snapshot(node, 100, 2) is None
        [ready] = drain(node, persist=False)
        assert ready.snapshot == (100, 2)
        return node, ready.number


class EngineCluster:
    """Nodes 1..size, all voters from the start unless `disks` says more; `pump` lets them talk until all is quiet."""

    def __init__(
        self, lab: Lab, size: int = 3, *, disks: dict[int, EngineDisk] | None = None, seed: int = 7, **limits: int
    ) -> None:
        voters = range(1, size + 1)
        self.disks = disks or {node_id: EngineDisk.founded(voters) for node_id in voters}
        self.applied: dict[int, list[CommittedEntry]] = {}
        self.confs: dict[int, list[tuple[int, ConfState, str | None]]] = {}
        self.read_states: dict[int, list[tuple[int, bytes]]] = {}
        self.last_ready: dict[int, Ready] = {}
        self.wanted: set[int] = set()
        self.removed: set[int] = set()
        self.dropped: list[tuple[int, int, str]] = []
        self.cut: set[int] = set()
        """Nodes whose messages, both ways, are lost."""
        self.lose: Callable[[Message], bool] = lambda message: False
        self._lab = lab
        self._seed = seed
        self._limits = limits
        self.nodes: dict[int, Consensus] = {}
        for node_id in self.disks:
            self.restart(node_id)

    def __getitem__(self, node_id: int) -> Consensus:
        """Return one engine."""
        return self.nodes[node_id]

    def add(self, node_id: int) -> None:
        """Start a node that holds nothing, as a joiner does."""
        self.disks[node_id] = EngineDisk()
        self.restart(node_id)

    def restart(self, node_id: int) -> None:
        """Start a node on what its disk holds."""
        self.nodes[node_id] = self._lab.open(self.disks[node_id], node_id, self._seed, **self._limits)
        for kept in (self.applied, self.confs, self.read_states):
            kept.setdefault(node_id, [])

    def elect(self, node_id: int) -> None:
        """Let a node win an election."""
        self[node_id].campaign()
        self.pump()
        assert self[node_id].status().role is Role.LEADER

    def tick(self, times: int = 1, only: Iterable[int] | None = None) -> None:
        """Let time pass, and the nodes talk after each tick."""
        for _ in range(times):
            for node_id in only or [node_id for node_id in self.nodes if node_id not in self.removed]:
                self[node_id].tick()

            self.pump()

    def tick_until(self, done: Callable[[], bool], limit: int = 500) -> None:
        """Let time pass until something holds."""
        for _ in range(limit):
            if done():
                return

            self.tick()

        raise AssertionError(f"not within {limit} ticks")

    @property
    def leader(self) -> int | None:
        """A node that leads and is reached by others."""
        for node_id in self.nodes:
            if node_id not in self.removed | self.cut and self[node_id].status().role is Role.LEADER:
                return node_id

        return None

    def pump(self) -> None:
        """Save, send and step until no node has anything to do."""
        while sum(self.pump_one(node_id) for node_id in list(self.nodes)):
            pass

    def pump_one(self, node_id: int) -> bool:
        """Carry one Ready of one node out, in the order that must hold; return whether there was one."""
        if node_id in self.removed:
            return False

        node = self[node_id]
        ready = node.ready()
        if ready is None:
            return False

        self._note(node_id, ready)
        self._deliver(node_id, ready.messages)
        self.disks[node_id].save(ready, None if ready.removed else node.status().conf_state)
        if ready.removed:
            self.removed.add(node_id)
            return True

        node.persisted(ready.number)
        self._deliver(node_id, ready.persisted_messages)
        for to, _, raw in ready.snapshots:
            arrived = not (self.cut & {node_id, to} or to not in self.nodes or to in self.removed)
            if arrived:
                staged = decode(raw).snapshot
                assert staged is not None
                reason = self[to].step_snapshot(node_id, raw, staged.index, staged.term)
                if reason is not None:
                    self.dropped.append((node_id, to, reason))

            node.report_snapshot(to, arrived)

        return True

    def _note(self, node_id: int, ready: Ready) -> None:
        self.last_ready[node_id] = ready
        self.applied[node_id] += ready.committed
        self.confs[node_id] += ready.conf_states
        self.read_states[node_id] += ready.read_states
        if ready.snapshot_wanted:
            self.wanted.add(node_id)

    def _deliver(self, sender: int, batches: Iterable[tuple[int, Sequence[bytes]]]) -> None:
        for to, batch in batches:
            if self.cut & {sender, to} or to not in self.nodes or to in self.removed:
                continue

            kept = [raw for raw in batch if not self.lose(decode(raw))]
            self.dropped += [(sender, to, reason) for reason in self[to].step(sender, kept)]

    def make_snapshot(self, node_id: int, *, compact: bool = True) -> int:
        """Make a snapshot of all that a node applied, and cut its log behind it; return its index."""
        node, disk = self[node_id], self.disks[node_id]
        conf_state = node.status().conf_state
        index, term = self.applied[node_id][-1][:2]
        node.snapshot_made(index, term, conf_state)
        disk.snapshot = (index, term, conf_state)
        if compact:
            node.compact(index)
            disk.anchor = Anchor(index, term)
            disk.rows = [row for row in disk.rows if row[0] > index]

        return index

    def data(self, node_id: int) -> list[bytes]:
        """Return the commands applied at a node, without the empty entries that leaders write."""
        return [data for _, _, kind, _, data in self.applied[node_id] if kind == EntryKind.NORMAL and data]

    def all_data(self) -> Mapping[int, list[bytes]]:
        """Return the commands applied at each node."""
        return {node_id: self.data(node_id) for node_id in self.nodes}


def drain(node: Consensus, persist: bool = True) -> list[Ready]:
    """Take all there is to do, and tell at once that it is durable."""
    readies = []
    while (ready := node.ready()) is not None:
        readies.append(ready)
        if ready.removed:
            break
        if persist:
            node.persisted(ready.number)

    return readies


def sent(readies: Iterable[Ready], *, held: bool | None = None) -> list[Message]:
    """Return the messages of some Readies: those that may leave at once, those held for the disk, or both."""
    messages = []
    for ready in readies:
        if held is not True:
            messages += [decode(raw) for _, batch in ready.messages for raw in batch]
        if held is not False:
            messages += [decode(raw) for _, batch in ready.persisted_messages for raw in batch]

    return messages


def kinds(messages: Iterable[Message]) -> list[int]:
    """Return the messages' types."""
    return [message.kind for message in messages]


def append(
    to: int, sender: int, term: int, *, index: int, log_term: int, commit: int = 0, terms: Iterable[int] = ()
) -> Message:
    """Return an append of entries of these terms, right after `index`."""
    entries = [Entry(index + step, entry_term, b"x") for step, entry_term in enumerate(terms, start=1)]
    return Message(Kind.APPEND, to, sender, term, index=index, log_term=log_term, commit=commit, entries=entries)


def give(node: Consensus, message: Message) -> list[str]:
    """Step one message from the sender that it names; return why it was dropped."""
    return list(node.step(message.sender, [message.encode()]))


def give_snapshot(
    node: Consensus, index: int, term: int, conf_state: ConfState | None = None, *, sender: int = 1
) -> str | None:
    """Step a MsgSnapshot of the leader of `term` whose data is staged; return why it was dropped."""
    snapshot = Snapshot(index, term, conf_state or conf([1, 2, 3]))
    message = Message(Kind.SNAPSHOT, node.status().node_id, sender, term, snapshot=snapshot)
    return node.step_snapshot(sender, message.encode(), index, term)


def acknowledge(node: Consensus, index: int, peers: Iterable[int] = (2, 3)) -> None:
    """Let peers of a leader tell that they hold its log up to `index`."""
    status = node.status()
    for peer in peers:
        assert give(node, Message(Kind.APPEND_RESPONSE, status.node_id, peer, status.term, index=index)) == []


def refusal(call: Callable[[], object]) -> str:
    """Run a call that must be refused; return the reason's name."""
    with pytest.raises(Refused) as caught:
        call()

    return caught.value.reason
