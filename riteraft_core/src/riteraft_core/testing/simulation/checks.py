"""What must hold at every moment of a run, whatever the faults: looked at from outside, with all nodes in view.

Each method is told of one thing that happens, and raises `Violation` if it must not.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..._membership import FOUNDER_ID
from ..._sessions import Answer
from ...types import CommittedEntry, ConfState, HardState, LogBatch, SnapshotMeta
from .disk import SimulatedDisk
from .raft_message import MessageKind, read_message
from .store import expected_answer


class Violation(AssertionError):
    """A rule was broken."""


class Checks:
    """The run's memory of what was promised to whom."""

    def __init__(self) -> None:
        self.order: list[bytes] = []
        """Every command any Store was given, in the one order there is."""
        self.places: dict[bytes, int] = {}
        self.acknowledged: dict[bytes, Answer] = {}
        self.visible = 0
        """How long the history is that somebody has seen: no later read may see less."""
        self._never: set[bytes] = set()
        self._leaders: dict[int, int] = {}
        self._committed: dict[int, CommittedEntry] = {}
        self._conf_states = {0: ConfState(), 1: ConfState((FOUNDER_ID,))}
        self._snapshots: dict[int, SnapshotMeta] = {}
        self._rows: dict[tuple[int, int], tuple[int, bytes]] = {}

    # --- raft --------------------------------------------------------------------------------------------------

    def leads(self, node: int, term: int) -> None:
        """Check that there is at most one leader a term."""
        if self._leaders.setdefault(term, node) != node:
            raise Violation(f"nodes {self._leaders[term]} and {node} both lead in term {term}")

    def commits(self, node: int, disk: SimulatedDisk, entries: Sequence[CommittedEntry]) -> None:
        """Check that committed entries are the same everywhere, for ever, and on this disk before they are applied."""
        for entry in entries:
            index, term = entry[:2]
            if self._committed.setdefault(index, entry) != entry:
                raise Violation(f"entry {index} was committed as {self._committed[index]}, node {node} has {entry}")

            if disk.first < index and disk.term_at(index) != term:
                raise Violation(f"node {node} is to apply entry {index} of term {term}, which is not on its disk")

    def changes(self, node: int, index: int, conf_state: ConfState) -> None:
        """Check that a conf change has the same outcome on every node."""
        if self._conf_states.setdefault(index, conf_state) != conf_state:
            raise Violation(f"the conf change at {index} made {self._conf_states[index]}, on node {node} {conf_state}")

    def snapshots(self, node: int, meta: SnapshotMeta) -> None:
        """Check that a snapshot holds the members of its index, and is the same whoever makes it."""
        conf_state = self._conf_states[max(index for index in self._conf_states if index <= meta.index)]
        if meta.conf_state != conf_state:
            raise Violation(f"snapshot {meta.index} of node {node} has {meta.conf_state}, not {conf_state}")

        if self._snapshots.setdefault(meta.index, meta) != meta:
            raise Violation(f"snapshot {meta.index} of node {node} has other members or sessions than another node's")

    def saves(self, node: int, disk: SimulatedDisk, before: HardState, batch: LogBatch) -> None:
        """Check that term, vote and commit never go back, and logs that agree on an entry agree on all before it."""
        after = disk.hard_state
        if after.term < before.term or after.commit < before.commit:
            raise Violation(f"node {node} went back from {before} to {after}")

        if after.term == before.term and before.vote not in (0, after.vote):
            raise Violation(f"node {node} voted twice: {before}, then {after}")

        for index, term, data in batch.entries:
            previous = disk.term_at(index - 1)
            if previous is None:
                raise Violation(f"node {node} saved entry {index} without one before it")

            if self._rows.setdefault((index, term), (previous, data)) != (previous, data):
                raise Violation(f"entry {index} of term {term} is not the same, or does not follow the same, on {node}")

    def replaces(self, node: int, disk: SimulatedDisk, batch: LogBatch) -> None:
        """Check, before a save is carried out, that it takes no committed entry away."""
        if batch.install is not None or not batch.entries:
            return

        terms = {index: term for index, term, _ in batch.entries}
        for index in range(max(batch.entries[0][0], disk.first + 1), disk.last + 1):
            term, known = disk.term_at(index), self._committed.get(index)
            if known is not None and known[1] == term != terms.get(index):
                raise Violation(f"node {node} is to lose the committed entry {index} of term {term}")

    def leaves(self, node: int, disk: SimulatedDisk, raw: bytes) -> None:
        """Check that what a message says of its sender's disk is true by the time it leaves (consensus rule 1)."""
        message = read_message(raw)
        kind, durable = message.kind, disk.hard_state
        if message.sender != node:
            raise Violation(f"node {node} sends in the name of {message.sender}")

        if kind in (MessageKind.PRE_VOTE, MessageKind.PRE_VOTE_RESPONSE):
            return  # they speak of a term that nobody has begun

        if message.term > durable.term:
            raise Violation(f"{message} left node {node}, whose disk says {durable}")

        if message.term < durable.term or message.reject:
            return

        voted_for = {int(MessageKind.VOTE): node, int(MessageKind.VOTE_RESPONSE): message.to}.get(kind, durable.vote)
        if durable.vote != voted_for:
            raise Violation(f"{message} left node {node}, whose disk says {durable}")

        if kind == MessageKind.APPEND_RESPONSE and message.index > disk.last:
            raise Violation(f"{message} left node {node}, whose log on disk ends at {disk.last}")

    def stands(self, node: int, disk: SimulatedDisk, applied: int, commit: int, last: int) -> None:
        """Check that purged ≤ snapshot ≤ applied ≤ committed ≤ last."""
        places = (disk.first, disk.snapshot_index, applied, commit, last)
        if list(places) != sorted(places):
            raise Violation(f"node {node}: purged, snapshot, applied, committed, last are {places}")

    # --- the Store ---------------------------------------------------------------------------------------------

    def applies(self, node: int, place: int, command: bytes) -> None:
        """Check that every Store is given the same commands in the same order, none of them twice."""
        if place == len(self.order):
            if command in self.places:
                raise Violation(f"{command!r} is applied by node {node} at {place}, and was at {self.places[command]}")

            if command in self._never:
                raise Violation(f"{command!r} is applied by node {node}; its proposer was told NotApplied")

            self.places[command] = place
            self.order.append(command)
        elif place > len(self.order) or self.order[place] != command:
            raise Violation(f"node {node} applies {command!r} at {place}; others had {self.order[place : place + 1]}")

    def holds(self, node: int, history: Sequence[bytes]) -> None:
        """Check that a restored Store has what the others have."""
        if list(history) != self.order[: len(history)]:
            raise Violation(f"node {node} restored a history that never was")

    # --- clients -----------------------------------------------------------------------------------------------

    def acknowledges(self, command: bytes, answer: Answer) -> None:
        """Check that what a proposer is told is what the Stores answered."""
        place = self.places.get(command)
        if place is None:
            raise Violation(f"{command!r} was acknowledged and never applied")

        if answer != expected_answer(place, command):
            raise Violation(f"{command!r} was applied at {place}, its proposer was told {answer!r}")

        self.acknowledged[command] = answer
        self.visible = max(self.visible, place + 1)

    def disowns(self, command: bytes) -> None:
        """Check a promise: a proposer is told NotApplied."""
        if command in self.places:
            raise Violation(f"{command!r} was applied at {self.places[command]}, its proposer was told NotApplied")

        self._never.add(command)

    def reads(self, node: int, floor: int, seen: int) -> None:
        """Check that a read sees at least what anybody had seen when it began (linearizability)."""
        if seen < floor:
            raise Violation(f"a stale read on node {node}: it saw {seen} commands, {floor} were seen before it began")

        self.visible = max(self.visible, seen)
