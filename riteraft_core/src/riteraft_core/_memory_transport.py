"""The `memory` transport: nodes of one process, on a network whose links a test can cut.

It keeps the promises of every transport (bounded outboxes, order, admission, tasks of its own) with no socket below.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ._address import Address
from ._task_group import background
from .errors import ConfigError, PeerUnreachable
from .outbox import DeniedError, LostError, Outbox, OutboxOptions
from .peers import Peers
from .protocols import Handler, Transport, TransportContext
from .types import Hello, Identity

__all__ = ["MemoryNetwork", "MemoryTransport", "MemoryTransportOptions", "open_memory_transport"]

_OUTBOX = OutboxOptions(batch_bytes=1 << 30, reconnect_min=1e-9, reconnect_max=1e-9, refused_wait=1e-9)
"""Nothing is to be spared on this network, neither by batches nor by waits."""


class MemoryNetwork:
    """Where the memory transports of one process find each other; links are named by the addresses at their ends."""

    def __init__(self) -> None:
        """Start with nobody there and nothing cut."""
        self._transports: dict[str, MemoryTransport] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._isolated: set[str] = set()
        self._last_port = 0
        self._calls: set[_Call] = set()

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from `source` to `target`; the other way stays open."""
        self._cuts.add((source, target))
        self._break_calls()

    def isolate(self, address: str) -> None:
        """Let nothing pass from or to `address`."""
        self._isolated.add(address)
        self._break_calls()

    def heal(self) -> None:
        """Let everything pass again."""
        self._cuts.clear()
        self._isolated.clear()

    def passes(self, source: str, target: str) -> bool:
        """Whether what is sent at `source` gets to `target`."""
        return (source, target) not in self._cuts and not self._isolated & {source, target}

    def _find(self, source: str, target: str) -> MemoryTransport | None:
        return self._transports.get(target) if self.passes(source, target) else None

    def _break_calls(self) -> None:
        """End the calls that lost their way there or back: an answer needs both."""
        for call in tuple(self._calls):
            if not (self.passes(call.source, call.target) and self.passes(call.target, call.source)):
                call.scope.cancel()

    def _free_address(self, wanted: Address) -> str:
        if wanted.port == 0:
            self._last_port += 1  # numbers of our own: nothing is bound
            wanted = Address(wanted.host, self._last_port)
        if str(wanted) in self._transports:
            raise ConfigError(f"address: {wanted} is taken on this memory network; choose another port")
        return str(wanted)


