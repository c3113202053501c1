"""Opens a node by name from what is installed, and nothing else: run in a fresh environment, away from the sources."""

from __future__ import annotations

import tempfile
from pathlib import Path

import anyio

import riteraft_core
from riteraft_core import Config, open_node


class Counter:
    def __init__(self) -> None:
        self.total = 0

    def apply(self, command: bytes) -> bytes:
        self.total += int(command)
        return b"%d" % self.total

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)


async def add_three(data_dir: Path, transport: str) -> bytes:
    config = Config(
        cluster="packaging",
        address="127.0.0.1:0",
        data_dir=data_dir,
        bootstrap=True,
        transport=transport,
        storage="sqlite",
        consensus="raft-rs",
    )
    counter = Counter()

    async with open_node(config, counter) as node:
        answer = await node.propose(b"3", timeout=30)
        await node.read_barrier(timeout=30)
        assert answer == b"%d" % counter.total
        return answer


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="riteraft-packaging-") as folder:
        for transport in ("tcp", "grpc"):
            data_dir = Path(folder) / transport
            assert await add_three(data_dir, transport) == b"3"
            assert await add_three(data_dir, transport) == b"6"  # restarted: the first three came from the disk

    where = Path(riteraft_core.__file__).parent
    print(f"a node on tcp and one on grpc, from {where}: opened, written, restarted, read")  # noqa: T201


anyio.run(main)
