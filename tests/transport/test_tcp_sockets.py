"""The tcp transport against real sockets that do not behave."""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from riteraft_core.errors import ConfigError, PeerUnreachable
from riteraft_core.security import Security
from riteraft_core.testing.transport_suite import (
    PATIENCE,
    OpenTransport,
    PatienceSuite,
    Peer,
    identity_of,
    open_peer,
)
from riteraft_core.types import Hello, Refusal, RefusalCode
from riteraft_transport_tcp._framing import (
    Frame,
    FrameDecoder,
    Kind,
    encode,
    encode_call,
    encode_end,
    encode_messages,
)
from riteraft_transport_tcp._handshake import Purpose, decode_answer, encode_hello
from riteraft_transport_tcp._transport import TcpTransport

from riteraft_transport_tcp import TcpOptions, open_tcp
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

NEVER = 3600.0
"""For the limits that a test is not about: if one of them were what ends a wait, the test would fail."""

OPEN = Security("suite")

PATIENT = TcpOptions(handshake_timeout=NEVER, frame_timeout=NEVER, idle_timeout=NEVER)


class Raw:
    """A client that sends whatever it likes."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._decoder = FrameDecoder(1 << 20)
        self._frames: list[Frame] = []

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def frame(self) -> Frame:
        with anyio.fail_after(PATIENCE):
            while not self._frames:
                self._frames += self._decoder.feed(await self.stream.receive())
        return self._frames.pop(0)

    async def closed(self) -> None:
        """Wait until the other side has closed."""
        with anyio.fail_after(PATIENCE):
            try:
                while True:
                    await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async def greet(self, hello: Hello, purpose: Purpose) -> Refusal | None:
        await self.send(encode_hello(hello, purpose))
        return decode_answer(await self.frame())


def node(
    node_id: int, options: TcpOptions, address: str = "127.0.0.1:0", security: Security = OPEN
) -> AbstractAsyncContextManager[Peer]:
    return open_peer(functools.partial(open_tcp, options), node_id, security, address=address)


@asynccontextmanager
async def raw(peer: Peer) -> AsyncIterator[Raw]:
    host, _, port = peer.address.rpartition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        yield Raw(stream)


def counters(peer: Peer) -> dict[str, int]:
    return dict(cast("TcpTransport", peer.transport).counters)


async def works(peer: Peer) -> None:
    """An honest peer is served."""
    async with node(2, TcpOptions()) as honest:
        honest.transport.set_peers({peer.node_id: peer.address})
        await honest.send_until(peer.node_id, b"honest", peer)
        assert await honest.transport.request(peer.address, b"abc") == b"cba"


# --- before anybody is let in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: somebody\r\n\r\n",
        bytes(1000),
        encode_messages(7, [b"no hello"]),
        encode(Kind.HELLO, 7, b"short"),
        encode(Kind.HELLO, 7, bytes(2000)),
        encode_hello(Hello.of(identity_of(2), 1), Purpose.MESSAGES) + encode_messages(7, [b"too early"]),
    ],
    ids=["http", "zeros", "no hello", "short hello", "long hello", "hello and more"],
)
async def test_garbage_is_closed_and_counted(data: bytes) -> None:
    async with node(1, PATIENT) as one:
        async with raw(one) as stranger:
            await stranger.send(data)
            await stranger.closed()
        assert counters(one) == {"frame": 1}
        assert one.handler.received == []
        await works(one)


async def test_another_version_is_told_so() -> None:
    async with node(1, PATIENT) as one, raw(one) as stranger:
        hello = bytearray(encode_hello(Hello.of(identity_of(2), 1), Purpose.MESSAGES))
        hello[4] = 9
        await stranger.send(bytes(hello))
        refusal = decode_answer(await stranger.frame())
        assert refusal is not None
        assert refusal.code is RefusalCode.VERSION
        assert "9" in refusal.text
        assert one.handler.hellos == []
        assert counters(one) == {"refused version": 1}


@pytest.mark.parametrize("purpose", [Purpose.MESSAGES, Purpose.SNAPSHOT])
async def test_without_an_identity_one_may_only_request(purpose: Purpose) -> None:
    async with node(1, PATIENT) as one, raw(one) as stranger:
        refusal = await stranger.greet(Hello.of(None, 1), purpose)
        assert refusal is not None
        assert refusal.code is RefusalCode.FORBIDDEN
        assert one.handler.hellos == []


@pytest.mark.parametrize("sent", [b"", encode_hello(Hello.of(identity_of(2), 1), Purpose.MESSAGES)[:-1]])
async def test_a_hello_must_come_in_time(sent: bytes) -> None:
    async with node(1, TcpOptions(handshake_timeout=0.1)) as one, raw(one) as stranger:
        if sent:
            await stranger.send(sent)
        await stranger.closed()
        assert counters(one) == {"handshake-timeout": 1}


async def test_a_byte_now_and_then_is_not_a_hello_in_time() -> None:
    async with node(1, TcpOptions(handshake_timeout=0.3)) as one, raw(one) as stranger:
        hello = encode_hello(Hello.of(identity_of(2), 1), Purpose.MESSAGES)

        async def drip() -> None:
            for byte in hello:
                await stranger.send(bytes((byte,)))
                with anyio.move_on_after(0.05):
                    await stranger.stream.receive()

        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await drip()
        assert counters(one) == {"handshake-timeout": 1}


async def test_the_oldest_of_too_many_silent_connections_goes() -> None:
    # A flood of connections that say nothing: an honest peer finds a place all the same, and at once.
    async with node(1, PATIENT.model_copy(update={"max_unauthenticated": 3})) as one:
        async with raw(one) as first, raw(one), raw(one), raw(one):
            await first.closed()
            await works(one)
        assert counters(one)["unauthenticated"] >= 1


async def test_past_the_limit_of_connections_new_ones_are_closed() -> None:
    async with node(1, PATIENT.model_copy(update={"max_connections": 2})) as one:
        async with raw(one) as first, raw(one) as second, raw(one) as third:
            await third.closed()
            for guest in (first, second):
                assert await guest.greet(Hello.of(None, 0), Purpose.REQUEST) is None
        assert counters(one) == {"full": 1}


# --- once let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        encode(Kind.MESSAGES, 7, bytes(4097))[:24],
        encode_messages(8, [b"another group"]),
        encode(Kind.MESSAGES, 7, b"\xff\xff\xff\xff"),
        encode(Kind.CHUNK, 7, b"a chunk"),
        encode_messages(7, [b"flipped"])[:-1] + b"!",
    ],
    ids=["header of a long frame", "other group", "malformed batch", "wrong kind", "checksum"],
)
async def test_what_a_peer_must_not_send_ends_its_connection(data: bytes) -> None:
    async with node(1, PATIENT.model_copy(update={"max_frame": 4096})) as one:
        async with raw(one) as peer:
            assert await peer.greet(Hello.of(identity_of(2), 1), Purpose.MESSAGES) is None
            await peer.send(encode_messages(7, [b"good"]))
            await one.handler.until(lambda: one.handler.received)
            await peer.send(data)
            await peer.closed()
        assert one.handler.received == [(2, b"good")]
        assert counters(one) == {"frame": 1}


async def test_a_joiners_frames_have_a_smaller_limit() -> None:
    async with node(1, PATIENT.model_copy(update={"max_stranger_frame": 4096})) as one, raw(one) as joiner:
        assert await joiner.greet(Hello.of(None, 0), Purpose.REQUEST) is None
        await joiner.send(encode_call(Kind.REQUEST, 0, 1, bytes(4096)))
        await joiner.closed()
        assert counters(one) == {"frame": 1}


async def test_a_frame_must_be_whole_in_time() -> None:
    async with node(1, PATIENT.model_copy(update={"frame_timeout": 0.1})) as one, raw(one) as peer:
        assert await peer.greet(Hello.of(identity_of(2), 1), Purpose.MESSAGES) is None
        await peer.send(encode_messages(7, [b"half"])[:-1])
        await peer.closed()
        assert one.handler.received == []


@pytest.mark.parametrize("purpose", list(Purpose))
async def test_a_silent_connection_is_closed(purpose: Purpose) -> None:
    async with node(1, PATIENT.model_copy(update={"idle_timeout": 0.1})) as one, raw(one) as peer:
        assert await peer.greet(Hello.of(identity_of(2), 1), purpose) is None
        await peer.closed()


async def test_an_idle_sender_closes_by_itself_and_comes_back() -> None:
    # Without that the receiver would: then the next message would be lost in a connection just closed.
    async with node(1, PATIENT.model_copy(update={"idle_timeout": 0.1})) as one, node(2, PATIENT) as two:
        one.transport.set_peers({2: two.address})
        for number in range(3):
            one.transport.send(2, [b"%d" % number])
            await two.handler.until(lambda number=number: len(two.handler.received) > number)  # type: ignore[misc]
            await eventually(lambda: not cast("TcpTransport", two.transport)._server._guests)
        assert len(two.handler.hellos) == 3
        assert one.handler.unreached == []


class TestTcpsPatience(PatienceSuite):
    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return functools.partial(open_tcp, PATIENT.model_copy(update={"idle_timeout": 0.2}))

    async def silence(self, peer: Peer) -> None:
        async with raw(peer) as silent:
            assert await silent.greet(Hello.of(identity_of(3), peer.node_id), Purpose.MESSAGES) is None
            await silent.closed()


async def test_a_newer_connection_of_a_peer_replaces_the_older() -> None:
    async with node(1, PATIENT) as one, raw(one) as old, raw(one) as new:
        hello = Hello.of(identity_of(2), 1)
        assert await old.greet(hello, Purpose.MESSAGES) is None
        assert await new.greet(hello, Purpose.MESSAGES) is None
        await old.closed()
        await new.send(encode_messages(7, [b"new"]))
        await one.handler.until(lambda: one.handler.received)


async def test_a_flood_of_messages_arrives_in_order_and_others_have_their_turn_in_between() -> None:
    async with node(1, PATIENT) as one, raw(one) as peer:
        assert await peer.greet(Hello.of(identity_of(2), 1), Purpose.MESSAGES) is None
        sent = [b"%d" % number for number in range(20_000)]
        await peer.send(b"".join(encode_messages(7, sent[start : start + 100]) for start in range(0, len(sent), 100)))
        await one.handler.until(lambda: len(one.handler.received) == len(sent))
        assert [message for _, message in one.handler.received] == sent
        assert max(len(batch) for _, batch in one.handler.batches) <= 600


@pytest.mark.parametrize(("size", "alone"), [(100, False), (20_000, True)])
async def test_large_requests_of_many_connections_have_a_turn_each(
    monkeypatch: pytest.MonkeyPatch, size: int, alone: bool
) -> None:
    monkeypatch.setattr("riteraft_transport_tcp._server._LARGE", 16 * 1024)  # which the kernel takes at once
    turn = 0
    turns: list[int] = []

    async def count() -> None:
        nonlocal turn
        while True:
            await anyio.lowlevel.checkpoint()
            turn += 1

    def answer(payload: bytes) -> bytes:
        turns.append(turn)
        return payload[:10]

    async with node(1, PATIENT) as one, AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        one.handler.on_request = answer
        guests = [await stack.enter_async_context(raw(one)) for _ in range(8)]
        for guest in guests:
            assert await guest.greet(Hello.of(identity_of(0), 0), Purpose.REQUEST) is None
        tasks.start_soon(count)
        await anyio.lowlevel.checkpoint()
        for guest in guests:  # all are there before the server sees any
            request = encode_call(Kind.REQUEST, 7, 1, bytes(size))
            raw_socket = guest.stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
            assert os.write(raw_socket.fileno(), request) == len(request)
        for guest in guests:
            assert (await guest.frame()).kind == Kind.ANSWER
        tasks.cancel_scope.cancel()
    assert (len(set(turns)) == 8) is alone


async def test_a_peer_has_a_few_connections_only() -> None:
    async with node(1, PATIENT) as one, raw(one) as first:
        hello = Hello.of(identity_of(2), 0)
        assert await first.greet(hello, Purpose.REQUEST) is None
        async with raw(one) as a, raw(one) as b, raw(one) as c, raw(one) as last:
            for guest in (a, b, c, last):
                assert await guest.greet(hello, Purpose.REQUEST) is None
            await first.closed()
            await last.send(encode_call(Kind.REQUEST, 7, 1, b"abc"))
            assert (await last.frame()).kind == Kind.ANSWER


async def test_who_never_reads_its_answers_is_given_up() -> None:
    # Its requests stop being read once a bound of unread answers is reached, and then its connection ends.
    options = PATIENT.model_copy(update={"frame_timeout": 0.3, "max_request_bytes": 1 << 20})
    async with node(1, options) as one, raw(one) as greedy:
        assert await greedy.greet(Hello.of(identity_of(2), 0), Purpose.REQUEST) is None

        async def flood() -> None:
            for number in range(10_000):
                await greedy.send(encode_call(Kind.REQUEST, 7, number, bytes(64 * 1024)))

        with pytest.raises(anyio.BrokenResourceError):
            await flood()
        assert len(one.handler.requests) < 1000
        await works(one)


# --- snapshots -------------------------------------------------------------------------------------------------------

CHUNK = encode(Kind.CHUNK, 7, b"chunk")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (CHUNK + encode_end(7, 6, hashlib.sha256(b"chunk").digest()), "SHA-256"),
        (CHUNK + encode_end(7, 5, bytes(32)), "SHA-256"),
        (CHUNK + CHUNK + encode_end(7, 5, hashlib.sha256(b"chunk").digest()), "SHA-256"),
        (encode_end(7, 5, hashlib.sha256(b"chunk").digest()), "SHA-256"),
        (CHUNK + encode_messages(7, []), "MESSAGES"),
        (CHUNK + encode_end(7, 5, hashlib.sha256(b"chunk").digest()) + CHUNK, "after the end"),
    ],
    ids=["size", "hash", "chunk twice", "chunk missing", "other frame", "after the end"],
)
async def test_a_snapshot_that_is_not_what_was_sent_is_not_taken(data: bytes, why: str) -> None:
    async with node(1, PATIENT) as one, raw(one) as peer:
        assert await peer.greet(Hello.of(identity_of(2), 1), Purpose.SNAPSHOT) is None
        await peer.send(encode(Kind.SNAPSHOT, 7, b"header"))
        await peer.send(data)
        answer = await peer.frame()
        assert answer.kind == Kind.NOT_TAKEN
        assert why in bytes(answer.body).decode()
        assert isinstance(one.handler.broken_snapshots[0], PeerUnreachable)
        assert one.handler.snapshots == []
        assert counters(one) == {"frame": 1}


async def test_a_snapshot_with_a_flipped_bit_is_not_taken() -> None:
    async with node(1, PATIENT) as one, raw(one) as peer:
        assert await peer.greet(Hello.of(identity_of(2), 1), Purpose.SNAPSHOT) is None
        await peer.send(encode(Kind.SNAPSHOT, 7, b"header") + CHUNK[:-1] + b"!")
        await peer.closed()
        assert one.handler.snapshots == []
        assert counters(one) == {"frame": 1}


async def test_a_snapshot_cut_short_is_not_taken() -> None:
    async with node(1, PATIENT) as one:
        async with raw(one) as peer:
            assert await peer.greet(Hello.of(identity_of(2), 1), Purpose.SNAPSHOT) is None
            await peer.send(encode(Kind.SNAPSHOT, 7, b"header") + CHUNK)
        await one.handler.until(lambda: one.handler.broken_snapshots)
        assert isinstance(one.handler.broken_snapshots[0], PeerUnreachable)
        assert one.handler.snapshots == []


# --- dialling --------------------------------------------------------------------------------------------------------


async def test_a_peer_that_accepts_and_says_nothing_is_unreachable() -> None:
    # The kernel accepts for a process that is stopped: nothing answers the hello.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with node(1, PATIENT.model_copy(update={"handshake_timeout": 0.1})) as one:
            one.transport.set_peers({2: address})
            one.transport.send(2, [b"lost"])
            await one.handler.until(lambda: one.handler.unreached == [2])
            with pytest.raises(PeerUnreachable, match="no answer to our hello"):
                await one.transport.request(address, b"question")


async def test_the_longest_message_goes_through_and_one_byte_more_is_dropped() -> None:
    options = PATIENT.model_copy(update={"max_frame": 4096})
    async with node(1, options) as one, node(2, options) as two:
        one.transport.set_peers({2: two.address})
        await one.send_until(2, bytes(4088), two)
        one.handler.unreached.clear()
        one.transport.send(2, [bytes(4088 + 1)])
        await one.handler.until(lambda: one.handler.unreached == [2])


# --- listening -------------------------------------------------------------------------------------------------------


async def test_a_name_that_cannot_be_resolved_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
    with pytest.raises(ConfigError, match=r"nowhere\.invalid cannot be resolved"):
        async with node(1, PATIENT, "nowhere.invalid:0"):
            pass


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio keeps threads from one loop to the next
async def test_a_name_that_no_thread_can_look_up_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with node(1, PATIENT) as one:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())  # which has no thread yet
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_more)
            with pytest.raises(PeerUnreachable, match="can't start new thread"):
                await one.transport.request("localhost:7001", b"")


async def test_a_failing_accept_does_not_end_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    # No file descriptor left: the listener says so, once a second at most, and goes on when there is one.
    class Listener:
        failures = 3

        async def accept(self) -> SocketStream:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return await real.accept()

    async with node(1, PATIENT) as one, await anyio.create_tcp_listener(local_host="127.0.0.1") as multi:
        real = cast("SocketListener", multi.listeners[0])
        port = multi.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django's
        async with anyio.create_task_group() as tasks:
            server = cast("TcpTransport", one.transport)._server
            tasks.start_soon(server.accept, cast("SocketListener", Listener()), tasks)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                assert await Raw(stream).greet(Hello.of(identity_of(2), 1), Purpose.MESSAGES) is None
            tasks.cancel_scope.cancel()
        assert counters(one) == {"accept": 3}
        assert caplog.text.count("Too many open files") == 1


async def test_connections_that_come_and_go_leave_nothing() -> None:
    async with node(1, PATIENT) as one:
        before = len(anyio.get_running_tasks())
        for _ in range(300):
            async with raw(one):
                pass
        await eventually(lambda: not cast("TcpTransport", one.transport)._server._open)
        await eventually(lambda: len(anyio.get_running_tasks()) == before)
        await works(one)
