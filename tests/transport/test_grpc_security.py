"""The grpc transport against those who may not come in, and against whoever sits between two who may."""

from __future__ import annotations

import logging
import secrets
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

import anyio
import grpc
import pytest
import riteraft_transport_grpc._wire as wire
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from riteraft_core._certificates import Issued, issue
from riteraft_core.errors import PeerUnreachable
from riteraft_core.protocols import TransportContext
from riteraft_core.security import Mode, Security
from riteraft_core.shared_secret import Dialler, Meeting, Secret
from riteraft_core.testing.securities import Securities
from riteraft_core.testing.transport_suite import PATIENCE, Peer, RecordingHandler, identity_of
from riteraft_core.types import Hello, Principal, PrincipalRole, Refusal, RefusalCode
from riteraft_transport_grpc._transport import GrpcTransport

from riteraft_core import _certificates
from riteraft_transport_grpc import GrpcOptions, open_grpc
from riteraft_transport_grpc import transport_pb2 as pb

pytestmark = pytest.mark.anyio

Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

NEVER = 3600.0
PATIENT = GrpcOptions(handshake_timeout=NEVER, frame_timeout=NEVER, idle_timeout=NEVER)
PEER = Hello.of(identity_of(2), 1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def securities(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    return Securities(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    """Return those of a cluster of the same name, with another CA and another secret."""
    return Securities(tmp_path_factory.mktemp("theirs"))


@asynccontextmanager
async def node(node_id: int, security: Security, options: GrpcOptions = PATIENT) -> AsyncIterator[Peer]:
    handler = RecordingHandler()
    logger = logging.getLogger("riteraft.test")
    with anyio.fail_after(3 * PATIENCE):
        context = TransportContext(identity_of(node_id), "127.0.0.1:0", handler, logger, security)
        async with open_grpc(options, context) as transport:
            yield Peer(transport, handler, node_id)


def begin(channel: grpc.aio.Channel, method: str, nonce: bytes = b"") -> Call:
    """Call as node 2."""
    return channel.stream_stream(method)(metadata=wire.encode_hello(PEER, nonce))


async def connect(peer: Peer) -> SocketStream:
    host, _, port = peer.address.rpartition(":")
    return await anyio.connect_tcp(host, int(port))


async def closed(stream: ByteStream) -> bytes:
    """Read until the other side has closed; return what it said before."""
    said = b""
    with anyio.fail_after(PATIENCE):
        try:
            while True:
                said += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            return said


def counters(peer: Peer) -> dict[str, int]:
    return dict(cast("GrpcTransport", peer.transport).counters)


async def eventually(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - no event tells of a counter
            await anyio.sleep(0.001)


# --- TLS -------------------------------------------------------------------------------------------------------------


def client_context(ca: Path, files: Issued | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


async def greeting(one: Peer, context: ssl.SSLContext) -> bytes:
    """Return what the server says first to who shakes hands so; nothing if it closes instead."""
    stream = await connect(one)
    try:
        with anyio.fail_after(PATIENCE):
            secured = await TLSStream.wrap(
                stream, hostname="127.0.0.1", ssl_context=context, standard_compatible=False, server_side=False
            )
            return await secured.receive()
    except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError):
        return b""
    finally:
        await anyio.aclose_forcefully(stream)


async def test_s6_who_cannot_prove_its_certificate_is_turned_away(
    securities: Securities, strangers: Securities
) -> None:
    ca = securities.folder / "ca.pem"
    ours, theirs = securities.files("n2"), strangers.files("n2")
    expired = securities.folder / "node-expired.pem"
    if not expired.exists():
        issue(securities.folder, PrincipalRole.NODE, "expired", ["127.0.0.1"], days=-1)

    def of_version(version: ssl.TLSVersion) -> ssl.SSLContext:
        context = client_context(ca, ours)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        return context

    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        # Each of these differs by one thing from the two that are let in.
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await greeting(one, of_version(version)), f"{version!r} is to work"
        assert await greeting(one, of_version(ssl.TLSVersion.TLSv1_1)) == b""
        assert await greeting(one, client_context(ca)) == b""
        assert await greeting(one, client_context(ca, theirs)) == b""
        assert await greeting(one, client_context(ca, Issued(expired, expired.with_suffix(".key")))) == b""
        async with grpc.aio.insecure_channel(one.address) as channel:
            call = begin(channel, wire.MESSAGES)
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert one.handler.hellos == []
        # The same way in is open for whom it is meant for.
        async with node(2, securities.of(Mode.TLS, "n2")) as two:
            two.transport.set_peers({1: one.address})
            await two.send_until(1, b"honest", one)


async def test_s6_the_right_ca_and_no_name_of_ours_is_refused(securities: Securities, tmp_path: Path) -> None:
    files = _without_name(securities.folder, tmp_path)
    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        credentials = grpc.ssl_channel_credentials(
            (securities.folder / "ca.pem").read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
        )
        async with grpc.aio.secure_channel(one.address, credentials) as channel:
            call = begin(channel, wire.MESSAGES)
            refusal = wire.decode_refusal(await call.trailing_metadata())
        assert refusal is not None
        assert refusal.code is RefusalCode.FORBIDDEN
        assert "exactly one is needed" in refusal.text
        assert one.handler.hellos == []
        assert counters(one) == {"refused forbidden": 1}


def _without_name(authority: Path, folder: Path) -> Issued:
    """Return a certificate of our CA that names a host and nobody."""
    ca, ca_key, _ = _certificates._read_ca(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _certificates._builder(_certificates._name("www"), ca.subject, key.public_key(), 1).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("www.example.org")]), critical=False
    )
    files = Issued(folder / "www.pem", folder / "www.key")
    _certificates._write(files, key, builder.sign(ca_key, hashes.SHA256()))
    return files


async def test_the_handler_is_told_whom_the_certificate_names(securities: Securities) -> None:
    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        security = securities.of(Mode.TLS, "app", PrincipalRole.CLIENT)
        logger = logging.getLogger("riteraft.test")
        # A program that only asks: no identity, nothing to listen on.
        async with open_grpc(PATIENT, TransportContext(None, None, RecordingHandler(), logger, security)) as asking:
            assert await asking.request(one.address, b"abc") == b"cba"
        app = Principal(PrincipalRole.CLIENT, "suite", "app")
        assert one.handler.principals == [app]
        assert [hello.principal for hello in one.handler.hellos] == [app]


async def test_a_server_is_checked_by_its_host_its_ca_and_its_use(
    securities: Securities, strangers: Securities
) -> None:
    if not (securities.folder / "node-far.pem").exists():
        issue(securities.folder, PrincipalRole.NODE, "far", ["192.0.2.1", "far.example"])
    async with node(2, securities.of(Mode.TLS, "n2")) as two:
        for security in (strangers.of(Mode.TLS, "n1"), securities.of(Mode.TLS, "far")):
            async with node(1, security) as one:
                with pytest.raises(PeerUnreachable, match="no connection"):
                    await two.transport.request(one.address, b"abc")
                assert one.handler.hellos == []
        async with serving(securities, _for_clients(securities.folder)) as address:
            with pytest.raises(PeerUnreachable, match="no connection"):
                await two.transport.request(address, b"abc")
        async with serving(securities, securities.files("n1")) as address:
            with pytest.raises(PeerUnreachable, match="UNIMPLEMENTED"):
                await two.transport.request(address, b"abc")


def _for_clients(folder: Path) -> Issued:
    """Return a certificate of a client, that names the host it listens on as only nodes' ones do."""
    files = Issued(folder / "client-listening.pem", folder / "client-listening.key")
    if not files.key.exists():
        ca, ca_key, _ = _certificates._read_ca(folder)
        key = ec.generate_private_key(ec.SECP256R1())
        app = Principal(PrincipalRole.CLIENT, "suite", "app")
        names = [_certificates._uri(app.uri), _certificates._host("127.0.0.1")]
        builder = (
            _certificates._builder(_certificates._name("app"), ca.subject, key.public_key(), 1)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )
        _certificates._write(files, key, builder.sign(ca_key, hashes.SHA256()))
    return files


@asynccontextmanager
async def serving(securities: Securities, files: Issued) -> AsyncIterator[str]:
    """Run a gRPC server that shows this certificate, and has no service."""
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (securities.folder / "ca.pem").read_bytes(), True)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_s6_a_server_of_tls_before_1_2_is_not_dialled(securities: Securities) -> None:
    files = securities.files("n1")
    for version, works in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=securities.folder / "ca.pem")
        context.load_cert_chain(files.certificate, files.key)
        context.set_alpn_protocols(["h2"])
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        agreed: list[str] = []

        async def greet(stream: SocketStream, context: ssl.SSLContext = context, agreed: list[str] = agreed) -> None:
            with suppress(ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError):
                secured = await TLSStream.wrap(stream, ssl_context=context, server_side=True)
                agreed.append(secured.extra(TLSAttribute.tls_version))  # noqa: S610 - not Django's
            await anyio.aclose_forcefully(stream)

        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        async with listener, anyio.create_task_group() as tasks, node(2, securities.of(Mode.TLS, "n2")) as two:
            tasks.start_soon(listener.serve, greet)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610
            with pytest.raises(PeerUnreachable, match="no connection"):
                await two.transport.request(f"127.0.0.1:{port}", b"abc")
            tasks.cancel_scope.cancel()
        assert bool(agreed) is works, agreed


