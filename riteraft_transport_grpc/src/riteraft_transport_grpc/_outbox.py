"""The messages for one peer: a bounded queue and the one task that dials, writes and dials again."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Sequence

import anyio
from riteraft_core.types import Hello, Refusal, RefusalCode

from . import _wire as wire
from ._client import CallLostError, DeniedError, Dialler, Stream
from ._options import GrpcOptions


class Outbox:
    """Takes messages at once, or drops them; `run` brings them to the peer, in order, while it can be reached.

    A stream is opened when there is something to send, so a peer that is gone for good costs nothing once raft is
    silent about it. Messages that wait when an attempt fails are dropped: raft has newer ones by the next.
    """

    def __init__(
        self,
        peer: int,
        address: str,
        options: GrpcOptions,
        dialler: Dialler,
        logger: logging.Logger,
        hello: Callable[[], Hello],
        dropped: Callable[[int], None],
        refused: Callable[[int, Refusal], None],
    ) -> None:
        """Prepare an outbox; `hello` is asked at each attempt, `dropped` is told once for each run of drops.

        Such a run ends with the next write, or with the next attempt to connect.
        """
        self.peer = peer
        self.address = address
        self.scope = anyio.CancelScope()
        self._options = options
        self._dialler = dialler
        self._logger = logger
        self._hello = hello
        self._tell_dropped = dropped
        self._tell_refused = refused
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._dropping = False
        self._lost = False
        self._wake = anyio.Event()
        self._knocked = anyio.Event()
        self._reported = False
        # Spreads the attempts of nodes that lost the same peer at the same time; nothing secret depends on it.
        self._random = random.Random()  # noqa: S311

    def put(self, messages: Sequence[bytes]) -> None:
        """Queue the messages, or drop those from the first one on for which there is no room."""
        options = self._options
        longest = options.max_frame - wire.OVERHEAD
        for message in messages:
            size = self._bytes + len(message)
            if len(self._queue) >= options.outbox_messages or size > options.outbox_bytes or len(message) > longest:
                if not self._dropping:
                    self._dropping = True
                    self._tell_dropped(self.peer)
                break
            self._queue.append(message)
            self._bytes = size
        self._wake.set()

    def knocked(self) -> None:
        """Try again now: the peer has just been here itself, so it is alive."""
        self._knocked.set()

    async def run(self) -> None:
        """Serve until `scope` is cancelled."""
        options = self._options
        wait = options.reconnect_min
        with self.scope:
            while True:
                await self._until_queued()
                admitted = starting = False
                self._knocked = anyio.Event()
                try:
                    async with self._dialler.dial(self.address, self._hello(), wire.MESSAGES) as stream:
                        admitted = True
                        self._lost = False
                        self._report(None)
                        await self._serve(stream)
                    why = stream.ended or "the call ended"
                except DeniedError as exc:
                    why = str(exc)
                    self._tell_refused(self.peer, exc.refusal)
                    starting = exc.refusal.code is RefusalCode.NOT_READY
                    if not starting:
                        wait = options.refused_wait
                except CallLostError as exc:
                    why = str(exc)
                if admitted:
                    wait = options.reconnect_min
                    self._logger.debug("messages to node %d at %s: %s", self.peer, self.address, why)
                    if self._lost:
                        self._tell_dropped(self.peer)
                else:
                    if not starting:
                        self._report(why)
                    self._queue.clear()
                    self._bytes = 0
                    self._tell_dropped(self.peer)
                self._dropping = False
                with anyio.move_on_after(wait * (1 - self._random.random() / 2)):
                    await self._knocked.wait()
                wait = min(2 * wait, options.reconnect_max)

    async def _serve(self, stream: Stream) -> None:
        """Write what is queued until the stream ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._notice_end, stream)
            tasks.start_soon(self._write, stream)

    async def _write(self, stream: Stream) -> None:
        options = self._options
        try:
            while True:
                if not self._queue:
                    with anyio.move_on_after(options.idle_timeout / 2) as waited:
                        await self._until_queued()
                    if waited.cancelled_caught:
                        stream.end("it was idle")
                        return
                batch = self._take()
                try:
                    await stream.send(wire.encode_batch(stream.group, batch), options.frame_timeout)
                except BaseException:
                    self._lost = True  # the batch may have arrived, or not
                    raise
                self._dropping = False
        except (CallLostError, DeniedError) as exc:
            stream.end(str(exc))

    async def _notice_end(self, stream: Stream) -> None:
        """Wait, only to learn at once that the peer ended the call: what was just written may be lost with it."""
        try:
            await stream.receive()
            why = "the peer said something on our stream of messages"
        except (CallLostError, DeniedError) as exc:
            why = str(exc)
        self._lost = True
        stream.end(why)

    async def _until_queued(self) -> None:
        while not self._queue:
            self._wake = anyio.Event()
            await self._wake.wait()

    def _take(self) -> list[bytes]:
        """Take what one write carries: all that gathered, up to `batch_bytes`, and at least one message."""
        queue = self._queue
        limit = min(self._options.batch_bytes, self._options.max_frame - wire.OVERHEAD)
        if self._bytes + wire.MESSAGE_OVERHEAD * len(queue) <= limit:
            batch = list(queue)
            queue.clear()
            self._bytes = 0
            return batch
        batch = [queue.popleft()]
        size = len(batch[0])
        framed = size + wire.MESSAGE_OVERHEAD
        while queue and framed + len(queue[0]) + wire.MESSAGE_OVERHEAD <= limit:
            message = queue.popleft()
            batch.append(message)
            size += len(message)
            framed += len(message) + wire.MESSAGE_OVERHEAD
        self._bytes -= size
        return batch

    def _report(self, why: str | None) -> None:
        """Log that the peer is out of reach, or back; each once."""
        if why is not None and not self._reported:
            self._reported = True
            self._logger.warning("node %d at %s cannot be reached: %s", self.peer, self.address, why)
        elif why is None and self._reported:
            self._reported = False
            self._logger.info("node %d at %s is reached again", self.peer, self.address)
