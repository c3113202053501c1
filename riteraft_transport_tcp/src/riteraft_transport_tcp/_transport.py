"""The `tcp` transport: a server, an outbox a peer, a request line an address, all in one task group."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener
from riteraft_core._address import Address
from riteraft_core._task_group import background
from riteraft_core.errors import ConfigError, PeerUnreachable
from riteraft_core.outbox import DeniedError
from riteraft_core.peers import Peers
from riteraft_core.protocols import Transport, TransportContext
from riteraft_core.security import check_exposure
from riteraft_core.types import Identity

from ._client import Dialler, RequestLine, SnapshotSender
from ._connection import Reaper
from ._options import TcpOptions
from ._outbox import TcpOutbox
from ._server import Server


class TcpTransport:
    """Carries bytes between nodes over TCP; made by `open_tcp`."""

    def __init__(self, options: TcpOptions, context: TransportContext, address: str, tasks: TaskGroup) -> None:
        """Take the bound address and the task group that everything runs in."""
        self._options = options
        self._address = address
        self._tasks = tasks
        self._reaper = Reaper(options)
        self._dialler = Dialler(options, self._reaper, context.security)
        self._server = Server(
            options,
            context.handler,
            context.logger,
            self._reaper,
            context.security,
            node_id=lambda: self._peers.node_id,
            knocked=lambda peer: self._peers.knocked(peer),
        )
        self._peers = Peers(context, tasks, self._open_outbox, self._server.show_out)
        self._lines: dict[tuple[str, Identity | None], RequestLine] = {}
        self._closed = False

    @property
    def address(self) -> str:
        """The bound `host:port`, with the real port where the config said 0."""
        return self._address

    @property
    def counters(self) -> Mapping[str, int]:
        """How often a connection was refused or closed, by reason."""
        return dict(self._server.complaints.counters)

    def identify(self, identity: Identity) -> None:
        """Introduce ourselves as `identity` on every connection from now on."""
        self._peers.identify(identity)

    def set_peers(self, peers: Mapping[int, str]) -> None:
        """Replace the map node id → address."""
        self._peers.replace(peers)

    def send(self, peer: int, messages: Sequence[bytes]) -> None:
        """Queue messages for `peer`, or drop them; at once."""
        self._peers.send(peer, messages)

    async def request(self, address: str, payload: bytes) -> bytes:
        """Send one request on the connection kept for `address` and return its answer."""
        key = (address, self._peers.identity)
        line = self._lines.get(key)
        if line is None or line.over:
            if self._closed:
                raise PeerUnreachable(address, "the transport is closed")
            line = self._lines[key] = RequestLine(address, self._peers.hello(0), self._options, self._dialler)
            self._tasks.start_soon(line.run, self._line_ended)
        return await line.request(payload)

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

    def run(self, listeners: Sequence[SocketListener]) -> None:
        """Start the tasks that live as long as the transport."""
        for listener in listeners:
            self._tasks.start_soon(self._server.accept, listener, self._tasks)
        self._tasks.start_soon(self._reaper.run)
        self._tasks.start_soon(self._peers.run)

    def close(self) -> None:
        """End what runs in the tasks of callers; the rest ends with the task group."""
        self._closed = True
        self._reaper.end_all("the transport was closed")

    def _open_outbox(self, peer: int, address: str) -> TcpOutbox:
        return TcpOutbox(peer, address, self._options, self._dialler, self._peers)

    def _line_ended(self, line: RequestLine) -> None:
        for key, kept in tuple(self._lines.items()):
            if kept is line:
                del self._lines[key]
        if line.refusal is not None:
            self._peers.refused(line.address, line.refusal)


@asynccontextmanager
async def open_tcp(options: TcpOptions, context: TransportContext) -> AsyncIterator[Transport]:
    """Listen on `context.address` and serve until the block is left.

    :raises ConfigError: the address cannot be listened on, or may not be without authentication.
    """
    async with AsyncExitStack() as stack:
        listeners: list[SocketListener] = []
        address = ""
        if context.address is not None:
            listeners, address = await _listen(context.address, context, stack)
        async with background() as tasks:
            transport = TcpTransport(options, context, address, tasks)
            transport.run(listeners)
            try:
                yield transport
            finally:
                transport.close()


async def _listen(text: str, context: TransportContext, stack: AsyncExitStack) -> tuple[list[SocketListener], str]:
    """Return what listens at the address, to be closed by `stack`, and the address with its real port."""
    try:
        wanted = Address.parse(text)
    except ValueError as exc:
        raise ConfigError(f"address: {exc}") from exc
    await check_exposure(wanted, context.security, context.logger)
    try:
        multi = await anyio.create_tcp_listener(local_host=wanted.host, local_port=wanted.port)
    except OSError as exc:
        raise wanted.not_listening(exc) from exc
    stack.push_async_callback(_close, multi)
    port = multi.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
    listeners = [listener for listener in multi.listeners if isinstance(listener, SocketListener)]
    return listeners, str(Address(wanted.host, port))


async def _close(listener: MultiListener[SocketStream]) -> None:
    with anyio.CancelScope(shield=True):
        await listener.aclose()