async def test_s6_new_certificates_are_used_without_a_restart(tmp_path: Path) -> None:
    securities = Securities(tmp_path)
    own, others = securities.of(Mode.TLS, "n1"), securities.of(Mode.TLS, "n2")
    async with node(1, own) as one, node(2, others) as two:

        async def shown() -> bytes:
            stream = await connect(one)
            context = client_context(tmp_path / "ca.pem", securities.files("n2"))
            secured = await TLSStream.wrap(stream, hostname="127.0.0.1", ssl_context=context)
            certificate: bytes = secured._ssl_object.getpeercert(binary_form=True) or b""
            await anyio.aclose_forcefully(secured)
            return certificate

        before = await shown()
        two.transport.set_peers({1: one.address})
        await two.send_until(1, b"under the old", one)
        assert await two.transport.request(one.address, b"abc") == b"cba"
        lines = cast("GrpcTransport", two.transport)._lines
        line = lines[one.address]
        for name, security in (("n1", own), ("n2", others)):
            files = securities.files(name)
            files.certificate.unlink()
            files.key.unlink()
            securities.files(name)
            assert security.tls is not None
            security.tls._next_look = 0.0
        assert await shown() != before
        await two.send_until(1, b"the connection stays", one)
        assert await two.transport.request(one.address, b"def") == b"fed"
        assert lines[one.address] is not line, "a request after the change was on a connection from before"
        assert len([hello for hello in one.handler.hellos if hello.to == 1]) == 1