class MemoryTransportOptions(BaseModel):
    """The options of the `memory` transport: the network, made in code and shared by the nodes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    network: MemoryNetwork = Field(default=None, validate_default=True)
    """Needed; the default is only there to be refused with the same words as a wrong one."""

    @field_validator("network", mode="plain")
    @classmethod
    def _made_in_code(cls, value: Any) -> MemoryNetwork:
        if not isinstance(value, MemoryNetwork):
            raise ValueError("the memory transport takes a MemoryNetwork in code: for tests in one process; use tcp")
        return value


class _Link:
    """A transport that let us in, for as long as it listens and nothing is cut."""

    def __init__(self, target: MemoryTransport) -> None:
        self.target = target
        self.ended: str | None = None


class _Outbox(Outbox[_Link]):
    """The messages for one peer; each new listener at its address is a new connection."""

    def __init__(self, transport: MemoryTransport, peer: int, address: str) -> None:
        super().__init__(peer, address, _OUTBOX, transport._peers, max_body=_OUTBOX.outbox_bytes, overhead=0)
        self._transport = transport

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[_Link]:
        await anyio.lowlevel.checkpoint()
        target = self._find()
        if target is None:
            raise LostError("nobody answers there")
        refusal = target._handler.admit(self.hello())
        if refusal is not None:
            raise DeniedError(refusal)
        yield _Link(target)

    async def serve(self, line: _Link) -> None:
        while True:
            await self.until_queued()
            await anyio.lowlevel.checkpoint()
            batch, identity = self.take(), self._transport._peers.identity
            assert identity is not None, "nothing is sent without one"
            try:
                if self._find() is not line.target:
                    raise LostError("the connection broke")
                line.target._handler.messages(identity.node_id, batch)
            except Exception as exc:
                self.lost()
                raise LostError(repr(exc)) from exc
            self.wrote()

    def _find(self) -> MemoryTransport | None:
        return self._transport._network._find(self._transport.address, self.address)


class _Call:
    """A request or a snapshot under way, in a task of the transport that it is for."""

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.answer = b""
        self.error: str | None = "the connection broke"


class MemoryTransport:
    """Carries bytes between nodes of one process; made by `open_memory_transport`."""

    def __init__(self, network: MemoryNetwork, context: TransportContext, address: str, tasks: TaskGroup) -> None:
        """Take the address it is to be found at and the task group that everything runs in."""
        self._network = network
        self._handler: Handler = context.handler
        self._logger: logging.Logger = context.logger
        self._address = address
        self._tasks = tasks
        self._peers = Peers(context, tasks, self._open_outbox)
        tasks.start_soon(self._peers.run)

    @property
    def address(self) -> str:
        """The address it is found at, with a port of its own where the config said 0."""
        return self._address

    def identify(self, identity: Identity) -> None:
        """Introduce ourselves as `identity` from now on."""
        self._peers.identify(identity)

    def set_peers(self, peers: Mapping[int, str]) -> None:
        """Replace the map node id → address."""
        self._peers.replace(peers)

    def send(self, peer: int, messages: Sequence[bytes]) -> None:
        """Queue messages for `peer`, or drop them; at once."""
        self._peers.send(peer, messages)

    async def request(self, address: str, payload: bytes) -> bytes:
        """Send one request to whoever listens at `address` and return its answer."""
        peer = self._peers.node_id or None

        async def answer(target: MemoryTransport) -> bytes:
            return await target._handler.request(peer, payload)

        return await self._call(address, address, self._peers.hello(0), answer)

    async def send_snapshot(self, peer: int, header: bytes, chunks: AsyncIterable[bytes]) -> None:
        """Stream a snapshot beside the messages; return once the peer took it whole."""
        address, identity = self._peers.address(peer), self._peers.identity
        assert identity is not None, "there is no address without one"
        sending, receiving = anyio.create_memory_object_stream[bytes | None](0)
        failure: Exception | None = None

        async def take(target: MemoryTransport) -> bytes:
            stream = _Stream(identity.node_id, receiving)
            async with aclosing(stream.chunks()) as chunks:
                await target._handler.snapshot(identity.node_id, header, chunks)
            if not stream.whole:
                raise PeerUnreachable(identity.node_id, "it was not read to its end")
            return b""

        async def give() -> None:
            nonlocal failure
            try:
                async for chunk in chunks:
                    await sending.send(bytes(chunk))
                await sending.send(None)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass  # the peer reads no further: its answer says why
            except Exception as exc:  # the caller's own chunks: to be raised as it came, not in a group
                failure = exc
                sending.close()

        unreachable: PeerUnreachable | None = None
        with sending, receiving:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(give)
                try:
                    await self._call(peer, address, self._peers.hello(peer), take)
                except PeerUnreachable as exc:
                    unreachable = exc
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if unreachable is not None:
            raise unreachable

    def _open_outbox(self, peer: int, address: str) -> _Outbox:
        return _Outbox(self, peer, address)

    async def _call(
        self, name: object, address: str, hello: Hello, run: Callable[[MemoryTransport], Awaitable[bytes]]
    ) -> bytes:
        """Have `run` done in a task of whoever listens at `address`; return what it returned.

        :raises PeerUnreachable: it could not be reached, said no, or the connection broke.
        """
        await anyio.lowlevel.checkpoint()
        target = self._network._find(self._address, address)
        if target is None or not self._network.passes(address, self._address):
            raise PeerUnreachable(name, "nobody answers there")
        refusal = target._handler.admit(hello)
        if refusal is not None:
            self._peers.refused(address, refusal)
            raise PeerUnreachable(name, f"it refused us ({refusal.code.value}): {refusal.text}")
        call = _Call(self._address, address)
        self._network._calls.add(call)
        try:
            target._tasks.start_soon(target._serve, call, run)
            await call.done.wait()
        finally:
            self._network._calls.discard(call)
        if call.error is not None:
            raise PeerUnreachable(name, call.error)
        return call.answer

    async def _serve(self, call: _Call, run: Callable[[MemoryTransport], Awaitable[bytes]]) -> None:
        try:
            with call.scope:
                call.answer = await run(self)
                call.error = None
        except Exception as exc:
            call.error = f"it answered with an error: {str(exc) or type(exc).__name__}"
            self._logger.warning("a request or snapshot failed: %r", exc)
        finally:
            call.done.set()


class _Stream:
    """The chunks of one snapshot on their way in; None stands for the end."""

    def __init__(self, sender: int, receiving: MemoryObjectReceiveStream[bytes | None]) -> None:
        self.whole = False
        self._sender = sender
        self._receiving = receiving

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the chunks.

        :raises PeerUnreachable: the sender gave up, or was lost.
        """
        try:
            while (chunk := await self._receiving.receive()) is not None:
                yield chunk
        except (anyio.EndOfStream, anyio.ClosedResourceError) as exc:
            raise PeerUnreachable(self._sender, "its snapshot ended before the end") from exc
        self.whole = True


@asynccontextmanager
async def open_memory_transport(options: MemoryTransportOptions, context: TransportContext) -> AsyncIterator[Transport]:
    """Be found at `context.address` on the network of the options until the block is left.

    :raises ConfigError: the address is malformed or taken.
    """
    network = options.network
    try:
        address = "" if context.address is None else network._free_address(Address.parse(context.address))
    except ValueError as exc:
        raise ConfigError(f"address: {exc}") from exc
    async with background() as tasks:
        transport = MemoryTransport(network, context, address, tasks)
        if address:
            network._transports[address] = transport
        try:
            yield transport
        finally:
            network._transports.pop(address, None)
