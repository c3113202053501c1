"""The promises of a transport's security, a test each.

A plugin that listens on sockets, and names `secret` and `tls` in its `Provider.security`, has beside its
`TransportSuite`

    class TestPigeonInTheOpen(ExposureSuite): ...
    class TestPigeonWithASecret(SecretSuite): ...
    class TestPigeonWithTls(TlsSuite): ...

each with the fixture `open_transport`, which leaves `TransportContext.security` as it is. What goes over the wire
before anybody is let in is the plugin's own: it needs tests of its own, with bytes.
"""

from __future__ import annotations

import secrets
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from .._certificates import Issued, issue
from ..errors import ConfigError, PeerUnreachable
from ..security import Mode, Security
from ..shared_secret import Secret
from ..types import Principal, PrincipalRole
from .securities import Securities
from .transport_suite import PATIENCE, OpensTransports, OpenTransport, Peer, open_peer

__all__ = ["ExposureSuite", "SecretSuite", "TlsSuite"]


class _Suite(OpensTransports):
    @pytest.fixture
    def securities(self, tmp_path: Path) -> Securities:
        """Return those of the suite's cluster."""
        return _securities(tmp_path / "ours")

    @pytest.fixture
    def strangers(self, tmp_path: Path) -> Securities:
        """Return those of a cluster of the same name, with another CA and another secret."""
        return _securities(tmp_path / "theirs")


def _securities(folder: Path) -> Securities:
    folder.mkdir()
    return Securities(folder)


