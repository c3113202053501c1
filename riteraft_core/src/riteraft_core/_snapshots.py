"""Snapshots on their way: made here, sent to a peer, taken from one. All beside the messages, none in front of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import anyio
import msgpack

from ._applier import in_chunks
from ._effects import SendSnapshot
from ._recovery import Parts
from ._unpack import unpack
from .errors import PeerUnreachable
from .types import SnapshotMeta

HEADER_FORMAT = 1


class Snapshots:
    """The snapshot traffic of one node."""

    def __init__(self, parts: Parts, logger: logging.Logger, max_bytes: int) -> None:
        self._parts = parts
        self._max_bytes = max_bytes
        self._logger = logger
        self._receiving: anyio.CancelScope | None = None
        self._sending: set[int] = set()

    async def stage(self, meta: SnapshotMeta, data: bytes) -> None:
        """Write down a state of our own Store."""
        token = await self._parts.storage.stage_snapshot(meta, in_chunks(data))
        self._parts.replica.snapshot_staged(meta, token)

    async def send(self, stream: SendSnapshot) -> None:
        """Stream the live snapshot to a peer, and tell the replica how it went, exactly once (rule 13)."""
        ok = False
        if stream.to not in self._sending:
            self._sending.add(stream.to)
            try:
                ok = await self._send(stream)
            except PeerUnreachable as exc:
                self._logger.info("snapshot %d did not reach node %d: %s", stream.index, stream.to, exc)
            finally:
                self._sending.discard(stream.to)

        self._parts.replica.snapshot_sent(stream, ok)

    async def _send(self, stream: SendSnapshot) -> bool:
        async with self._parts.storage.read_snapshot() as (meta, chunks):
            if meta.index != stream.index:
                return False  # a newer one is live by now: raft asks again, and then for that one

            self._logger.info("sending snapshot %d to node %d", meta.index, stream.to)
            header: bytes = msgpack.packb((HEADER_FORMAT, stream.message, meta.encode()))
            await self._parts.transport.send_snapshot(stream.to, header, chunks)
            return True

    async def receive(self, peer: int, header: bytes, chunks: AsyncIterator[bytes]) -> None:
        """Stage a peer's snapshot; raft sees it only once it is verified and durable (rule 13).

        :raises ValueError: the header cannot be read, or the snapshot is of no use here or too large.
        """
        message, meta = _read_header(header)
        if not self._parts.replica.needs_snapshot(meta):
            raise ValueError(f"snapshot {meta.index} is not needed")

        if self._receiving is not None:
            # Whoever sent that one stands still or has given up: no leader sends two at once to one peer.
            self._receiving.cancel()

        self._logger.info("receiving snapshot %d from node %d", meta.index, peer)
        with anyio.CancelScope() as scope:
            self._receiving = scope
            try:
                async with aclosing(_bounded(chunks, self._max_bytes)) as bounded:
                    token = await self._parts.storage.stage_snapshot(meta, bounded)
            finally:
                if self._receiving is scope:
                    self._receiving = None

            self._parts.replica.step_snapshot(peer, message, meta, token)

        if scope.cancelled_caught:
            raise ValueError(f"a newer stream took the place of this one, of snapshot {meta.index}")


async def _bounded(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Give the chunks, but no more than so many bytes of them: a stream that never ends must not fill the disk.

    :raises ValueError: there are more.
    """
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > max_bytes:
            raise ValueError(f"a snapshot of more than limits.max_snapshot_bytes = {max_bytes}")

        yield chunk


def _read_header(header: bytes) -> tuple[bytes, SnapshotMeta]:
    try:
        fmt, message, meta = unpack(header, max_array_len=3)
    except (ValueError, TypeError) as exc:
        raise ValueError(f"not a snapshot header: {exc}") from exc

    if fmt != HEADER_FORMAT or not isinstance(message, bytes) or not isinstance(meta, bytes):
        raise ValueError(f"a snapshot header of format {fmt!r}; this release reads {HEADER_FORMAT}")

    return message, SnapshotMeta.decode(meta)
