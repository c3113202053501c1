"""Reads a connection in the turn of the event loop in which something arrives.

A stream's `receive` is a task's work, and anyio's stops the reading after each piece and starts it again for the next:
four system calls and two turns of the loop for every message, of which the way of a write has several.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from anyio.abc import ByteStream, SocketAttribute, SocketStream

from ._sealed import SealedStream

_RECEIVE_SIZE = 256 * 1024
"""Bytes read at once."""


class SocketReader:
    """The one that reads a stream's socket from now on: nobody may call the stream's own `receive` any more.

    Close it before the stream: it has a descriptor of its own, which would keep the connection open.
    """

    def __init__(
        self, stream: SocketStream, loop: asyncio.AbstractEventLoop, unseal: Callable[[memoryview], bytes] | None
    ) -> None:
        """Take a stream that stands still: it reads no more, and all that it had read was received."""
        raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
        # An event loop lets nobody read a descriptor that it has a transport on; this one is ours.
        self._socket = socket.fromfd(raw.fileno(), raw.family, raw.type)
        self._socket.setblocking(False)
        self._loop = loop
        self._unseal = unseal
        # Made once: a fresh one for each piece costs several times the reading.
        self._buffer = memoryview(bytearray(_RECEIVE_SIZE))

    @classmethod
    def over(cls, stream: ByteStream) -> SocketReader | None:
        """Return a reader, or None where a layer with a state of its own (TLS) stands before the socket, or on trio.

        Call it while the other side waits for us: what the stream had read and nobody received yet would be lost.
        """
        unseal = None
        if isinstance(stream, SealedStream):
            unseal, stream = stream.unseal, stream.below

        # anyio's stream on asyncio reads ahead, and has no public way to be told to stop; trio's never does.
        pause = getattr(getattr(stream, "_transport", None), "pause_reading", None)
        if pause is None or not isinstance(stream, SocketStream):
            return None

        pause()
        return cls(stream, asyncio.get_running_loop(), unseal)

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    async def run(self, take: Callable[[bytes | memoryview], None]) -> None:
        """Hand each piece to `take` as it arrives, until the other side closes; it is good during the call only.

        :raises AuthenticationError: the bytes are not genuine.
        :raises OSError: the connection is gone.
        :raises Exception: whatever `take` raises.
        """
        ended: asyncio.Future[None] = self._loop.create_future()

        def read() -> None:
            if ended.done():
                return

            try:
                size = self._socket.recv_into(self._buffer)
                if not size:
                    ended.set_result(None)
                elif self._unseal is None:
                    take(self._buffer[:size])
                elif genuine := self._unseal(self._buffer[:size]):
                    take(genuine)
            except BlockingIOError:
                pass
            except Exception as exc:
                ended.set_exception(exc)

        self._loop.add_reader(self._socket, read)
        try:
            await ended
        finally:
            self._loop.remove_reader(self._socket)
