"""Virtual time: nothing happens but what was put on the clock, and it happens in one order."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class VirtualClock:
    """A queue of actions by the second at which they are due; of two at the same time the first put in goes first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._count = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def call_in(self, seconds: float, action: Callable[[], None]) -> None:
        """Have `action` called so much later."""
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, action))

    def step(self) -> None:
        """Let time pass to the next action, and carry it out."""
        self.now, _, action = heapq.heappop(self._due)
        action()
