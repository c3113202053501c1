"""The `grpc` transport: a server, an outbox a peer, a request line an address, all in one task group."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
from anyio.abc import TaskGroup
from riteraft_core._address import Address
from riteraft_core._task_group import background
from riteraft_core.errors import ConfigError, PeerUnreachable
from riteraft_core.outbox import DeniedError
from riteraft_core.peers import Peers
from riteraft_core.protocols import Transport, TransportContext
from riteraft_core.security import Security, Tls, TlsMaterial, check_exposure
from riteraft_core.types import Identity

from ._client import CallLostError, Dialler, RequestLine, SnapshotSender
from ._grpc_log import GrpcLog
from ._options import GrpcOptions
from ._outbox import GrpcOutbox
from ._probes import Probes
from ._server import Server
from ._settings import server_arguments

_LAST_CALLS = 1.0
"""How long the calls that were just ended may take to say so before gRPC breaks their connections off."""


class GrpcTransport:
    """Carries bytes between nodes over gRPC; made by `open_grpc`."""

    def __init__(self, options: GrpcOptions, context: TransportContext, tasks: TaskGroup) -> None:
        """Take the task group that everything of ours runs in."""
        self._options = options
        self._address = ""
        self._tasks = tasks
        self._dialler = Dialler(options, context.security)
        self._server = Server(
            options,
            context.handler,
            context.security,
            context.logger,
            tasks,
            node_id=lambda: self._peers.node_id,
            knocked=lambda peer: self._peers.knocked(peer),
        )
        self.log = GrpcLog(self._server.complaints)
        self._probes = Probes(options.max_unauthenticated, self._crowded)
        self._peers = Peers(context, tasks, self._open_outbox, self._server.show_out)
        self._lines: dict[str, RequestLine] = {}
        self._closed = False

    @property
    def address(self) -> str:
        """The bound `host:port`, with the real port where the config said 0; empty if it does not listen."""
        return self._address

    @property
    def counters(self) -> Mapping[str, int]:
        """How often a call was refused or ended, by reason."""
        return dict(self._server.complaints.counters)

    def identify(self, identity: Identity) -> None:
        """Introduce ourselves as `identity` in every call from now on."""
        self._peers.identify(identity)
        self._tasks.start_soon(self._probes.tell, True)

    def set_peers(self, peers: Mapping[int, str]) -> None:
        """Replace the map node id → address."""
        self._peers.replace(peers)

    def send(self, peer: int, messages: Sequence[bytes]) -> None:
        """Queue messages for `peer`, or drop them; at once."""
        self._peers.send(peer, messages)

    async def request(self, address: str, payload: bytes) -> bytes:
        """Send one request on the connection kept for `address` and return its answer."""
        material = await self._dialler.material()
        if self._closed:
            raise PeerUnreachable(address, "the transport is closed")
        try:
            line = self._lines.get(address)
            if line is None or line.material is not material:
                # One of other certificates is closed by the last who waits for it, or below.
                old, line = line, RequestLine(address, self._options, self._dialler, material)
                self._lines[address] = line
                if old is not None and old.idle:
                    await old.aclose()
            try:
                return await line.request(self._peers.hello(0), payload)
            finally:
                if line.broken and self._lines.get(address) is line:
                    del self._lines[address]
                if line.idle and self._lines.get(address) is not line:
                    await line.aclose()
        except DeniedError as exc:
            self._peers.refused(address, exc.refusal)
            raise PeerUnreachable(address, str(exc)) from exc
        except CallLostError as exc:
            raise PeerUnreachable(address, str(exc)) from exc

    async def send_snapshot(self, peer: int, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        """Stream a snapshot on a connection of its own; return once the peer took it whole."""
        address = self._peers.address(peer)
        if self._closed:
            raise PeerUnreachable(peer, "the transport is closed")
        try:
            sender = SnapshotSender(peer, self._peers.hello(peer), self._options, self._dialler)
            await sender.send(address, header, chunks)
        except DeniedError as exc:
            self._peers.denied(peer, exc.refusal)
            raise PeerUnreachable(peer, str(exc)) from exc

    def run(self) -> None:
        """Start the tasks that live as long as the transport."""
        self._tasks.start_soon(self._peers.run)
        self._tasks.start_soon(self._close_idle_lines)

    async def listen(self, address: Address, hosts: Sequence[str], security: Security) -> grpc.aio.Server:
        """Start the server on these addresses of the host.

        :raises ConfigError: gRPC cannot listen there.
        """
        await self._probes.tell(self._peers.identity is not None)
        server = grpc.aio.server(
            handlers=(self._server.handlers(), *self._probes.handlers()),
            options=server_arguments(self._options),
            maximum_concurrent_rpcs=self._options.max_calls,
        )
        port = address.port
        try:
            for host in hosts:
                text = str(Address(host, port))
                if security.tls is None:
                    port = server.add_insecure_port(text)
                else:  # of its own for each: gRPC takes the certificates that it begins with once only
                    port = server.add_secure_port(text, _credentials(security.tls, await security.tls.current()))
        except RuntimeError as exc:
            raise ConfigError(f"address: cannot listen on {address}: {exc}; choose another address") from exc
        await server.start()
        self._address = str(Address(address.host, port))
        return server

    async def close(self) -> None:
        """End what runs in the tasks of callers and of gRPC; the rest ends with the task group."""
        self._closed = True
        self._dialler.end_all("the transport was closed")
        self._server.end_all("this node is stopping")
        self._probes.end_all("this node is stopping")
        lines, self._lines = self._lines, {}
        for line in lines.values():
            if line.idle:  # else by the last one who waits for it
                await line.aclose()

    def _open_outbox(self, peer: int, address: str) -> GrpcOutbox:
        return GrpcOutbox(peer, address, self._options, self._dialler, self._peers)

    def _crowded(self) -> None:
        self._server.complaints.add("probes", "too many health watches and reflection streams: refused one more")

    async def _close_idle_lines(self) -> None:
        while True:
            await anyio.sleep(self._options.idle_timeout / 4)
            now = anyio.current_time()
            for address, line in tuple(self._lines.items()):
                if line.idle and now - line.used_at >= self._options.idle_timeout / 2:
                    del self._lines[address]
                    await line.aclose()


@asynccontextmanager
async def open_grpc(options: GrpcOptions, context: TransportContext) -> AsyncIterator[Transport]:
    """Listen on `context.address`, if there is one, and serve until the block is left.

    :raises ConfigError: the address cannot be listened on, or may not be without authentication.
    """
    where = None if context.address is None else await _prepare(context.address, context)
    async with background() as tasks:
        transport = GrpcTransport(options, context, tasks)
        transport.run()
        server: grpc.aio.Server | None = None
        try:
            with transport.log.filtered():
                if where is not None:
                    server = await transport.listen(*where, context.security)
                yield transport
        finally:
            with anyio.CancelScope(shield=True):
                await transport.close()
                if server is not None:
                    await server.stop(_LAST_CALLS)


async def _prepare(text: str, context: TransportContext) -> tuple[Address, list[str]]:
    """Return the address to listen on, and the IP addresses that its host stands for.

    Each is bound for a moment: gRPC would not say what is wrong with one.

    :raises ConfigError: it cannot be listened on, or may not be without authentication.
    """
    try:
        wanted = Address.parse(text)
    except ValueError as exc:
        raise ConfigError(f"address: {exc}") from exc
    await check_exposure(wanted, context.security, context.logger)
    try:
        # As the tcp transport: a container's hosts file gives localhost ::1 as well, though it may have no IPv6.
        found = await anyio.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as exc:
        raise wanted.not_listening(exc) from exc
    hosts = {str(entry[4][0]): entry[0] for entry in found}
    for host, family in hosts.items():
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, wanted.port))
        except OSError as exc:
            raise wanted.not_listening(exc) from exc
    return wanted, sorted(hosts)


def _credentials(tls: Tls, material: TlsMaterial) -> grpc.ServerCredentials:
    """Return what the server proves itself with, and asks of others; it looks for new files at each handshake."""
    in_use = [material]

    def changed() -> Any:  # None: nothing has; called in threads of gRPC
        newest = tls.refresh()
        if newest is in_use[0]:
            return None
        in_use[0] = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(_configuration(material), changed, require_client_authentication=True)


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.ca)
