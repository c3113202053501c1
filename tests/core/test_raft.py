"""`Raft` and `Mailbox`: the first program a user writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from riteraft_core import CommandRejected, ConfigError, NodeStopped, OutcomeUnknown, Raft, StoreError

from .nodes import PATIENCE, Counter, World, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "real"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(request.param, tmp_path)


def raft(world: World, name: str = "n1", store: Any = None, address: str = "127.0.0.1:0") -> Raft:
    return Raft(address, Counter() if store is None else store, config=world.config(name))


async def test_lead_join_send_read_leave(world: World) -> None:
    store = Counter()
    first, second = raft(world, "n1"), raft(world, "n2", store)
    one, two = first.mailbox(), second.mailbox()
    ended: list[str] = []

    async def lead() -> None:
        await first.lead()
        ended.append("first")

    async def join() -> None:
        await second.join((await one.node()).status().address)
        ended.append("second")

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lead)
            tasks.start_soon(join)
            assert await two.send(b"1") == b"1"  # before either of them serves
            assert await one.send(b"1") == b"2"
            await two.read_barrier()
            assert store.total == 2
            with pytest.raises(CommandRejected):
                await two.send(b"reject")

            await two.leave()
            await until(lambda: ended == ["second"])
            assert await one.send(b"1") == b"3"
            with pytest.raises(CommandRejected, match="last voter"):
                await one.leave()

            (await one.node()).stop()

    assert ended == ["second", "first"]


async def test_a_member_that_is_gone_is_removed(world: World) -> None:
    with anyio.fail_after(PATIENCE):
        one, two, three = (raft(world, name) for name in ("n1", "n2", "n3"))
        mailbox = one.mailbox()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.lead)
            first = await mailbox.node()
            for joiner in (two, three):
                tasks.start_soon(joiner.join, first.status().address)

            gone = await three.mailbox().node()
            await until(lambda: len(first.status().voters) == 3)
            with pytest.raises(ValueError, match="use `leave`"):
                await mailbox.remove(1)

            with pytest.raises(CommandRejected, match="no node 99"):
                await mailbox.remove(99)

            node_id = gone.status().node_id
            gone.stop()
            await mailbox.remove(node_id)
            assert node_id not in first.status().members
            await mailbox.remove(node_id)  # it is gone already
            tasks.cancel_scope.cancel()

    with pytest.raises(NodeStopped):
        await mailbox.remove(2)


async def test_a_mailbox_may_be_taken_at_any_time(world: World) -> None:
    one = raft(world)
    early = one.mailbox()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.lead)
            await early.send(b"1")
            late = one.mailbox()
            assert await late.send(b"1") == b"2"
            (await late.node()).stop()

    for mailbox in (early, late, one.mailbox()):
        with pytest.raises(NodeStopped):
            await mailbox.send(b"1")


async def test_whoever_waits_for_a_node_that_never_serves_is_told(world: World) -> None:
    one = raft(world, store=Broken())
    mailbox = one.mailbox()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                with pytest.raises(NodeStopped):
                    await mailbox.send(b"1")

            tasks.start_soon(wait)
            with pytest.raises(StoreError, match="no way back"):
                await one.lead()


class Broken(Counter):
    def restore(self, snapshot: bytes) -> None:
        raise ValueError("no way back")


async def test_what_ends_a_node_leaves_lead_as_that_one_exception(world: World) -> None:
    with anyio.fail_after(PATIENCE):
        one = raft(world)
        mailbox = one.mailbox()
        async with anyio.create_task_group() as tasks:

            async def lead() -> None:
                with pytest.raises(StoreError, match="the Store is broken"):
                    await one.lead()

            tasks.start_soon(lead)
            with pytest.raises(OutcomeUnknown):
                await mailbox.send(b"crash")


async def test_what_ends_a_node_leaves_join_as_that_one_exception(world: World) -> None:
    # Only the joiner's Store breaks: a leader that broke too might do so before the joiner hears of the commit.
    class Sturdy(Counter):
        def apply(self, command: bytes) -> bytes:
            return b"" if command == b"crash" else super().apply(command)

    with anyio.fail_after(PATIENCE):
        one, two = raft(world, "n1", Sturdy()), raft(world, "n2")
        leader, joiner = one.mailbox(), two.mailbox()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.lead)

            async def send() -> None:
                node = await joiner.node()
                await until(lambda: len(node.status().voters) == 2)
                await leader.send(b"crash")

            tasks.start_soon(send)
            address = (await leader.node()).status().address
            with pytest.raises(StoreError, match="the Store is broken"):
                await two.join(address)

            tasks.cancel_scope.cancel()


async def test_a_restart_by_either_verb_is_the_same_node(world: World) -> None:
    with anyio.fail_after(PATIENCE):
        for total, verb in enumerate(("lead", "lead", "join"), start=1):
            one = raft(world)
            async with anyio.create_task_group() as tasks:
                if verb == "lead":
                    tasks.start_soon(one.lead)
                else:
                    tasks.start_soon(one.join, "127.0.0.1:1")

                assert await one.mailbox().send(b"1") == str(total).encode()
                (await one.mailbox().node()).stop()


async def test_another_cluster_is_not_joined(world: World) -> None:
    with anyio.fail_after(PATIENCE):
        one = raft(world)
        other = Raft("127.0.0.1:0", Counter(), config=world.config("n2", cluster="other"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.lead)
            node = await one.mailbox().node()
            with pytest.raises(ConfigError, match="this is cluster 'tests', not 'other'"):
                await other.join(node.status().address)

            node.stop()


async def test_without_settings_it_is_tcp_and_sqlite_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = Raft("127.0.0.1:0", Counter())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.lead)
            assert await one.mailbox().send(b"1") == b"1"
            (await one.mailbox().node()).stop()

    assert (tmp_path / "riteraft-data" / "127.0.0.1_0").is_dir()


def test_a_config_and_settings_at_once_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="either a config or settings, not both: cluster"):
        Raft("127.0.0.1:0", Counter(), config=world.config(), cluster="c")


def test_a_wrong_setting_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="tranport"):
        Raft("127.0.0.1:0", Counter(), tranport="tcp")
