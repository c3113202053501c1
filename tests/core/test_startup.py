"""How a node comes to be: it founds, joins or restarts, or is refused by name."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest
from riteraft_core._plugins import STORAGE, Plugins
from riteraft_core.memory import MemoryDisk
from riteraft_core.protocols import StorageContext
from riteraft_core.types import Identity

import riteraft_core
from riteraft_core import Config, ConfigError, NodeStopped, Role, StorageError, StoreError, open_node

from .nodes import PATIENCE, Counter, World, until

pytestmark = pytest.mark.anyio

PUBLIC = (
    *("Raft", "Mailbox", "Node", "open_node", "Config", "Store", "LogStorage", "Transport", "Consensus", "Provider"),
    *("hookimpl", "NotApplied", "OutcomeUnknown", "CommandRejected", "NodeStopped", "StorageError", "ConfigError"),
    *("PluginError", "ConsensusError", "Busy", "ReadError", "StoreError", "Removed", "LostAcknowledgedData"),
)


@pytest.fixture(params=["memory", "real"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(request.param, tmp_path)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_names_are_there(name: str) -> None:
    assert name in riteraft_core.__all__
    assert hasattr(riteraft_core, name)


async def test_the_block_is_entered_once_the_node_listens(world: World) -> None:
    async with open_node(world.config("n1", bootstrap=True), Counter()) as first:
        address = first.status().address
        assert not address.endswith(":0")
        with anyio.fail_after(PATIENCE):
            async with open_node(world.config("n2", peers=[address]), Counter()) as second:
                assert second.status().node_id == 2


async def test_an_empty_folder_needs_bootstrap_or_peers(world: World) -> None:
    with pytest.raises(ConfigError, match=r"^peers.*bootstrap = true"):
        async with open_node(world.config(), Counter()):
            pass


async def test_no_second_cluster_is_formed_beside_a_member(world: World) -> None:
    async with open_node(world.config("n1", bootstrap=True), Counter()) as node:
        with pytest.raises(ConfigError, match="is a member of cluster 'tests' already"):
            async with open_node(world.config("n2", bootstrap=True, peers=[node.status().address]), Counter()):
                pass


async def test_a_founder_whose_peers_are_silent_founds(world: World) -> None:
    with anyio.fail_after(PATIENCE):
        async with open_node(world.config(bootstrap=True, peers=["127.0.0.1:1"]), Counter()) as node:
            assert node.status().node_id == 1


async def test_a_folder_of_another_cluster_is_refused(world: World) -> None:
    async with open_node(world.config(bootstrap=True), Counter()):
        pass

    with pytest.raises(ConfigError, match="holds node 1 of cluster 'tests', not of 'other'"):
        async with open_node(world.config(cluster="other", bootstrap=True), Counter()):
            pass


async def test_a_cluster_of_another_name_is_not_joined(world: World) -> None:
    async with open_node(world.config("n1", bootstrap=True), Counter()) as node:
        with pytest.raises(ConfigError, match="this is cluster 'tests', not 'other'"), anyio.fail_after(PATIENCE):
            async with open_node(world.config("n2", cluster="other", peers=[node.status().address]), Counter()):
                pass


async def test_a_config_that_is_refused_leaves_no_node_behind(world: World) -> None:
    # The address is taken: nothing was changed, so the same folder founds a cluster the next time.
    async with open_node(world.config("n1", bootstrap=True), Counter()) as node:
        taken = node.status().address
        with pytest.raises(ConfigError, match=r"^address"):
            async with open_node(world.config("n2", bootstrap=True, address=taken), Counter()):
                pass

    async with open_node(world.config("n2", bootstrap=True, address=taken), Counter()) as node:
        assert await node.propose(b"1", timeout=PATIENCE) == b"1"


async def test_a_crash_between_the_identity_and_the_first_snapshot_is_made_good(world: World) -> None:
    config = world.config(bootstrap=True)
    provider, options = config.resolve(STORAGE, Plugins.load())
    async with provider.open(options, StorageContext(config.data_dir, 0, logging.getLogger("riteraft"))) as log:
        await log.create(Identity("tests", b"c" * 16, 0, 1, b"d" * 16))

    async with open_node(config, Counter()) as node:
        assert await node.propose(b"1", timeout=PATIENCE) == b"1"
        assert node.status().voters == (1,)


async def test_a_founder_whose_store_fails_at_the_first_snapshot_can_start_again(world: World) -> None:
    class Failing(Counter):
        def snapshot(self) -> bytes:
            raise OSError("no room")

    with pytest.raises(StoreError, match="OSError: no room"):
        async with open_node(world.config(bootstrap=True), Failing()):
            pass

    async with open_node(world.config(bootstrap=True), Counter()) as node:
        assert await node.propose(b"1", timeout=PATIENCE) == b"1"


async def test_a_restart_applies_again_what_came_after_the_snapshot(world: World) -> None:
    config = world.config(bootstrap=True, snapshot={"entries": 8, "tail": 0})
    async with open_node(config, Counter()) as node:
        for _ in range(20):
            await node.propose(b"1", timeout=PATIENCE)

        await until(lambda: node.status().snapshot_index > 15)

    store = Counter()
    async with open_node(config, store) as node:
        assert store.calls[0] == "restore"
        assert len(store.calls) < 12, "most of it was in the snapshot"
        await node.read_barrier(timeout=PATIENCE)
        assert store.total == 20
        assert await node.propose(b"1", timeout=PATIENCE) == b"21"


async def test_a_restarted_node_is_elected_and_not_made_leader(world: World) -> None:
    config = world.config(bootstrap=True)
    terms = []
    for _ in range(3):
        async with open_node(config, Counter()) as node:
            await until(lambda node=node: node.role is Role.LEADER)  # type: ignore[misc]
            terms.append(node.status().term)

    assert terms == sorted(set(terms)), "each start wins a term of its own"


async def test_a_restarted_store_that_is_used_already_is_restored_over(world: World) -> None:
    config = world.config(bootstrap=True)
    store = Counter()
    async with open_node(config, store) as node:
        await node.propose(b"5", timeout=PATIENCE)

    async with open_node(config, store) as node:
        await node.read_barrier(timeout=PATIENCE)
        assert store.total == 5


async def test_rule_21_a_join_that_was_cut_short_gets_the_same_id(tmp_path: Path) -> None:
    # The disk fails after the cluster has let the node in; the token is in the folder by then.
    class Fragile(MemoryDisk):
        broken = True

        def create(self, identity: Identity) -> None:
            if self.broken:
                raise StorageError("the disk went away")

            super().create(identity)

    world = World("memory", tmp_path)
    disk = world.disks["n2"] = Fragile()
    async with open_node(world.config("n1", bootstrap=True), Counter()) as first:
        config = world.config("n2", peers=[first.status().address])
        with anyio.fail_after(PATIENCE):
            for _ in range(2):
                with pytest.raises(StorageError, match="the disk went away"):
                    async with open_node(config, Counter()):
                        pass

            disk.broken = False
            async with open_node(config, Counter()) as second:
                assert second.status().node_id == 2
                # Its port is another one each time, and the cluster knows of the first only.
                await until(lambda: second.status().voters == (1, 2))
                assert first.status().members[2] == second.status().address


async def test_a_cancelled_start_leaves_nothing_running(world: World) -> None:
    with anyio.move_on_after(0.3) as scope:
        async with open_node(world.config("n2", peers=["127.0.0.1:1"]), Counter()):
            pytest.fail("nobody let it in")

    assert scope.cancelled_caught


async def test_the_memory_transport_cannot_be_chosen_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "n1.toml"
    file.write_text(
        'cluster = "c"\naddress = "127.0.0.1:0"\ntransport = "memory"\nstorage = "memory"\nbootstrap = true'
    )
    with pytest.raises(ConfigError, match="for tests in one process; use tcp"):
        async with open_node(Config.load(file), Counter()):
            pass


async def test_a_folder_that_was_left_is_refused(world: World) -> None:
    async with open_node(world.config("n1", bootstrap=True), Counter()) as first:
        config = world.config("n2", peers=[first.status().address])
        async with open_node(config, Counter()) as second:
            await until(lambda: second.status().voters == (1, 2))
            await second.leave(timeout=PATIENCE)

        with pytest.raises(ConfigError, match="belongs to a node that left its cluster"):
            async with open_node(config, Counter()):
                pass

        assert await first.propose(b"1", timeout=PATIENCE) == b"1"
        with pytest.raises(NodeStopped):
            second.status()
