"""The tcp transport against those who may not come in, and against whoever sits between two who may."""

from __future__ import annotations

import functools
import secrets
import ssl
from contextlib import AbstractAsyncContextManager
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream
from hypothesis import given
from hypothesis import strategies as st
from riteraft_core._certificates import Issued, issue
from riteraft_core.errors import AuthenticationError, PeerUnreachable
from riteraft_core.security import Mode, Security
from riteraft_core.shared_secret import Dialler, Listener, Meeting, Seals, Secret
from riteraft_core.testing.securities import Securities
from riteraft_core.testing.transport_suite import PATIENCE, Peer, identity_of, open_peer
from riteraft_core.types import Hello, PrincipalRole, Refusal, RefusalCode
from riteraft_transport_tcp._framing import FrameDecoder, Kind, encode
from riteraft_transport_tcp._handshake import Purpose, decode_answer, encode_hello, encode_refusal
from riteraft_transport_tcp._sealed import MAX_RECORD, Records
from riteraft_transport_tcp._transport import TcpTransport

from riteraft_transport_tcp import TcpOptions, open_tcp
from tests.waiting import eventually

NEVER = 3600.0
PATIENT = TcpOptions(handshake_timeout=NEVER, frame_timeout=NEVER, idle_timeout=NEVER)


def node(node_id: int, security: Security, options: TcpOptions = PATIENT) -> AbstractAsyncContextManager[Peer]:
    return open_peer(functools.partial(open_tcp, options), node_id, security)


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


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_failed_handshake_is_counted_and_logged(
    securities: Securities, strangers: Securities, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        for number, security in enumerate((strangers.of(Mode.TLS, "n2"), Security("suite")), start=1):
            async with node(2, security) as two:
                with pytest.raises(PeerUnreachable):
                    await two.transport.request(one.address, b"abc")
            await eventually(lambda number=number: counters(one) == {"tls": number})  # type: ignore[misc]
    assert "TLS: " in caplog.text


@pytest.mark.anyio
async def test_s6_the_right_ca_and_no_name_of_ours_is_refused(securities: Securities, nameless: Issued) -> None:
    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        stream = await connect(one)
        context = ssl.create_default_context(cafile=securities.folder / "ca.pem")
        context.load_cert_chain(nameless.certificate, nameless.key)
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


@pytest.mark.anyio
async def test_what_is_wrong_with_a_servers_certificate_is_told(securities: Securities, strangers: Securities) -> None:
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


# --- a shared secret -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_who_does_not_prove_the_secret_is_counted_by_its_reason(securities: Securities) -> None:
    others = (Security("suite", secret=Secret(secrets.token_bytes(32))), Security("suite"))
    async with node(1, securities.of(Mode.SECRET)) as one:
        for security in others:
            async with node(2, security) as two:
                with pytest.raises(PeerUnreachable):
                    await two.transport.request(one.address, b"abc")
        assert counters(one) == {"forgery": 1, "refused forbidden": 1}


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
