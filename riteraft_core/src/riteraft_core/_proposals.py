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
"""One part in so many of the bytes in flight may be handed over, of small and of large commands each. One that waits is
in memory once; one that was handed over is there again in raft's log, as a row for the disk, in a message for each
follower, and to be applied."""
_SMALL = 4 * 1024
"""Bytes up to which a command is small. Small ones have a queue of their own, or each would wait for every large one
that came before it."""
_SMALL_FIRST = 8
"""Large commands wait for the small ones in flight until so many of these were handed over after the last large one."""
_BESIDE_SMALL = 512 * 1024
"""Bytes of large commands that may be under way where small ones come too: the next small one stands behind them on
every disk and at every Store."""
_ALONE = 8 * 1024 * 1024
"""Bytes of large commands handed over since the last small one, after which no more small ones are expected."""


class Waiter(Protocol):
    """Whoever sleeps until a ticket has its outcome; in a `Node` on asyncio a future."""

    def done(self) -> bool:
        """Return whether it sleeps no more."""

    def set_result(self, result: None, /) -> object:
        """Wake it; only if it is not `done`."""


class Ticket:
    """Something a caller waits for: `outcome` is set once, then whoever drives the replica wakes the caller."""

    __slots__ = ("outcome", "waiter")

    def __init__(self) -> None:
        self.outcome: object = None
        """None while open; an exception to raise, or the answer."""
        self.waiter: Waiter | None = None


class Proposal(Ticket):
    """One command in flight."""

    __slots__ = ("attempt", "command", "handed_over", "lane", "queued", "sequence")

    def __init__(self, sequence: int, command: bytes, lane: Lane) -> None:
        self.outcome, self.waiter = None, None  # as `Ticket` does: one call less for each command
        self.sequence = sequence
        self.command = command
        self.lane = lane
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


class Lane:
    """The queue of the commands of about one size, and what was taken from it."""

    __slots__ = ("bytes_under_way", "open", "queue")

    def __init__(self) -> None:
        self.queue: deque[Proposal] = deque()
        self.open = 0
        """How many are in flight, queued or taken."""
        self.bytes_under_way = 0
        """Of those in flight that were taken."""

    def fill(self, batch: list[Proposal], max_count: int, room: float, max_under_way: int) -> float:
        """Move to `batch` what fits `room` bytes and what may be under way; return the room that is left.

        One always fits an empty batch, and one may always be under way.
        """
        queue, under_way = self.queue, self.bytes_under_way
        while queue and len(batch) < max_count:
            size = len(queue[0].command)
            if (batch and size > room) or (under_way and under_way + size > max_under_way):
                break

            proposal = queue.popleft()
            if proposal.queued:
                proposal.queued = False
                under_way += size
                room -= size
                batch.append(proposal)

        self.bytes_under_way = under_way
        return room


class Proposals:
    """All proposals in flight, by sequence, and the queues of those to hand over."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.bytes = 0
        self._max_bytes_under_way = max_bytes // _UNDER_WAY
        self.low = 1
        """The lowest sequence still waited for, or the next one: what `Sessions` may forget lies below it."""
        self._next = 1
        self._open: dict[int, Proposal] = {}
        self._small, self._large = Lane(), Lane()
        self._small_since = 0
        """How many small ones were handed over since the last large one."""
        self._large_since = 0
        """Bytes of large ones handed over since the last small one."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(self._open.values())

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
        size = len(command)
        lane = self._small if size <= _SMALL else self._large
        sequence = self._next
        proposal = self._open[sequence] = Proposal(sequence, command, lane)
        self._next = sequence + 1
        lane.queue.append(proposal)
        lane.open += 1
        self.bytes += size
        return proposal

    def close(self, sequence: int) -> Proposal | None:
        """Take out and return the proposal of that sequence; None if it was answered or given up before."""
        proposal = self._open.pop(sequence, None)
        if proposal is None:
            return None

        lane, size = proposal.lane, len(proposal.command)
        self.bytes -= size
        lane.open -= 1
        if proposal.queued:
            proposal.queued = False  # it is passed over when its turn comes
        else:
            lane.bytes_under_way -= size

        # A pointer that only moves forward: looking for the first key of a dict whose front was deleted is linear.
        if sequence == self.low:
            while self.low < self._next and self.low not in self._open:
                self.low += 1

        return proposal

    def take(self, max_count: int, max_bytes: float = math.inf) -> list[Proposal]:
        """Take from the queues what fits one batch and may go now, at least one if nothing is under way.

        Small ones go first, and large ones while none of those is in flight; but neither waits for all of the others.
        """
        small, large, most = self._small, self._large, self._max_bytes_under_way
        batch: list[Proposal] = []
        room = max_bytes
        if not small.open or self._small_since >= _SMALL_FIRST:
            alone = not small.open and self._large_since >= _ALONE
            before = large.bytes_under_way
            room = large.fill(batch, max_count, room, most if alone else min(most, _BESIDE_SMALL))
            self._large_since += large.bytes_under_way - before
            if batch:
                self._small_since = 0

        count = len(batch)
        small.fill(batch, max_count, room, most)
        if len(batch) > count:
            self._small_since += len(batch) - count
            self._large_since = 0

        return batch

    def put_back(self, batch: list[Proposal]) -> None:
        """Queue again, in order and in front, what could not be handed over."""
        for proposal in reversed(batch):
            if not proposal.queued and proposal.sequence in self._open:
                proposal.queued = True
                proposal.lane.bytes_under_way -= len(proposal.command)
                proposal.lane.queue.appendleft(proposal)

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
        return bool(self._small.queue or self._large.queue)
