"""What the tasks of a node sleep on between two pieces of work.

A node's tasks sleep and wake several times for each write, so this too is the cheapest thing there is: made once, not
anew for every sleep like an event.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from anyio.lowlevel import checkpoint

from ._waiter import OneShot, one_shots

T = TypeVar("T")


class Signal:
    """Wakes the one task that waits; set several times before it wakes, it wakes it once."""

    def __init__(self) -> None:
        self._new_waiter = one_shots()
        self._waiter: OneShot | None = None
        self._is_set = False

    def set(self) -> None:
        """Let the next `wait` return, or the one under way."""
        if not self._is_set:
            self._is_set = True
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return once it was set, at the earliest in the loop's next turn; it is unset then."""
        if self._is_set:
            await checkpoint()
        else:
            self._waiter = waiter = self._new_waiter()
            try:
                await waiter
            finally:
                self._waiter = None

        self._is_set = False


class Slot(Generic[T]):
    """Hands one thing at a time to the one task that takes them: the next may be put once the last was taken."""

    def __init__(self) -> None:
        self._filled = Signal()
        self._item: T | None = None

    def put(self, item: T) -> None:
        """Hand over the next thing."""
        assert self._item is None, "the last one was not taken yet"
        self._item = item
        self._filled.set()

    async def take(self) -> T:
        """Wait for the next thing."""
        await self._filled.wait()
        item, self._item = self._item, None
        assert item is not None
        return item
