"""Three consensus engines in one process, without disk, network or clock: what the engine alone can do.

`python -m tests.benchmark.engine --help`. Short enough for callgrind, and for a flame graph of native code alone.
"""

from __future__ import annotations

import argparse
import logging
import time
from contextlib import AsyncExitStack

import anyio
from riteraft_core._plugins import CONSENSUS, Plugins
from riteraft_core.config import ELECTION_TICKS, HEARTBEAT_TICKS, PluginChoice, resolve
from riteraft_core.protocols import Consensus, EngineContext, EngineLimits, EngineTiming
from riteraft_core.types import Anchor, ConfState, HardState, SnapshotMeta

from .work import KEY_BYTES, VALUE_BYTES

VOTERS = (1, 2, 3)
COMMAND = bytes(KEY_BYTES + VALUE_BYTES)
CONTEXT = bytes(26)
"""As long as the one that a node gives each command."""
COMPACT_AFTER = 10_000


async def open_engines(name: str, stack: AsyncExitStack) -> dict[int, Consensus]:
    """Return three voters, of which the first leads."""
    provider, options = resolve(CONSENSUS, PluginChoice(name), Plugins.load())
    nodes = {}
    for node_id in VOTERS:
        context = EngineContext(
            node_id=node_id,
            seed=7,
            hard_state=HardState(1, 0, 1),
            anchor=Anchor(1, 1),
            snapshot=SnapshotMeta(1, 1, ConfState(VOTERS), b""),
            entries=[],
            commit_notices=False,
            timing=EngineTiming(election_tick=ELECTION_TICKS, heartbeat_tick=HEARTBEAT_TICKS),
            limits=EngineLimits(),
            logger=logging.getLogger("benchmark"),
        )
        nodes[node_id] = await stack.enter_async_context(provider.open(options, context))

    nodes[1].campaign()
    pump(nodes)
    return nodes


def pump(nodes: dict[int, Consensus]) -> int:
    """Let the nodes talk until all is quiet, every save done at once; return how many entries the first one commits."""
    committed, busy = 0, True
    while busy:
        busy = False
        for node_id, node in nodes.items():
            while (ready := node.ready()) is not None:
                busy = True
                if node_id == 1:
                    committed += len(ready.committed)

                for peer, messages in ready.messages:
                    nodes[peer].step(node_id, messages)

                node.persisted(ready.number)
                for peer, messages in ready.persisted_messages:
                    nodes[peer].step(node_id, messages)

    return committed


async def main(name: str, batch: int, entries: int) -> None:
    async with AsyncExitStack() as stack:
        nodes = await open_engines(name, stack)
        proposal = [(CONTEXT, COMMAND)] * batch
        committed = compacted = 0
        began, cpu = time.perf_counter(), time.process_time()
        while committed < entries:
            nodes[1].propose(proposal)
            committed += pump(nodes)
            if committed - compacted >= COMPACT_AFTER:
                compacted = committed
                for node in nodes.values():
                    status = node.status()
                    node.snapshot_made(status.commit, status.term, status.conf_state)
                    node.compact(status.commit)

        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(  # noqa: T201
            f"{name}, batches of {batch}: {committed / took:,.0f} entries a second, "
            f"{1e6 * cpu / committed:.2f} us of CPU each for all three nodes"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark.engine", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="entries in one proposal; default 64")
    parser.add_argument("--entries", type=int, default=100_000, metavar="N", help="default 100,000")
    parser.add_argument("--consensus", default="raft-rs", metavar="ENGINE", help="default raft-rs")
    given = parser.parse_args()
    anyio.run(main, given.consensus, given.batch, given.entries)
