"""Calls the user's Store: plain, `async` or in a worker thread, and tells its refusals from its failures."""

from __future__ import annotations

import inspect
import io
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._envelope import MAX_DIGEST_LENGTH
from ._sessions import Answer, Rejection
from .errors import CommandRejected, StoreError
from .protocols import Store

TIME_SLICE = 0.005
"""Seconds a plain Store may apply before the event loop gets a turn: well under a heartbeat."""
CHUNK_SIZE = 256 * 1024
"""Bytes of a snapshot that are written or sent in one piece."""


class Applier:
    """One Store, driven in log order by one task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threaded = bool(getattr(store, "threaded", False))
        self._at_once = not self._threaded and not inspect.iscoroutinefunction(store.apply)
        self._pending: Awaitable[bytes] | None = None
        """What a plain `apply` returned in place of an answer, to be awaited before the next command."""
        self._limiter: anyio.CapacityLimiter | None = None
        self.has_digest = callable(getattr(store, "digest", None))

    def apply_at_once(self, commands: Sequence[bytes], last_index: int) -> list[Answer]:
        """Apply what a plain Store gets done within a time slice; return that many answers, then call `apply`.

        :raises StoreError: as `apply` does.
        """
        answers: list[Answer] = []
        if self._at_once:
            apply = self._store.apply
            slice_end = time.monotonic() + TIME_SLICE
            for command in commands:
                try:
                    answer = apply(command)
                except CommandRejected as rejected:
                    answers.append(Rejection(rejected.message, rejected.detail))
                except Exception as exc:
                    raise _failed("apply", exc, last_index) from exc
                else:
                    if type(answer) is bytes:
                        answers.append(answer)
                    elif inspect.isawaitable(answer):
                        self._at_once, self._pending = False, answer
                        break
                    else:
                        answers.append(_checked(answer, "apply", last_index))

                if time.monotonic() >= slice_end:
                    break

        return answers

    async def apply(self, commands: Sequence[bytes], last_index: int, done: Sequence[Answer] = ()) -> list[Answer]:
        """Apply a batch in order, but for the first commands, whose answers are `done`; return all answers.

        :raises StoreError: the Store raised something other than `CommandRejected`, or returned no bytes. It may
            have changed its state half-way, so nothing more is given to it.
        """
        if self._threaded:
            rest = commands[len(done) :]
            return [*done, *await self._in_thread(self._apply_all, rest, last_index)]

        answers = list(done)
        slice_end = time.monotonic() + TIME_SLICE
        for position in range(len(answers), len(commands)):
            try:
                if self._pending is not None:
                    pending, self._pending = self._pending, None
                    answer: Any = await pending
                else:
                    answer = self._store.apply(commands[position])
                    if type(answer) is not bytes and inspect.isawaitable(answer):
                        answer = await answer
            except CommandRejected as rejected:
                answers.append(Rejection(rejected.message, rejected.detail))
            except Exception as exc:
                raise _failed("apply", exc, last_index) from exc
            else:
                answers.append(_checked(answer, "apply", last_index))

            if time.monotonic() >= slice_end:
                await anyio.lowlevel.checkpoint()
                slice_end = time.monotonic() + TIME_SLICE

        return answers

    async def snapshot(self) -> bytes:
        """Return the Store's whole state.

        :raises StoreError: it raised, or returned no bytes.
        """
        return _checked(await self._call("snapshot"), "snapshot")

    async def digest(self) -> bytes:
        """Return what the Store's whole state comes to.

        :raises StoreError: it raised, or returned no bytes or too many.
        """
        digest = _checked(await self._call("digest"), "digest")
        if len(digest) > MAX_DIGEST_LENGTH:
            raise StoreError(f"Store.digest must return at most {MAX_DIGEST_LENGTH} bytes; it returned {len(digest)}")

        return digest

    async def restore(self, chunks: AsyncIterator[bytes]) -> None:
        """Replace the Store's whole state.

        :raises StoreError: it raised.
        """
        whole = io.BytesIO()  # gives out what it holds without a second copy: a state may be large
        async for chunk in chunks:
            whole.write(chunk)

        await self._call("restore", whole.getvalue())

    async def _call(self, method: str, *args: bytes) -> Any:
        call = getattr(self._store, method)
        try:
            if self._threaded:
                return await self._in_thread(call, *args)

            result = call(*args)
            return await result if inspect.isawaitable(result) else result
        except Exception as exc:
            raise _failed(method, exc, None) from exc

    async def _in_thread(self, call: Any, *args: Any) -> Any:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(1)

        return await anyio.to_thread.run_sync(call, *args, limiter=self._limiter)

    def _apply_all(self, commands: Sequence[bytes], last_index: int) -> list[Answer]:
        answers: list[Answer] = []
        for command in commands:
            try:
                answers.append(_checked(cast("bytes", self._store.apply(command)), "apply", last_index))
            except CommandRejected as rejected:
                answers.append(Rejection(rejected.message, rejected.detail))
            except StoreError:
                raise
            except Exception as exc:
                raise _failed("apply", exc, last_index) from exc

        return answers


async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
    """Yield `data` in pieces; at least one, so that an empty state is a snapshot too."""
    view = memoryview(data)
    for start in range(0, max(1, len(data)), CHUNK_SIZE):
        yield bytes(view[start : start + CHUNK_SIZE])


def _checked(answer: object, method: str, index: int | None = None) -> bytes:
    if not isinstance(answer, bytes):
        raise StoreError(f"Store.{method} must return bytes; it returned {type(answer).__name__}{_where(index)}")

    return answer


def _failed(method: str, exc: Exception, index: int | None) -> StoreError:
    return StoreError(
        f"Store.{method} raised {type(exc).__name__}: {exc}{_where(index)}. The node stops, for its state may "
        f"differ from its peers'. To refuse a command, raise riteraft_core.CommandRejected"
    )


def _where(index: int | None) -> str:
    return f" (in the batch that ends at log index {index})" if index is not None else ""
