"""What one call sleeps on until its answer comes.

One is made for each command, so it is the cheapest thing the running event loop has: `anyio.Event` looks the loop up
at each creation and goes through three objects, which cost more than all the replica does with a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

import anyio


class OneShot(Protocol):
    """Set once, awaited by one task."""

    def set(self) -> object:
        """Wake the task; again, or after it was cancelled, does nothing."""

    def wait(self) -> Awaitable[object]:
        """Return what to await."""


class _OnAsyncio:
    __slots__ = ("_future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[None] = loop.create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._future


def one_shots() -> Callable[[], OneShot]:
    """Return what makes waiters on the event loop that runs now."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return type(anyio.Event())

    return partial(_OnAsyncio, loop)


def from_threads() -> Callable[[Callable[[], object]], None]:
    """Return what has a callable called soon on the event loop that runs now, from whichever thread.

    It does not wait for it, and does nothing once that loop has ended: nobody is left there to be told.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        from trio import RunFinishedError
        from trio.lowlevel import current_trio_token

        token = current_trio_token()

        def call_on_trio(call: Callable[[], object]) -> None:
            with suppress(RunFinishedError):
                token.run_sync_soon(call)

        return call_on_trio

    def call_on_asyncio(call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(call)

    return call_on_asyncio