class ExposureSuite(_Suite):
    """Of a transport that can be reached from other machines, where nobody has to prove anything."""

    async def test_every_interface_needs_insecure(
        self, open_transport: OpenTransport, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In mode `NONE`; and then the log says what that means."""
        with pytest.raises(ConfigError, match="insecure = true"):
            async with open_peer(open_transport, 1, Security("suite"), address="0.0.0.0:0"):
                pass
        async with open_peer(open_transport, 1, Security("suite", insecure=True), address="0.0.0.0:0") as one:
            assert one.address.startswith("0.0.0.0:")
            assert "without authentication" in caplog.text


class SecretSuite(_Suite):
    """Of a transport with the shared secret: see `riteraft_core.shared_secret`."""

    async def test_another_secret_another_cluster_or_none_is_turned_away(
        self, open_transport: OpenTransport, securities: Securities
    ) -> None:
        """Whichever side it is that has another."""
        ours, none = securities.of(Mode.SECRET), Security("suite")
        others = [
            Security("suite", secret=Secret(secrets.token_bytes(32))),
            Security("invoices", secret=securities.secret),
            none,
        ]
        async with open_peer(open_transport, 1, ours) as one:
            for number, security in enumerate(others, start=1):
                async with open_peer(open_transport, 2, security) as two:
                    with pytest.raises(PeerUnreachable, match="secret"):
                        await two.transport.request(one.address, b"abc")
                assert _counted(one) in (number, None)
            assert one.handler.hellos == []
            async with open_peer(open_transport, 2, none) as in_the_open, open_peer(open_transport, 3, ours) as three:
                with pytest.raises(PeerUnreachable, match="no shared secret"):
                    await three.transport.request(in_the_open.address, b"abc")
                assert three.handler.refusals == []

    async def test_s5_a_recorded_connection_cannot_be_played_again(
        self, open_transport: OpenTransport, securities: Securities
    ) -> None:
        """Nothing of it reaches the handler; it is refused and, if the transport counts, counted."""
        ours = securities.of(Mode.SECRET)
        async with open_peer(open_transport, 1, ours) as one, _between(one.address) as middle:
            async with open_peer(open_transport, 2, ours) as two:
                two.transport.set_peers({1: middle.address})
                await two.send_until(1, b"once", one)
                recorded = bytes(middle.forth)  # without the end: what is ended at once may not even be looked at
            heard = list(one.handler.received)
            stream = await _connect(one.address)
            await stream.send(recorded)
            with anyio.fail_after(PATIENCE), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while not _counted(one):  # it counts before its last word, or does not count and closes
                    await stream.receive()
            await anyio.aclose_forcefully(stream)
            assert one.handler.received == heard
            assert len(one.handler.hellos) == 1
            assert _counted(one) in (1, None)

    @pytest.mark.parametrize("change", ["flipped", "repeated"])
    async def test_what_is_changed_on_the_way_ends_the_connection(
        self, open_transport: OpenTransport, securities: Securities, change: str
    ) -> None:
        """The sender is told that messages were lost, and a new connection carries the next ones."""
        ours = securities.of(Mode.SECRET)

        def flip_the_last_byte(data: bytes) -> bytes:
            return data[:-1] + bytes((data[-1] ^ 1,))

        def repeat(data: bytes) -> bytes:
            return data * 2

        async with (
            open_peer(open_transport, 1, ours) as one,
            _between(one.address) as middle,
            open_peer(open_transport, 2, ours) as two,
        ):
            two.transport.set_peers({1: middle.address})
            await two.send_until(1, b"first", one)
            one.handler.received.clear()
            two.handler.unreached.clear()
            middle.change_what_is_open(flip_the_last_byte if change == "flipped" else repeat)
            two.transport.send(1, [b"forged?"])
            await two.handler.until(lambda: two.handler.unreached)
            assert one.handler.received in ([], [(2, b"forged?")])
            await two.send_until(1, b"a new connection", one)
            assert len(one.handler.hellos) == 2


class TlsSuite(_Suite):
    """Of a transport with mutual TLS, that begins a connection with the handshake: see `riteraft_core.security`."""

    alpn: ClassVar[Sequence[str]] = ()
    """The application protocols that both sides name in the handshake."""

    def client_context(self, securities: Securities, files: Issued | None = None) -> ssl.SSLContext:
        """Return the context of a client that trusts the cluster's CA and shows this certificate, or none."""
        context = ssl.create_default_context(cafile=securities.folder / "ca.pem")
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        return context

    @pytest.mark.parametrize("shown", ["no certificate", "one of another CA", "one that expired", "TLS 1.1"])
    async def test_s6_who_cannot_prove_its_certificate_is_turned_away(
        self, open_transport: OpenTransport, securities: Securities, strangers: Securities, shown: str
    ) -> None:
        """In the handshake: nothing of what it says is read. Each differs by one thing from who is let in."""
        files: Issued | None = securities.files("n2")
        if shown == "no certificate":
            files = None
        elif shown == "one of another CA":
            files = strangers.files("n2")
        elif shown == "one that expired":
            files = issue(securities.folder, PrincipalRole.NODE, "expired", ["127.0.0.1"], days=-1)
        context = self.client_context(securities, files)
        if shown == "TLS 1.1":
            _only(context, ssl.TLSVersion.TLSv1_1)
        async with open_peer(open_transport, 1, securities.of(Mode.TLS, "n1")) as one:
            assert await self._greeting(one.address, context) == b""
            assert one.handler.hellos == []
            async with open_peer(open_transport, 2, securities.of(Mode.TLS, "n2")) as two:
                two.transport.set_peers({1: one.address})
                await two.send_until(1, b"honest", one)

    async def _greeting(self, address: str, context: ssl.SSLContext) -> bytes:
        """Return what the server says after the handshake until it closes; a client of TLS 1.3 learns late."""
        stream = await _connect(address)
        try:
            with anyio.fail_after(PATIENCE):
                return await _said(await _secure(stream, context))
        except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError):
            return b""
        finally:
            await anyio.aclose_forcefully(stream)

    async def test_s6_who_speaks_no_tls_is_turned_away(
        self, open_transport: OpenTransport, securities: Securities
    ) -> None:
        """Whichever side it is."""
        async with (
            open_peer(open_transport, 1, securities.of(Mode.TLS, "n1")) as one,
            open_peer(open_transport, 2, Security("suite")) as two,
        ):
            for asking, asked in ((one, two), (two, one)):
                with pytest.raises(PeerUnreachable):
                    await asking.transport.request(asked.address, b"abc")
                assert (asked.handler.hellos, asked.handler.requests) == ([], [])

    async def test_the_handler_is_told_whom_the_certificate_names(
        self, open_transport: OpenTransport, securities: Securities
    ) -> None:
        """A program that only asks: it has no identity and listens nowhere, but a certificate."""
        async with open_peer(open_transport, 1, securities.of(Mode.TLS, "n1")) as one:
            security = securities.of(Mode.TLS, "app", PrincipalRole.CLIENT)
            async with open_peer(open_transport, 0, security, address=None) as app:
                assert await app.transport.request(one.address, b"abc") == b"cba"
            principal = Principal(PrincipalRole.CLIENT, "suite", "app")
            assert one.handler.principals == [principal]
            assert [hello.principal for hello in one.handler.hellos] == [principal]

    async def test_a_server_is_checked_by_its_host_and_its_ca(
        self, open_transport: OpenTransport, securities: Securities, strangers: Securities
    ) -> None:
        """Before it hears who asks."""
        issue(securities.folder, PrincipalRole.NODE, "far", ["192.0.2.1", "far.example"])
        async with open_peer(open_transport, 2, securities.of(Mode.TLS, "n2")) as two:
            for security in (strangers.of(Mode.TLS, "n1"), securities.of(Mode.TLS, "far")):
                async with open_peer(open_transport, 1, security) as one:
                    with pytest.raises(PeerUnreachable):
                        await two.transport.request(one.address, b"abc")
                    assert one.handler.hellos == []

    async def test_s6_a_server_of_tls_before_1_2_is_not_dialled(
        self, open_transport: OpenTransport, securities: Securities
    ) -> None:
        """The handshake fails; with 1.2 it does not."""
        for version, agrees in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
            files = securities.files("n1")
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=securities.folder / "ca.pem")
            context.load_cert_chain(files.certificate, files.key)
            if self.alpn:
                context.set_alpn_protocols(list(self.alpn))
            _only(context, version)
            agreed: list[str] = []

            async def greet(
                stream: SocketStream, context: ssl.SSLContext = context, agreed: list[str] = agreed
            ) -> None:
                with suppress(ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError):
                    secured = await TLSStream.wrap(stream, ssl_context=context, server_side=True)
                    agreed.append(secured.extra(TLSAttribute.tls_version))  # noqa: S610 - not Django's
                await anyio.aclose_forcefully(stream)

            async with (
                _listening(greet) as address,
                open_peer(open_transport, 2, securities.of(Mode.TLS, "n2")) as two,
            ):
                with pytest.raises(PeerUnreachable):
                    await two.transport.request(address, b"abc")
            assert bool(agreed) is agrees, agreed

    async def test_s6_new_certificates_are_used_without_a_restart(
        self, open_transport: OpenTransport, securities: Securities
    ) -> None:
        """Connections that are there stay; the next handshake shows the new one."""
        own, others = securities.of(Mode.TLS, "n1"), securities.of(Mode.TLS, "n2")
        async with open_peer(open_transport, 1, own) as one, open_peer(open_transport, 2, others) as two:

            async def shown() -> bytes:
                context = self.client_context(securities, securities.files("n2"))
                secured = await _secure(await _connect(one.address), context)
                certificate: bytes = secured._ssl_object.getpeercert(binary_form=True) or b""
                await anyio.aclose_forcefully(secured)
                return certificate

            before = await shown()
            two.transport.set_peers({1: one.address})
            await two.send_until(1, b"under the old", one)
            for name, security in (("n1", own), ("n2", others)):
                files = securities.files(name)
                files.certificate.unlink()
                files.key.unlink()
                securities.files(name)
                assert security.tls is not None
                security.tls._next_look = 0.0
            assert await shown() != before
            assert await two.transport.request(one.address, b"abc") == b"cba"
            await two.send_until(1, b"the connection stays", one)
            assert len([hello for hello in one.handler.hellos if hello.to == 1]) == 1


