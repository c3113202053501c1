"""Runs a cluster with nothing installed but the core and the native module: no plugin, no extra."""

from __future__ import annotations

import importlib.util

import anyio
from riteraft_core.memory import MemoryNetwork

from riteraft_core import Config, Node, PluginError, open_node

NOT_HERE = ["riteraft_transport_tcp", "riteraft_transport_grpc", "riteraft_storage_sqlite", "typer", "pytest"]
NOT_HERE += ["aiohttp", "grpc"]
FOUNDER = "n1:7001"


class Words:
    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, command: bytes) -> bytes:
        self.words.append(command)
        return b"%d" % len(self.words)

    def snapshot(self) -> bytes:
        return b"\n".join(self.words)

    def restore(self, snapshot: bytes) -> None:
        self.words = snapshot.split(b"\n") if snapshot else []


def config(address: str, network: MemoryNetwork) -> Config:
    return Config(
        cluster="minimal",
        address=address,
        bootstrap=address == FOUNDER,
        peers=[] if address == FOUNDER else [FOUNDER],
        transport={"name": "memory", "network": network},
        storage="memory",
    )


async def write_and_read_everywhere() -> None:
    network = MemoryNetwork()
    stores = [Words(), Words(), Words()]

    async with (
        open_node(config(FOUNDER, network), stores[0]) as first,
        open_node(config("n2:7001", network), stores[1]) as second,
        open_node(config("n3:7001", network), stores[2]) as third,
    ):
        nodes: list[Node] = [first, second, third]

        for number, node in enumerate(nodes, start=1):
            assert await node.propose(b"word", timeout=10) == b"%d" % number

        for node, store in zip(nodes, stores, strict=True):
            await node.read_barrier(timeout=10)
            assert store.words == [b"word"] * 3


async def names_the_cure_for_a_missing_plugin() -> None:
    told = ""

    try:
        async with open_node(Config(cluster="minimal", address=FOUNDER, bootstrap=True, storage="memory"), Words()):
            pass
    except PluginError as exc:
        told = str(exc)

    for part in ('no transport "tcp"', 'pip install "riteraft-core['):
        assert part in told, f"the error for a missing transport was {told!r}"


found = [name for name in NOT_HERE if importlib.util.find_spec(name) is not None]
assert not found, f"this environment is not the core alone: {found}"

anyio.run(write_and_read_everywhere)
anyio.run(names_the_cure_for_a_missing_plugin)

print("the core alone: three nodes on memory wrote and read; a missing plugin is named with its cure")  # noqa: T201
