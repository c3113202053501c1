"""What clients of lists saw, and whether one order of all operations explains it: is the history linearizable?

Each appended value is unique, so the final list tells the order in which the appends took effect, and a read is
explained by exactly one prefix of it. That leaves one thing to search nothing for: an operation that began after
another ended must not come before it in that order. Linearizability is local, so each key is judged by itself
(Herlihy and Wing 1990, theorem 1).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Operation:
    """One append or one read, from the moment it was asked to the one it was answered."""

    key: str
    began: float
    value: str | None = None
    """What was appended; None for a read."""
    seen: Sequence[str] | None = None
    """What a read returned."""
    length: int | None = None
    """What an append was answered: the list's length after it."""
    ended: float = math.inf
    acked: bool = False
    refused: bool = False
    """It was told that it did not and will not take effect."""
    doubted: bool = False
    """It was told that nobody knows whether it takes effect."""


@dataclass(slots=True)
class History:
    """Operations of many threads."""

    operations: list[Operation] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, operation: Operation) -> Operation:
        """Note an operation before it is sent."""
        with self._lock:
            self.operations.append(operation)

        return operation

    def count(self, *, reads: bool = False) -> int:
        """Return how many appends, or reads, succeeded."""
        with self._lock:
            return sum(operation.acked for operation in self.operations if (operation.value is None) is reads)

    @property
    def unknown(self) -> int:
        """How many appends ended without a word on whether they took effect."""
        appends = [operation for operation in self.operations if operation.value is not None]
        return sum(not operation.acked and not operation.refused for operation in appends)

    @property
    def keys(self) -> set[str]:
        """Every key that was appended to."""
        return {operation.key for operation in self.operations}


def faults_in(operations: Sequence[Operation], final: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what no order explains, given the final lists; nothing if the history is linearizable."""
    faults: list[str] = []
    for key in sorted({operation.key for operation in operations} | final.keys()):
        of_key = [operation for operation in operations if operation.key == key]
        faults += [f"{key}: {fault}" for fault in _faults_of_key(of_key, list(final.get(key, ())))]

    return faults


def _faults_of_key(operations: Sequence[Operation], final: list[str]) -> list[str]:
    faults: list[str] = []
    position = {value: place for place, value in enumerate(final, start=1)}
    if len(position) != len(final):
        twice = sorted({value for value in final if final.count(value) > 1})
        faults.append(f"applied twice: {twice}")

    strangers = position.keys() - {operation.value for operation in operations}
    if strangers:
        faults.append(f"never proposed: {sorted(strangers)}")

    placed: list[tuple[Operation, int]] = []
    for operation in operations:
        if operation.value is not None:
            place = position.get(operation.value)
            if place is None:
                if operation.acked:
                    faults.append(f"lost: {operation.value} was acknowledged")
            elif operation.refused:
                faults.append(f"applied, though its proposer was told it never would be: {operation.value}")
            elif operation.length not in (None, place):
                faults.append(f"{operation.value} was answered {operation.length} and is at {place}")
            else:
                placed.append((operation, place))
        elif operation.seen is not None:
            if list(operation.seen) != final[: len(operation.seen)]:
                faults.append(f"a read saw what is no prefix of the final list: ... {list(operation.seen)[-3:]}")
            else:
                placed.append((operation, len(operation.seen)))

    faults += _out_of_order(placed)
    return faults


def _out_of_order(placed: list[tuple[Operation, int]]) -> list[str]:
    """Sweep through time: whatever begins must come at or after the furthest that has ended."""
    faults: list[str] = []
    by_end = sorted(placed, key=lambda pair: pair[0].ended)
    ended = 0
    furthest = 0
    for operation, place in sorted(placed, key=lambda pair: pair[0].began):
        while ended < len(by_end) and by_end[ended][0].ended < operation.began:
            furthest = max(furthest, by_end[ended][1])
            ended += 1

        if operation.value is None and place < furthest:
            faults.append(f"stale read: it saw {place} values after {furthest} were known to somebody")
        elif operation.value is not None and place <= furthest:
            faults.append(f"{operation.value} took effect at {place}, before what had ended when it began")

    return faults
