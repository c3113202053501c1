"""Everything at once, drawn from one seed (G20): whatever the order, the history has an explanation."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from .cluster import Cluster, Failed, Load, NodeProcess, running_cluster

SECONDS = float(os.environ.get("CHAOS_SECONDS", "15"))
"""How long trouble is made."""


class Trouble:
    """What can happen to a cluster; each one leaves all nodes running."""

    def __init__(self, cluster: Cluster, load: Load, chance: random.Random, paused: list[NodeProcess]) -> None:
        self.cluster = cluster
        self.load = load
        self.chance = chance
        self.paused = paused

    def some_node(self) -> NodeProcess:
        return self.chance.choice(self.cluster.nodes)

    def a_kill(self) -> None:
        node = self.some_node()
        node.kill()
        self.go_on()
        node.start().ready()

    def a_kill_of_the_leader(self) -> None:
        node = self.cluster.leader()
        node.kill()
        self.go_on()
        node.start().ready()

    def a_kill_of_most(self) -> None:
        victims = self.chance.sample(self.cluster.nodes, len(self.cluster.nodes) // 2 + 1)
        for node in victims:
            node.kill()

        self.cluster.restart(*victims)

    def a_kill_of_all(self) -> None:
        for node in self.cluster.nodes:
            node.kill()

        self.cluster.restart(*self.cluster.nodes)

    def a_pause(self) -> None:
        node = self.some_node()
        self.paused.append(node)
        node.pause()
        self.go_on()
        self.paused.clear()  # it is asked again the moment it wakes up
        node.resume()

    def a_restart(self) -> None:
        node = self.some_node()
        node.terminate()
        assert node.wait() == 0
        self.go_on()
        node.start().ready()

    def a_move(self) -> None:
        node = self.some_node()
        node.kill()
        node.move()
        node.start().ready()

    def a_change_of_members(self) -> None:
        node = self.some_node()
        new = self.cluster.add().start(peers=[node.address]).ready()
        self.cluster.wait_for_voters(*self.cluster.nodes)
        leaving = self.chance.choice([other for other in self.cluster.nodes if other is not new])
        try:
            leaving.call("leave")
        except Failed as exc:
            if exc.name not in ("OutcomeUnknown", "NodeStopped"):
                raise

        assert leaving.wait() == 0
        self.cluster.forget(leaving)

    def go_on(self) -> None:
        """Let the load go on for a moment, or not at all."""
        if self.chance.random() < 0.7:
            self.load.wait_for_progress(self.chance.randrange(1, 60))


def test_g20_chaos(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    snapshot = {"entries": chance.choice([30, 300, 10_000]), "tail": chance.choice([0, 10, 100])}
    with running_cluster(tmp_path, snapshot=snapshot) as cluster:
        paused: list[NodeProcess] = []
        with Load(cluster, seed=seed, choose=lambda: [node for node in cluster.nodes if node not in paused]) as load:
            trouble = Trouble(cluster, load, chance, paused)
            kinds = [getattr(trouble, name) for name in sorted(vars(Trouble)) if name.startswith("a_")]
            story = []
            over = time.monotonic() + SECONDS
            while time.monotonic() < over:
                kind = chance.choice(kinds)
                story.append(kind.__name__)
                print(time.strftime("%H:%M:%S"), kind.__name__)  # noqa: T201
                kind()
                load.wait_for_progress(20)

        load.judge()
        assert len(story) > 3
        print(cluster.faults, load.history.count(), "acknowledged,", load.history.unknown, "unknown")  # noqa: T201
