"""Power losses (G6): what was not synced is gone, and none of it was promised to anybody."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from tests.cluster.cluster import Load, NodeProcess, running_cluster

from .disks import PowerDisk

ROUNDS_OF_ONE = 5
ROUNDS_OF_ALL = 2


def test_g6_power_losses_of_one_node_and_of_all_lose_nothing_acknowledged(
    tmp_path: Path, seed: int, power_disk: Callable[[], PowerDisk]
) -> None:
    chance = random.Random(seed)
    disks: dict[str, PowerDisk] = {}

    def put(node: NodeProcess) -> None:
        disks[node.name] = power_disk()
        node.folder = disks[node.name].folder / "node"

    def lose_power(*nodes: NodeProcess) -> None:
        for node in nodes:
            disks[node.name].cut_power()

        for node in nodes:
            if node.alive:
                node.end()  # it has met the error, or would in a moment

            disks[node.name].restore_power()

    with running_cluster(tmp_path, prepare=put, snapshot={"entries": 50, "tail": 10}) as cluster:
        with Load(cluster, seed=seed) as load:
            for number in range(ROUNDS_OF_ONE):
                load.wait_for_progress(chance.randrange(10, 60))
                victim = cluster.leader() if number % 2 else chance.choice(cluster.nodes)
                lose_power(victim)
                load.wait_for_progress(20)
                victim.start().ready()

            for _ in range(ROUNDS_OF_ALL):
                load.wait_for_progress(chance.randrange(10, 60))
                lose_power(*cluster.nodes)
                cluster.restart(*cluster.nodes)
                load.wait_for_progress(20)

        load.judge()
