"""Links that are cut, both ways or one: the majority goes on, the rest says no, and nobody is deposed without need."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .cluster import Cluster, Failed, Load, NodeProcess, running_cluster, until
from .network import Network, apart

ELECTION_TIMEOUT = 0.6
WITHIN = 5.0
"""Seconds for the first acknowledged write of a majority."""
LONGER = 3 * ELECTION_TIMEOUT
"""How long a cut stays when nothing is to happen: an election that came would have come by then."""


@contextmanager
def running(folder: Path) -> Iterator[tuple[Network, Cluster]]:
    timing = {"election_timeout": ELECTION_TIMEOUT}
    with Network() as network, running_cluster(folder, prepare=network.put_before, timing=timing) as cluster:
        yield network, cluster


def split(cluster: Cluster, leader_alone: bool) -> tuple[NodeProcess, list[NodeProcess]]:
    """Return one node and the two others."""
    alone = cluster.leader() if leader_alone else cluster.followers()[0]
    return alone, [node for node in cluster.nodes if node is not alone]


def assert_says_no(node: NodeProcess) -> None:
    """It acknowledges nothing, and what it was told last it does not take for the latest."""
    calls = [node.begin("propose", 1.5, command=["append", "minority", str(number)]) for number in range(5)]
    reads = [node.begin("read", 1.5, key="k") for _ in range(5)]
    for call in calls:
        with pytest.raises(Failed) as failed:
            call.result(60)

        assert failed.value.name in ("NotApplied", "OutcomeUnknown")

    for read in reads:
        with pytest.raises(Failed, match="fresh"):
            read.result(60)


@pytest.mark.parametrize("leader_alone", [True, False])
def test_g8_the_majority_goes_on_and_the_minority_says_no(tmp_path: Path, seed: int, leader_alone: bool) -> None:
    with running(tmp_path) as (network, cluster):
        asked = list(cluster.nodes)
        with Load(cluster, seed=seed, choose=lambda: asked) as load:
            for _ in range(2):
                alone, others = split(cluster, leader_alone)
                term = alone.status()["term"]
                asked = others
                with network.cut(*apart([alone], others)):
                    began = time.monotonic()
                    others[0].propose("append", "k", "majority", timeout=WITHIN)
                    took = time.monotonic() - began
                    print(f"the majority acknowledged after {took:.2f} s")  # noqa: T201
                    assert took < WITHIN
                    assert_says_no(alone)
                    load.wait_for_progress(20)

                load.wait_for_progress(20)
                asked = list(cluster.nodes)
                until(lambda: len({node.status()["term"] for node in cluster.nodes}) == 1, "one term")
                grown = alone.status()["term"] - term
                assert grown <= 2 if leader_alone else grown == 0

        load.judge()
        assert all("Traceback" not in node.log for node in cluster.nodes)
        assert sum(network.held.values()) >= 4


def test_g9_a_node_that_is_deaf_or_mute_or_hears_only_one_other_deposes_nobody(tmp_path: Path, seed: int) -> None:
    with running(tmp_path) as (network, cluster):
        leader = cluster.leader()
        odd, third = cluster.followers()
        term = leader.status()["term"]
        cuts = {
            "deaf": [(leader, odd), (third, odd)],
            "mute": [(odd, leader), (odd, third)],
            "without the leader": apart([leader], [odd]),
            "not heard by the leader": [(odd, leader)],
        }
        with Load(cluster, seed=seed, choose=lambda: [leader, third]) as load:
            for name, ways in cuts.items():
                held = sum(network.held.values())
                with network.cut(*ways):
                    over = time.monotonic() + LONGER
                    while time.monotonic() < over:
                        load.wait_for_progress(10)

                    assert leader.status()["term"] == term, name

                load.wait_for_progress(10)
                assert sum(network.held.values()) > held, f"nothing was held back: {name}"

            until(lambda: odd.status()["leader"] == leader.node_id, "the odd one back with its leader")

        load.judge()
        assert leader.status()["term"] == term
        assert leader.status()["role"] == "leader"


def test_g9_a_leader_that_hears_nobody_makes_room(tmp_path: Path, seed: int) -> None:
    # Its heartbeats go out, so nobody else stands for election until it finds out by itself (CheckQuorum).
    with running(tmp_path) as (network, cluster):
        deaf = cluster.leader()
        others = [node for node in cluster.nodes if node is not deaf]
        asked = list(cluster.nodes)
        with Load(cluster, seed=seed, choose=lambda: asked) as load:
            asked = others
            with network.cut(*[(other, deaf) for other in others]):
                cluster.leader(others, within=60)
                until(lambda: deaf.status()["role"] != "leader", "the deaf leader stepping down")
                assert_says_no(deaf)
                load.wait_for_progress(20)

            asked = list(cluster.nodes)
            load.wait_for_progress(20)

        load.judge()
