"""The tcp transport against those who may not come in, and against whoever sits between two who may."""

from __future__ import annotations

import logging
import secrets
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream
from hypothesis import given
from hypothesis import strategies as st
from riteraft_core._certificates import issue
from riteraft_core.errors import AuthenticationError, PeerUnreachable
from riteraft_core.protocols import TransportContext
from riteraft_core.security import Mode, Security
from riteraft_core.shared_secret import Dialler, Listener, Meeting, Seals, Secret
from riteraft_core.testing.securities import Securities
from riteraft_core.testing.transport_suite import PATIENCE, Peer, RecordingHandler, identity_of
from riteraft_core.types import Hello, Principal, PrincipalRole, Refusal, RefusalCode
from riteraft_transport_tcp._framing import FrameDecoder, Kind, encode
from riteraft_transport_tcp._handshake import Purpose, decode_answer, encode_hello, encode_refusal
from riteraft_transport_tcp._sealed import MAX_RECORD, Records
from riteraft_transport_tcp._transport import TcpTransport

from riteraft_transport_tcp import TcpOptions, open_tcp

NEVER = 3600.0
PATIENT = TcpOptions(handshake_timeout=NEVER, frame_timeout=NEVER, idle_timeout=NEVER)


@pytest.fixture(scope="module")
def securities(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    return Securities(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    """Return those of a cluster of the same name, with another CA and another secret."""
    return Securities(tmp_path_factory.mktemp("theirs"))


@asynccontextmanager
async def node(node_id: int, security: Security, options: TcpOptions = PATIENT) -> AsyncIterator[Peer]:
    handler = RecordingHandler()
    logger = logging.getLogger("riteraft.test")
    with anyio.fail_after(3 * PATIENCE):
        context = TransportContext(identity_of(node_id), "127.0.0.1:0", handler, logger, security)
        async with open_tcp(options, context) as transport:
            yield Peer(transport, handler, node_id)


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
    return dict(cast("TcpTransport", peer.transport).counters)


async def eventually(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - no event tells of a counter
            await anyio.sleep(0.001)


# --- TLS -------------------------------------------------------------------------------------------------------------


def client_context(ca: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


async def turned_away(one: Peer, context: ssl.SSLContext) -> None:
    """See that the handshake, or the first read after it, fails: with TLS 1.3 a client learns late."""
    before = counters(one).get("tls", 0)
    stream = await connect(one)
    try:
        with anyio.fail_after(PATIENCE):
            secured = await TLSStream.wrap(
                stream, hostname="127.0.0.1", ssl_context=context, standard_compatible=False, server_side=False
            )
            await secured.send(encode_hello(Hello.of(identity_of(2), 1), Purpose.MESSAGES))
            assert await closed(secured) == b""
    except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError):
        pass
    finally:
        await anyio.aclose_forcefully(stream)
    await eventually(lambda: counters(one).get("tls", 0) == before + 1)
    assert one.handler.hellos == []


@pytest.mark.anyio
async def test_s6_who_cannot_prove_its_certificate_is_turned_away(
    securities: Securities, strangers: Securities, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca = securities.folder / "ca.pem"
    ours, theirs = securities.files("n2"), strangers.files("n2")
    expired = securities.folder / "node-expired.pem"
    if not expired.exists():
        issue(securities.folder, PrincipalRole.NODE, "expired", ["127.0.0.1"], days=-1)
    old = client_context(ca, ours.certificate, ours.key)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1

    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        await turned_away(one, client_context(ca))
        await turned_away(one, client_context(ca, theirs.certificate, theirs.key))
        await turned_away(one, client_context(ca, expired, expired.with_suffix(".key")))
        await turned_away(one, old)
        plain = await connect(one)
        await plain.send(encode_hello(Hello.of(identity_of(2), 1), Purpose.MESSAGES))
        await closed(plain)
        await plain.aclose()
        await eventually(lambda: counters(one).get("tls") == 5)
        assert counters(one) == {"tls": 5}
        # The same way in is open for whom it is meant for.
        async with node(2, securities.of(Mode.TLS, "n2")) as two:
            two.transport.set_peers({1: one.address})
            await two.send_until(1, b"honest", one)
    assert "TLS: " in caplog.text


@pytest.mark.anyio
async def test_s6_the_right_ca_and_no_name_of_ours_is_refused(securities: Securities, tmp_path: Path) -> None:
    certificate = _without_name(securities.folder, tmp_path)
    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        stream = await connect(one)
        context = client_context(securities.folder / "ca.pem", certificate, certificate.with_suffix(".key"))
        secured = await TLSStream.wrap(stream, hostname="127.0.0.1", ssl_context=context, standard_compatible=False)
        await secured.send(encode_hello(Hello.of(identity_of(2), 1), Purpose.MESSAGES))
        (frame,) = FrameDecoder(1024).feed(await secured.receive())
        refusal = decode_answer(frame)
        assert refusal is not None
        assert refusal.code is RefusalCode.FORBIDDEN
        assert "exactly one is needed" in refusal.text
        await anyio.aclose_forcefully(secured)
        assert one.handler.hellos == []
        assert counters(one) == {"refused forbidden": 1}


def _without_name(authority: Path, folder: Path) -> Path:
    """Return a certificate of our CA that names a host and nobody."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from riteraft_core._certificates import Issued

    from riteraft_core import _certificates

    ca, ca_key, _ = _certificates._read_ca(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _certificates._builder(_certificates._name("www"), ca.subject, key.public_key(), 1).add_extension(
        x509.SubjectAlternativeName([x509.DNSName("www.example.org")]), critical=False
    )
    files = Issued(folder / "www.pem", folder / "www.key")
    _certificates._write(files, key, builder.sign(ca_key, hashes.SHA256()))
    return files.certificate


@pytest.mark.anyio
async def test_the_handler_is_told_whom_the_certificate_names(securities: Securities) -> None:
    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        security = securities.of(Mode.TLS, "app", PrincipalRole.CLIENT)
        handler = RecordingHandler()
        logger = logging.getLogger("riteraft.test")
        # A program that only asks: no identity, nothing to listen on.
        async with open_tcp(PATIENT, TransportContext(None, None, handler, logger, security)) as asking:
            assert asking.address == ""
            assert await asking.request(one.address, b"abc") == b"cba"
        assert one.handler.principals == [Principal(PrincipalRole.CLIENT, "suite", "app")]


@pytest.mark.anyio
async def test_a_server_is_checked_by_its_host_and_its_name(securities: Securities, strangers: Securities) -> None:
    asking = securities.of(Mode.TLS, "n2")
    if not (securities.folder / "node-far.pem").exists():
        issue(securities.folder, PrincipalRole.NODE, "far", ["192.0.2.1", "far.example"])
    async with node(2, asking) as two:
        for security, words in (
            (strangers.of(Mode.TLS, "n1"), "certificate"),
            (securities.of(Mode.TLS, "far"), "IP address mismatch"),
        ):
            async with node(1, security) as one:
                with pytest.raises(PeerUnreachable, match=words):
                    await two.transport.request(one.address, b"abc")
                assert one.handler.requests == []


@pytest.mark.anyio
async def test_s6_new_certificates_are_used_without_a_restart(tmp_path: Path) -> None:
    securities = Securities(tmp_path)
    security = securities.of(Mode.TLS, "n1")
    assert security.tls is not None
    async with node(1, security) as one, node(2, securities.of(Mode.TLS, "n2")) as two:

        async def shown() -> bytes:
            context = client_context(tmp_path / "ca.pem", *_pair(securities, "n2"))
            secured = await TLSStream.wrap(await connect(one), hostname="127.0.0.1", ssl_context=context)
            certificate: bytes = secured._ssl_object.getpeercert(binary_form=True) or b""
            await anyio.aclose_forcefully(secured)
            return certificate

        before = await shown()
        two.transport.set_peers({1: one.address})
        await two.send_until(1, b"under the old", one)
        for path in _pair(securities, "n1"):
            path.unlink()
        securities.files("n1")
        security.tls._next_look = 0.0
        assert await shown() != before
        await two.send_until(1, b"the connection stays", one)
        assert len(one.handler.hellos) == 1


def _pair(securities: Securities, name: str) -> tuple[Path, Path]:
    files = securities.files(name)
    return files.certificate, files.key


# --- a shared secret -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_another_secret_another_cluster_or_none_is_turned_away(securities: Securities) -> None:
    ours = securities.of(Mode.SECRET)
    others = {
        "secret": Security("suite", secret=Secret(secrets.token_bytes(32))),
        "cluster": Security("invoices", secret=securities.secret),
        "none": Security("suite"),
    }
    async with node(1, ours) as one:
        for security in others.values():
            async with node(2, security) as two:
                with pytest.raises(PeerUnreachable):
                    await two.transport.request(one.address, b"abc")
        assert one.handler.hellos == []
        assert counters(one) == {"forgery": 2, "refused forbidden": 1}
        async with node(2, others["none"]) as open_one, node(3, ours) as two:
            with pytest.raises(PeerUnreachable, match="no shared secret"):
                await two.transport.request(open_one.address, b"abc")
            assert two.handler.refusals == []


class Between:
    """Sits between two nodes: it records what passes, and may change it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.forth = bytearray()
        self.change: Callable[[bytes, int], bytes] = lambda data, _: data
        self.connections = 0

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        number = self.connections
        host, _, port = self.target.rpartition(":")
        async with stream, await anyio.connect_tcp(host, int(port)) as target, anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, stream, target, number, tasks.cancel_scope)
            tasks.start_soon(self._pump, target, stream, -number, tasks.cancel_scope)

    async def _pump(self, source: ByteStream, sink: ByteStream, number: int, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await source.receive()
                if number > 0:
                    self.forth += data
                await sink.send(self.change(data, number))
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


@pytest.mark.anyio
async def test_s5_a_recorded_connection_cannot_be_played_again(securities: Securities) -> None:
    ours = securities.of(Mode.SECRET)
    async with node(1, ours) as one, between(one.address) as (middle, address):
        async with node(2, ours) as two:
            two.transport.set_peers({1: address})
            await two.send_until(1, b"once", one)
        heard = list(one.handler.received)
        replayed = await connect(one)
        await replayed.send(bytes(middle.forth))
        await closed(replayed)
        await replayed.aclose()
        assert one.handler.received == heard
        assert len(one.handler.hellos) == 1
        assert sum(counters(one).values()) == 1


@pytest.mark.anyio
async def test_what_is_changed_or_repeated_on_the_way_ends_the_connection(securities: Securities) -> None:
    ours = securities.of(Mode.SECRET)

    def flip_the_last_byte(data: bytes) -> bytes:
        return data[:-1] + bytes((data[-1] ^ 1,))

    for change in (flip_the_last_byte, lambda data: data * 2):
        async with node(1, ours) as one, between(one.address) as (middle, address), node(2, ours) as two:
            two.transport.set_peers({1: address})
            await two.send_until(1, b"first", one)
            middle.change = lambda data, number, change=change: (  # type: ignore[misc]
                change(data) if number == 1 and b"forged?" in data else data
            )
            one.handler.received.clear()
            two.transport.send(1, [b"forged?"])
            await eventually(lambda one=one: counters(one).get("forgery") == 1)  # type: ignore[misc]
            assert one.handler.received.count((2, b"forged?")) <= 1
            await two.send_until(1, b"a new connection", one)


@pytest.mark.anyio
async def test_a_refusal_without_proof_of_the_secret_is_not_believed(securities: Securities) -> None:
    # A forged "you were removed" would end a node and mark its folder as left.
    removed = encode_refusal(7, Refusal(RefusalCode.REMOVED, "you were removed"))

    async def lie(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(removed)
            await closed(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, lie)
        address = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"  # noqa: S610
        for mode, believed in ((Mode.NONE, True), (Mode.SECRET, False), (Mode.TLS, False)):
            async with node(2, securities.of(mode, "n2")) as two:
                two.transport.set_peers({1: address})
                with pytest.raises(PeerUnreachable):
                    await two.transport.request(address, b"abc")
                assert bool(two.handler.refusals) is believed
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_secrets_handshake_has_its_time_limit(securities: Securities) -> None:
    options = PATIENT.model_copy(update={"handshake_timeout": 0.3})
    for mode in (Mode.SECRET, Mode.TLS):
        async with node(1, securities.of(mode, "n1"), options) as one:
            stream = await connect(one)
            if mode is Mode.SECRET:
                hello = Hello(b"c" * 16, 7, 2, b"d" * 16, 1)
                await stream.send(encode_hello(hello, Purpose.MESSAGES, bytes(32)))
                (frame,) = FrameDecoder(1024).feed(await stream.receive())
                assert frame.kind == Kind.CHALLENGE
            await closed(stream)
            await stream.aclose()
            await eventually(lambda one=one: counters(one) == {"handshake-timeout": 1})  # type: ignore[misc]


@pytest.mark.anyio
async def test_more_than_a_hello_or_a_proof_is_refused(securities: Securities) -> None:
    hello = Hello.of(identity_of(2), 1)
    dialler = Dialler(securities.secret, Meeting("suite", Purpose.MESSAGES.meeting, hello))
    first = encode_hello(hello, Purpose.MESSAGES, dialler.nonce)
    async with node(1, securities.of(Mode.SECRET)) as one:
        stream = await connect(one)
        await stream.send(first + b"R")
        await closed(stream)
        await stream.aclose()
        stream = await connect(one)
        await stream.send(first)
        (frame,) = FrameDecoder(1024).feed(await stream.receive())
        proof, seals = dialler.prove(bytes(frame.body))
        early = Records(seals).seal(b"sealed too early")
        await stream.send(encode(Kind.PROOF, hello.group, proof) + early)
        await closed(stream)
        await stream.aclose()
        await eventually(lambda: counters(one) == {"frame": 2})
        assert one.handler.hellos == []


# --- records, by plain calls -----------------------------------------------------------------------------------------


def seals() -> tuple[Seals, Seals]:
    secret = Secret(secrets.token_bytes(32))
    meeting = Meeting("suite", "tcp messages", Hello(b"", 0, 0, b"", 0))
    dialler = Dialler(secret, meeting)
    listener = Listener(secret, meeting, dialler.nonce, 1)
    proof, at_dialler = dialler.prove(listener.challenge)
    return at_dialler, listener.check(proof)


@given(st.lists(st.binary(max_size=200), max_size=8), st.lists(st.integers(1, 90), min_size=1))
def test_records_arrive_whole_in_pieces_of_any_size(items: list[bytes], sizes: list[int]) -> None:
    sending, receiving = map(Records, seals())
    data = b"".join(sending.seal(item) for item in items)
    received, position, turn = b"", 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        received += receiving.feed(data[position : position + size])
        position, turn = position + size, turn + 1
    assert received == b"".join(items)


def test_a_large_write_becomes_records_of_bounded_size() -> None:
    sending, receiving = map(Records, seals())
    item = bytes(3 * MAX_RECORD + 1)
    assert receiving.feed(sending.seal(item)) == item


@pytest.mark.parametrize("position", range(4 + 32 + 3))
def test_each_flipped_byte_of_a_record_is_noticed(position: int) -> None:
    sending, receiving = map(Records, seals())
    record = bytearray(sending.seal(b"abc") + sending.seal(bytes(400)))
    record[position] ^= 1
    with pytest.raises(AuthenticationError):
        receiving.feed(bytes(record) + bytes(MAX_RECORD))


def test_a_claimed_length_takes_no_memory() -> None:
    for claim in (b"\xff\xff\xff\xff", bytes(4), (MAX_RECORD + 1).to_bytes(4, "big")):
        with pytest.raises(AuthenticationError, match="no record"):
            Records(seals()[0]).feed(claim + bytes(32))
