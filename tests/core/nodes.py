"""Nodes within one process, for tests: on built-in plugins or on real files and sockets, restartable by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from riteraft_core.memory import MemoryDisk, MemoryNetwork

from riteraft_core import CommandRejected, Config, Node, Role, Store, open_node

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for what takes well under one, when nothing else runs."""


class Counter:
    """Adds up; and what a test needs to make trouble."""

    threaded = False

    def __init__(self) -> None:
        self.total = 0
        self.calls: list[str] = []

    def apply(self, command: bytes) -> bytes:
        self.calls.append(command.decode())
        if command == b"reject":
            raise CommandRejected("not that one", b"\x00detail")

        if command == b"crash":
            raise RuntimeError("the Store is broken")

        if command == b"nonsense":
            return "a text"  # type: ignore[return-value]

        self.total += int(command)
        return str(self.total).encode()

    def snapshot(self) -> bytes:
        return str(self.total).encode()

    def restore(self, snapshot: bytes) -> None:
        self.calls.append("restore")
        self.total = int(snapshot)


class Gated:
    """An async Counter that applies nothing until the gate is open."""

    def __init__(self) -> None:
        self.counter = Counter()
        self.gate = anyio.Event()

    async def apply(self, command: bytes) -> bytes:
        await self.gate.wait()
        return self.counter.apply(command)

    async def snapshot(self) -> bytes:
        return self.counter.snapshot()

    async def restore(self, snapshot: bytes) -> None:
        self.counter.restore(snapshot)


class World:
    """Where the nodes of one test live; the same name is the same folder or disk again."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.network = MemoryNetwork()
        self.disks: dict[str, MemoryDisk] = {}

    def config(self, name: str = "n1", **settings: Any) -> Config:
        if self.kind == "memory":
            disk = self.disks.setdefault(name, MemoryDisk())
            settings.setdefault("transport", {"name": "memory", "network": self.network})
            settings.setdefault("storage", {"name": "memory", "disk": disk})
        else:
            settings.setdefault("transport", "tcp")
            settings.setdefault("storage", "sqlite")

        settings.setdefault("cluster", "tests")
        settings.setdefault("address", "127.0.0.1:0")
        settings.setdefault("data_dir", self.folder / name)
        settings.setdefault("timing", {"election_timeout": 0.3})
        return Config(**settings)

    @asynccontextmanager
    async def cluster(self, *stores: Store, **settings: Any) -> AsyncIterator[list[Node]]:
        """Run a node for each Store, until all of them vote; the first one leads."""
        async with AsyncExitStack() as stack:
            nodes: list[Node] = []
            for number, store in enumerate(stores, start=1):
                entry = {"peers": [nodes[0].status().address]} if nodes else {"bootstrap": True}
                config = self.config(f"n{number}", **entry, **settings)
                nodes.append(await stack.enter_async_context(open_node(config, store)))

            await until(lambda: all(len(node.status().voters) == len(nodes) and node.leader for node in nodes))
            yield nodes


async def until(condition: Callable[[], T], within: float = PATIENCE) -> T:
    """Look at every turn of the clock; return the first thing found that is true."""
    with anyio.fail_after(within):
        while not (found := condition()):  # noqa: ASYNC110 - no event tells of just any condition
            await anyio.sleep(0.005)

    return found


def leader_of(nodes: list[Node]) -> Node:
    """Return the one that leads."""
    return next(node for node in nodes if node.role is Role.LEADER)
