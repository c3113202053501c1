"""What one call sleeps on until its answer comes.

One is made for each command, so it is the cheapest thing the running event loop has: `anyio.Event` looks the loop up
at each creation and goes through three objects, which cost more than all the replica does with a command.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Protocol

import anyio


class OneShot(Protocol):
    """Set once, awaited by one task: what is used here of an `asyncio.Future`, which is one."""

    def done(self) -> bool:
        """Return whether it was set, or its task cancelled: it may not be set any more."""

    def set_result(self, result: None, /) -> object:
        """Wake the task."""

    def __await__(self) -> Generator[Any, Any, object]:
        """Wait until it is set."""


class _OnTrio:
    def __init__(self) -> None:
        self._event = anyio.Event()

    def done(self) -> bool:
        return self._event.is_set()

    def set_result(self, _: None, /) -> None:
        self._event.set()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


def one_shots() -> Callable[[], OneShot]:
    """Return what makes waiters on the event loop that runs now."""
    try:
        return asyncio.get_running_loop().create_future
    except RuntimeError:
        return _OnTrio


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
        try:  # noqa: SIM105 - `suppress` costs as much as the call
            loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # the loop is closed

    return call_on_asyncio
