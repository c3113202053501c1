"""The promises of a `Transport`, a test each.

A plugin's whole test is a subclass with one fixture:

    class TestPigeon(TransportSuite):
        @pytest.fixture
        def open_transport(self) -> OpenTransport:
            return functools.partial(open_pigeon, PigeonOptions())

One that ends silent connections passes `PatienceSuite` too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketAttribute, SocketStream

from ..errors import ConfigError, PeerUnreachable
from ..protocols import Transport, TransportContext
from ..security import NOBODY, Security
from ..types import Hello, Identity, Principal, PrincipalRole, Refusal, RefusalCode

__all__ = ["OpenTransport", "PatienceSuite", "RecordingHandler", "TransportSuite", "identity_of"]

OpenTransport: TypeAlias = Callable[[TransportContext], AbstractAsyncContextManager[Transport]]
"""The plugin's `open` with its options filled in."""

CLUSTER_ID = bytes(range(16))
PATIENCE = 20.0
"""Seconds until a test that waits has failed; none that passes comes near."""

MIB = 1024 * 1024
LOGGER = logging.getLogger("riteraft.suite")


def identity_of(node_id: int, *, cluster_id: bytes = CLUSTER_ID, group: int = 7) -> Identity:
    """Return the identity of a node of the suite's cluster."""
    return Identity("suite", cluster_id, group, node_id, hashlib.sha256(b"%d" % node_id).digest()[:16])


def said(hello: Hello) -> Hello:
    """Return what the sender itself said, without whom its certificate names."""
    return dataclasses.replace(hello, principal=None)


class RecordingHandler:
    """A handler that writes down what it was given; tests replace single methods' behaviour by its fields."""

    def __init__(self) -> None:
        """Let everyone in, answer each request with its payload reversed, take each snapshot."""
        self.hellos: list[Hello] = []
        self.received: list[tuple[int, bytes]] = []
        self.batches: list[tuple[int, list[bytes]]] = []
        self.requests: list[tuple[int | None, bytes]] = []
        self.principals: list[Principal | None] = []
        self.snapshots: list[tuple[int, bytes, bytes]] = []
        self.broken_snapshots: list[Exception] = []
        self.unreached: list[int] = []
        self.refusals: list[tuple[int, Refusal]] = []
        self.refusal: Refusal | None = None
        self.on_request: Callable[[bytes], bytes] = lambda payload: payload[::-1]
        self.request_gate: anyio.Event | None = None
        self.snapshot_gate: anyio.Event | None = None
        self.snapshot_error: Exception | None = None
        self._changed = anyio.Event()

    def admit(self, hello: Hello) -> Refusal | None:
        """Note who knocks; answer as `refusal` says."""
        self.hellos.append(hello)
        self._change()
        return self.refusal

    def messages(self, peer: int, messages: Sequence[bytes]) -> None:
        """Note them."""
        self.batches.append((peer, list(messages)))
        self.received.extend((peer, message) for message in messages)
        self._change()

    async def request(self, peer: int | None, payload: bytes, principal: Principal | None = None) -> bytes:
        """Note it, wait for the gate if there is one, and answer."""
        self.requests.append((peer, payload))
        self.principals.append(principal)
        self._change()
        if self.request_gate is not None:
            await self.request_gate.wait()
        return self.on_request(payload)

    async def snapshot(self, peer: int, header: bytes, chunks: AsyncIterator[bytes]) -> None:
        """Read it, slowly if there is a gate, and note it or how it broke."""
        if self.snapshot_error is not None:
            raise self.snapshot_error
        data = bytearray()
        try:
            async for chunk in chunks:
                data += chunk
                if self.snapshot_gate is not None:
                    await self.snapshot_gate.wait()
        except Exception as exc:
            self.broken_snapshots.append(exc)
            self._change()
            raise
        self.snapshots.append((peer, header, bytes(data)))
        self._change()

    def unreachable(self, peer: int) -> None:
        """Note it."""
        self.unreached.append(peer)
        self._change()

    def refused(self, peer: int, refusal: Refusal) -> None:
        """Note it."""
        self.refusals.append((peer, refusal))
        self._change()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; it is looked at after each call of the transport."""
        with anyio.fail_after(PATIENCE):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()


@dataclass
class Peer:
    """A transport under test with its handler."""

    transport: Transport
    handler: RecordingHandler
    node_id: int

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.transport.address

    async def send_until(self, peer: int, message: bytes, other: Peer) -> None:
        """Send `message` again and again until `other` has it: what a connection being made loses, raft sends again."""
        with anyio.fail_after(PATIENCE):
            while (self.node_id, message) not in other.handler.received:
                self.transport.send(peer, [message])
                with anyio.move_on_after(0.02):
                    await other.handler.until(lambda: (self.node_id, message) in other.handler.received)


@asynccontextmanager
async def open_peer(
    open_transport: OpenTransport,
    node_id: int,
    security: Security = NOBODY,
    *,
    address: str | None = "127.0.0.1:0",
    identity: Identity | None = None,
) -> AsyncIterator[Peer]:
    """Open one transport that listens at `address`; node 0 is a joiner without an identity."""
    handler = RecordingHandler()
    identity = identity or (identity_of(node_id) if node_id else None)
    with anyio.fail_after(3 * PATIENCE):
        async with open_transport(TransportContext(identity, address, handler, LOGGER, security)) as transport:
            yield Peer(transport, handler, node_id)


@pytest.mark.anyio
class OpensTransports:
    """What every suite about transports begins with."""

    listen: ClassVar[str] = "127.0.0.1:0"
    """Where the transports of a test listen."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        """Run each test on both event loops."""
        return request.param

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        """Return the plugin's `open` with its options filled in."""
        raise NotImplementedError(f"{type(self).__name__} gives no fixture `open_transport`")

    def open_peer(
        self,
        open_transport: OpenTransport,
        node_id: int,
        *,
        address: str | None = None,
        identity: Identity | None = None,
    ) -> AbstractAsyncContextManager[Peer]:
        """Open one transport; node 0 is a joiner without an identity, and listens nowhere with an empty address."""
        where = self.listen if address is None else address or None
        return open_peer(open_transport, node_id, address=where, identity=identity)

    @asynccontextmanager
    async def open_pair(self, open_transport: OpenTransport) -> AsyncIterator[tuple[Peer, Peer]]:
        """Open nodes 1 and 2, each with the other as its peer."""
        async with self.open_peer(open_transport, 1) as one, self.open_peer(open_transport, 2) as two:
            one.transport.set_peers({2: two.address})
            two.transport.set_peers({1: one.address})
            yield one, two


