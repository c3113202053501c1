"""Two nodes on one engine and one on the other, over TCP and SQLite: the bytes they exchange and keep are the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from riteraft_core import Config, Node, Role, open_node

pytest.importorskip("rraft", reason="rraft-py is not installed here: `nox -s rraft` builds and tests it")

pytestmark = pytest.mark.anyio

MIXTURES = [("raft-rs", "rraft", "raft-rs"), ("rraft", "raft-rs", "rraft")]


class Journal:
    """Keeps every command."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def apply(self, command: bytes) -> bytes:
        self.commands.append(command)
        return b"%d" % len(self.commands)

    def snapshot(self) -> bytes:
        return b"\n".join(self.commands)

    def restore(self, snapshot: bytes) -> None:
        self.commands = snapshot.split(b"\n") if snapshot else []


def config(folder: Path, engine: str, **settings: Any) -> Config:
    settings = {"address": "127.0.0.1:0", "timing": {"election_timeout": 0.3}, **settings}
    return Config(cluster="mixed", data_dir=folder, consensus=engine, **settings)


class Member:
    """A node in a task of its own, so that any of them may end first."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.node: Node
        self._ended = anyio.Event()

    async def run(self, chosen: Config, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        async with open_node(chosen, self.journal) as self.node:
            task_status.started()
            await self.node.wait_stopped(signals=False)

        self._ended.set()

    async def stop(self) -> None:
        self.node.stop()
        await self._ended.wait()


@asynccontextmanager
async def cluster(folder: Path, engines: tuple[str, ...], **settings: Any) -> AsyncIterator[list[Member]]:
    """Run a node on each engine until all of them vote."""
    members = [Member() for _ in engines]
    async with anyio.create_task_group() as tasks:
        for number, (member, engine) in enumerate(zip(members, engines, strict=True)):
            entry = {"peers": [members[0].node.status().address]} if number else {"bootstrap": True}
            await tasks.start(member.run, config(folder / f"n{number}", engine, **entry, **settings))

        await until(lambda: all(len(one.node.status().voters) == len(members) and one.node.leader for one in members))
        yield members
        for member in members:
            member.node.stop()


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - no event tells of just any condition
            await anyio.sleep(0.005)


@pytest.mark.parametrize("engines", MIXTURES, ids="-".join)
async def test_a_mixed_cluster_applies_the_same_commands_everywhere(tmp_path: Path, engines: tuple[str, ...]) -> None:
    async with cluster(tmp_path, engines) as members:
        commands = [b"%d" % step for step in range(60)]
        for step, command in enumerate(commands):
            answer = await members[step % 3].node.propose(command, timeout=10)  # followers forward
            assert answer == b"%d" % (step + 1)

        for member in members:
            await member.node.read_barrier()

        assert [member.journal.commands for member in members] == [commands] * 3


@pytest.mark.parametrize("engines", MIXTURES, ids="-".join)
async def test_a_mixed_cluster_elects_again_and_brings_a_node_up_by_snapshot(
    tmp_path: Path, engines: tuple[str, ...]
) -> None:
    # The leader, on one engine, goes; one of the two that are left is on the other, and each has to lead or to follow.
    async with cluster(tmp_path, engines, snapshot={"entries": 20, "tail": 5}) as members:
        await members[0].node.propose(b"first", timeout=10)
        gone = next(number for number, member in enumerate(members) if member.node.role is Role.LEADER)
        address = members[gone].node.status().address
        await members[gone].stop()
        left = [member.node for number, member in enumerate(members) if number != gone]
        await until(lambda: any(node.role is Role.LEADER for node in left))
        commands = [b"first", *(b"%d" % step for step in range(60))]
        for step, command in enumerate(commands[1:]):
            await left[step % 2].propose(command, timeout=10)

        again = Journal()
        async with open_node(config(tmp_path / f"n{gone}", engines[gone], address=address), again) as node:
            await node.read_barrier()
            assert again.commands == commands


async def test_a_folder_may_change_its_engine(tmp_path: Path) -> None:
    # What one engine wrote, the other reads: log entries are the same bytes too.
    commands: list[bytes] = []
    for start, engine in enumerate(("raft-rs", "rraft", "raft-rs", "rraft")):
        journal = Journal()
        async with open_node(config(tmp_path / "n", engine, bootstrap=True), journal) as node:
            await node.read_barrier()
            assert journal.commands == commands
            for step in range(5):
                commands.append(b"%d.%d" % (start, step))
                await node.propose(commands[-1], timeout=10)
