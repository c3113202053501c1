"""Writes to a connection in the turn of the event loop that has something to say.

A stream's `send` is a task's work: by the time that task runs and the stream has taken the bytes to the socket, the
loop has gone round twice, and every write of the cluster waits for several such hops.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import anyio
from anyio.abc import ByteStream, SocketStream

from ._descriptor import duplicate
from ._sealed import SealedStream


class SocketWriter:
    """The one that writes to a stream's socket from now on; what the kernel does not take at once waits for `drain`.

    Nobody may call the stream's own `send` any more. Close it before the stream: it has a descriptor of its own, which
    would keep the connection open.
    """

    def __init__(self, stream: SocketStream, seal: Callable[[bytes], bytes] | None) -> None:
        """Take a stream that holds back nothing: the other side answered all that was sent through it.

        :raises OSError: the connection is gone.
        """
        self._socket = duplicate(stream)
        self._seal = seal
        self._rest = memoryview(b"")

    @classmethod
    def over(cls, stream: ByteStream) -> SocketWriter | None:
        """Return a writer, or None where a layer with a state of its own (TLS) stands before the socket.

        :raises OSError: the connection is gone.
        """
        seal = None
        if isinstance(stream, SealedStream):
            seal, stream = stream.seal, stream.below

        return cls(stream, seal) if isinstance(stream, SocketStream) else None

    def __enter__(self) -> SocketWriter:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def is_full(self) -> bool:
        """Whether bytes wait for `drain`."""
        return bool(self._rest)

    def write(self, data: bytes) -> None:
        """Give `data` to the kernel; only after all that came before it is there.

        :raises OSError: the connection is gone.
        """
        assert not self._rest, "the last write is not through yet"
        if self._seal is not None:
            data = self._seal(data)

        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0

        if sent < len(data):
            self._rest = memoryview(data)[sent:]

    async def drain(self) -> None:
        """Wait until the kernel has taken everything.

        :raises OSError: the connection is gone.
        """
        while self._rest:
            await anyio.wait_writable(self._socket)
            with suppress(BlockingIOError):
                self._rest = self._rest[self._socket.send(self._rest) :]
