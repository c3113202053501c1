"""The listening side: who is let in, how many at once, and what each connection brings."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketListener, TaskGroup
from riteraft_core._complaints import Complaints
from riteraft_core.errors import AuthenticationError, PeerUnreachable
from riteraft_core.protocols import Handler
from riteraft_core.security import Mode, Security
from riteraft_core.shared_secret import Listener, Meeting, Secret
from riteraft_core.types import Hello, Principal, Refusal, RefusalCode

from ._connection import Connection, ConnectionLostError, Reaper, tune
from ._framing import (
    REQUEST_OVERHEAD,
    ForgeryError,
    Frame,
    FrameError,
    Kind,
    VersionError,
    decode_call,
    decode_end,
    decode_messages,
    encode,
    encode_call,
    expect,
)
from ._handshake import (
    MAX_HELLO,
    Purpose,
    decode_hello,
    encode_refusal,
    encode_welcome,
    no_identity,
    other_method,
    wrong_version,
)
from ._options import TcpOptions
from ._sealed import SealedStream
from ._tls import accept_tls

_ACCEPT_PAUSE = 0.1
"""After a failed accept (mostly: no file descriptor left) the listener rests this long; the kernel keeps the queue."""

_MESSAGES_A_TURN = 512
"""Messages of one peer after which others have their turn: an honest peer never sends so many at once."""

_LARGE = 128 * 1024
"""Bytes from which on frames of requests are taken up one connection's a turn of the event loop. A flood on many
connections would make each turn as long as they are many, and whatever a node does takes several turns. With smaller
ones a turn does too little: 20 KB each on 64 connections were a third fewer requests a second, 70 KB a fourteenth."""

_LAST_WORDS = 1.0
"""How long a connection stays open after a "no", for the other side to read it."""

_MAX_ERROR_TEXT = 1024
"""Characters of an error that are sent to the one who asked."""


class _Guest:
    """A connection that was let in."""

    __slots__ = ("connection", "hello", "purpose")

    def __init__(self, connection: Connection, hello: Hello, purpose: Purpose) -> None:
        self.connection = connection
        self.hello = hello
        self.purpose = purpose


class Server:
    """Accepts connections, one task each; a task ends with its connection and takes nothing else down."""

    def __init__(
        self,
        options: TcpOptions,
        handler: Handler,
        logger: logging.Logger,
        reaper: Reaper,
        security: Security,
        node_id: Callable[[], int],
        knocked: Callable[[int], None],
    ) -> None:
        """Hand what arrives to `handler`; tell `knocked` which peer has just been let in.

        `node_id` is asked for our own, 0 as long as we have none.
        """
        self._options = options
        self._handler = handler
        self._logger = logger
        self._reaper = reaper
        self._security = security
        self._node_id = node_id
        self._knocked = knocked
        self.complaints = Complaints(logger)
        # Both oldest first: a full house shows the door to whoever came first.
        self._strangers: dict[Connection, None] = {}
        self._guests: dict[int, list[_Guest]] = {}
        self._open = 0
        self._turns = anyio.Lock()

    async def accept(self, listener: SocketListener, tasks: TaskGroup) -> None:
        """Accept for ever; a failing accept is logged and tried again."""
        while True:
            try:
                stream = await listener.accept()
            except (OSError, anyio.BrokenResourceError) as exc:
                self.complaints.add("accept", f"cannot accept a connection: {exc.__cause__ or exc}")
                await anyio.sleep(_ACCEPT_PAUSE)
                continue
            if self._open >= self._options.max_connections:
                self.complaints.add("full", f"there are {self._open} connections; a new one was closed")
                await anyio.aclose_forcefully(stream)
                continue
            self._open += 1
            tasks.start_soon(self._serve, stream)

    def show_out(self, peer: int) -> None:
        """End every connection of a peer: what it may do has changed."""
        for guest in self._guests.get(peer, ()):
            guest.connection.end("its node is no longer one of the peers")

    async def _serve(self, stream: ByteStream) -> None:
        """See one connection through from accept to close."""
        connection = Connection(stream, MAX_HELLO, self._options)
        self._reaper.watch(connection)
        remote = connection.remote
        try:
            tune(stream, self._options.idle_timeout)  # a snapshot may wait that long; the dialling side is stricter
            with connection.scope:
                await self._let_in(connection, stream)
        except ConnectionLostError as exc:
            self._logger.debug("connection from %s: %s", remote, exc)
        except FrameError as exc:
            self.complaints.add(exc.reason, f"connection from {remote} closed: {exc}")
        except Exception:
            self._logger.exception("connection from %s ended by an error of this node", remote)
        else:
            if connection.fault is not None:
                fault = connection.fault
                self.complaints.add(fault.reason, f"connection from {remote} closed: {fault}")
            elif connection.ended is not None:
                self._logger.debug("connection from %s: %s", remote, connection.ended)
        finally:
            self._open -= 1
            self._strangers.pop(connection, None)
            self._reaper.forget(connection)
            await connection.aclose()

    async def _let_in(self, connection: Connection, stream: ByteStream) -> None:
        options = self._options
        self._strangers[connection] = None
        if len(self._strangers) > options.max_unauthenticated:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.end("too many connections that had not been let in")
            self.complaints.add("unauthenticated", "too many connections that have not been let in: closed the oldest")
        guest: _Guest | None = None
        try:
            try:
                # One limit for the whole handshake, so the single steps have none.
                with anyio.fail_after(options.handshake_timeout):
                    answer = await self._hear(connection, stream)
                    if isinstance(answer, _Guest):
                        guest = answer
                        if guest.purpose is Purpose.MESSAGES:
                            connection.read_directly()
                        await connection.send(encode_welcome(guest.hello.group), math.inf)
                    else:
                        await connection.send(encode_refusal(*answer), math.inf)
            except TimeoutError as exc:
                self.complaints.counters["handshake-timeout"] += 1
                raise ConnectionLostError("no hello in time") from exc
            self._strangers.pop(connection, None)
            if guest is None:
                await connection.drain(_LAST_WORDS)
            elif guest.purpose is Purpose.MESSAGES:
                await self._messages(guest)
            elif guest.purpose is Purpose.REQUEST:
                await _Desk(guest, options, self._handler, self._logger, self._turns).serve()
            else:
                await self._snapshot(guest)
        finally:
            if guest is not None:
                self._unseat(guest)

    async def _hear(self, connection: Connection, stream: ByteStream) -> _Guest | tuple[int, Refusal]:
        """Return the guest, already in the book, or for which group and why it is refused."""
        tls, secret = self._security.tls, self._security.secret
        shown: Principal | Refusal | None = None
        if tls is not None:
            secured, shown = await accept_tls(stream, tls)
            connection.secure(secured)
        try:
            first, *more = await connection.receive(math.inf)
        except VersionError as exc:
            return 0, self._noted(connection, wrong_version(exc))
        hello, purpose, nonce = decode_hello(first)
        if more:
            raise FrameError("more than a hello before its answer")
        if bool(nonce) != (secret is not None):
            return hello.group, self._noted(connection, other_method(nonce))
        if secret is not None:
            await self._authenticate(connection, stream, secret, hello, purpose, nonce)
        if isinstance(shown, Refusal):
            return hello.group, self._noted(connection, shown)
        hello = dataclasses.replace(hello, principal=shown)
        if hello.node_id == 0 and purpose is not Purpose.REQUEST:
            return hello.group, self._noted(connection, no_identity())
        refusal = self._handler.admit(hello)
        if refusal is not None:
            return hello.group, self._noted(connection, refusal)
        guest = _Guest(connection, hello, purpose)
        self._seat(guest)
        known = hello.node_id or self._security.mode is not Mode.NONE
        connection.trust(self._options.max_frame if known else self._options.max_stranger_frame)
        return guest

    async def _authenticate(
        self, connection: Connection, stream: ByteStream, secret: Secret, hello: Hello, purpose: Purpose, nonce: bytes
    ) -> None:
        """Have the other side prove that it has the secret; all that follows is sealed.

        :raises FrameError: it did not.
        """
        if connection.partial:
            raise FrameError("more than a hello before its answer")
        listener = Listener(secret, Meeting(self._security.cluster, purpose.meeting, hello), nonce, self._node_id())
        await connection.send(encode(Kind.CHALLENGE, hello.group, listener.challenge), math.inf)
        frames = await connection.receive(math.inf)
        expect(frames, hello.group, Kind.PROOF)
        if len(frames) > 1 or connection.partial:
            raise FrameError("more than a proof before its answer")
        try:
            seals = listener.check(bytes(frames[0].body))
        except AuthenticationError as exc:
            raise ForgeryError(str(exc)) from exc
        connection.secure(SealedStream(stream, seals))

    def _seat(self, guest: _Guest) -> None:
        """Enter a guest in the book; show out whom it replaces, and the oldest if there are too many of its name."""
        node_id = guest.hello.node_id
        guests = self._guests.setdefault(node_id, [])
        if node_id:
            self._knocked(node_id)
            if guest.purpose is not Purpose.REQUEST:
                # The peer has dialled anew, so the old connection is dead to it. Ended now, it cannot bring an old
                # message after a new one.
                for other in guests:
                    if other.purpose is guest.purpose:
                        other.connection.end("replaced by a newer connection of the same peer")
        limit = self._options.max_connections_per_peer if node_id else self._options.max_unauthenticated
        live = [other for other in guests if other.connection.ended is None]
        if len(live) >= limit:
            live[0].connection.end("too many connections of one peer")
            self.complaints.add("crowd", f"too many connections of node {node_id}: closed the oldest")
        guests.append(guest)

    def _unseat(self, guest: _Guest) -> None:
        guests = self._guests[guest.hello.node_id]
        guests.remove(guest)
        if not guests:
            del self._guests[guest.hello.node_id]

    def _noted(self, connection: Connection, refusal: Refusal) -> Refusal:
        if refusal.code is RefusalCode.NOT_READY:  # part of every start
            self.complaints.counters["refused not-ready"] += 1
        else:
            text = f"refused {connection.remote} ({refusal.code.value}): {refusal.text}"
            self.complaints.add(f"refused {refusal.code.value}", text)
        return refusal

    async def _messages(self, guest: _Guest) -> None:
        connection, hello = guest.connection, guest.hello
        idle = self._options.idle_timeout
        while True:
            frames = await connection.receive(idle)
            expect(frames, hello.group, Kind.MESSAGES)
            messages: list[bytes] = []
            for frame in frames:
                if len(messages) >= _MESSAGES_A_TURN:
                    self._handler.messages(hello.node_id, messages)
                    messages = []
                    await anyio.lowlevel.checkpoint()
                messages += decode_messages(frame.body)
                if connection.ended is not None:
                    return
            self._handler.messages(hello.node_id, messages)

    async def _snapshot(self, guest: _Guest) -> None:
        connection, hello = guest.connection, guest.hello
        first, *more = await connection.receive(self._options.idle_timeout)
        expect((first,), hello.group, Kind.SNAPSHOT)
        incoming = _IncomingSnapshot(guest, self._options.idle_timeout, list(more))
        answer = b""
        async with anyio.create_task_group() as tasks:
            # Says that we are at work: checking and installing may take longer than a connection may be silent.
            done = anyio.Event()
            tasks.start_soon(self._stay_alive, guest, done)
            try:
                async with aclosing(incoming.chunks()) as chunks:
                    await self._handler.snapshot(hello.node_id, bytes(first.body), chunks)
                if incoming.whole:
                    answer = encode(Kind.TAKEN, hello.group)
                else:
                    answer = _not_taken(hello.group, "it was not read to its end")
            except Exception as exc:
                answer = _not_taken(hello.group, str(exc) or type(exc).__name__)
                self._logger.warning("a snapshot from node %d was not taken: %s", hello.node_id, exc)
            done.set()
        if incoming.fault is not None:
            self.complaints.add(incoming.fault.reason, f"snapshot from {connection.remote}: {incoming.fault}")
        await connection.send(answer, self._options.frame_timeout)
        await connection.drain(_LAST_WORDS)

    async def _stay_alive(self, guest: _Guest, done: anyio.Event) -> None:
        # Never cancelled while it writes: half a record would spoil what comes after.
        try:
            while True:
                with anyio.move_on_after(self._options.idle_timeout / 4):
                    await done.wait()
                    return
                await guest.connection.send(encode(Kind.ALIVE, guest.hello.group), self._options.frame_timeout)
        except ConnectionLostError as exc:
            guest.connection.end(str(exc))


class _IncomingSnapshot:
    """The chunks of a snapshot, checked as they come."""

    def __init__(self, guest: _Guest, idle: float, frames: list[Frame]) -> None:
        self.whole = False
        self.fault: FrameError | None = None
        self._guest = guest
        self._idle = idle
        self._frames = frames

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the chunks; end only after size and SHA-256 matched.

        :raises PeerUnreachable: the stream broke, or is not what was sent.
        """
        connection, hello = self._guest.connection, self._guest.hello
        digest = hashlib.sha256()
        total = 0
        frames = self._frames
        try:
            while True:
                expect(frames, hello.group, Kind.CHUNK, Kind.END)
                for position, frame in enumerate(frames):
                    if frame.kind == Kind.CHUNK:
                        digest.update(frame.body)
                        total += len(frame.body)
                        yield bytes(frame.body)
                        continue
                    if decode_end(frame.body) != (total, digest.digest()):
                        raise FrameError("a snapshot does not match its size or its SHA-256")
                    if position + 1 < len(frames):
                        raise FrameError("a frame after the end of a snapshot")
                    self.whole = True
                    return
                frames = list(await connection.receive(self._idle))
        except ConnectionLostError as exc:
            raise PeerUnreachable(hello.node_id, f"its snapshot ended before the end: {exc}") from exc
        except FrameError as exc:
            self.fault = exc
            raise PeerUnreachable(hello.node_id, str(exc)) from exc


