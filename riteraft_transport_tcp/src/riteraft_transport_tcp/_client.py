"""The dialling side: connect, introduce ourselves, then ask or stream a snapshot."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream
from riteraft_core._address import Address
from riteraft_core.errors import AuthenticationError, PeerUnreachable
from riteraft_core.outbox import DeniedError
from riteraft_core.security import Mode, Security
from riteraft_core.shared_secret import Dialler as SecretDialler
from riteraft_core.shared_secret import Meeting, Secret
from riteraft_core.types import Hello, Refusal

from ._connection import Connection, ConnectionLostError, Reaper, tune
from ._framing import (
    REQUEST_OVERHEAD,
    Frame,
    FrameError,
    Kind,
    decode_call,
    encode,
    encode_call,
    encode_end,
    expect,
    readable,
)
from ._handshake import MAX_HELLO, Purpose, decode_answer, encode_hello
from ._options import TcpOptions
from ._sealed import SealedStream
from ._tls import dial_tls


class Dialler:
    """Opens connections: the one place where a stream to another node is made."""

    def __init__(self, options: TcpOptions, reaper: Reaper, security: Security) -> None:
        """Every connection made is watched by `reaper`."""
        self._options = options
        self._reaper = reaper
        self._security = security

    @asynccontextmanager
    async def dial(self, address: str, hello: Hello, purpose: Purpose) -> AsyncIterator[Connection]:
        """Connect and be let in; the connection is closed at the end of the block.

        If the connection is ended meanwhile, the block is cancelled and left: what follows it must look at
        `Connection.ended`.

        :raises DeniedError: the other side said no.
        :raises ConnectionLostError: there is no connection, or it broke before the answer.
        """
        options = self._options
        try:
            target = Address.parse(address)
            with anyio.fail_after(options.connect_timeout):
                stream = await anyio.connect_tcp(target.host, target.port)
        except TimeoutError as exc:
            raise ConnectionLostError(f"no connection within {options.connect_timeout:g} s") from exc
        except (OSError, RuntimeError, ValueError) as exc:  # the second: no thread is left to look up a name in
            raise ConnectionLostError(f"no connection: {exc.__cause__ or exc}") from exc
        connection = Connection(stream, MAX_HELLO, options)
        try:
            slow = purpose is Purpose.SNAPSHOT  # it waits for disks, so the kernel must wait too
            tune(stream, options.idle_timeout if slow else options.unacknowledged_timeout)
            self._reaper.watch(connection)
            let_in = False
            with connection.scope:
                await self._introduce(connection, stream, target.host, hello, purpose)
                let_in = True
                yield connection
            if not let_in:
                raise ConnectionLostError(connection.ended or "it was ended")
        finally:
            self._reaper.forget(connection)
            await connection.aclose()

    async def _introduce(
        self, connection: Connection, stream: ByteStream, host: str, hello: Hello, purpose: Purpose
    ) -> None:
        options, security = self._options, self._security
        try:
            # One limit for the whole handshake, so the single steps have none.
            with anyio.fail_after(options.handshake_timeout):
                if security.tls is not None:
                    connection.secure(await dial_tls(stream, host, security, security.tls))
                if security.secret is not None:
                    await self._prove(connection, stream, security.secret, hello, purpose)
                else:
                    await connection.send(encode_hello(hello, purpose), math.inf)
                refusal = decode_answer(await self._answer(connection))
        except TimeoutError as exc:
            raise ConnectionLostError(f"no answer to our hello within {options.handshake_timeout:g} s") from exc
        except (FrameError, AuthenticationError) as exc:
            raise ConnectionLostError(f"its answer to our hello: {exc}") from exc
        except ConnectionLostError as exc:
            if security.mode is Mode.NONE:
                raise
            # Who was refused in a handshake is not told why: that is for the one who refused.
            raise ConnectionLostError(f"{exc} (security mode {security.mode.value}; its own log may say why)") from exc
        if refusal is not None:
            raise DeniedError(refusal)
        connection.trust(options.max_frame)

    async def _prove(
        self, connection: Connection, stream: ByteStream, secret: Secret, hello: Hello, purpose: Purpose
    ) -> None:
        dialler = SecretDialler(secret, Meeting(self._security.cluster, purpose.meeting, hello))
        await connection.send(encode_hello(hello, purpose, dialler.nonce), math.inf)
        frame = await self._answer(connection)
        if frame.kind != Kind.CHALLENGE:
            refusal = decode_answer(frame)
            # Anyone could have said so: it is worth a line in a log, and must not end this node.
            text = refusal.text if refusal is not None else "it asked for no proof of the secret"
            raise ConnectionLostError(f"it refused us, without proof of the secret: {text}")
        proof, seals = dialler.prove(bytes(frame.body))
        await connection.send(encode(Kind.PROOF, hello.group, proof), math.inf)
        connection.secure(SealedStream(stream, seals))

    async def _answer(self, connection: Connection) -> Frame:
        first, *more = await connection.receive(math.inf)
        if more or connection.partial:
            raise FrameError("more than an answer to a hello")
        return first


class _Call:
    """One request that waits for its answer."""

    __slots__ = ("answer", "done", "error", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.done = anyio.Event()
        self.answer = b""
        self.error: str | None = None


class RequestLine:
    """One connection for the requests to one address: many under way at once, answered in any order.

    It is opened with the first request and ends, for good, when it breaks or has been of no use for a while.
    """

    def __init__(self, address: str, hello: Hello, options: TcpOptions, dialler: Dialler) -> None:
        """Prepare a line; `run` opens it."""
        self.address = address
        self.refusal: Refusal | None = None
        self._hello = hello
        self._options = options
        self._dialler = dialler
        self._calls: dict[int, _Call] = {}
        self._unsent: deque[int] = deque()
        self._wake = anyio.Event()
        self._last_id = 0
        self._room = anyio.Semaphore(options.max_requests)
        self._over: str | None = None

    @property
    def over(self) -> bool:
        """Whether the line takes no more requests: open another."""
        return self._over is not None

    async def request(self, payload: bytes) -> bytes:
        """Send one request and return its answer.

        :raises PeerUnreachable: the line ended before the answer came, or the answer is an error.
        """
        if len(payload) + REQUEST_OVERHEAD > self._options.max_frame:
            raise PeerUnreachable(
                self.address, f"a request of {len(payload)} bytes is over max_frame ({self._options.max_frame})"
            )
        async with self._room:
            if self._over is not None:
                raise PeerUnreachable(self.address, self._over)
            self._last_id += 1
            request_id = self._last_id
            call = self._calls[request_id] = _Call(payload)
            self._unsent.append(request_id)
            self._wake.set()
            try:
                await call.done.wait()
            finally:
                self._calls.pop(request_id, None)  # if the caller gave up, a late answer is passed over
        if call.error is not None:
            raise PeerUnreachable(self.address, call.error)
        return call.answer

    async def run(self, ended: Callable[[RequestLine], None]) -> None:
        """Serve the line until it ends; `ended` is called before the waiting callers are told."""
        why = "the transport was closed"
        try:
            try:
                dialled = self._dialler.dial(self.address, self._hello, Purpose.REQUEST)
                async with dialled as connection, anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read, connection)
                    tasks.start_soon(self._write, connection)
                why = connection.ended or why
            except DeniedError as exc:
                self.refusal = exc.refusal
                why = str(exc)
            except ConnectionLostError as exc:
                why = str(exc)
        finally:
            self._over = why
            ended(self)
            for call in self._calls.values():
                call.error = why
                call.done.set()

    async def _write(self, connection: Connection) -> None:
        group = self._hello.group
        try:
            while True:
                while not self._unsent:
                    self._wake = anyio.Event()
                    with anyio.move_on_after(self._options.idle_timeout / 2) as waited:
                        await self._wake.wait()
                    if waited.cancelled_caught and not self._calls:
                        self._over = "it was idle"
                        connection.end(self._over)
                        return
                    if waited.cancelled_caught:  # the other side gives up connections that are silent for too long
                        await connection.send(encode(Kind.ALIVE, group), self._options.frame_timeout)
                frames: list[bytes] = []
                size = 0
                while self._unsent and size < self._options.batch_bytes:
                    request_id = self._unsent.popleft()
                    call = self._calls.get(request_id)
                    if call is not None:
                        frames.append(encode_call(Kind.REQUEST, group, request_id, call.payload))
                        size += len(frames[-1])
                await connection.send(b"".join(frames), self._options.frame_timeout)
        except ConnectionLostError as exc:
            connection.end(str(exc))

    async def _read(self, connection: Connection) -> None:
        try:
            while True:
                # No limit on silence: an answer takes what it takes, and the caller has a limit of its own.
                frames = await connection.receive(math.inf)
                expect(frames, self._hello.group, Kind.ANSWER, Kind.ERROR)
                for frame in frames:
                    request_id, payload = decode_call(frame.body)
                    call = self._calls.get(request_id)
                    if call is None:
                        continue
                    if frame.kind == Kind.ANSWER:
                        call.answer = payload
                    else:
                        call.error = "it answered with an error: " + readable(payload)
                    call.done.set()
        except (ConnectionLostError, FrameError) as exc:
            connection.end(str(exc))


class SnapshotSender:
    """One snapshot on its way to one peer, on a connection of its own."""

    def __init__(self, peer: int, hello: Hello, options: TcpOptions, dialler: Dialler) -> None:
        """Prepare; `send` does it."""
        self._peer = peer
        self._hello = hello
        self._options = options
        self._dialler = dialler
        self._taken = False
        self._why = "the connection ended before its answer"
        self._chunks_error: Exception | None = None

    async def send(self, address: str, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        """Stream it and wait until the peer took it.

        :raises PeerUnreachable: it did not get there, or was not taken.
        :raises DeniedError: the peer did not let us in.
        """
        if len(header) > self._options.max_frame:
            raise PeerUnreachable(
                self._peer, f"a snapshot header of {len(header)} bytes is over max_frame ({self._options.max_frame})"
            )
        try:
            dialled = self._dialler.dial(address, self._hello, Purpose.SNAPSHOT)
            async with dialled as connection, anyio.create_task_group() as tasks:
                # The answer may come at any time: a peer that cannot use the snapshot says so early.
                tasks.start_soon(self._stream, connection, header, chunks)
                await self._await_answer(connection)
                tasks.cancel_scope.cancel()
        except ConnectionLostError as exc:
            raise PeerUnreachable(self._peer, str(exc)) from exc
        if self._chunks_error is not None:
            raise self._chunks_error
        if not self._taken:
            raise PeerUnreachable(self._peer, connection.ended or self._why)

    async def _stream(self, connection: Connection, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        group = self._hello.group
        within = self._options.idle_timeout
        size = self._options.snapshot_chunk
        total = 0
        digest = hashlib.sha256()
        try:
            await connection.send(encode(Kind.SNAPSHOT, group, header), within)
            async for chunk in chunks:
                for start in range(0, len(chunk), size):
                    piece = chunk if len(chunk) <= size else chunk[start : start + size]
                    digest.update(piece)
                    total += len(piece)
                    await connection.send(encode(Kind.CHUNK, group, piece), within)
            await connection.send(encode_end(group, total, digest.digest()), within)
        except ConnectionLostError as exc:
            # An answer that came before the connection broke is worth more than how it broke: `_await_answer` reads
            # on, to the answer or to the same break.
            self._why = str(exc)
        except Exception as exc:  # raised by the caller's own chunks: to be raised to the caller, not in a group
            self._chunks_error = exc
            connection.end("the snapshot could not be read")

    async def _await_answer(self, connection: Connection) -> None:
        try:
            while True:
                frames = await connection.receive(self._options.idle_timeout)
                expect(frames, self._hello.group, Kind.ALIVE, Kind.TAKEN, Kind.NOT_TAKEN)
                for frame in frames:
                    if frame.kind == Kind.TAKEN:
                        self._taken = True
                        return
                    if frame.kind == Kind.NOT_TAKEN:
                        self._why = "it did not take the snapshot: " + readable(frame.body)
                        return
        except ConnectionLostError:
            pass
        except FrameError as exc:
            self._why = f"its answer to a snapshot: {exc}"