class TransportSuite(OpensTransports):
    """Subclass it and give the fixture `open_transport`."""

    large_payload: ClassVar[int] = 8 * MIB
    """The size of a request, an answer and a message that must go through."""
    too_large: ClassVar[int | None] = None
    """The size of a request and a message that its sender does not even try to send; None: there is no such size."""

    async def dead_address(self, open_transport: OpenTransport) -> str:
        """Return an address where nobody listens any more."""
        async with self.open_peer(open_transport, 99) as gone:
            return gone.address

    # --- messages ----------------------------------------------------------------------------------------------------

    async def test_the_address_has_the_real_port(self, open_transport: OpenTransport) -> None:
        """Port 0 in the config becomes a port that a peer can dial."""
        async with self.open_peer(open_transport, 1) as one:
            host, _, port = one.address.rpartition(":")
            assert host == self.listen.rpartition(":")[0]
            assert int(port) > 0

    async def test_a_taken_address_is_refused_by_name(self, open_transport: OpenTransport) -> None:
        """The error says which address, so that its reader knows which config to change."""
        async with self.open_peer(open_transport, 1) as one:
            with pytest.raises(ConfigError) as caught:
                async with self.open_peer(open_transport, 2, address=one.address):
                    pass
            assert one.address in str(caught.value)
            assert "another port" in str(caught.value)

    @pytest.mark.parametrize("address", ["127.0.0.1", "::1:7001", "127.0.0.1:port", ":7001"])
    async def test_a_malformed_address_is_refused_by_name(self, open_transport: OpenTransport, address: str) -> None:
        """Before anything is opened."""
        with pytest.raises(ConfigError) as caught:
            async with self.open_peer(open_transport, 1, address=address):
                pass
        assert address in str(caught.value)

    async def test_messages_arrive_in_the_order_sent(self, open_transport: OpenTransport) -> None:
        """One by one and in batches, empty ones among them; each with the sender's id."""
        async with self.open_pair(open_transport) as (one, two):
            sent = [b"%d" % number * (number % 5) for number in range(3000)]
            for start in range(1500):
                one.transport.send(2, [sent[start]])
            for start in range(1500, 3000, 100):
                one.transport.send(2, sent[start : start + 100])
                await anyio.lowlevel.checkpoint()
            await two.handler.until(lambda: len(two.handler.received) >= 3000)
            assert two.handler.received == [(1, message) for message in sent]

    async def test_messages_go_both_ways(self, open_transport: OpenTransport) -> None:
        """Each side dials the other; a connection carries one direction."""
        async with self.open_pair(open_transport) as (one, two):
            one.transport.send(2, [b"ping"])
            two.transport.send(1, [b"pong"])
            await two.handler.until(lambda: two.handler.received)
            await one.handler.until(lambda: one.handler.received)
            assert (two.handler.received, one.handler.received) == ([(1, b"ping")], [(2, b"pong")])

    async def test_what_gathered_arrives_in_batches(self, open_transport: OpenTransport) -> None:
        """A thousand messages queued at once are not a thousand calls of the handler."""
        async with self.open_pair(open_transport) as (one, two):
            for number in range(1000):
                one.transport.send(2, [b"%d" % number])
            await two.handler.until(lambda: len(two.handler.received) >= 1000)
            assert len(two.handler.batches) < 100

    async def test_a_large_message_goes_through(self, open_transport: OpenTransport) -> None:
        """Up to `large_payload`, among small ones."""
        async with self.open_pair(open_transport) as (one, two):
            large = bytes(self.large_payload)
            one.transport.send(2, [b"before", large, b"after"])
            await two.handler.until(lambda: len(two.handler.received) >= 3)
            assert [message for _, message in two.handler.received] == [b"before", large, b"after"]

    async def test_the_hello_says_who_and_whom(self, open_transport: OpenTransport) -> None:
        """The handler is asked once for a connection, before it gets anything, with the sender's whole identity."""
        async with self.open_pair(open_transport) as (one, two):
            await one.send_until(2, b"first", two)
            await one.send_until(2, b"second", two)
            identity = identity_of(1)
            (hello,) = two.handler.hellos
            assert said(hello) == Hello(identity.cluster_id, identity.group, 1, identity.disk_id, to=2)

    async def test_a_certificates_name_is_told_with_the_hello_and_with_each_request(
        self, open_transport: OpenTransport
    ) -> None:
        """The same name both times; in modes without certificates there is none."""
        async with self.open_pair(open_transport) as (one, two):
            await one.transport.request(two.address, b"abc")
            (hello,) = two.handler.hellos
            assert two.handler.principals == [hello.principal]
            assert hello.principal in (None, Principal(PrincipalRole.NODE, "suite", "n1"))

    async def test_a_message_over_the_limit_is_dropped_and_told(self, open_transport: OpenTransport) -> None:
        """By its sender, which then goes on with the next; what is `too_large` has no other way to end."""
        if self.too_large is not None:
            async with self.open_pair(open_transport) as (one, two):
                one.transport.send(2, [bytes(self.too_large)])
                await one.handler.until(lambda: one.handler.unreached == [2])
                await one.send_until(2, b"afterwards", two)
                assert {message for _, message in two.handler.received} == {b"afterwards"}

    async def test_an_error_of_the_handler_ends_one_connection_only(
        self, open_transport: OpenTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It stands in the log, and the next connection is served."""
        caplog.set_level(logging.DEBUG)
        async with self.open_pair(open_transport) as (one, two):
            take = two.handler.messages

            def fail(peer: int, messages: Sequence[bytes]) -> None:
                two.handler.messages = take  # type: ignore[method-assign]
                raise RuntimeError("a bug of ours")

            two.handler.messages = fail  # type: ignore[method-assign]
            await one.send_until(2, b"poison", two)
            await two.send_until(1, b"the other way", one)
            assert await one.transport.request(two.address, b"abc") == b"cba"
            assert "a bug of ours" in caplog.text

    async def test_a_day_without_trouble_leaves_no_line_in_the_log(
        self, open_transport: OpenTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        """At INFO and above, where somebody reads it."""
        caplog.set_level(logging.INFO)
        async with self.open_pair(open_transport) as (one, two):
            await one.send_until(2, b"there", two)
            assert await one.transport.request(two.address, b"abc") == b"cba"
            await one.transport.send_snapshot(2, b"header", Chunks(b"chunk"))
        assert [record.getMessage() for record in caplog.records if record.name == LOGGER.name] == []

    # --- peers that are not there ------------------------------------------------------------------------------------

    async def test_a_send_never_calls_back(self, open_transport: OpenTransport) -> None:
        """`unreachable` comes later: the sender may be in the middle of something."""
        async with self.open_peer(open_transport, 1) as one:
            one.transport.send(9, [b"lost"])
            assert one.handler.unreached == []
            await one.handler.until(lambda: one.handler.unreached)

    async def test_an_unknown_peer_is_unreachable(self, open_transport: OpenTransport) -> None:
        """One that `set_peers` never named; told once for a run of drops, for a snapshot at once."""
        async with self.open_peer(open_transport, 1) as one:
            for _ in range(10):
                one.transport.send(9, [b"lost"])
            await one.handler.until(lambda: one.handler.unreached)
            assert one.handler.unreached == [9]
            with pytest.raises(PeerUnreachable):
                await one.transport.send_snapshot(9, b"header", Chunks(b"chunk"))

    async def test_a_dead_peer_is_unreachable(self, open_transport: OpenTransport) -> None:
        """Nobody listens there: messages, requests and snapshots all say so."""
        address = await self.dead_address(open_transport)
        async with self.open_peer(open_transport, 1) as one:
            one.transport.set_peers({2: address})
            one.transport.send(2, [b"lost"])
            await one.handler.until(lambda: 2 in one.handler.unreached)
            with pytest.raises(PeerUnreachable):
                await one.transport.request(address, b"question")
            with pytest.raises(PeerUnreachable):
                await one.transport.send_snapshot(2, b"header", Chunks(b"chunk"))

    async def test_a_peer_at_a_malformed_address_is_unreachable(self, open_transport: OpenTransport) -> None:
        """An address comes from other nodes, too: it is no reason to end."""
        async with self.open_peer(open_transport, 1) as one:
            one.transport.set_peers({2: "localhost"})
            one.transport.send(2, [b"lost"])
            await one.handler.until(lambda: one.handler.unreached == [2])
            with pytest.raises(PeerUnreachable, match="localhost: "):
                await one.transport.request("localhost", b"question")

    async def test_a_server_of_another_kind_is_unreachable(self, open_transport: OpenTransport) -> None:
        """Somebody listens at the address, and speaks another protocol."""

        async def serve_web(stream: SocketStream) -> None:
            async with stream:
                await stream.receive()
                await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks, self.open_peer(open_transport, 1) as one:
            tasks.start_soon(listener.serve, serve_web)
            address = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - not Django's
            with pytest.raises(PeerUnreachable):
                await one.transport.request(address, b"question")
            one.transport.set_peers({2: address})
            one.transport.send(2, [b"lost"])
            await one.handler.until(lambda: 2 in one.handler.unreached)
            assert one.handler.refusals == []
            tasks.cancel_scope.cancel()

    async def test_a_dead_peer_costs_its_own_queue_only(self, open_transport: OpenTransport) -> None:
        """A flood for a dead peer leaves the one that is alive undisturbed."""
        address = await self.dead_address(open_transport)
        async with self.open_pair(open_transport) as (one, two):
            one.transport.set_peers({2: two.address, 3: address})
            for number in range(200):
                one.transport.send(3, [bytes(MIB)])
                one.transport.send(2, [b"%d" % number])
            await two.handler.until(lambda: len(two.handler.received) >= 200)
            assert [message for _, message in two.handler.received] == [b"%d" % number for number in range(200)]
            await one.handler.until(lambda: 3 in one.handler.unreached)
            assert 2 not in one.handler.unreached

    async def test_a_full_outbox_drops_and_says_so_once(self, open_transport: OpenTransport) -> None:
        """A flood that nothing can carry away is cut off: what arrives is its beginning, in order."""
        async with self.open_pair(open_transport) as (one, two):
            filler = bytes(MIB - 4)
            for number in range(1024):
                one.transport.send(2, [number.to_bytes(4, "big") + filler])
            await one.handler.until(lambda: one.handler.unreached)
            assert one.handler.unreached == [2]
            await one.send_until(2, b"afterwards", two)
            numbers = [int.from_bytes(message[:4], "big") for _, message in two.handler.received if len(message) == MIB]
            assert numbers == list(range(len(numbers)))
            assert 0 < len(numbers) < 1024

    async def test_a_restarted_peer_is_found_again(self, open_transport: OpenTransport) -> None:
        """On the same address, without a word from anybody; the loss of its connection is told."""
        async with self.open_peer(open_transport, 1) as one:
            async with self.open_peer(open_transport, 2) as two:
                address = two.address
                one.transport.set_peers({2: address})
                await one.send_until(2, b"before", two)
            one.transport.send(2, [b"into the void"])
            await one.handler.until(lambda: 2 in one.handler.unreached)
            async with self.open_peer(open_transport, 2, address=address) as two:
                await one.send_until(2, b"after", two)
                assert (1, b"before") not in two.handler.received

    async def test_a_peer_may_move(self, open_transport: OpenTransport) -> None:
        """`set_peers` with another address: from now on everything goes there."""
        async with self.open_pair(open_transport) as (one, two), self.open_peer(open_transport, 2) as moved:
            await one.send_until(2, b"old", two)
            one.transport.set_peers({2: moved.address})
            await one.send_until(2, b"new", moved)
            assert (1, b"new") not in two.handler.received

    async def test_a_peer_that_is_gone_gets_nothing_more(self, open_transport: OpenTransport) -> None:
        """`set_peers` without it drops its outbox and its connection."""
        async with self.open_pair(open_transport) as (one, two):
            await one.send_until(2, b"member", two)
            one.transport.set_peers({})
            one.transport.send(2, [b"stranger"])
            await one.handler.until(lambda: 2 in one.handler.unreached)
            one.transport.set_peers({2: two.address})
            await one.send_until(2, b"member again", two)
            assert (1, b"stranger") not in two.handler.received

    # --- who is let in -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("code", list(RefusalCode), ids=lambda code: code.value)
    async def test_a_refusal_reaches_the_sender_with_code_and_text(
        self, open_transport: OpenTransport, code: RefusalCode
    ) -> None:
        """By messages and by a snapshot; nothing of theirs is handed in, and the messages count as dropped."""
        async with self.open_pair(open_transport) as (one, two):
            two.handler.refusal = Refusal(code, f"no, for {code.value}: says «two»")
            one.transport.send(2, [b"unwanted"])
            await one.handler.until(lambda: one.handler.refusals)
            assert one.handler.refusals == [(2, two.handler.refusal)]
            await one.handler.until(lambda: 2 in one.handler.unreached)
            with pytest.raises(PeerUnreachable, match="says «two»"):
                await one.transport.send_snapshot(2, b"header", Chunks(b"chunk"))
            assert one.handler.refusals[1:] == [(2, two.handler.refusal)]
            assert (two.handler.received, two.handler.snapshots) == ([], [])

    async def test_a_refused_request_says_why(self, open_transport: OpenTransport) -> None:
        """The text reaches the one who asked; the request does not reach the handler."""
        async with self.open_pair(open_transport) as (one, two):
            two.handler.refusal = Refusal(RefusalCode.CLUSTER, "another cluster lives here")
            with pytest.raises(PeerUnreachable, match="another cluster lives here"):
                await one.transport.request(two.address, b"question")
            assert two.handler.requests == []

    async def test_a_refusal_is_not_for_ever(self, open_transport: OpenTransport) -> None:
        """The sender goes on trying: a peer that is not ready yet will be."""
        async with self.open_pair(open_transport) as (one, two):
            two.handler.refusal = Refusal(RefusalCode.NOT_READY, "wait")
            one.transport.send(2, [b"early"])
            await one.handler.until(lambda: one.handler.refusals)
            two.handler.refusal = None
            await one.send_until(2, b"later", two)
            assert (1, b"early") not in two.handler.received

    async def test_another_cluster_is_recognised(self, open_transport: OpenTransport) -> None:
        """Cluster id and group of the sender stand in its hello, for the handler to judge."""
        stranger = dataclasses.replace(identity_of(1), cluster_id=b"another cluster!", group=8)
        async with (
            self.open_peer(open_transport, 1, identity=stranger) as one,
            self.open_peer(open_transport, 2) as two,
        ):
            two.handler.refusal = Refusal(RefusalCode.CLUSTER, "another cluster")
            one.transport.set_peers({2: two.address})
            one.transport.send(2, [b"hello"])
            await one.handler.until(lambda: one.handler.refusals)
            assert said(two.handler.hellos[0]) == Hello(b"another cluster!", 8, 1, stranger.disk_id, 2)

    async def test_a_joiner_may_only_request(self, open_transport: OpenTransport) -> None:
        """Without an identity there is no sender for messages and snapshots; a request has None for one."""
        async with self.open_peer(open_transport, 0) as joiner, self.open_peer(open_transport, 2) as two:
            assert await joiner.transport.request(two.address, b"let me in") == b"ni em tel"
            assert two.handler.requests == [(None, b"let me in")]
            assert said(two.handler.hellos[0]) == Hello(b"", 0, 0, b"", 0)
            joiner.transport.set_peers({2: two.address})
            joiner.transport.send(2, [b"lost"])
            await joiner.handler.until(lambda: joiner.handler.unreached)
            with pytest.raises(PeerUnreachable):
                await joiner.transport.send_snapshot(2, b"header", Chunks(b"chunk"))
            assert (two.handler.received, two.handler.snapshots) == ([], [])

    async def test_identify_makes_a_joiner_a_peer(self, open_transport: OpenTransport) -> None:
        """From then on its messages and requests carry its id; it listened all the time."""
        async with self.open_peer(open_transport, 0) as joiner, self.open_peer(open_transport, 2) as two:
            await joiner.transport.request(two.address, b"join")
            two.transport.set_peers({5: joiner.address})
            await two.send_until(5, b"welcome", joiner)
            joiner.transport.identify(identity_of(5))
            joiner.node_id = 5
            joiner.transport.set_peers({2: two.address})
            await joiner.send_until(2, b"thanks", two)
            await joiner.transport.request(two.address, b"more")
            assert two.handler.requests == [(None, b"join"), (5, b"more")]

    async def test_without_an_address_it_only_asks(self, open_transport: OpenTransport) -> None:
        """A program that is no member listens nowhere."""
        async with self.open_peer(open_transport, 1) as one, self.open_peer(open_transport, 0, address="") as asker:
            assert asker.address == ""
            assert await asker.transport.request(one.address, b"abc") == b"cba"

    # --- requests ----------------------------------------------------------------------------------------------------

    async def test_a_request_is_answered(self, open_transport: OpenTransport) -> None:
        """The sender's id comes with it; an empty payload is one too."""
        async with self.open_pair(open_transport) as (one, two):
            assert await one.transport.request(two.address, b"abc") == b"cba"
            assert await one.transport.request(two.address, b"") == b""
            assert two.handler.requests == [(1, b"abc"), (1, b"")]

    async def test_many_requests_are_under_way_at_once(self, open_transport: OpenTransport) -> None:
        """All are with the handler before the first is answered, and each gets its own answer."""
        async with self.open_pair(open_transport) as (one, two):
            two.handler.request_gate = anyio.Event()
            answers: dict[int, bytes] = {}

            async def ask(number: int) -> None:
                answers[number] = await one.transport.request(two.address, b"%03d" % number)

            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(ask, number)
                await two.handler.until(lambda: len(two.handler.requests) == 100)
                assert answers == {}
                two.handler.request_gate.set()
            assert answers == {number: (b"%03d" % number)[::-1] for number in range(100)}

    async def test_a_large_request_and_answer_go_through(self, open_transport: OpenTransport) -> None:
        """Both of `large_payload` bytes."""
        async with self.open_pair(open_transport) as (one, two):
            question = bytes(self.large_payload - 1) + b"!"
            assert await one.transport.request(two.address, question) == b"!" + bytes(self.large_payload - 1)

    async def test_a_failing_request_brings_its_error_back(self, open_transport: OpenTransport) -> None:
        """The handler's exception becomes `PeerUnreachable` with its text; the next request is answered."""

        def fail(payload: bytes) -> bytes:
            raise RuntimeError("the dog ate it")

        async with self.open_pair(open_transport) as (one, two):
            two.handler.on_request = fail
            with pytest.raises(PeerUnreachable, match="the dog ate it"):
                await one.transport.request(two.address, b"homework")
            two.handler.on_request = lambda payload: payload
            assert await one.transport.request(two.address, b"again") == b"again"

    async def test_a_request_whose_caller_gave_up_harms_no_other(self, open_transport: OpenTransport) -> None:
        """Its late answer is passed over."""
        async with self.open_pair(open_transport) as (one, two):
            gate = two.handler.request_gate = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.transport.request, two.address, b"never mind")
                await two.handler.until(lambda: two.handler.requests)
                tasks.cancel_scope.cancel()
            two.handler.request_gate = None
            assert await one.transport.request(two.address, b"abc") == b"cba"
            gate.set()
            assert await one.transport.request(two.address, b"def") == b"fed"

    async def test_a_callers_time_limit_ends_its_request_and_nothing_else(self, open_transport: OpenTransport) -> None:
        """Nor the task that asked: what the library below calls a cancellation is not one."""
        async with self.open_pair(open_transport) as (one, two):
            two.handler.request_gate = anyio.Event()
            came_back = []

            async def ask() -> None:
                with anyio.move_on_after(0.05) as limit:
                    await one.transport.request(two.address, b"question")
                came_back.append(limit.cancelled_caught)

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(ask)
            assert came_back == [True] * 3
            assert not tasks.cancel_scope.cancel_called

    async def test_a_request_over_the_limit_is_refused_here(self, open_transport: OpenTransport) -> None:
        """The one asked never hears of it, and the connection stays."""
        if self.too_large is not None:
            async with self.open_pair(open_transport) as (one, two):
                assert await one.transport.request(two.address, b"abc") == b"cba"
                with pytest.raises(PeerUnreachable, match=str(self.too_large)):
                    await one.transport.request(two.address, bytes(self.too_large))
                assert await one.transport.request(two.address, b"def") == b"fed"
                assert two.handler.requests == [(1, b"abc"), (1, b"def")]

    async def test_a_request_ends_with_the_peer(self, open_transport: OpenTransport) -> None:
        """A peer that stops leaves no caller waiting; once it is back, it answers."""
        async with self.open_peer(open_transport, 1) as one:
            unreachable: list[PeerUnreachable] = []

            async def ask(address: str) -> None:
                try:
                    await one.transport.request(address, b"question")
                except PeerUnreachable as exc:
                    unreachable.append(exc)

            async with anyio.create_task_group() as tasks, self.open_peer(open_transport, 2) as two:
                address = two.address
                two.handler.request_gate = anyio.Event()
                tasks.start_soon(ask, address)
                await two.handler.until(lambda: two.handler.requests)
            assert len(unreachable) == 1
            async with self.open_peer(open_transport, 2, address=address) as two:
                with anyio.fail_after(PATIENCE):
                    while True:
                        try:
                            assert await one.transport.request(address, b"abc") == b"cba"
                            break
                        except PeerUnreachable:
                            await anyio.lowlevel.checkpoint()

    # --- snapshots ---------------------------------------------------------------------------------------------------

    async def test_a_snapshot_arrives_whole(self, open_transport: OpenTransport) -> None:
        """Header and bytes, whatever the chunks; it returns once the peer's handler did."""
        async with self.open_pair(open_transport) as (one, two):
            chunks = [b"a", b"", bytes(3 * MIB), b"end"]
            await one.transport.send_snapshot(2, b"header", Chunks(*chunks))
            assert two.handler.snapshots == [(1, b"header", b"".join(chunks))]

    async def test_an_empty_snapshot_arrives(self, open_transport: OpenTransport) -> None:
        """No chunk at all, and no header."""
        async with self.open_pair(open_transport) as (one, two):
            await one.transport.send_snapshot(2, b"", Chunks())
            assert two.handler.snapshots == [(1, b"", b"")]

    async def test_a_snapshot_the_sender_cannot_read_is_not_taken(self, open_transport: OpenTransport) -> None:
        """Its own error reaches the caller as it was; the receiver's chunks raise, so that it discards them."""

        async def broken() -> AsyncIterator[bytes]:
            yield bytes(MIB)
            raise ValueError("bad sector")

        async with self.open_pair(open_transport) as (one, two):
            with pytest.raises(ValueError, match="bad sector"):
                await one.transport.send_snapshot(2, b"header", broken())
            await two.handler.until(lambda: two.handler.broken_snapshots)
            assert isinstance(two.handler.broken_snapshots[0], PeerUnreachable)
            assert two.handler.snapshots == []

    async def test_a_cancelled_snapshot_is_not_taken(self, open_transport: OpenTransport) -> None:
        """The caller gives up in mid-stream; the receiver must not take what came for the whole."""
        begun = anyio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield bytes(MIB)
            begun.set()
            await anyio.sleep_forever()

        async with self.open_pair(open_transport) as (one, two):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.transport.send_snapshot, 2, b"header", endless())
                await begun.wait()
                tasks.cancel_scope.cancel()
            await two.handler.until(lambda: two.handler.broken_snapshots)
            assert two.handler.snapshots == []

    async def test_a_snapshot_the_peer_cannot_take_says_why(self, open_transport: OpenTransport) -> None:
        """At once, though there would be more to stream."""

        async def endless() -> AsyncGenerator[bytes, None]:
            while True:
                yield bytes(MIB)

        async with self.open_pair(open_transport) as (one, two):
            two.handler.snapshot_error = RuntimeError("the disk is full")
            async with aclosing(endless()) as chunks:
                with pytest.raises(PeerUnreachable, match="the disk is full"):
                    await one.transport.send_snapshot(2, b"header", chunks)

    async def test_a_slow_snapshot_holds_no_messages_up(self, open_transport: OpenTransport) -> None:
        """The receiver stops in its middle; messages and requests go on, and so does the snapshot afterwards."""
        async with self.open_pair(open_transport) as (one, two):
            gate = two.handler.snapshot_gate = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.transport.send_snapshot, 2, b"header", Chunks(*[bytes(MIB)] * 32))
                await one.send_until(2, b"heartbeat", two)
                assert await one.transport.request(two.address, b"abc") == b"cba"
                assert two.handler.snapshots == []
                gate.set()
            assert two.handler.snapshots == [(1, b"header", bytes(32 * MIB))]

    async def test_a_snapshot_ends_with_the_peer(self, open_transport: OpenTransport) -> None:
        """A receiver that stops in mid-stream leaves no sender waiting."""
        unreachable: list[PeerUnreachable] = []

        async def stream(one: Peer) -> None:
            try:
                await one.transport.send_snapshot(2, b"header", Chunks(*[bytes(MIB)] * 64))
            except PeerUnreachable as exc:
                unreachable.append(exc)

        async with (
            self.open_peer(open_transport, 1) as one,
            anyio.create_task_group() as tasks,
            self.open_peer(open_transport, 2) as two,
        ):
            one.transport.set_peers({2: two.address})
            two.handler.snapshot_gate = anyio.Event()
            tasks.start_soon(stream, one)
            await two.handler.until(lambda: two.handler.hellos)
        assert len(unreachable) == 1

    # --- the end -----------------------------------------------------------------------------------------------------

    async def test_leaving_the_block_leaves_nothing_running(self, open_transport: OpenTransport) -> None:
        """No task, and nobody at the address; a call of it fails at once instead of waiting."""
        before = {task.id for task in anyio.get_running_tasks()}
        async with self.open_pair(open_transport) as (one, two):
            await one.send_until(2, b"there", two)
            await one.transport.request(two.address, b"there")
            await one.transport.send_snapshot(2, b"there", Chunks(b"there"))
            one.transport.send(2, [b"under way"])
        assert {task.id for task in anyio.get_running_tasks()} == before
        with anyio.fail_after(PATIENCE), pytest.raises(PeerUnreachable):
            await one.transport.request(two.address, b"anybody?")
        async with self.open_peer(open_transport, 3, address=two.address):
            pass

    async def test_an_error_in_the_block_leaves_as_it_came(self, open_transport: OpenTransport) -> None:
        """Not in an exception group."""

        async def block() -> None:
            async with self.open_pair(open_transport) as (one, two):
                await one.send_until(2, b"there", two)
                raise KeyError("the user's own")

        with pytest.raises(KeyError):
            await block()