# --- a shared secret -------------------------------------------------------------------------------------------------


async def test_another_secret_another_cluster_or_none_is_turned_away(securities: Securities) -> None:
    ours = securities.of(Mode.SECRET)
    none = Security("suite")
    others = [
        Security("suite", secret=Secret(secrets.token_bytes(32))),
        Security("invoices", secret=securities.secret),
        none,
    ]
    async with node(1, ours) as one:
        for security in others:
            async with node(2, security) as two:
                with pytest.raises(PeerUnreachable, match="secret"):
                    await two.transport.request(one.address, b"abc")
        assert one.handler.hellos == []
        assert counters(one) == {"forgery": 2, "refused forbidden": 1}
        async with node(2, none) as open_one, node(3, ours) as two:
            with pytest.raises(PeerUnreachable, match="no shared secret"):
                await two.transport.request(open_one.address, b"abc")
            assert two.handler.refusals == []


async def test_no_call_goes_past_the_secret(securities: Securities) -> None:
    nonce = secrets.token_bytes(32)
    async with node(1, securities.of(Mode.SECRET)) as one, grpc.aio.insecure_channel(one.address) as channel:
        for method in (wire.MESSAGES, wire.REQUEST, wire.ASK, wire.SNAPSHOT):
            call = begin(channel, method)
            assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
        # A request is a stream of its own with a secret: this one has no place for a proof.
        call = begin(channel, wire.REQUEST, nonce)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (one.handler.hellos, one.handler.requests) == ([], [])


