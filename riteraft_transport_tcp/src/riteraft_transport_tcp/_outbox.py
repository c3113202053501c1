"""The messages for one peer: a bounded queue and the one task that dials, writes and dials again."""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Sequence

import anyio
from riteraft_core._signal import Signal
from riteraft_core.types import Hello, Refusal, RefusalCode

from ._client import DeniedError, Dialler
from ._connection import Connection, ConnectionLostError
from ._framing import MESSAGE_OVERHEAD, FrameError, encode_messages
from ._handshake import Purpose
from ._options import TcpOptions
from ._writer import SocketWriter


class Outbox:
    """Takes messages at once, or drops them; `run` brings them to the peer, in order, while it can be reached.

    A connection is made when there is something to send, so a peer that is gone for good costs nothing once raft is
    silent about it. Messages that wait when an attempt fails are dropped: raft has newer ones by the next.
    """

    def __init__(
        self,
        peer: int,
        address: str,
        options: TcpOptions,
        dialler: Dialler,
        logger: logging.Logger,
        hello: Callable[[], Hello],
        dropped: Callable[[int], None],
        refused: Callable[[int, Refusal], None],
    ) -> None:
        """Prepare an outbox; `hello` is asked at each connection, `dropped` is told once for each run of drops.

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
        self._group = 0
        self._connection: Connection | None = None
        self._writer: SocketWriter | None = None
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._dropping = False
        self._lost = False
        self._wake = Signal()
        self._knocked = anyio.Event()
        self._reported = False
        # Spreads the attempts of nodes that lost the same peer at the same time; nothing secret depends on it.
        self._random = random.Random()  # noqa: S311

    def put(self, messages: Sequence[bytes]) -> None:
        """Queue the messages, or drop those from the first one on for which there is no room."""
        options = self._options
        queue = self._queue
        room = options.outbox_messages - len(queue)
        size = self._bytes
        for message in messages:
            size += len(message)
            if room <= 0 or size > options.outbox_bytes or len(message) > options.max_frame - 2 * MESSAGE_OVERHEAD:
                size -= len(message)
                if not self._dropping:
                    self._dropping = True
                    self._tell_dropped(self.peer)
                break
            room -= 1
            queue.append(message)
        self._bytes = size
        if self._writer is None or self._writer.is_full:
            self._wake.set()
        else:
            self._write_at_once()

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
                connected = starting = False
                self._knocked = anyio.Event()
                try:
                    async with self._dialler.dial(self.address, self._hello(), Purpose.MESSAGES) as connection:
                        connected = True
                        self._lost = False
                        self._report(None)
                        await self._serve(connection)
                    why = connection.ended or "the connection ended"
                except DeniedError as exc:
                    why = str(exc)
                    self._tell_refused(self.peer, exc.refusal)
                    starting = exc.refusal.code is RefusalCode.NOT_READY
                    if not starting:
                        wait = options.refused_wait
                except ConnectionLostError as exc:
                    why = str(exc)
                if connected:
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

    async def _serve(self, connection: Connection) -> None:
        """Write what is queued until the connection ends."""
        self._connection, self._group = connection, self._hello().group
        writer = connection.writer
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._notice_end, connection)
                if writer is None:
                    tasks.start_soon(self._write, connection)
                else:
                    tasks.start_soon(self._drain, connection, writer)
        finally:
            self._connection = None

    async def _drain(self, connection: Connection, writer: SocketWriter) -> None:
        """See to what the kernel did not take when it was put here."""
        with writer:
            self._writer = writer
            try:
                while True:
                    self._write_at_once()
                    await self._wake.wait()
                    connection.write_by = anyio.current_time() + self._options.frame_timeout
                    await writer.drain()
                    connection.write_by = math.inf
            except OSError as exc:
                connection.end(f"the connection broke: {exc}")
            finally:
                self._writer = None
                self._lost = self._lost or writer.is_full

    def _write_at_once(self) -> None:
        """Write what is queued, until the kernel takes no more."""
        connection, writer = self._connection, self._writer
        assert connection is not None
        assert writer is not None
        if connection.ended is not None:
            return  # what is queued is for the next one
        try:
            while self._queue and not writer.is_full:
                writer.write(encode_messages(self._group, self._take()))
                self._dropping = False
        except OSError as exc:
            self._lost = True
            connection.end(f"the connection broke: {exc}")
            return
        connection.keep(self._options.idle_timeout / 2)
        if writer.is_full:
            self._wake.set()

    async def _write(self, connection: Connection) -> None:
        options = self._options
        try:
            while True:
                await self._until_queued()
                batch = self._take()
                try:
                    await connection.send(encode_messages(self._group, batch), options.frame_timeout)
                except BaseException:
                    self._lost = True  # the batch may have arrived in part, or not at all
                    raise
                self._dropping = False
                connection.keep(options.idle_timeout / 2)
        except ConnectionLostError as exc:
            connection.end(str(exc))

    async def _notice_end(self, connection: Connection) -> None:
        """Read, only to learn at once that the peer closed: a write into a closed connection is lost."""
        try:
            await connection.receive(self._options.idle_timeout / 2)
            self._lost = True
            connection.end("the peer sent something on our connection for messages")
        except (ConnectionLostError, FrameError) as exc:
            self._lost = True  # and with it, maybe, what the kernel had taken
            connection.end(str(exc))

    async def _until_queued(self) -> None:
        while not self._queue:
            await self._wake.wait()

    def _take(self) -> list[bytes]:
        """Take what one write carries: all that gathered, up to `batch_bytes`, and at least one message."""
        queue = self._queue
        limit = min(self._options.batch_bytes, self._options.max_frame - MESSAGE_OVERHEAD)
        if self._bytes + MESSAGE_OVERHEAD * len(queue) <= limit:
            batch = list(queue)
            queue.clear()
            self._bytes = 0
            return batch
        batch = [queue.popleft()]
        size = len(batch[0])
        framed = size + MESSAGE_OVERHEAD
        while queue and framed + len(queue[0]) + MESSAGE_OVERHEAD <= limit:
            message = queue.popleft()
            batch.append(message)
            size += len(message)
            framed += len(message) + MESSAGE_OVERHEAD
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
