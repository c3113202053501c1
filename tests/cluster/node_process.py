"""One node of a test cluster, as a process of its own: a Store of lists, driven by lines of JSON.

Requests come on stdin, answers and the one event `ready` go to stdout, the log to stderr. When stdin ends, so does the
process, whatever it is doing: a test run that was killed leaves no node behind. Exit codes are those of `riteraft run`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection
from typing import Any

import anyio
from anyio.abc import TaskGroup

from riteraft_core import CommandRejected, Config, ConfigError, Node, PluginError, RiteraftError, open_node

STDIN = 0
ORPHANED = 3
PIECE = 1 << 20


class Lists:
    """Lists of texts by key; and what a test needs to make trouble.

    Its traits: `poisoned` (the command `poison` does harm), `threaded`.
    """

    def __init__(self, traits: Collection[str]) -> None:
        self.lists: dict[str, list[str]] = {}
        self.ballast: dict[str, int] = {}
        self.threaded = "threaded" in traits
        self._poisoned = "poisoned" in traits

    def apply(self, command: bytes) -> bytes:
        do, key, value, *_ = json.loads(command)
        if do == "append":
            items = self.lists.setdefault(key, [])
            items.append(value)
            return str(len(items)).encode()

        if do == "incr":
            counted = self.lists.setdefault(key, ["0"])
            counted[0] = str(int(counted[0]) + 1)
            return counted[0].encode()

        if do == "ballast":  # makes the state, and so a snapshot, as large as wanted
            self.ballast[key] = int(value)
            return b"ok"

        if do == "reject":
            raise CommandRejected(value, key.encode())

        if do == "poison" and self._poisoned:
            return self._suffer(key, value)

        return b"unharmed"

    def _suffer(self, kind: str, value: str) -> bytes:
        if kind == "wrong type":
            return value  # type: ignore[return-value] # that is the fault

        if kind == "slow":
            time.sleep(float(value))
        elif kind == "differ":
            self.lists.setdefault(value, []).append("out of thin air")
        else:
            raise RuntimeError("this Store was poisoned")

        return b"harmed"

    def summary(self) -> bytes:
        return json.dumps([self.lists, self.ballast], sort_keys=True).encode()

    def snapshot(self) -> bytes:
        state = io.BytesIO()  # holds the one copy that is returned
        state.write(self.summary() + b"\n")
        for key, size in sorted(self.ballast.items()):
            piece = key[0].encode() * PIECE
            for start in range(0, size, PIECE):
                state.write(piece[: size - start])

        return state.getvalue()

    def restore(self, snapshot: bytes) -> None:
        place = snapshot.index(b"\n") + 1
        self.lists, self.ballast = json.loads(snapshot[:place])
        for key, size in sorted(self.ballast.items()):
            ends = snapshot[place : place + 1], snapshot[place + size - 1 : place + size]
            assert set(ends) == {key[0].encode()}, f"the ballast {key!r} is not what was written"
            place += size

        assert place == len(snapshot), "a snapshot with something missing, or too much"


class Digested(Lists):
    """The same with a digest: the trait `digest`."""

    def digest(self) -> bytes:
        return hashlib.sha256(self.snapshot()).digest()


class Control:
    """Answers what the test asks of this node."""

    def __init__(self, store: Lists) -> None:
        self._store = store
        self._node: Node | None = None
        self._serving = anyio.Event()

    def serves(self, node: Node) -> None:
        self._node = node
        self._serving.set()
        say({"event": "ready", "address": node.status().address, "node_id": node.status().node_id})

    async def listen(self, tasks: TaskGroup) -> None:
        pending = b""
        while True:
            await anyio.wait_readable(STDIN)
            read = os.read(STDIN, 1 << 16)
            if not read:
                os._exit(ORPHANED)

            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                tasks.start_soon(self._answer, json.loads(line))

    async def _answer(self, request: dict[str, Any]) -> None:
        number = request.pop("id")
        try:
            await self._serving.wait()
            say({"id": number, "ok": await self._carry_out(**request)})
        except RiteraftError as exc:
            detail = exc.detail.decode() if isinstance(exc, CommandRejected) else ""
            say({"id": number, "error": type(exc).__name__, "text": str(exc), "detail": detail})

    async def _carry_out(self, do: str, timeout: float, **arguments: Any) -> Any:
        node = self._node
        assert node is not None
        if do == "propose":
            return (await node.propose(json.dumps(arguments["command"]).encode(), timeout=timeout)).decode()

        if do == "read":
            await node.read_barrier(timeout=timeout)
            return self._store.lists.get(arguments["key"], [])

        if do == "leave":
            return await node.leave(timeout=timeout)

        if do == "remove":
            return await node.remove(arguments["node_id"], timeout=timeout)

        if do == "clock":
            return time.time()

        if do == "status":
            return dataclasses.asdict(node.status())

        if do == "pump":
            return await pump(node, timeout, **arguments)

        assert do == "digest"
        return [node.status().applied, hashlib.sha256(self._store.summary()).hexdigest()]


async def pump(
    node: Node, timeout: float, key: str, clients: int, size: int, seconds: float = 0, wait: bool = True
) -> dict[str, int]:
    """Propose increments for some seconds, each client at least one, and the next when it is answered.

    Return how many had which outcome, the error's name or "ok". All of them are one object, so that what the node
    holds is what it made of them.
    """
    outcomes: Counter[str] = Counter()
    command = json.dumps(["incr", key, "", "x" * size]).encode()
    over = anyio.current_time() + seconds

    async def one() -> None:
        while True:
            try:
                await node.propose(command, timeout=timeout, wait=wait)
            except RiteraftError as exc:
                outcomes[type(exc).__name__] += 1
            else:
                outcomes["ok"] += 1

            if anyio.current_time() >= over:
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(one)

    return dict(outcomes)


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


async def _tell_tasks() -> None:
    """On SIGUSR1, log what everybody waits for."""
    with anyio.open_signal_receiver(signal.SIGUSR1) as asked:
        async for _ in asked:
            for task in asyncio.all_tasks():
                sys.stderr.write(f"{task.get_name()}\n")
                for frame in task.get_stack():  # `print_stack` fails on one of Cython, which has no line
                    sys.stderr.write(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}\n")

            sys.stderr.flush()


async def main(settings: dict[str, Any], traits: Collection[str]) -> int:
    store = Digested(traits) if "digest" in traits else Lists(traits)
    control = Control(store)
    code = 0
    async with anyio.create_task_group() as listening, anyio.create_task_group() as answering:
        listening.start_soon(control.listen, answering)
        listening.start_soon(_tell_tasks)
        try:
            # What is asked is answered outside of this block: a node that ends must answer all of it by itself.
            async with open_node(Config(**settings), store) as node:
                control.serves(node)
                await node.wait_stopped()
        except (ConfigError, PluginError) as exc:
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
            code = 2
        except RiteraftError as exc:
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
            code = 1

        listening.cancel_scope.cancel()
        if control._node is None:
            answering.cancel_scope.cancel()  # asked of a node that never served

    return code


if __name__ == "__main__":
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S"
    )
    sys.exit(anyio.run(main, json.loads(sys.argv[1]), sys.argv[2].split(",")))
