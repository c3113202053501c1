"""Clusters to measure: three processes on loopback, of riteraft or of PySyncObj, asked in the same way."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.port import Port

from .process import NodeProcess, until


@dataclass(frozen=True, slots=True)
class RiteraftSettings:
    """How the nodes of a riteraft cluster run."""

    loop: str
    storage: str = "sqlite"
    consensus: str = "raft-rs"
    transport: str = "tcp"
    snapshots: bool = True
    size: int = 3
    tree: Path | None = None
    """Another checkout whose Python sources they run; the native module is the interpreter's."""
    python: Path | None = None
    """Another interpreter to run them."""


def sources(tree: Path) -> list[Path]:
    """Return the folders of a checkout that its Python packages are imported from."""
    return sorted(tree.glob("*/src"))


class Cluster:
    """Nodes that are members all."""

    def __init__(self, name: str, nodes: list[NodeProcess]) -> None:
        self.name = name
        self.nodes = nodes

    def status(self) -> list[dict[str, Any]]:
        """Return each node's view."""
        return [node.ask("status") for node in self.nodes]

    def at(self, where: str) -> NodeProcess:
        """Return the leader, or the first node that is a follower."""
        found: list[NodeProcess] = []

        def there() -> bool:
            found[:] = [node for node in self.nodes if node.ask("status")["role"] == where]
            return bool(found)

        until(there, f"a {where} of {self.name}")
        return found[0]

    def wait_level(self) -> None:
        """Wait until every node has applied what any of them had applied when the call began."""
        wanted = max(view["applied"] for view in self.status())
        until(
            lambda: all(view["applied"] >= wanted for view in self.status()),
            f"every node of {self.name} having applied {wanted} entries",
        )


@contextmanager
def running(folder: Path | None, name: str) -> Iterator[tuple[list[NodeProcess], Path]]:
    """Give a list to put nodes in, and a folder for their data; afterwards nothing is left of either."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"benchmark-{name}-", dir=folder))
        nodes: list[NodeProcess] = []
        try:
            yield nodes, Path(scratch)
        finally:
            for node in nodes:
                node.end()

            for node in nodes:
                node.reap()


@contextmanager
def riteraft_cluster(folder: Path | None, settings: RiteraftSettings) -> Iterator[Cluster]:
    """Run a founder and those that join it, until all of them vote."""
    with ExitStack() as ports, running(folder, "riteraft") as (nodes, scratch):
        peers: list[str] = []
        for number in range(1, settings.size + 1):
            config: dict[str, Any] = {
                "address": ports.enter_context(Port()).address,
                "data_dir": str(scratch / f"n{number}"),
                "storage": settings.storage,
                "consensus": settings.consensus,
                "transport": settings.transport,
                "bootstrap": not peers,
                "peers": peers,
            }
            if not settings.snapshots:
                config["snapshot"] = {"entries": 1 << 40, "bytes": 1 << 40}

            nodes.append(
                NodeProcess(
                    "node",
                    [settings.loop, json.dumps(config)],
                    scratch / f"n{number}.log",
                    python=settings.python or Path(sys.executable),
                    sources=[] if settings.tree is None else sources(settings.tree),
                )
            )
            if not peers:
                peers = [nodes[0].ask("status")["address"]]

        cluster = Cluster("riteraft", nodes)
        until(
            lambda: all(view["voters"] == settings.size for view in cluster.status()),
            f"a cluster of {settings.size} voters",
        )
        yield cluster


@contextmanager
def pysyncobj_cluster(folder: Path | None, batch_seconds: float | None = None) -> Iterator[Cluster]:
    """Run three nodes until each is connected to both others and follows the same leader.

    `batch_seconds` is how often they send what has gathered; None: each write by itself, at once.
    """
    with ExitStack() as ports, running(folder, "pysyncobj") as (nodes, scratch):
        addresses = [ports.enter_context(Port()).address for _ in range(3)]
        for number, address in enumerate(addresses, 1):
            settings = {
                "address": address,
                "partners": [other for other in addresses if other != address],
                "batch_seconds": batch_seconds,
            }
            nodes.append(NodeProcess("pysyncobj_node", [json.dumps(settings)], scratch / f"n{number}.log"))

        cluster = Cluster("PySyncObj", nodes)

        def formed() -> bool:
            views = cluster.status()
            leaders = {view["leader"] for view in views}
            return all(view["connected"] == 2 for view in views) and len(leaders) == 1 and leaders != {"None"}

        until(formed, "a cluster of three PySyncObj nodes")
        # One write, seen by all: what is measured is replicated to three nodes, or nothing is.
        leader = cluster.at("leader")
        leader.begin(1, writes=1)
        until(lambda: bool(leader.ask("read")["acknowledged"]), "a first write of PySyncObj")
        cluster.wait_level()
        yield cluster
