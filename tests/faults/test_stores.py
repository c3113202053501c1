"""Stores that misbehave: one that breaks its contract, one that is slow (G12), one that is not deterministic."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, Load, NodeProcess, running_cluster, until

TIMEOUT = 2.0
SLOW = 3 * TIMEOUT
"""Seconds for one command."""


def stores(*traits: str, sick: str) -> Callable[[NodeProcess], None]:
    """Return what gives every node's Store these traits, and has one of them obey the command `poison`."""

    def give(node: NodeProcess) -> None:
        node.traits = set(traits)
        node.poisoned = node.name == sick

    return give


def make_leader(cluster: Cluster, node: NodeProcess) -> None:
    """Restart leaders until this node leads: each hands over to another one."""
    while (leader := cluster.leader()) is not node:
        leader.terminate()
        assert leader.wait() == 0
        leader.start().ready()


@pytest.mark.parametrize(
    ("kind", "said"),
    [("raise", "Store.apply raised RuntimeError: this Store was poisoned"), ("wrong type", "it returned str")],
)
@pytest.mark.parametrize("traits", [[], ["threaded"]], ids=["plain", "threaded"])
def test_a_store_that_breaks_its_contract_ends_its_node_alone(
    tmp_path: Path, kind: str, said: str, traits: list[str]
) -> None:
    with running_cluster(tmp_path, prepare=stores(*traits, sick="n2")) as cluster:
        sick = cluster[2]
        before = len(sick.log)
        writer = cluster[1]
        assert writer.propose("poison", kind, "x") == "unharmed"
        assert sick.wait() == 1
        last = sick.log[before:].strip().splitlines()[-1]
        assert last.startswith("StoreError: "), last
        assert said in last
        assert "log index" in last
        writer.propose("append", "k", "without it")
        sick.poisoned = False
        sick.start().ready()
        assert sick.read("k") == ["without it"]
        cluster.wait_for_agreement()


@pytest.mark.parametrize(
    ("role", "traits", "allowed"),
    [("follower", [], 0), ("leader", [], 1), ("follower", ["threaded"], 0), ("leader", ["threaded"], 0)],
)
def test_g12_one_slow_command_costs_at_most_one_election(
    tmp_path: Path, role: str, traits: list[str], allowed: int
) -> None:
    timing = {"election_timeout": TIMEOUT}
    with running_cluster(tmp_path, prepare=stores(*traits, sick="n2"), timing=timing) as cluster:
        slow = cluster[2]
        make_leader(cluster, slow if role == "leader" else cluster[1])
        writer = next(node for node in cluster.nodes if node is not slow)
        writer.propose("append", "k", "before")
        changes = writer.status()["counters"].get("leader changes", 0)
        began = time.monotonic()
        assert writer.propose("poison", "slow", str(SLOW)) == "unharmed"
        answers = [node.begin("propose", command=["append", "k", node.name]) for node in cluster.nodes]
        for answer in answers:
            answer.result(60)

        assert slow.read("k")[0] == "before"
        assert time.monotonic() - began > SLOW, "it was not slow"
        for number in range(20):
            cluster.nodes[number % 3].propose("append", "k", str(number))

        found = writer.status()["counters"].get("leader changes", 0) - changes
        assert found <= allowed, f"{found} elections"
        assert len(slow.read("k")) == 24
        cluster.wait_for_agreement()


@pytest.mark.parametrize("role", ["follower", "leader"])
def test_a_store_that_differs_from_its_peers_stops_and_names_index_and_digests(
    tmp_path: Path, seed: int, role: str
) -> None:
    snapshot = {"entries": 1000, "digest": 100}
    with running_cluster(tmp_path, prepare=stores("digest", sick="n2"), snapshot=snapshot) as cluster:
        sick = cluster[2]
        make_leader(cluster, sick if role == "leader" else cluster[1])
        with Load(cluster, seed=seed, choose=lambda: [node for node in cluster.nodes if node is not sick]) as load:
            load.wait_for_progress(250)  # two comparisons or more: of equals, nobody stops
            assert len(cluster.running) == 3
            before = len(sick.log)
            next(node for node in cluster.nodes if node is not sick).propose("poison", "differ", "elsewhere")
            until(lambda: not sick.alive, "the end of the one that differs")
            assert sick.wait() == 1
            last = sick.log[before:].strip().splitlines()[-1]
            assert last.startswith("StoreError: the state at log index "), last
            assert "has digest" in last
            assert "on most of the voters" in last
            assert "join again with an empty folder" in last
            load.wait_for_progress(150)  # the others go on and agree

            # The cure it names.
            leader = cluster.leader(cluster.running)
            leader.call("remove", node_id=sick.node_id)
            shutil.rmtree(sick.folder)
            sick.poisoned = False
            sick.start(peers=[leader.address]).ready()
            cluster.wait_for_voters(*cluster.nodes)
            load.wait_for_progress(150)

        load.judge()
        assert len(cluster.running) == 3
