"""Who is being served: each call in a book, so that it can be ended and its kind be bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from riteraft_core.types import Hello

from ._options import GrpcOptions


class Guest:
    """One call that is being served, inside `scope`, which `end` cancels."""

    __slots__ = ("ended", "hello", "method", "reserved", "scope")

    def __init__(self, hello: Hello, method: str) -> None:
        """Take who calls what."""
        self.hello = hello
        self.method = method
        self.scope = anyio.CancelScope()
        self.ended: str | None = None
        self.reserved = 0
        """Bytes at its desk, until the call is over."""

    def end(self, why: str) -> None:
        """Cancel the call; the first reason stays."""
        if self.ended is None:
            self.ended = why
        self.scope.cancel()


class Book:
    """The calls of one caller, oldest first."""

    def __init__(self) -> None:
        self._guests: dict[Guest, None] = {}

    def __len__(self) -> int:
        return len(self._guests)

    @contextmanager
    def entered(self, guest: Guest) -> Iterator[None]:
        """Have a guest in the book for the time of the block."""
        self._guests[guest] = None
        try:
            yield
        finally:
            self._guests.pop(guest, None)

    def of(self, method: str) -> list[Guest]:
        """Return those that called this method."""
        return [guest for guest in self._guests if guest.method == method]

    def end_oldest(self, why: str) -> None:
        """End the oldest and strike it off at once: the next one may come before it has gone."""
        oldest = next(iter(self._guests))
        del self._guests[oldest]
        oldest.end(why)

    def end_all(self, why: str) -> None:
        """End every one."""
        for guest in tuple(self._guests):
            guest.end(why)


class Desk:
    """The book of one caller, and how many bytes of its requests are in memory."""

    def __init__(self, options: GrpcOptions) -> None:
        """Keep to `max_request_bytes`."""
        self.book = Book()
        self.requests = 0
        self._limit = options.max_request_bytes
        self._bytes = 0
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    async def reserve(self, size: int) -> int:
        """Wait, in turn, until so many bytes more are within the limit; return how many were reserved.

        Never more than the limit itself, so that one alone always gets through.
        """
        size = min(size, self._limit)
        if self._waiting or self._bytes + size > self._limit:
            turn = (size, anyio.Event())
            self._waiting.append(turn)
            try:
                await turn[1].wait()
            except BaseException:
                if turn[1].is_set():
                    self.release(size)
                else:
                    self._waiting.remove(turn)
                    self._admit_waiting()
                raise
        else:
            self._bytes += size
        return size

    def release(self, size: int) -> None:
        """Give bytes back; a negative number takes some more, now."""
        self._bytes -= size
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._waiting and self._bytes + self._waiting[0][0] <= self._limit:
            size, turn = self._waiting.popleft()
            self._bytes += size
            turn.set()
