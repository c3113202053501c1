"""A network whose links can be cut, each way by itself: a proxy before every node, that learns from the first frame
of a connection who has dialled."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import permutations
from typing import Any, TypeVar

import pytest

from . import cluster
from .cluster import NodeProcess

T = TypeVar("T")

SENDER = struct.Struct("!26xQ")
"""Where a hello says its sender's node id: behind the header of its frame, purpose and authentication."""
PIECE = 65536

Way = tuple[int, int]
"""From one node id to another."""


class Network:
    """Carries what nodes say to each other, or holds it back.

    Nothing that was sent is lost at a cut: it arrives once the link is whole again, if anybody still waits for it, as
    it would from a kernel that sends again and again.
    """

    def __init__(self) -> None:
        self.held: Counter[Way] = Counter()
        """How often something was held back, by its way."""
        self.delayed: Counter[int] = Counter()
        """Bytes that went to a node at the rate that was set, by its id."""
        self._cut: set[Way] = set()
        self._rates: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Network:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def put_before(self, node: NodeProcess) -> None:
        """Let the others reach this node through the network only; before its first start."""
        behind = node.address
        node.move()
        node.settings.update(address=behind, advertise=node.address)
        self._do(self._listen(node, int(behind.rpartition(":")[2]), int(node.address.rpartition(":")[2])))

    @contextmanager
    def cut(self, *ways: tuple[NodeProcess, NodeProcess]) -> Iterator[None]:
        """Hold back what goes these ways, until the end of the block; then everything is whole."""
        if cluster.PLUGINS["transport"] != "tcp":
            pytest.skip("who dialled is read from tcp's hello; in tests/faults the kernel cuts off any transport")

        self._set({(sender.node_id, receiver.node_id) for sender, receiver in ways})
        try:
            yield
        finally:
            self._set(set())

    @contextmanager
    def slow(self, node: NodeProcess, bytes_per_second: int) -> Iterator[None]:
        """Let each connection to this node carry so much a second only, until the end of the block."""
        self._rates[node.node_id] = bytes_per_second
        try:
            yield
        finally:
            del self._rates[node.node_id]

    def _set(self, cut: set[Way]) -> None:
        async def change() -> None:
            self._cut = cut
            self._changed.set()
            self._changed = asyncio.Event()

        self._do(change())

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self, node: NodeProcess, behind: int, port: int) -> None:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                await self._carry(node, behind, reader, writer)
            except OSError:
                pass  # the node is not there: the connection ends, as it would without us
            finally:
                self._connections.discard(task)
                writer.close()

        self._servers.append(await asyncio.start_server(carry, "127.0.0.1", port))

    async def _carry(
        self, node: NodeProcess, behind: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first = b""
        while len(first) < SENDER.size:
            piece = await reader.read(PIECE)
            if not piece:
                return

            first += piece

        (sender,) = SENDER.unpack_from(first)

        # Looked up each time: a node is dialled before it has told the test its id.
        def there() -> Way:
            return sender, node.node_id

        def back() -> Way:
            return node.node_id, sender

        await self._until_open(there)
        reader_there, writer_there = await asyncio.open_connection("127.0.0.1", behind)
        try:
            writer_there.write(first)
            await asyncio.gather(self._pass_on(reader, writer_there, there), self._pass_on(reader_there, writer, back))
        finally:
            writer_there.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Callable[[], Way]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE):
                await self._until_open(way)
                _, receiver = way()
                if rate := self._rates.get(receiver):
                    self.delayed[receiver] += len(data)
                    await asyncio.sleep(len(data) / rate)

                writer.write(data)
                await writer.drain()

        await self._until_open(way)  # the end of a connection is something that is sent, too
        writer.close()

    async def _until_open(self, way: Callable[[], Way]) -> None:
        while way() in self._cut:
            self.held[way()] += 1
            await self._changed.wait()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()

        for task in tuple(self._connections):
            task.cancel()

        await asyncio.gather(*self._connections, return_exceptions=True)


def apart(*sides: Iterable[NodeProcess]) -> list[tuple[NodeProcess, NodeProcess]]:
    """Return the ways between nodes of different sides."""
    return [(one, other) for here, there in permutations(sides, 2) for one in here for other in there]
