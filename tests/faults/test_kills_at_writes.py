"""Kills at every step of making something durable (G5): before a sync, and in the midst of a write."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

from tests.cluster.cluster import Cluster, Load, NodeProcess, running_cluster, until

from .shim import Shims

SYNCS = (1, 2, 3, 4, 6, 9, 14, 22, 34, 50)
TORN_WRITES = 6


def assert_in_order(node: NodeProcess) -> None:
    """What a node has is ordered: snapshot, applied, committed, last."""
    status = node.status()
    order = [status[name] for name in ("snapshot_index", "applied", "commit", "last_index")]
    assert order == sorted(order), order


def wait_for_a_kill(node: NodeProcess) -> None:
    """Wait until it was killed, and by nothing else."""
    assert node.wait() == -signal.SIGKILL, node.log[-2000:]


def test_g5_a_founder_killed_at_any_sync_of_its_first_start_can_start(tmp_path: Path, seed: int, shims: Shims) -> None:
    # Every other one: the seed says whether the even or the odd ones.
    cluster = Cluster(tmp_path, {})
    cluster.prepare = shims.put_before
    node = cluster.add()
    sync = shims[node].sync
    try:
        at = killed = 0
        while True:
            at += 2 if killed else 1 + seed % 2
            shutil.rmtree(node.folder, ignore_errors=True)
            sync.kill(tmp_path.name, at)
            node.start(bootstrap=True)
            until(lambda: node._ready.is_set() or not node.alive, "an end or a start")
            if node.alive:
                break

            wait_for_a_kill(node)
            killed += 1
            sync.stop()
            node.start(bootstrap=True).ready()
            assert node.propose("append", "k", "1") == "1"
            node.end()

        print(f"killed at {killed} places before it served")  # noqa: T201
        assert killed > 3
    finally:
        cluster.end()


def test_g5_a_node_killed_at_its_nth_sync_comes_back_with_everything(tmp_path: Path, seed: int, shims: Shims) -> None:
    # Snapshots all the time: saves, stages, compactions and checkpoints are among the steps.
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 30, "tail": 10}) as cluster:
        with Load(cluster, seed=seed) as load:
            for turn, at in enumerate(SYNCS):
                victim = cluster.nodes[turn % 3]
                sync = shims[victim].sync
                if turn % 2:  # from its start on
                    victim.kill()
                    sync.kill(f"{victim.name}/raft.db", at)
                    victim.start()
                else:
                    sync.kill(f"{victim.name}/raft.db", at)

                wait_for_a_kill(victim)
                assert sync.calls >= at
                sync.stop()
                victim.start().ready()
                assert_in_order(victim)
                load.wait_for_progress(10)

        load.judge()


def test_g5_a_node_killed_in_the_midst_of_a_write_comes_back_with_everything(
    tmp_path: Path, seed: int, shims: Shims
) -> None:
    chance = random.Random(seed)
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 30, "tail": 10}) as cluster:
        with Load(cluster, seed=seed) as load:
            for turn in range(TORN_WRITES):
                victim = cluster.nodes[turn % 3]
                write = shims[victim].write
                write.kill(f"{victim.name}/raft.db", chance.randrange(1, 150))
                wait_for_a_kill(victim)
                write.stop()
                victim.start().ready()
                assert_in_order(victim)
                load.wait_for_progress(10)

        load.judge()
