"""One node of the benchmark: a process that does what its stdin says, a JSON object a line, and answers on stdout.

It ends when its stdin does, so it never outlives the one who started it.
"""

from __future__ import annotations

import cProfile
import json
import os
import resource
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgpack

from riteraft_core import Config, Node, open_node

KEY_BYTES = 16
VALUE_BYTES = 100
KEYS = 10_000
"""Written again and again: the Store stays small, so memory that grows is the node's own."""
WARM_UP = 0.5
"""Seconds, not counted: outboxes, caches and the log find their size."""


class KeyValueStore:
    """The least there can be behind a key and a value."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def apply(self, command: bytes) -> bytes:
        self._values[command[:KEY_BYTES]] = command[KEY_BYTES:]
        return b""

    def snapshot(self) -> bytes:
        packed: bytes = msgpack.packb(self._values)
        return packed

    def restore(self, snapshot: bytes) -> None:
        self._values = msgpack.unpackb(snapshot, strict_map_key=False)


def command_of(number: int) -> bytes:
    return b"%0*d" % (KEY_BYTES, number % KEYS) + b"v" * VALUE_BYTES


class Load:
    """So many writers, each with one write in flight."""

    def __init__(self, node: Node, in_flight: int) -> None:
        self._node = node
        self._in_flight = in_flight
        self._writes = 0
        self._on = True
        self._latencies = array("d")

    async def run(self, seconds: float) -> dict[str, Any]:
        """Return counts and times; `writes` is what was acknowledged in the measured time, `all` adds the rest."""
        async with anyio.create_task_group() as writers:
            for _ in range(self._in_flight):
                writers.start_soon(self._write_on)

            await anyio.sleep(WARM_UP)
            self._latencies = array("d")
            began = time.perf_counter()
            await anyio.sleep(seconds)
            latencies, took = self._latencies, time.perf_counter() - began
            self._latencies = array("d")  # what is still in flight does not count
            self._on = False

        ordered = sorted(latencies) or [float("nan")]
        return {
            "writes": len(latencies),
            "all": self._writes,
            "rate": len(latencies) / took,
            "p50_ms": 1000 * ordered[len(ordered) // 2],
            "p99_ms": 1000 * ordered[len(ordered) * 99 // 100],
        }

    async def _write_on(self) -> None:
        propose, clock = self._node.propose, time.perf_counter
        while self._on:
            began = clock()
            self._writes += 1
            await propose(command_of(self._writes))
            self._latencies.append(clock() - began)


async def answer(node: Node, request: dict[str, Any]) -> dict[str, Any]:
    """Do what one line asks for."""
    if "in_flight" not in request:
        status = node.status()
        return {
            "role": status.role,
            "term": status.term,
            "voters": len(status.voters),
            "address": status.address,
            "cpu": time.process_time(),
            "rss": resident_bytes(),
        }

    load = Load(node, request["in_flight"])
    if request["profile"] is None:
        return await load.run(request["seconds"])

    with cProfile.Profile() as profile:
        result = await load.run(request["seconds"])

    profile.dump_stats(request["profile"])
    return result


def resident_bytes() -> int:
    """Return the memory this process has now; where the system does not say, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most

    return pages * os.sysconf("SC_PAGE_SIZE")


async def main(settings: dict[str, Any]) -> None:
    async with open_node(Config(cluster="benchmark", **settings), KeyValueStore()) as node:
        lines, to_answer = anyio.create_memory_object_stream[str](1)

        async def answer_on() -> None:
            async for line in to_answer:
                sys.stdout.write(json.dumps(await answer(node, json.loads(line))) + "\n")
                sys.stdout.flush()

        async with anyio.create_task_group() as tasks, lines, to_answer:
            tasks.start_soon(answer_on)
            # In a thread that may be left behind. The end of stdin ends a load, too, which without peers never would.
            while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                await lines.send(line)

            tasks.cancel_scope.cancel()


if __name__ == "__main__":
    loop = sys.argv[1]
    anyio.run(
        main,
        json.loads(sys.argv[2]),
        backend="trio" if loop == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if loop == "uvloop" else {},
    )
