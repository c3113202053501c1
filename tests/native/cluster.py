"""A few raw nodes in one process: messages by hand, disks that are dicts, time by calls to `tick`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from riteraft_raftrs import RaftRefused, RawNode, Ready

from .eraftpb import Entry, Kind, Message, decode

ConfTuple = tuple[list[int], list[int], list[int], list[int], bool]


def conf(voters: Iterable[int], learners: Iterable[int] = ()) -> ConfTuple:
    return list(voters), list(learners), [], [], False


@dataclass
class Disk:
    """What one node has made durable."""

    hard_state: tuple[int, int, int] = (1, 0, 0)
    anchor: tuple[int, int] = (0, 0)
    snapshot: tuple[int, int, ConfTuple] | None = None
    rows: list[tuple[int, int, bytes]] = field(default_factory=list)

    @classmethod
    def founded(cls, voters: Iterable[int], learners: Iterable[int] = ()) -> Disk:
        """What a founder writes: a snapshot at index 1 that holds the first members."""
        return cls((1, 0, 1), (1, 1), (1, 1, conf(voters, learners)))

    def save(self, ready: Ready, conf_state: ConfTuple | None = None) -> None:
        if ready.snapshot is not None:
            assert conf_state is not None
            self.anchor = ready.snapshot
            self.snapshot = (*ready.snapshot, conf_state)
            self.rows = []
        if ready.entries:
            first = ready.entries[0][0]
            self.rows = [row for row in self.rows if row[0] < first] + ready.entries
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state

    def open(self, node_id: int, seed: int = 7, **settings: Any) -> RawNode:
        return RawNode(
            node_id=node_id,
            hard_state=self.hard_state,
            anchor=self.anchor,
            snapshot=self.snapshot,
            entries=self.rows,
            seed=seed,
            **settings,
        )


def drain(node: RawNode, persist: bool = True) -> list[Ready]:
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
    """The messages of some Readies: those that may leave at once, those held for the disk, or both."""
    messages = []
    for ready in readies:
        if held is not True:
            messages += [decode(raw) for _, batch in ready.messages for raw in batch]
        if held is not False:
            messages += [decode(raw) for _, batch in ready.persisted_messages for raw in batch]
    return messages


def kinds(messages: Iterable[Message]) -> list[int]:
    return [message.kind for message in messages]


class Cluster:
    """Nodes 1..n, all voters from the start unless `disks` says more; `pump` lets them talk until all is quiet."""

    def __init__(self, size: int = 3, *, disks: dict[int, Disk] | None = None, seed: int = 7, **settings: Any) -> None:
        voters = range(1, size + 1)
        self.disks = disks or {node_id: Disk.founded(voters) for node_id in voters}
        self.settings = settings
        self.seed = seed
        self.nodes = {node_id: disk.open(node_id, seed, **settings) for node_id, disk in self.disks.items()}
        self.applied: dict[int, list[tuple[int, int, int, bytes, bytes]]] = {id: [] for id in self.nodes}
        self.confs: dict[int, list[tuple[int, ConfTuple, str | None]]] = {id: [] for id in self.nodes}
        self.read_states: dict[int, list[tuple[int, bytes]]] = {id: [] for id in self.nodes}
        self.last_ready: dict[int, Ready] = {}
        self.wanted: set[int] = set()
        self.removed: set[int] = set()
        self.dropped: list[tuple[int, int, str]] = []
        self.cut: set[int] = set()
        """Nodes whose messages, both ways, are lost."""
        self.lose: Callable[[Message], bool] = lambda message: False

    def __getitem__(self, node_id: int) -> RawNode:
        return self.nodes[node_id]

    def add(self, node_id: int) -> None:
        """Start a node that holds nothing, as a joiner does."""
        self.disks[node_id] = Disk()
        self.restart(node_id)
        self.applied[node_id], self.confs[node_id], self.read_states[node_id] = [], [], []

    def restart(self, node_id: int) -> None:
        self.nodes[node_id] = self.disks[node_id].open(node_id, self.seed, **self.settings)

    def elect(self, node_id: int) -> None:
        self.nodes[node_id].campaign()
        self.pump()
        assert self.nodes[node_id].status().role == "leader"

    def tick(self, times: int = 1, only: Iterable[int] | None = None) -> None:
        for _ in range(times):
            for node_id in only or [id for id in self.nodes if id not in self.removed]:
                self.nodes[node_id].tick()
            self.pump()

    def tick_until(self, done: Callable[[], bool], limit: int = 500) -> None:
        for _ in range(limit):
            if done():
                return
            self.tick()
        raise AssertionError(f"not within {limit} ticks")

    @property
    def leader(self) -> int | None:
        leaders = [id for id in self.nodes if id not in self.removed | self.cut and self[id].status().role == "leader"]
        return leaders[0] if leaders else None

    def pump(self) -> None:
        """Save, send and step until no node has anything to do."""
        while sum(self.pump_one(node_id) for node_id in list(self.nodes)):
            pass

    def pump_one(self, node_id: int) -> bool:
        if node_id in self.removed:
            return False
        node = self.nodes[node_id]
        ready = node.ready()
        if ready is None:
            return False
        self.note(node_id, ready)
        self.deliver(node_id, ready.messages)
        self.disks[node_id].save(ready, node.status().conf_state if not ready.removed else None)
        if ready.removed:
            self.removed.add(node_id)
            return True
        node.persisted(ready.number)
        self.deliver(node_id, ready.persisted_messages)
        for to, _, raw in ready.snapshots:
            arrived = not (self.cut & {node_id, to} or to not in self.nodes or to in self.removed)
            if arrived:
                reason = self.nodes[to].step_snapshot(node_id, raw)
                if reason is not None:
                    self.dropped.append((node_id, to, reason))
            node.report_snapshot(to, arrived)
        return True

    def note(self, node_id: int, ready: Ready) -> None:
        self.last_ready[node_id] = ready
        self.applied[node_id] += ready.committed
        self.confs[node_id] += ready.conf_states
        self.read_states[node_id] += ready.read_states
        if ready.snapshot_wanted:
            self.wanted.add(node_id)

    def deliver(self, sender: int, batches: Iterable[tuple[int, list[bytes]]]) -> None:
        for to, batch in batches:
            if self.cut & {sender, to} or to not in self.nodes or to in self.removed:
                continue
            kept = [raw for raw in batch if not self.lose(decode(raw))]
            self.dropped += [(sender, to, reason) for reason in self.nodes[to].step_many(sender, kept)]

    def make_snapshot(self, node_id: int, *, compact: bool = True) -> int:
        """Make a snapshot of all that `node_id` applied, and cut its log behind it."""
        status = self[node_id].status()
        index, term = self.applied[node_id][-1][:2]
        self[node_id].snapshot_made(index, term, status.conf_state)
        disk = self.disks[node_id]
        disk.snapshot = (index, term, status.conf_state)
        if compact:
            self[node_id].compact(index)
            disk.anchor = (index, term)
            disk.rows = [row for row in disk.rows if row[0] > index]
        return index

    def data(self, node_id: int) -> list[bytes]:
        """What the commands applied at a node were; not the empty entries that leaders write."""
        return [data for _, _, kind, _, data in self.applied[node_id] if kind == 0 and data]


def append(
    to: int, sender: int, term: int, *, index: int, log_term: int, commit: int = 0, terms: Iterable[int] = ()
) -> Message:
    """An append of entries of these terms, right after `index`."""
    entries = [Entry(index + step, term, b"x") for step, term in enumerate(terms, start=1)]
    return Message(Kind.APPEND, to, sender, term, index=index, log_term=log_term, commit=commit, entries=entries)


def follower(last: int = 5, *, committed: int = 1) -> RawNode:
    """Node 2 of three at term 2, led by 1, with durable entries up to `last`."""
    node = Disk.founded([1, 2, 3]).open(2)
    terms = [2] * (last - 1)
    assert give(node, append(2, 1, 2, index=1, log_term=1, commit=committed, terms=terms)) == []
    drain(node)
    return node


def leader(**settings: Any) -> RawNode:
    """Node 1 of three, leader of term 2, its first entry (index 2) committed and handed out."""
    node = Disk.founded([1, 2, 3]).open(1, **settings)
    node.campaign()
    drain(node)
    assert give(node, Message(Kind.PRE_VOTE_RESPONSE, 1, 2, 2)) == []
    drain(node)
    assert give(node, Message(Kind.VOTE_RESPONSE, 1, 2, 2)) == []
    drain(node)
    acknowledge(node, 2)
    drain(node)
    assert node.status().role == "leader"
    assert node.status().commit == 2
    return node


def acknowledge(node: RawNode, index: int, peers: Iterable[int] = (2, 3)) -> None:
    """Let peers of a leader tell that they hold its log up to `index`."""
    status = node.status()
    for peer in peers:
        assert give(node, Message(Kind.APPEND_RESPONSE, status.node_id, peer, status.term, index=index)) == []


def give(node: RawNode, message: Message) -> list[str]:
    """Step one message from the sender that it names."""
    return node.step_many(message.sender, [message.encode()])


def refusal(call: Callable[[], object]) -> str:
    """Run a call that must be refused; give the reason's name."""
    try:
        call()
    except RaftRefused as refused:
        reason = refused.args[0]
        assert isinstance(reason, str)
        return reason
    raise AssertionError("it was not refused")