class PatienceSuite(OpensTransports):
    """Of a transport that ends a connection on which nothing comes.

    Its `open_transport` has it do so after a fraction of a second, and nothing else within the time of a test.
    """

    async def silence(self, peer: Peer) -> None:
        """Be let in by `peer` as node 3 for messages, say nothing, and return once it has ended that."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to be silent")

    async def test_a_request_may_take_longer_than_a_connection_may_be_silent(
        self, open_transport: OpenTransport
    ) -> None:
        """Three times as long: only its caller limits it."""
        async with self.open_pair(open_transport) as (one, two):
            gate = two.handler.request_gate = anyio.Event()
            answers: list[bytes] = []

            async def ask() -> None:
                answers.append(await one.transport.request(two.address, b"abc"))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await two.handler.until(lambda: two.handler.requests)
                for _ in range(3):
                    await self.silence(two)
                assert answers == []
                gate.set()
            assert answers == [b"cba"]

    async def test_installing_may_take_longer_than_a_connection_may_be_silent(
        self, open_transport: OpenTransport
    ) -> None:
        """Three times as long: a disk takes what it takes."""
        async with self.open_pair(open_transport) as (one, two):
            gate = two.handler.snapshot_gate = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.transport.send_snapshot, 2, b"header", Chunks(b"chunk"))
                await two.handler.until(lambda: two.handler.hellos)
                for _ in range(3):
                    await self.silence(two)
                assert (two.handler.snapshots, two.handler.broken_snapshots) == ([], [])
                gate.set()
            assert two.handler.snapshots == [(1, b"header", b"chunk")]


class Chunks:
    """The chunks of a snapshot; not a generator, which trio would want closed where a test leaves it unfinished."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = iter(chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration
