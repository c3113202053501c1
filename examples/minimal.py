"""The least there is to write: a number that all nodes agree on; every start of a node adds one to it.

python minimal.py 127.0.0.1:7001                   # forms the cluster; each further one names any member:
python minimal.py 127.0.0.1:7002 127.0.0.1:7001    # the same commands start them again
"""

from __future__ import annotations

import sys

import anyio

from riteraft_core import Config, open_node


class Counter:
    total = 0

    def apply(self, command: bytes) -> bytes:
        self.total += int(command)
        return self.snapshot()

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)


async def main(address: str, peers: list[str]) -> None:
    folder = f"riteraft-data/{address.replace(':', '_')}"
    config = Config(cluster="minimal", address=address, data_dir=folder, bootstrap=not peers, peers=tuple(peers))
    async with open_node(config, Counter()) as node:
        answer = await node.propose(b"1")
        print(f"start number {int(answer)}", flush=True)
        await node.wait_stopped()  # until Ctrl-C


anyio.run(main, sys.argv[1], sys.argv[2:])
