"""The `tcp` transport: a server, an outbox a peer, a request line an address, all in one task group."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener
from riteraft_core._address import Address
from riteraft_core.errors import ConfigError, PeerUnreachable
from riteraft_core.protocols import Transport, TransportContext
from riteraft_core.security import check_exposure
from riteraft_core.types import Hello, Identity

from ._client import DeniedError, Dialler, RequestLine, SnapshotSender
from ._connection import Reaper
from ._handshake import hello_of
from ._options import TcpOptions
from ._outbox import Outbox
from ._server import Server

_CURES = {
    errno.EADDRINUSE: "another program listens there: stop it, or choose another port (0 takes a free one)",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose one of its own, or 0.0.0.0 for all of them",
    errno.EACCES: "this user may not use that port: choose one from 1024 up",
}


class TcpTransport:
    """Carries bytes between nodes over TCP; made by `open_tcp`."""

    def __init__(self, options: TcpOptions, context: TransportContext, address: str, tasks: TaskGroup) -> None:
        """Take the bound address and the task group that everything runs in."""
        self._options = options
        self._handler = context.handler
        self._logger = context.logger
        self._identity = context.identity
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
            node_id=lambda: self._identity.node_id if self._identity is not None else 0,
            knocked=self._knocked,
        )
        self._outboxes: dict[int, Outbox] = {}
        self._lines: dict[tuple[str, Identity | None], RequestLine] = {}
        self._closed = False
        # Peers to tell the handler about: from a task of its own, since `send` must not call back.
        self._unreachable: dict[int, None] = {}
        self._unknown: set[int] = set()
        self._tell = anyio.Event()

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
        self._identity = identity

    def set_peers(self, peers: Mapping[int, str]) -> None:
        """Replace the map node id → address."""
        for peer, outbox in tuple(self._outboxes.items()):
            if peers.get(peer) != outbox.address:
                outbox.scope.cancel()
                del self._outboxes[peer]
                if peer in peers:
                    self._dropped(peer)  # what waited for it at its old address
                else:
                    self._server.show_out(peer)
        self._unknown.difference_update(peers)
        for peer, address in peers.items():
            if peer not in self._outboxes:
                outbox = self._outboxes[peer] = Outbox(
                    peer,
                    address,
                    self._options,
                    self._dialler,
                    self._logger,
                    hello=lambda peer=peer: self._hello(peer),  # type: ignore[misc]
                    dropped=self._dropped,
                    refused=self._handler.refused,
                )
                self._tasks.start_soon(outbox.run)

    def send(self, peer: int, messages: Sequence[bytes]) -> None:
        """Queue messages for `peer`, or drop them; at once."""
        outbox = self._outboxes.get(peer)
        if outbox is not None and self._identity is not None:
            outbox.put(messages)
        elif peer not in self._unknown:
            self._unknown.add(peer)
            self._dropped(peer)

    async def request(self, address: str, payload: bytes) -> bytes:
        """Send one request on the connection kept for `address` and return its answer."""
        key = (address, self._identity)
        line = self._lines.get(key)
        if line is None or line.over:
            if self._closed:
                raise PeerUnreachable(address, "the transport is closed")
            line = self._lines[key] = RequestLine(address, self._hello(0), self._options, self._dialler)
            self._tasks.start_soon(line.run, self._line_ended)
        return await line.request(payload)

    async def send_snapshot(self, peer: int, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        """Stream a snapshot on a connection of its own; return once the peer took it whole."""
        outbox = self._outboxes.get(peer)
        if outbox is None or self._identity is None or self._closed:
            raise PeerUnreachable(peer, "its address is not known here, or this node has no identity yet")
        try:
            sender = SnapshotSender(peer, self._hello(peer), self._options, self._dialler)
            await sender.send(outbox.address, header, chunks)
        except DeniedError as exc:
            self._handler.refused(peer, exc.refusal)
            raise PeerUnreachable(peer, str(exc)) from exc

    def run(self, listeners: Sequence[SocketListener]) -> None:
        """Start the tasks that live as long as the transport."""
        for listener in listeners:
            self._tasks.start_soon(self._server.accept, listener, self._tasks)
        self._tasks.start_soon(self._reaper.run)
        self._tasks.start_soon(self._tell_unreachable)

    def close(self) -> None:
        """End what runs in the tasks of callers; the rest ends with the task group."""
        self._closed = True
        self._reaper.end_all("the transport was closed")

    def _hello(self, to: int) -> Hello:
        return hello_of(self._identity, to)

    def _knocked(self, peer: int) -> None:
        outbox = self._outboxes.get(peer)
        if outbox is not None:
            outbox.knocked()

    def _line_ended(self, line: RequestLine) -> None:
        for key, kept in tuple(self._lines.items()):
            if kept is line:
                del self._lines[key]
        if line.refusal is not None:
            for peer, outbox in self._outboxes.items():
                if outbox.address == line.address:
                    self._handler.refused(peer, line.refusal)

    def _dropped(self, peer: int) -> None:
        self._unreachable[peer] = None
        self._tell.set()

    async def _tell_unreachable(self) -> None:
        while True:
            await self._tell.wait()
            self._tell = anyio.Event()
            peers, self._unreachable = self._unreachable, {}
            for peer in peers:
                self._handler.unreachable(peer)


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
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            transport = TcpTransport(options, context, address, tasks)
            transport.run(listeners)
            try:
                yield transport
            except Exception as exc:  # the block's own: it leaves as it came, not in a group
                failure = exc
            finally:
                transport.close()
                tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


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
        cure = _CURES.get(exc.errno or 0, "choose another address")
        raise ConfigError(f"address: cannot listen on {wanted}: {exc.strerror or exc}; {cure}") from exc
    stack.push_async_callback(_close, multi)
    port = multi.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
    listeners = [listener for listener in multi.listeners if isinstance(listener, SocketListener)]
    return listeners, str(Address(wanted.host, port))


async def _close(listener: MultiListener[SocketStream]) -> None:
    with anyio.CancelScope(shield=True):
        await listener.aclose()
