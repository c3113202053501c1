"""One node of riteraft: a process that does what its stdin says, a JSON object a line, and answers on stdout.

It ends when its stdin does, so it never outlives the one who started it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anyio
import anyio.to_thread
import msgpack
from anyio.abc import TaskGroup
from riteraft_core._garbage import settle

from riteraft_core import Config, Node, NotApplied, OutcomeUnknown, open_node

from .profiler import Profiler, profiler
from .work import KEY_BYTES, VALUE, Tally, key_of, used


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


class Load:
    """So many writers, each with one write in flight."""

    def __init__(self, node: Node, tally: Tally, value: bytes) -> None:
        self.tally = tally
        self._node = node
        self._value = value
        self._ended = anyio.Event()

    async def run(self, in_flight: int) -> None:
        """Write until the tally says that it is enough."""
        async with anyio.create_task_group() as writers:
            for _ in range(in_flight):
                writers.start_soon(self._write_on)

        self._ended.set()

    async def end(self) -> None:
        """Let no further write begin, and wait for those in flight."""
        self.tally.stop()
        await self._ended.wait()

    async def _write_on(self) -> None:
        propose, tally, value, clock = self._node.propose, self.tally, self._value, time.monotonic
        while (number := tally.take()) is not None:
            began = clock()
            try:
                await propose(key_of(number) + value)
            except (NotApplied, OutcomeUnknown):
                tally.failed += 1
            else:
                tally.note(began)


class Servant:
    """Does what the lines ask for."""

    def __init__(self, node: Node, tasks: TaskGroup, serving_since: float) -> None:
        self._node = node
        self._tasks = tasks
        self._serving_since = serving_since
        self._load: Load | None = None
        self._profiler: Profiler | None = None

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one line asks for."""
        do = request["do"]
        if do == "status":
            return self._status()

        if do == "barrier":
            await self._node.read_barrier(timeout=request["timeout"])
            return {"at": time.monotonic()}

        if do == "begin":
            self._load = Load(self._node, Tally(request["writes"]), VALUE)
            if request["profile"] is not None:
                self._profiler = profiler(request["profiler"], request["profile"])
                self._profiler.start()

            self._tasks.start_soon(self._load.run, request["in_flight"])
            return {}

        assert self._load is not None
        if do == "end":
            await self._load.end()
            if self._profiler is not None:
                self._profiler.stop()
                self._profiler = None

        return self._load.tally.read()

    def _status(self) -> dict[str, Any]:
        status = self._node.status()
        return {
            "role": status.role,
            "term": status.term,
            "voters": len(status.voters),
            "address": status.address,
            "applied": status.applied,
            "last_index": status.last_index,
            "snapshot_index": status.snapshot_index,
            "serving_since": self._serving_since,
            **used(),
        }


async def main(settings: dict[str, Any]) -> None:
    async with open_node(Config(cluster="benchmark", **settings), KeyValueStore()) as node:
        serving_since = time.monotonic()
        settle()  # as `riteraft run` does
        lines, to_answer = anyio.create_memory_object_stream[str](1)

        async def answer_on(servant: Servant) -> None:
            async for line in to_answer:
                sys.stdout.write(json.dumps(await servant.answer(json.loads(line))) + "\n")
                sys.stdout.flush()

        async with anyio.create_task_group() as tasks, lines, to_answer:
            tasks.start_soon(answer_on, Servant(node, tasks, serving_since))
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
