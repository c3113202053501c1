"""The grpc transport against those who may not come in, and against whoever sits between two who may."""

from __future__ import annotations

import functools
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import anyio
import grpc
import pytest
import riteraft_transport_grpc._wire as wire
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from riteraft_core._certificates import Issued
from riteraft_core.errors import PeerUnreachable
from riteraft_core.security import Mode, Security
from riteraft_core.shared_secret import Dialler, Meeting, Secret
from riteraft_core.testing.securities import Securities
from riteraft_core.testing.transport_suite import PATIENCE, Peer, identity_of, open_peer
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


def node(node_id: int, security: Security, options: GrpcOptions = PATIENT) -> AbstractAsyncContextManager[Peer]:
    return open_peer(functools.partial(open_grpc, options), node_id, security)


def begin(channel: grpc.aio.Channel, method: str, nonce: bytes = b"") -> Call:
    """Call as node 2."""
    return channel.stream_stream(method)(metadata=wire.encode_hello(PEER, nonce))


def counters(peer: Peer) -> dict[str, int]:
    return dict(cast("GrpcTransport", peer.transport).counters)


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_s6_the_right_ca_and_no_name_of_ours_is_refused(securities: Securities, nameless: Issued) -> None:
    async with node(1, securities.of(Mode.TLS, "n1")) as one:
        credentials = grpc.ssl_channel_credentials(
            (securities.folder / "ca.pem").read_bytes(), nameless.key.read_bytes(), nameless.certificate.read_bytes()
        )
        async with grpc.aio.secure_channel(one.address, credentials) as channel:
            call = begin(channel, wire.MESSAGES)
            refusal = wire.decode_refusal(await call.trailing_metadata())
        assert refusal is not None
        assert refusal.code is RefusalCode.FORBIDDEN
        assert "exactly one is needed" in refusal.text
        assert one.handler.hellos == []
        assert counters(one) == {"refused forbidden": 1}


async def test_a_server_is_checked_by_its_use(securities: Securities) -> None:
    async with node(2, securities.of(Mode.TLS, "n2")) as two:
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


async def test_s6_a_request_after_a_change_of_certificates_has_a_connection_of_its_own(tmp_path: Path) -> None:
    securities = Securities(tmp_path)
    changing = securities.of(Mode.TLS, "n2")
    async with node(1, securities.of(Mode.TLS, "n1")) as one, node(2, changing) as two:
        assert await two.transport.request(one.address, b"abc") == b"cba"
        lines = cast("GrpcTransport", two.transport)._lines
        line = lines[one.address]
        files = securities.files("n2")
        files.certificate.unlink()
        files.key.unlink()
        securities.files("n2")
        assert changing.tls is not None
        changing.tls._next_look = 0.0
        assert await two.transport.request(one.address, b"def") == b"fed"
        assert lines[one.address] is not line


@pytest.mark.parametrize("mode", Mode)
async def test_it_listens_on_every_address_of_a_host_name(
    securities: Securities, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, 0, 0, "", ("127.0.0.1", 0)), (socket.AF_INET6, 0, 0, "", ("::1", 0, 0, 0))]

    monkeypatch.setattr(anyio, "getaddrinfo", both)  # what most machines, but not all, have for it
    async with (
        open_peer(functools.partial(open_grpc, PATIENT), 1, securities.of(mode, "n1"), address="localhost:0") as one,
        node(2, securities.of(mode, "n2")) as two,
    ):
        port = one.address.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            assert await two.transport.request(f"{host}:{port}", b"abc") == b"cba"


# --- a shared secret -------------------------------------------------------------------------------------------------


async def test_who_does_not_prove_the_secret_is_counted_by_its_reason(securities: Securities) -> None:
    others = (Security("suite", secret=Secret(secrets.token_bytes(32))), Security("suite"))
    async with node(1, securities.of(Mode.SECRET)) as one:
        for security in others:
            async with node(2, security) as two:
                with pytest.raises(PeerUnreachable):
                    await two.transport.request(one.address, b"abc")
        assert counters(one) == {"forgery": 1, "refused forbidden": 1}


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
