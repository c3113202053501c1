"""Reads a connection without stopping and starting the reading for each piece, as anyio's stream on asyncio does.

That is four system calls and more for every message, of which the way of a write has several.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
from anyio.abc import ByteStream, SocketStream
from riteraft_core._signal import Signal

from ._descriptor import duplicate
from ._sealed import SealedStream

_RECEIVE_SIZE = 256 * 1024
"""Bytes read at once."""


class SocketReader:
    """The one that reads a stream's socket from now on: nobody may call the stream's own `receive` any more.

    Close it before the stream: it has a descriptor of its own, which would keep the connection open. What it read is
    received by a task, and not handed on from the loop's callback: there anyio does not know what loop it is on.
    """

    def __init__(
        self, stream: SocketStream, pause: Callable[[], object], unseal: Callable[[bytes], bytes] | None
    ) -> None:
        """Have a stream stand still that nobody has anything to receive from.

        :raises OSError: the connection is gone.
        """
        self._socket = duplicate(stream)
        pause()
        self._unseal = unseal
        self._buffer = bytearray(_RECEIVE_SIZE)  # made once: a fresh one for each piece costs more than the reading
        self._piece: bytes | None = None
        """What was read and not received yet: b"" once the other side closed."""
        self._error: OSError | None = None
        self._arrived = Signal()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    @classmethod
    def over(cls, stream: ByteStream) -> SocketReader | None:
        """Return a reader, or None where a layer with a state of its own (TLS) stands before the socket, or on trio.

        Call it while the other side waits for us: what the stream had read and nobody received yet would be lost.

        :raises OSError: the connection is gone.
        """
        unseal = None
        if isinstance(stream, SealedStream):
            unseal, stream = stream.unseal, stream.below

        # anyio's stream on asyncio reads ahead, and has no public way to be told to stop; trio's never does.
        pause = getattr(getattr(stream, "_transport", None), "pause_reading", None)
        if pause is None or not isinstance(stream, SocketStream):
            return None

        return cls(stream, pause, unseal)

    async def receive(self) -> bytes:
        """Return the next bytes.

        :raises anyio.EndOfStream: the other side closed.
        :raises AuthenticationError: the bytes are not genuine.
        :raises OSError: the connection is gone.
        """
        while True:
            while self._piece is None:
                await self._arrived.wait()

            if self._error is not None:
                raise self._error

            if not self._piece:
                raise anyio.EndOfStream

            piece, self._piece = self._piece, None
            if self._unseal is not None:
                piece = self._unseal(piece)

            if piece:
                return piece

    def close(self) -> None:
        """Give the descriptor back."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        if self._piece is not None:
            return  # what is not received yet must not gather here: the kernel keeps the rest, and slows the sender

        try:
            size = self._socket.recv_into(self._buffer)
            self._piece = bytes(memoryview(self._buffer)[:size])
        except BlockingIOError:
            return
        except OSError as exc:
            self._piece, self._error = b"", exc

        if not self._piece:
            self._loop.remove_reader(self._socket)  # it would be called again and again

        self._arrived.set()