def _not_taken(group: int, why: str) -> bytes:
    return encode(Kind.NOT_TAKEN, group, why[:_MAX_ERROR_TEXT].encode(errors="replace"))


class _Desk:
    """Answers the requests of one connection, many at once, up to a number and a size."""

    def __init__(
        self, guest: _Guest, options: TcpOptions, handler: Handler, logger: logging.Logger, turns: anyio.Lock
    ) -> None:
        self._guest = guest
        self._options = options
        self._handler = handler
        self._logger = logger
        self._turns = turns
        self._busy = 0
        self._bytes = 0
        self._room = anyio.Event()
        self._answers: list[bytes] = []
        self._wake = anyio.Event()

    async def serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            await self._read(tasks)

    async def _read(self, tasks: TaskGroup) -> None:
        connection, idle = self._guest.connection, self._options.idle_timeout
        try:
            while True:
                frames = await connection.receive(idle)
                if sum(len(frame.body) for frame in frames) >= _LARGE:
                    async with self._turns:
                        await anyio.lowlevel.checkpoint()
                await self._begin(frames, tasks)
                del frames  # nothing of it is kept while the next is read
        except ConnectionLostError as exc:
            connection.end(str(exc))
        except FrameError as exc:
            connection.fault = exc
            connection.end(str(exc))

    async def _begin(self, frames: Sequence[Frame], tasks: TaskGroup) -> None:
        options = self._options
        expect(frames, self._guest.hello.group, Kind.REQUEST, Kind.ALIVE)
        for frame in frames:
            if frame.kind == Kind.ALIVE:
                continue
            while self._busy >= options.max_requests or self._bytes >= options.max_request_bytes:
                self._room = anyio.Event()
                await self._room.wait()
            request_id, payload = decode_call(frame.body)
            self._busy += 1
            self._bytes += len(payload)
            tasks.start_soon(self._answer, request_id, payload)

    async def _answer(self, request_id: int, payload: bytes) -> None:
        hello = self._guest.hello
        kind, size = Kind.ANSWER, len(payload)
        answering = self._handler.request(hello.node_id or None, payload, hello.principal)
        del payload  # whoever answers makes something of it, and need not have both
        try:
            answer = await answering
            if len(answer) + REQUEST_OVERHEAD > self._options.max_frame:
                raise ValueError(f"an answer of {len(answer)} bytes is over max_frame ({self._options.max_frame})")
        except Exception as exc:
            kind = Kind.ERROR
            answer = (str(exc) or type(exc).__name__)[:_MAX_ERROR_TEXT].encode(errors="replace")
            self._logger.warning("a request from %s failed: %r", hello.node_id or "a joiner", exc)
        encoded = encode_call(kind, hello.group, request_id, answer)
        self._answers.append(encoded)
        self._bytes += len(encoded) - size
        self._wake.set()

    async def _write(self) -> None:
        """Write the answers that gathered; only then is there room again, so unread answers stop the reading."""
        connection = self._guest.connection
        try:
            while True:
                while not self._answers:
                    self._wake = anyio.Event()
                    await self._wake.wait()
                answers, self._answers = self._answers, []
                data = b"".join(answers)
                await connection.send(data, self._options.frame_timeout)
                self._busy -= len(answers)
                self._bytes -= len(data)
                self._room.set()
        except ConnectionLostError as exc:
            connection.end(str(exc))
