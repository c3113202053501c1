"""A snapshot that comes in: its parts are checked as they come, and handed to a task that outlives the call."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import anyio
from riteraft_core.errors import PeerUnreachable
from riteraft_core.protocols import Handler

from . import _wire as wire


class IncomingSnapshot:
    """One snapshot from one peer. `put` is called by the call's task, `take` is a task of its own.

    gRPC ends a call whose peer is gone by cancelling its task, wherever that is. The handler's work must not be cut
    off so: it gets an error from its chunks, and puts away what it has.
    """

    def __init__(self, peer: int, group: int, header: bytes) -> None:
        """Prepare for what follows this header."""
        self.done = anyio.Event()
        """Set when the handler is through with it."""
        self.refused: str | None = None
        """Then: why it was not taken, if it was not."""
        self.complete = False
        """Whether the end came and what came before it is what was sent."""
        self._peer = peer
        self._group = group
        self._header = header
        self._size = 0
        self._digest = hashlib.sha256()
        self._broken: str | None = None
        self._read_to_its_end = False
        self._into, self._chunks = anyio.create_memory_object_stream[bytes](0)

    async def put(self, raw: bytes) -> None:
        """Take the next part; return once the handler has the one before.

        :raises WireError: the part is not what belongs here, or the whole is not what was sent.
        """
        if self.complete:
            raise wire.WireError("a part after the end of a snapshot")
        part = wire.decode_part(raw, self._group)
        if isinstance(part, bytes):
            self._digest.update(part)
            self._size += len(part)
            with suppress(anyio.BrokenResourceError):  # the handler wants no more; `done` follows
                await self._into.send(part)
            return
        if part != (self._size, self._digest.digest()):
            raise wire.WireError("a snapshot does not match its size or its SHA-256")
        self.complete = True
        self._into.close()

    def break_off(self, why: str) -> None:
        """Let the chunks end with an error, unless they were complete."""
        if not self.complete and self._broken is None:
            self._broken = why
            self._into.close()

    async def take(self, handler: Handler, logger: logging.Logger) -> None:
        """Have the handler take it."""
        try:
            async with aclosing(self._read()) as chunks:
                await handler.snapshot(self._peer, self._header, chunks)
            if not self._read_to_its_end:
                self.refused = "it was not read to its end"
        except Exception as exc:
            self.refused = str(exc) or type(exc).__name__
            logger.warning("a snapshot from node %d was not taken: %s", self._peer, exc)
        finally:
            self.break_off("it was not taken")
            self._chunks.close()
            self.done.set()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self._chunks:
            yield chunk
        if self._broken is not None:
            raise PeerUnreachable(self._peer, self._broken)
        self._read_to_its_end = True
