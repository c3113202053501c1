"""The commands this node has in flight: proposed by its own program, not yet answered.

Pure bookkeeping. A command keeps its sequence through every retry, so that however many copies reach the log, the
session table lets one through.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from .errors import NotApplied, OutcomeUnknown, RiteraftError

_UNDER_WAY = 4
"""One part in so many of the bytes in flight may be handed over. A command that waits is in memory once; one that was
handed over is there again in raft's log, as a row for the disk, in a message for each follower, and to be applied."""


class Waiter(Protocol):
    """Whoever sleeps until a ticket has its outcome; in a `Node` an event."""

    def set(self) -> object:
        """Wake it."""


class Ticket:
    """Something a caller waits for: `outcome` is set once, then whoever drives the replica wakes the caller."""

    __slots__ = ("outcome", "waiter")

    def __init__(self) -> None:
        self.outcome: object = None
        """None while open; an exception to raise, or the answer."""
        self.waiter: Waiter | None = None


class Proposal(Ticket):
    """One command in flight."""

    __slots__ = ("attempt", "command", "handed_over", "queued", "sequence")

    def __init__(self, sequence: int, command: bytes) -> None:
        self.outcome, self.waiter = None, None  # as `Ticket` does: one call less for each command
        self.sequence = sequence
        self.command = command
        self.queued = True
        """It waits to be given to the engine or the leader."""
        self.handed_over = False
        """Some copy of it may be in a log: its fate is no longer ours alone."""
        self.attempt: tuple[int, int] | None = None
        """Where the newest copy was appended, once known: index and term."""

    def failure(self, why: str) -> RiteraftError:
        """Return what the caller is told if no answer will come."""
        if self.handed_over:
            return OutcomeUnknown(f"{why}; the command may or may not take effect")

        return NotApplied(f"{why}; the command was never handed over")


class Proposals:
    """All proposals in flight, by sequence, and the queue of those to hand over."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.bytes = 0
        self._max_bytes_under_way = max_bytes // _UNDER_WAY
        self._bytes_under_way = 0
        """Of the open ones that were taken from the queue."""
        self.low = 1
        """The lowest sequence still waited for, or the next one: what `Sessions` may forget lies below it."""
        self._next = 1
        self._open: dict[int, Proposal] = {}
        self._queue: deque[Proposal] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(self._open.values())

    def get(self, sequence: int) -> Proposal | None:
        """Return the proposal of that sequence, if its caller still waits."""
        return self._open.get(sequence)

    def has_room(self, size: int) -> bool:
        """Say whether a command of `size` bytes may be added: by count, bytes, and the sessions' window.

        The window is what keeps the answers kept for one session within `max_count`: one old command that hangs
        holds the newer ones back rather than growing every node's table.
        """
        if not self._open:
            return True

        return self._next - self.low < self.max_count and self.bytes + size <= self.max_bytes

    def add(self, command: bytes) -> Proposal:
        """Queue a command."""
        proposal = Proposal(self._next, command)
        self._next += 1
        self._open[proposal.sequence] = proposal
        self._queue.append(proposal)
        self.bytes += len(command)
        return proposal

    def close(self, proposal: Proposal) -> None:
        """Take out a proposal that was answered or given up; twice does no harm."""
        if self._open.pop(proposal.sequence, None) is None:
            return

        size = len(proposal.command)
        self.bytes -= size
        if not proposal.queued:
            self._bytes_under_way -= size

        # A pointer that only moves forward: looking for the first key of a dict whose front was deleted is linear.
        while self.low < self._next and self.low not in self._open:
            self.low += 1

    def take(self, max_count: int, max_bytes: float = math.inf) -> list[Proposal]:
        """Take from the queue what fits one batch and what may be under way, at least one if nothing is."""
        batch: list[Proposal] = []
        size = 0
        under_way, max_under_way = self._bytes_under_way, self._max_bytes_under_way
        while self._queue and len(batch) < max_count:
            proposal = self._queue[0]
            after = size + len(proposal.command)
            if (batch and after > max_bytes) or (under_way + size and under_way + after > max_under_way):
                break

            self._queue.popleft()
            if proposal.outcome is None and proposal.sequence in self._open:
                proposal.queued = False
                size = after
                batch.append(proposal)

        self._bytes_under_way += size
        return batch

    def put_back(self, batch: list[Proposal]) -> None:
        """Queue again, in order and in front, what could not be handed over."""
        for proposal in reversed(batch):
            if not proposal.queued and proposal.sequence in self._open:
                proposal.queued = True
                self._bytes_under_way -= len(proposal.command)
                self._queue.appendleft(proposal)

    def requeue_before(self, term: int) -> None:
        """Queue again every proposal whose copy was appended in an older term, or nobody knows where.

        A new leader may have cut those copies away. Copies that were not cut are sorted out by the session.
        """
        self.put_back(
            [
                proposal
                for proposal in self._open.values()
                if not proposal.queued and (proposal.attempt is None or proposal.attempt[1] < term)
            ]
        )

    def requeue_all(self) -> None:
        """Queue again everything in flight."""
        self.put_back([proposal for proposal in self._open.values() if not proposal.queued])

    @property
    def has_queued(self) -> bool:
        """Whether something waits to be handed over."""
        return bool(self._queue)