def _counted(peer: Peer) -> int | None:
    """Return how often the transport refused or closed something, if it counts."""
    counters = getattr(peer.transport, "counters", None)
    return None if counters is None else sum(counters.values())


async def _connect(address: str) -> SocketStream:
    host, _, port = address.rpartition(":")
    return await anyio.connect_tcp(host, int(port))


async def _secure(stream: SocketStream, context: ssl.SSLContext) -> TLSStream:
    return await TLSStream.wrap(
        stream, hostname="127.0.0.1", ssl_context=context, standard_compatible=False, server_side=False
    )


async def _said(stream: ByteStream) -> bytes:
    """Read until the other side has closed; return what it said before."""
    said = b""
    try:
        while True:
            said += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
        return said


def _only(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    """Let `context` speak this version alone, however old."""
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version


@asynccontextmanager
async def _listening(serve: Callable[[SocketStream], object]) -> AsyncIterator[str]:
    """Serve whoever comes; yield where."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610 - not Django's
        tasks.cancel_scope.cancel()


class _Between:
    """Sits between two nodes: it records what passes from one to the other, and may change it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.forth = bytearray()
        self._open: dict[SocketStream, Callable[[bytes], bytes]] = {}

    def change_what_is_open(self, change: Callable[[bytes], bytes]) -> None:
        """Change all that passes from now on, on the connections that are there."""
        self._open = dict.fromkeys(self._open, change)

    async def serve(self, stream: SocketStream) -> None:
        """Pass on what comes on one connection."""
        self._open[stream] = bytes
        async with stream, await _connect(self.target) as target, anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, target, stream, tasks.cancel_scope)
            tasks.start_soon(self._pump, stream, target, tasks.cancel_scope)
        del self._open[stream]

    async def _pump(self, source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await source.receive()
                change = self._open.get(source)  # None: that way nothing is looked at
                if change is not None:
                    self.forth += data
                    data = change(data)
                await sink.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            scope.cancel()


@asynccontextmanager
async def _between(target: str) -> AsyncIterator[_Between]:
    """Let somebody sit between whoever dials its address and `target`."""
    middle = _Between(target)
    async with _listening(middle.serve) as middle.address:
        yield middle
