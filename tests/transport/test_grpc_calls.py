"""The grpc transport against callers that do not behave, and against who is no peer at all."""

from __future__ import annotations

import base64
import functools
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, TypeAlias, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import grpc
import pytest
import riteraft_transport_grpc._wire as wire
from anyio.abc import SocketStream
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from riteraft_core._plugins import TRANSPORT, Plugins, require_backend
from riteraft_core.errors import PeerUnreachable, PluginError
from riteraft_core.security import Security
from riteraft_core.testing.transport_suite import (
    PATIENCE,
    OpenTransport,
    PatienceSuite,
    Peer,
    identity_of,
    open_peer,
)
from riteraft_core.types import Hello, Identity, RefusalCode
from riteraft_transport_grpc._transport import GrpcTransport

from riteraft_core import Config, open_node
from riteraft_transport_grpc import GrpcOptions, open_grpc
from riteraft_transport_grpc import transport_pb2 as pb
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

NEVER = 3600.0
"""For the limits that a test is not about: if one of them were what ends a wait, the test would fail."""

OPEN = Security("suite")

PATIENT = GrpcOptions(handshake_timeout=NEVER, frame_timeout=NEVER, idle_timeout=NEVER)

PEER = Hello.of(identity_of(2), 1)
JOINER = Hello.of(None, 0)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Raw:
    """A client that sends whatever it likes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def call(self, method: str, hello: Hello | None) -> Call:
        metadata = () if hello is None else wire.encode_hello(hello)
        return self.channel.stream_stream(method)(metadata=metadata)

    async def admitted(self, method: str, hello: Hello = PEER) -> Call:
        call = self.call(method, hello)
        with anyio.fail_after(PATIENCE):
            raw = await call.read()
        assert isinstance(raw, bytes)
        assert wire.decode_progress(raw, hello.group).step == pb.Progress.ADMITTED
        return call


async def ended(call: Any) -> tuple[grpc.StatusCode, str]:
    """Wait for a call's end; return how it ended."""
    with anyio.fail_after(PATIENCE):
        return await call.code(), await call.details()


async def next_of(call: Call) -> pb.Progress:
    with anyio.fail_after(PATIENCE):
        raw = await call.read()
    assert isinstance(raw, bytes)
    return wire.decode_progress(raw, 7)


def node(
    node_id: int,
    options: GrpcOptions,
    address: str | None = "127.0.0.1:0",
    security: Security = OPEN,
    identity: Identity | None = None,
) -> AbstractAsyncContextManager[Peer]:
    """Open one transport; node 0 is a joiner."""
    open_transport = functools.partial(open_grpc, options)
    return open_peer(open_transport, node_id, security, address=address, identity=identity)


@asynccontextmanager
async def raw(peer: Peer, **arguments: int) -> AsyncIterator[Raw]:
    options = [("grpc.use_local_subchannel_pool", 1), *[(f"grpc.{name}", value) for name, value in arguments.items()]]
    async with grpc.aio.insecure_channel(peer.address, options=options) as channel:
        yield Raw(channel)


def transport_of(peer: Peer) -> GrpcTransport:
    return cast("GrpcTransport", peer.transport)


def counters(peer: Peer) -> dict[str, int]:
    return dict(transport_of(peer).counters)


async def works(peer: Peer) -> None:
    """An honest peer is served."""
    async with node(2, GrpcOptions()) as honest:
        honest.transport.set_peers({peer.node_id: peer.address})
        await honest.send_until(peer.node_id, b"honest", peer)
        assert await honest.transport.request(peer.address, b"abc") == b"cba"


# --- on another event loop -------------------------------------------------------------------------------------------


class NoStore:
    def apply(self, command: bytes) -> bytes:
        return b""

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_it_is_refused_by_name_with_the_cure() -> None:
    provider = Plugins.load().get(TRANSPORT, "grpc")
    with pytest.raises(PluginError, match=r"grpc runs on asyncio only.*backend='asyncio'"):
        require_backend(TRANSPORT, provider)
    config = Config(cluster="c", address="127.0.0.1:0", bootstrap=True, transport="grpc", storage="memory")
    with pytest.raises(PluginError, match="grpc runs on asyncio only"):
        async with open_node(config, NoStore()):
            pass


