"""One thread that runs calls in order, and wakes whoever waits for one.

`anyio.to_thread` would do the same through a pool and a limiter: three times the time between a save and its caller,
and that is part of every write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
from riteraft_core._waiter import OneShot, from_threads, one_shots

T = TypeVar("T")


class _Job:
    """A call with someone who waits for it on the event loop."""

    __slots__ = ("_call", "_call_soon", "ended", "error", "result", "waiter")

    def __init__(
        self, call: Callable[[], Any], waiter: OneShot, call_soon: Callable[[Callable[[], object]], None]
    ) -> None:
        self._call = call
        self._call_soon = call_soon
        self.waiter = waiter
        self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self.result = self._call()
        except BaseException as exc:
            self.error = exc

        self._call_soon(self._end)

    def _end(self) -> None:
        self.ended = True
        if not self.waiter.done():
            self.waiter.set_result(None)


class Worker:
    """Made on the event loop that it serves; the thread ends after `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._new_waiter = one_shots()
        self._call_soon = from_threads()

    def start(self) -> None:
        """Start the thread.

        :raises RuntimeError: the system has no more of them.
        """
        # A daemon: a program that ends without closing us must not hang on a thread that waits for work.
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` after those given before it; a cancelled caller waits until it has ended, and it always ends."""
        job = _Job(call, self._new_waiter(), self._call_soon)
        self._jobs.put(job)
        try:
            await job.waiter
        except anyio.get_cancelled_exc_class():
            # Not a shield around all of it: to make one for each save takes longer than the rest of this.
            if not job.ended:
                job.waiter = self._new_waiter()
                with anyio.CancelScope(shield=True):
                    await job.waiter

            raise

        try:
            if job.error is not None:
                raise job.error

            result: T = job.result
            return result
        finally:
            del job  # an error holds this frame, which must not hold the error

    def post(self, call: Callable[[], T]) -> Future[T]:
        """Run `call` after those given before it, whether anybody waits for it or not; from any thread."""
        ended = Future[T]()

        def job() -> None:
            try:
                ended.set_result(call())
            except BaseException as exc:
                ended.set_exception(exc)

        self._jobs.put(job)
        return ended

    def close(self) -> None:
        """Let the thread end after the calls that were given; none may be given any more."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # not kept until the next one comes
