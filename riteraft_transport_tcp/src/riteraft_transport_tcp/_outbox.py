"""The messages for one peer over TCP: written in the turn that puts them here, if the socket is ours to write to."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager

import anyio
from riteraft_core._signal import Signal
from riteraft_core.outbox import Outbox, Sender

from ._client import Dialler
from ._connection import Connection, ConnectionLostError
from ._framing import MESSAGE_OVERHEAD, FrameError, encode_messages
from ._handshake import Purpose
from ._options import TcpOptions
from ._writer import SocketWriter


class TcpOutbox(Outbox[Connection]):
    """The outbox of one peer: see `Outbox`."""

    def __init__(self, peer: int, address: str, options: TcpOptions, dialler: Dialler, sender: Sender) -> None:
        """Prepare an outbox that connects by `dialler`."""
        longest = options.max_frame - MESSAGE_OVERHEAD
        super().__init__(peer, address, options, sender, max_body=longest, overhead=MESSAGE_OVERHEAD)
        self._options = options
        self._dialler = dialler
        self._group = 0
        self._connection: Connection | None = None
        self._writer: SocketWriter | None = None
        self._filled = Signal()

    def queued(self) -> None:
        """Write at once what was put here, if nothing is in the way."""
        if self._writer is None:
            super().queued()
        elif not self._writer.is_full:
            self._write_at_once()

    def dial(self) -> AbstractAsyncContextManager[Connection]:
        """See `Outbox.dial`."""
        return self._dialler.dial(self.address, self.hello(), Purpose.MESSAGES)

    async def serve(self, connection: Connection) -> None:
        """Write what is queued until the connection ends."""
        self._connection, self._group = connection, self.hello().group
        writer = connection.direct_writer()
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
                    await self._filled.wait()
                    connection.write_by = anyio.current_time() + self._options.frame_timeout
                    await writer.drain()
                    connection.write_by = math.inf
            except OSError as exc:
                connection.end(f"the connection broke: {exc}")
            finally:
                self._writer = None
                if writer.is_full:
                    self.lost()

    def _write_at_once(self) -> None:
        """Write what is queued, until the kernel takes no more."""
        connection, writer = self._connection, self._writer
        assert connection is not None
        assert writer is not None
        if connection.ended is not None:
            return  # what is queued is for the next one
        try:
            while self.queue and not writer.is_full:
                writer.write(encode_messages(self._group, self.take()))
                self.wrote()
        except OSError as exc:
            self.lost()
            connection.end(f"the connection broke: {exc}")
            return
        connection.keep(self._options.idle_timeout / 2)
        if writer.is_full:
            self._filled.set()

    async def _write(self, connection: Connection) -> None:
        options = self._options
        try:
            while True:
                await self.until_queued()
                batch = self.take()
                try:
                    await connection.send(encode_messages(self._group, batch), options.frame_timeout)
                except BaseException:
                    self.lost()  # the batch may have arrived in part, or not at all
                    raise
                self.wrote()
                connection.keep(options.idle_timeout / 2)
        except ConnectionLostError as exc:
            connection.end(str(exc))

    async def _notice_end(self, connection: Connection) -> None:
        """Read, only to learn at once that the peer closed: a write into a closed connection is lost."""
        try:
            await connection.receive(self._options.idle_timeout / 2)
            self.lost()
            connection.end("the peer sent something on our connection for messages")
        except (ConnectionLostError, FrameError) as exc:
            self.lost()  # and with it, maybe, what the kernel had taken
            connection.end(str(exc))
