"""How large the applied log is from one place to another: says where a tail of so many bytes begins. Pure."""

from __future__ import annotations

from collections import deque

MARKS_IN_A_TAIL = 256
"""A place is noted about so often in a tail: the bound is kept to that part of it, at a fixed cost in memory."""


class LogSizes:
    """Bytes of entries by index, at places rather than for each entry; what lies before the first place is unknown."""

    def __init__(self, after: int, tail_bytes: int) -> None:
        """Begin with the entry after index `after`."""
        self._tail_bytes = tail_bytes
        self._grain = tail_bytes // MARKS_IN_A_TAIL
        self._index = after
        self._total = 0
        self._marks = deque([(after, 0)])
        """Pairs of an index and how many bytes lie between the very first place and it, ascending."""

    def add(self, index: int, size: int) -> None:
        """Note that the entries since the last call, up to and including `index`, have `size` bytes."""
        self._index = index
        self._total += size
        if self._total - self._marks[-1][1] >= self._grain:
            self._marks.append((index, self._total))

    def tail_start(self) -> int:
        """Return the least known index after which there are at most `tail_bytes`, and forget what lies before it."""
        marks = self._marks
        while marks and self._total - marks[0][1] > self._tail_bytes:
            marks.popleft()

        if not marks:
            marks.append((self._index, self._total))

        return marks[0][0]

    def restart(self, after: int) -> None:
        """Forget everything: a snapshot replaced the log up to and including `after`."""
        self._index = after
        self._total = 0
        self._marks = deque([(after, 0)])
