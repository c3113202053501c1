"""One connection: frames in, bytes out, and a limit on each time it waits for the other side."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence

import anyio
from anyio.abc import ByteStream, SocketAttribute
from riteraft_core._address import Address
from riteraft_core.errors import AuthenticationError
from riteraft_core.outbox import LostError

from ._framing import ForgeryError, Frame, FrameDecoder, FrameError
from ._options import TcpOptions
from ._reader import SocketReader
from ._writer import SocketWriter

_RECEIVE_SIZE = 256 * 1024
"""What asyncio reads at once: a smaller piece would be cut from it by copying."""

_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class ConnectionLostError(LostError):
    """The connection is of no more use; the text says why."""


class Connection:
    """A byte stream with a decoder, run inside `scope`, which `end` cancels.

    The limits are plain numbers that the `Reaper` looks at: a timer for each receive would cost more than everything
    else on the way of a message, and even to ask for the time would cost as much as to decode it.
    """

    __slots__ = (
        "_decoder",
        "_frame_timeout",
        "_reader",
        "_stream",
        "ended",
        "fault",
        "scope",
        "silence",
        "silent_since",
        "write_by",
    )

    def __init__(self, stream: ByteStream, frame_limit: int, options: TcpOptions) -> None:
        """Take a connected stream; frames over `frame_limit` are refused."""
        self._stream = stream
        self._decoder = FrameDecoder(frame_limit)
        self._frame_timeout = options.frame_timeout
        self._reader: SocketReader | None = None
        self.scope = anyio.CancelScope()
        self.silence = math.inf
        """Seconds for which the other side may send nothing."""
        self.silent_since: float | None = None
        """When the reaper first saw that it waits; None before."""
        self.write_by = math.inf
        self.ended: str | None = None
        self.fault: FrameError | None = None
        """What the other side did wrong, if that is why it ended."""

    @property
    def remote(self) -> str:
        """The other side's `host:port`, for logs."""
        try:
            peer = self._stream.extra(SocketAttribute.remote_address)  # noqa: S610 - not Django's
        except (anyio.TypedAttributeLookupError, OSError):
            return "someone who is gone"
        return str(Address(str(peer[0]), int(peer[1])))

    @property
    def partial(self) -> bool:
        """Whether a frame has begun to arrive and is not whole yet."""
        return self._decoder.partial

    def direct_writer(self) -> SocketWriter | None:
        """Return what writes straight to the socket, once the handshake is over; None where TLS must do it.

        :raises ConnectionLostError: the other side is gone.
        """
        try:
            return SocketWriter.over(self._stream)
        except OSError as exc:
            raise _broken(exc) from exc

    def read_directly(self) -> None:
        """Read straight from the socket from now on, if that can be done.

        To be called while the other side waits for us, so that nothing is on its way.

        :raises ConnectionLostError: the other side is gone.
        """
        try:
            self._reader = SocketReader.over(self._stream)
        except OSError as exc:
            raise _broken(exc) from exc

    def secure(self, stream: ByteStream) -> None:
        """Read and write through `stream` from now on, which is made around the one before."""
        self._stream = stream

    def trust(self, frame_limit: int) -> None:
        """Take frames of up to `frame_limit` bytes from now on."""
        self._decoder.limit = frame_limit

    def end(self, why: str) -> None:
        """Cancel whatever this connection's tasks wait for; the first reason stays."""
        if self.ended is None:
            self.ended = why
        self.scope.cancel()

    async def receive(self, idle: float) -> Sequence[Frame]:
        """Return the next whole frames, at least one.

        Ended after `idle` seconds without a byte, or a frame timeout after a frame's first byte without its last: a
        byte now and then does not help.

        :raises ConnectionLostError: the other side is gone.
        :raises FrameError: the other side sent what it must not.
        """
        decoder = self._decoder
        self.keep(self._frame_timeout if decoder.partial else idle)
        try:
            while True:
                begun = decoder.partial
                if self._reader is None:
                    data = await self._stream.receive(_RECEIVE_SIZE)
                else:
                    data = await self._reader.receive()
                frames = decoder.feed(data)
                if frames:
                    return frames
                if not begun:
                    self.keep(self._frame_timeout)
        except anyio.EndOfStream as exc:
            raise ConnectionLostError("the other side closed the connection") from exc
        except AuthenticationError as exc:
            raise ForgeryError(str(exc)) from exc
        except _BROKEN as exc:
            raise _broken(exc) from exc
        finally:
            self.silence = math.inf

    def keep(self, seconds: float) -> None:
        """End the connection if this is not called again, nor `receive`, within `seconds`."""
        self.silence = seconds
        self.silent_since = None

    async def send(self, data: bytes, within: float) -> None:
        """Write all of `data`; the connection is ended if the other side does not take it `within` seconds.

        :raises ConnectionLostError: the other side is gone.
        """
        self.write_by = anyio.current_time() + within
        try:
            await self._stream.send(data)
        except _BROKEN as exc:
            raise _broken(exc) from exc
        finally:
            self.write_by = math.inf

    async def drain(self, seconds: float) -> None:
        """Read and forget until the other side closes: closing with bytes unread would destroy our last answer."""
        with anyio.move_on_after(seconds):
            try:
                while True:
                    await self._stream.receive(_RECEIVE_SIZE)
            except _BROKEN:
                pass

    async def aclose(self) -> None:
        """Close at once, in a cancelled scope too."""
        if self._reader is not None:
            self._reader.close()
        await anyio.aclose_forcefully(self._stream)


class Reaper:
    """Ends connections that have waited too long: one task for all of them."""

    def __init__(self, options: TcpOptions) -> None:
        """Look often enough for the shortest limit to be kept to a fifth: a silence counts from our first look."""
        shortest = min(options.handshake_timeout, options.frame_timeout, options.idle_timeout)
        self._period = min(0.5, shortest / 10)
        self._connections: set[Connection] = set()
        self._over: str | None = None

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await anyio.sleep(self._period)
            now = anyio.current_time()
            for connection in tuple(self._connections):
                if connection.silent_since is None:
                    connection.silent_since = now
                elif now - connection.silent_since >= connection.silence:
                    connection.end("it was silent for too long")
                if connection.write_by <= now:
                    connection.end("it did not take what was sent for too long")

    def watch(self, connection: Connection) -> None:
        """Look after `connection` until `forget`."""
        self._connections.add(connection)
        if self._over is not None:
            connection.end(self._over)

    def forget(self, connection: Connection) -> None:
        """Look after `connection` no longer."""
        self._connections.discard(connection)

    def end_all(self, why: str) -> None:
        """End every connection, and those still to come."""
        self._over = why
        for connection in tuple(self._connections):
            connection.end(why)


def _broken(exc: Exception) -> ConnectionLostError:
    return ConnectionLostError(f"the connection broke: {exc.__cause__ or str(exc) or type(exc).__name__}")


def tune(stream: ByteStream, unacknowledged: float) -> None:
    """Set what the kernel is to do for this connection: no waiting for fuller packets, no endless retransmission."""
    raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user_timeout = getattr(socket, "TCP_USER_TIMEOUT", None)
        if user_timeout is not None:
            raw.setsockopt(socket.IPPROTO_TCP, user_timeout, int(unacknowledged * 1000))
    except OSError:
        pass  # the other side closed already: the next read says so