class Between:
    """Sits between two nodes: it records what passes, and may change it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.forth = bytearray()
        self.change: Callable[[bytes], bytes] = lambda data: data

    async def serve(self, stream: SocketStream) -> None:
        host, _, port = self.target.rpartition(":")
        async with stream, await anyio.connect_tcp(host, int(port)) as target, anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, stream, target, True, tasks.cancel_scope)
            tasks.start_soon(self._pump, target, stream, False, tasks.cancel_scope)

    async def _pump(self, source: ByteStream, sink: ByteStream, forth: bool, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await source.receive()
                if forth:
                    self.forth += data
                await sink.send(self.change(data) if forth else data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            scope.cancel()


@asynccontextmanager
async def between(target: str) -> AsyncIterator[tuple[Between, str]]:
    """Let somebody sit between; yield it and where it listens."""
    middle = Between(target)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, middle.serve)
        yield middle, f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610
        tasks.cancel_scope.cancel()


async def test_s5_a_recorded_connection_cannot_be_played_again(securities: Securities) -> None:
    ours = securities.of(Mode.SECRET)
    async with node(1, ours) as one, between(one.address) as (middle, address):
        async with node(2, ours) as two:
            two.transport.set_peers({1: address})
            await two.send_until(1, b"once", one)
            recorded = bytes(middle.forth)
        assert b"once" in recorded
        heard = list(one.handler.received)
        async with await connect(one) as replayed:
            await replayed.send(recorded)
            await eventually(lambda: counters(one).get("forgery"))
        assert one.handler.received == heard
        assert len(one.handler.hellos) == 1


async def test_what_is_changed_or_repeated_on_the_way_ends_the_call(securities: Securities) -> None:
    ours = securities.of(Mode.SECRET)

    def flip_the_last_byte(data: bytes) -> bytes:
        return data[:-1] + bytes((data[-1] ^ 1,))

    for change in (flip_the_last_byte, lambda data: data * 2):
        async with node(1, ours) as one, between(one.address) as (middle, address), node(2, ours) as two:
            two.transport.set_peers({1: address})
            await two.send_until(1, b"first", one)
            middle.change = lambda data, change=change: change(data) if b"forged?" in data else data  # type: ignore[misc]
            one.handler.received.clear()
            two.transport.send(1, [b"forged?"])
            await eventually(lambda one=one: counters(one).get("forgery") == 1)  # type: ignore[misc]
            assert one.handler.received.count((2, b"forged?")) <= 1
            await two.send_until(1, b"a new call", one)


async def test_a_refusal_without_proof_of_the_secret_is_not_believed(securities: Securities) -> None:
    # A forged "you were removed" would end a node and mark its folder as left.
    removed = Refusal(RefusalCode.REMOVED, "you were removed")

    async def lie(_: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, removed.text, wire.encode_refusal(removed))

    async def lie_in_a_message(_: object, context: Any) -> None:
        await context.write(wire.encode_progress(7, pb.Progress.REFUSED, removed.text, code=removed.code.value))

    for liar, believed_in in ((lie, {Mode.NONE}), (lie_in_a_message, set())):
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(liar)
        methods = dict.fromkeys(("Messages", "Request", "Ask", "Snapshot"), handler)
        server = grpc.aio.server(handlers=(grpc.method_handlers_generic_handler(wire.SERVICE, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        for mode in Mode:
            async with node(2, securities.of(mode, "n2")) as two:
                address = f"127.0.0.1:{port}"
                two.transport.set_peers({1: address})
                with pytest.raises(PeerUnreachable):
                    await two.transport.request(address, b"abc")
                two.transport.send(1, [b"lost"])
                await two.handler.until(lambda two=two: two.handler.unreached)  # type: ignore[misc]
                assert bool(two.handler.refusals) is (mode in believed_in)
        await server.stop(None)


async def test_a_secrets_handshake_has_its_time_limit(securities: Securities) -> None:
    options = PATIENT.model_copy(update={"handshake_timeout": 0.3})
    async with (
        node(1, securities.of(Mode.SECRET), options) as one,
        grpc.aio.insecure_channel(one.address) as channel,
    ):
        call = begin(channel, wire.MESSAGES, secrets.token_bytes(32))
        raw = await call.read()
        assert isinstance(raw, bytes)
        assert wire.decode_progress(raw, 7).step == pb.Progress.CHALLENGE
        with anyio.fail_after(PATIENCE):
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert counters(one) == {"handshake-timeout": 1}
        assert one.handler.hellos == []


async def test_the_oldest_of_too_many_calls_without_a_proof_goes(securities: Securities) -> None:
    options = PATIENT.model_copy(update={"max_unauthenticated": 2})
    ours = securities.of(Mode.SECRET)
    async with node(1, ours, options) as one, grpc.aio.insecure_channel(one.address) as channel:
        calls: list[Call] = []
        for _ in range(3):
            calls.append(begin(channel, wire.ASK, secrets.token_bytes(32)))
            await calls[-1].read()
        with anyio.fail_after(PATIENCE):
            assert await calls[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert counters(one) == {"unauthenticated": 1}
        async with node(2, ours) as two:
            assert await two.transport.request(one.address, b"abc") == b"cba"


async def test_a_proof_is_for_one_kind_of_call(securities: Securities) -> None:
    # Taken from a request, it must not open a stream of messages.
    async with node(1, securities.of(Mode.SECRET)) as one, grpc.aio.insecure_channel(one.address) as channel:
        prover = Dialler(securities.secret, Meeting("suite", "grpc request", PEER))
        call = begin(channel, wire.MESSAGES, prover.nonce)
        raw = await call.read()
        assert isinstance(raw, bytes)
        proof, _ = prover.prove(wire.decode_progress(raw, 7).payload)
        await call.write(wire.encode_proof(proof))
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert one.handler.hellos == []