# --- who is let in ---------------------------------------------------------------------------------------------------


async def test_a_call_without_a_hello_is_refused_and_counted() -> None:
    async with node(1, PATIENT) as one, raw(one) as stranger:
        for method in (wire.MESSAGES, wire.REQUEST, wire.ASK, wire.SNAPSHOT):
            code, _ = await ended(stranger.call(method, None))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert counters(one) == {"frame": 4}
        assert one.handler.hellos == []
        await works(one)


async def test_what_speaks_no_grpc_is_closed() -> None:
    async with node(1, PATIENT) as one:
        host, _, port = one.address.rpartition(":")
        for data in (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", bytes(1000)):
            async with await anyio.connect_tcp(host, int(port)) as stream:
                await stream.send(data)
                await closed(stream)
        await works(one)


async def test_a_connection_that_says_nothing_is_closed_in_time() -> None:
    async with node(1, PATIENT.model_copy(update={"handshake_timeout": 0.2})) as one:
        host, _, port = one.address.rpartition(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            await closed(stream)


async def test_another_version_is_told_so() -> None:
    async with node(1, PATIENT) as one, raw(one) as stranger:
        later = pb.Hello(protocol=9, node_id=2).SerializeToString()
        call: Call = stranger.channel.stream_stream(wire.MESSAGES)(metadata=((wire.HELLO_KEY, later),))
        assert (await ended(call))[0] is grpc.StatusCode.PERMISSION_DENIED
        refusal = wire.decode_refusal(await call.trailing_metadata())
        assert refusal is not None
        assert refusal.code is RefusalCode.VERSION
        assert "9" in refusal.text
        assert counters(one) == {"refused version": 1}


@pytest.mark.parametrize("method", [wire.MESSAGES, wire.SNAPSHOT])
async def test_without_an_identity_one_may_only_request(method: str) -> None:
    async with node(1, PATIENT) as one, raw(one) as stranger:
        call = stranger.call(method, JOINER)
        assert (await ended(call))[0] is grpc.StatusCode.PERMISSION_DENIED
        assert one.handler.hellos == []


async def test_the_oldest_of_too_many_joiners_goes() -> None:
    async with node(1, PATIENT.model_copy(update={"max_unauthenticated": 3})) as one, AsyncExitStack() as stack:
        calls = []
        for number in range(4):
            flood = await stack.enter_async_context(raw(one))
            calls.append([flood.call(wire.REQUEST, JOINER) for _ in range(2)])
            await one.handler.until(lambda number=number: len(one.handler.hellos) == 2 * number + 2)  # type: ignore[misc]
        for call in calls[0]:
            code, details = await ended(call)
            assert (code, "identity" in details) == (grpc.StatusCode.ABORTED, True)
        assert counters(one) == {"crowd": 1}
        await calls[3][1].write(wire.encode_payload(0, b"abc"))
        with anyio.fail_after(PATIENCE):
            answer = await calls[3][1].read()
        assert isinstance(answer, bytes)
        assert wire.decode_payload(answer, 0) == b"cba"


# --- once let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        wire.encode_batch(8, [b"another group"]),
        b"\xff\xff\xff\xff",
        wire.encode_chunk(7, b"a chunk"),
        wire.encode_batch(7, [b"flipped"]).replace(b"flipped", b"flopped"),
    ],
    ids=["other group", "malformed", "other message", "checksum"],
)
async def test_what_a_peer_must_not_send_ends_its_call(message: bytes) -> None:
    async with node(1, PATIENT) as one, raw(one) as peer:
        call = await peer.admitted(wire.MESSAGES)
        await call.write(wire.encode_batch(7, [b"good"]))
        await one.handler.until(lambda: one.handler.received)
        await call.write(message)
        assert (await ended(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert one.handler.received == [(2, b"good")]
        assert counters(one) == {"frame": 1}
        await works(one)


async def test_a_message_over_the_limit_is_not_received() -> None:
    async with node(1, PATIENT.model_copy(update={"max_frame": 4096})) as one, raw(one) as peer:
        call = await peer.admitted(wire.MESSAGES)
        await call.write(wire.encode_batch(7, [bytes(5000)]))
        code, details = await ended(call)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "4096" in details
        assert one.handler.received == []


async def test_a_compressed_message_is_not_opened(caplog: pytest.LogCaptureFixture) -> None:
    # Small bytes that would become 64 MiB.
    async with node(1, PATIENT) as one:
        options = [("grpc.default_compression_algorithm", 2), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(one.address, options=options) as channel:
            ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(wire.REQUEST)
            with pytest.raises(grpc.aio.AioRpcError, match="disabled") as caught:
                await ask(wire.encode_payload(7, bytes(64 * 1024 * 1024)), metadata=wire.encode_hello(PEER))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert one.handler.requests == []
        assert "ERROR" not in {record.levelname for record in caplog.records}
        await works(one)


async def test_a_joiners_requests_have_a_smaller_limit() -> None:
    async with node(1, PATIENT.model_copy(update={"max_stranger_frame": 4096})) as one, raw(one) as joiner:
        call = joiner.call(wire.REQUEST, JOINER)
        await call.write(wire.encode_payload(0, bytes(4096)))
        assert (await ended(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert one.handler.requests == []
        assert counters(one) == {"frame": 1}


async def test_a_request_must_be_whole_in_time() -> None:
    async with node(1, PATIENT.model_copy(update={"frame_timeout": 0.1})) as one, raw(one) as peer:
        assert (await ended(peer.call(wire.REQUEST, PEER)))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert one.handler.requests == []


async def test_past_the_limit_of_requests_of_a_peer_they_are_refused() -> None:
    async with node(1, PATIENT.model_copy(update={"max_requests": 2})) as one, raw(one) as peer:
        one.handler.request_gate = anyio.Event()
        first, second = (peer.call(wire.REQUEST, PEER) for _ in range(2))
        for call in (first, second):
            await call.write(wire.encode_payload(7, b"abc"))
        await one.handler.until(lambda: len(one.handler.requests) == 2)
        assert (await ended(peer.call(wire.REQUEST, PEER)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        one.handler.request_gate.set()
        assert await first.read() == await second.read()


async def test_requests_are_read_as_their_bytes_allow_and_each_is_answered() -> None:
    # Room for one at a time, so the others wait, in the network.
    options = PATIENT.model_copy(update={"max_request_bytes": 1 << 20})
    async with node(1, options) as one, node(2, PATIENT) as two:
        gate = one.handler.request_gate = anyio.Event()
        answers: list[bytes] = []

        async def ask(number: int) -> None:
            answers.append(await two.transport.request(one.address, bytes((number,)) * (600 * 1024)))

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(ask, number)
            await one.handler.until(lambda: one.handler.requests)
            await anyio.sleep(0.2)  # nothing can be waited for: no more must come
            assert len(one.handler.requests) == 1
            gate.set()
        assert sorted(answer[0] for answer in answers) == list(range(8))
        assert transport_of(one)._server._desks == {}


def http2(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def http2_request(stream: int, payload: bytes) -> bytes:
    """Return a whole request of node 2, as a client without gRPC would send it."""
    ((key, hello),) = wire.encode_hello(PEER)
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": wire.REQUEST,
        ":authority": "node",
        "te": "trailers",
        "content-type": "application/grpc",
        key: base64.b64encode(hello).decode(),
    }
    block = b"".join(
        b"\0" + b"".join(bytes((len(text),)) + text.encode() for text in header) for header in headers.items()
    )
    message = wire.encode_payload(7, payload)
    data = b"\0" + len(message).to_bytes(4, "big") + message
    return http2(1, 4, stream, block) + http2(0, 1, stream, data)


async def test_who_never_reads_its_answers_holds_up_itself_alone() -> None:
    # It never widens the window of HTTP/2. Nothing ends such calls; but they keep their room, so that there is none for
    # more from the same sender.
    options = PATIENT.model_copy(update={"frame_timeout": 0.2, "max_request_bytes": 32 * 1024 * 1024})
    async with node(1, options) as one, node(3, PATIENT) as three:
        one.handler.on_request = lambda payload: bytes(10 * 1024 * 1024) if payload == b"more" else payload
        host, _, port = one.address.rpartition(":")
        async with await anyio.connect_tcp(host, int(port)) as greedy:
            await greedy.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2(4, 0, 0, b""))
            await greedy.send(b"".join(http2_request(2 * number + 1, b"more") for number in range(16)))
            await one.handler.until(lambda: len(one.handler.requests) >= 2)
            assert await three.transport.request(one.address, b"abc") == b"abc"
            await anyio.sleep(1.0)  # nothing can be waited for: no more must be read
            assert one.handler.requests.count((2, b"more")) <= 3
        await eventually(lambda: not transport_of(one)._server._desks)


@pytest.mark.parametrize("method", [wire.MESSAGES, wire.SNAPSHOT])
async def test_a_silent_stream_is_ended(method: str) -> None:
    async with node(1, PATIENT.model_copy(update={"idle_timeout": 0.2})) as one, raw(one) as peer:
        call = await peer.admitted(method)
        assert (await ended(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


class TestGrpcsPatience(PatienceSuite):
    @pytest.fixture
    def anyio_backend(self) -> object:
        return "asyncio"

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return functools.partial(open_grpc, PATIENT.model_copy(update={"idle_timeout": 0.2}))

    async def silence(self, peer: Peer) -> None:
        async with raw(peer) as silent:
            call = await silent.admitted(wire.MESSAGES, Hello.of(identity_of(3), peer.node_id))
            assert (await ended(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_idle_sender_ends_by_itself_and_comes_back() -> None:
    # Without that the receiver would: then the next message would be lost in a call just ended.
    async with node(1, PATIENT.model_copy(update={"idle_timeout": 0.1})) as one, node(2, PATIENT) as two:
        one.transport.set_peers({2: two.address})
        for number in range(3):
            one.transport.send(2, [b"%d" % number])
            await two.handler.until(lambda number=number: len(two.handler.received) > number)  # type: ignore[misc]
            await eventually(lambda: not transport_of(two)._server._desks)
        assert len(two.handler.hellos) == 3
        assert one.handler.unreached == []


async def test_an_idle_connection_for_requests_is_closed_and_made_again() -> None:
    async with node(1, PATIENT) as one, node(2, PATIENT.model_copy(update={"idle_timeout": 0.1})) as two:
        for _ in range(2):
            assert await two.transport.request(one.address, b"abc") == b"cba"
            await eventually(lambda: not transport_of(two)._lines)


async def test_a_newer_stream_of_a_peer_replaces_the_older() -> None:
    async with node(1, PATIENT) as one, raw(one) as peer:
        old = await peer.admitted(wire.MESSAGES)
        new = await peer.admitted(wire.MESSAGES)
        assert "newer" in (await ended(old))[1]
        await new.write(wire.encode_batch(7, [b"new"]))
        await one.handler.until(lambda: one.handler.received)


async def test_of_streams_of_a_peer_that_come_at_once_one_stays_and_every_other_is_told() -> None:
    # gRPC can end no call while a write of it is under way: here, of the welcome to those that are replaced at once.
    told: list[str] = []

    async def hear(call: Call) -> None:
        with suppress(grpc.RpcError):
            while await call.read() is not grpc.aio.EOF:
                pass  # its welcome, without which it gets no end
        told.append((await ended(call))[1])

    async with node(1, PATIENT) as one, raw(one) as peer, anyio.create_task_group() as hearing:
        for _ in range(100):
            hearing.start_soon(hear, peer.call(wire.MESSAGES, PEER))
        await eventually(lambda: len(told) == 99)
        assert all("newer" in text for text in told)
        hearing.cancel_scope.cancel()


async def test_calls_that_come_and_go_leave_nothing() -> None:
    async with node(1, PATIENT) as one:
        before = len(anyio.get_running_tasks())
        async with raw(one) as peer:
            for _ in range(100):
                call = await peer.admitted(wire.MESSAGES)
                call.cancel()
        await eventually(lambda: not transport_of(one)._server._desks)
        await eventually(lambda: len(anyio.get_running_tasks()) == before)
        await works(one)


# --- snapshots -------------------------------------------------------------------------------------------------------

CHUNK = wire.encode_chunk(7, b"chunk")
SHA256 = hashlib.sha256(b"chunk").digest()


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([CHUNK, wire.encode_end(7, 6, SHA256)], "SHA-256"),
        ([CHUNK, wire.encode_end(7, 5, bytes(32))], "SHA-256"),
        ([CHUNK, CHUNK, wire.encode_end(7, 5, SHA256)], "SHA-256"),
        ([wire.encode_end(7, 5, SHA256)], "SHA-256"),
        ([CHUNK, wire.encode_header(7, b"again")], "neither"),
        ([CHUNK, CHUNK.replace(b"chunk", b"chonk")], "checksum"),
        ([CHUNK, wire.encode_chunk(8, b"chunk")], "group 8"),
    ],
    ids=["size", "hash", "chunk twice", "chunk missing", "other part", "flipped", "other group"],
)
async def test_a_snapshot_that_is_not_what_was_sent_is_not_taken(parts: list[bytes], why: str) -> None:
    async with node(1, PATIENT) as one, raw(one) as peer:
        call = await peer.admitted(wire.SNAPSHOT)
        for part in (wire.encode_header(7, b"header"), *parts):
            await call.write(part)
        answer = await next_of(call)
        assert answer.step == pb.Progress.NOT_TAKEN
        assert why in answer.text
        assert isinstance(one.handler.broken_snapshots[0], PeerUnreachable)
        assert one.handler.snapshots == []
        assert counters(one) == {"frame": 1}


async def test_a_snapshot_cut_short_is_not_taken() -> None:
    async with node(1, PATIENT) as one:
        async with raw(one) as peer:
            call = await peer.admitted(wire.SNAPSHOT)
            await call.write(wire.encode_header(7, b"header"))
            await call.write(CHUNK)
            call.cancel()
        await one.handler.until(lambda: one.handler.broken_snapshots)
        assert isinstance(one.handler.broken_snapshots[0], PeerUnreachable)
        assert one.handler.snapshots == []


async def test_a_newer_snapshot_of_a_peer_breaks_the_older_off() -> None:
    async with node(1, PATIENT) as one, raw(one) as peer:
        old = await peer.admitted(wire.SNAPSHOT)
        await old.write(wire.encode_header(7, b"header"))
        await old.write(CHUNK)
        new = await peer.admitted(wire.SNAPSHOT)
        await one.handler.until(lambda: one.handler.broken_snapshots)
        for part in (wire.encode_header(7, b"header"), CHUNK, wire.encode_end(7, 5, SHA256)):
            await new.write(part)
        assert (await next_of(new)).step == pb.Progress.TAKEN
        assert one.handler.snapshots == [(2, b"header", b"chunk")]


# --- dialling --------------------------------------------------------------------------------------------------------


@contextmanager
def listening() -> Iterator[str]:
    """Have somebody accept and say nothing: the kernel does so for a process that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"127.0.0.1:{silent.getsockname()[1]}"


async def test_a_peer_that_accepts_and_says_nothing_is_unreachable() -> None:
    with listening() as address:
        async with node(1, PATIENT.model_copy(update={"connect_timeout": 0.2})) as one:
            one.transport.set_peers({2: address})
            one.transport.send(2, [b"lost"])
            await one.handler.until(lambda: one.handler.unreached == [2])
            with pytest.raises(PeerUnreachable, match="no connection"):
                await one.transport.request(address, b"question")


async def test_a_time_limit_while_connecting_ends_one_attempt_only() -> None:
    # As above, but our own limit comes before that of gRPC: its CancelledError must not end the outbox.
    with listening() as address:
        async with node(1, PATIENT) as one:
            dialler = transport_of(one)._dialler
            for _ in range(2):
                limited = True
                with anyio.move_on_after(0.1) as limit:
                    async with dialler.dial(address, PEER, wire.MESSAGES):
                        limited = False
                assert limit.cancelled_caught
                assert limited


async def test_a_peer_that_stands_still_is_noticed_by_its_pings() -> None:
    # It agreed on HTTP/2 once; then its process was stopped, and its kernel takes whatever is sent.
    options = PATIENT.model_copy(update={"keepalive_interval": 1.0, "unacknowledged_timeout": 0.3})
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, node(1, options) as one:

        async def agree_and_stop(stream: SocketStream) -> None:
            async with stream:
                await stream.send(bytes.fromhex("000000040000000000"))  # empty SETTINGS
                await closed(stream)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, agree_and_stop)
            address = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610
            with anyio.fail_after(PATIENCE), pytest.raises(PeerUnreachable, match="no connection"):
                await one.transport.request(address, b"question")
            tasks.cancel_scope.cancel()


async def test_a_grpc_server_without_our_service_is_unreachable() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with node(1, PATIENT) as one:
            one.transport.set_peers({2: f"127.0.0.1:{port}"})
            one.transport.send(2, [b"lost"])
            await one.handler.until(lambda: one.handler.unreached == [2])
            with pytest.raises(PeerUnreachable, match="UNIMPLEMENTED"):
                await one.transport.request(f"127.0.0.1:{port}", b"question")
    finally:
        await server.stop(None)


async def test_the_longest_message_goes_through_and_one_byte_more_is_dropped() -> None:
    options = PATIENT.model_copy(update={"max_frame": 4096})
    async with node(1, options) as one, node(2, options) as two:
        one.transport.set_peers({2: two.address})
        await one.send_until(2, bytes(4096 - wire.OVERHEAD - wire.MESSAGE_OVERHEAD), two)
        one.handler.unreached.clear()
        one.transport.send(2, [bytes(4096 - wire.OVERHEAD - wire.MESSAGE_OVERHEAD + 1)])
        await one.handler.until(lambda: one.handler.unreached == [2])


async def test_a_proxy_in_the_environment_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as proxy:
        for name in ("http_proxy", "https_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        async with node(1, PATIENT) as one:
            await works(one)


# --- who looks after a node ------------------------------------------------------------------------------------------


async def test_health_is_not_serving_until_the_node_is_a_member() -> None:
    async with node(0, PATIENT) as joiner, raw(joiner) as probe:
        stub = health_pb2_grpc.HealthStub(probe.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=wire.SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        joiner.transport.identify(identity_of(5))
        assert (await watch.read()).status == SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="another"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch.cancel()


async def test_health_is_serving_on_a_node_that_comes_back() -> None:
    async with node(1, PATIENT) as one, raw(one) as probe:
        stub = health_pb2_grpc.HealthStub(probe.channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=wire.SERVICE))).status == SERVING


async def test_past_the_limit_of_watches_new_ones_are_refused() -> None:
    async with node(1, PATIENT.model_copy(update={"max_unauthenticated": 2})) as one, raw(one) as probe:
        stub = health_pb2_grpc.HealthStub(probe.channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        assert (await ended(stub.Watch(health_pb2.HealthCheckRequest())))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert counters(one) == {"probes": 1}
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
        for watch in watches:
            watch.cancel()


async def test_reflection_tells_the_services_and_their_messages() -> None:
    def look(address: str) -> tuple[set[str], list[str]]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            service = DescriptorPool(database).FindServiceByName(wire.SERVICE)
            return set(database.get_services()), [method.name for method in service.methods]

    async with node(1, PATIENT) as one:
        services, methods = await anyio.to_thread.run_sync(look, one.address)
        assert services == {
            wire.SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        assert methods == ["Messages", "Request", "Ask", "Snapshot"]


async def closed(stream: SocketStream) -> None:
    """Wait until the other side has closed."""
    with anyio.fail_after(PATIENCE):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
