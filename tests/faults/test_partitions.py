"""Partitions as the kernel makes them: packets are lost, connections hang, and are sent again or given up (G8, G9)."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.cluster import Cluster, Load, NodeProcess, running_cluster, until
from tests.cluster.network import apart
from tests.cluster.test_partitions import assert_says_no

from .namespaces import Namespaces

ELECTION_TIMEOUT = 0.6
WITHIN = 5.0
"""Seconds for the first acknowledged write of a majority."""
LEVEL = 10.0
"""Seconds from the end of a cut until every node has what the others have."""
SLOW = 2.0
"""How much slower than the goals' a machine may be that does other things too."""


def wait_until_level(cluster: Cluster, node: NodeProcess) -> float:
    reached = cluster.leader().status()["commit"]
    began = time.monotonic()
    until(lambda: node.status()["applied"] >= reached, f"{node} level with the others", SLOW * LEVEL)
    return time.monotonic() - began


def test_g8_lost_packets_isolate_the_leader_or_a_follower(tmp_path: Path, namespaces: Namespaces, seed: int) -> None:
    timing = {"election_timeout": ELECTION_TIMEOUT}
    with running_cluster(tmp_path, prepare=namespaces.put_before, timing=timing) as cluster:
        asked = list(cluster.nodes)
        with Load(cluster, seed=seed, choose=lambda: asked) as load:
            for leads in (True, False):
                alone = cluster.leader() if leads else cluster.followers()[0]
                others = [node for node in cluster.nodes if node is not alone]
                term = alone.status()["term"]
                asked = others
                with namespaces.cut(*apart([alone], others)):
                    began = time.monotonic()
                    others[0].propose("append", "k", "majority", timeout=SLOW * WITHIN)
                    took = time.monotonic() - began
                    assert_says_no(alone)
                    load.wait_for_progress(20)

                level = wait_until_level(cluster, alone)
                print(f"leader alone: {leads}; acknowledged after {took:.2f} s, level after {level:.2f} s")  # noqa: T201
                until(lambda: len({node.status()["term"] for node in cluster.nodes}) == 1, "one term")
                grown = alone.status()["term"] - term
                assert grown <= 2 if leads else grown == 0
                asked = list(cluster.nodes)
                load.wait_for_progress(20)

        load.judge()
        print(dict(cluster.faults))  # noqa: T201
        assert cluster.faults["packets lost"] > 10


def test_g9_packets_are_lost_one_way(tmp_path: Path, namespaces: Namespaces, seed: int) -> None:
    # Without acknowledgements the other direction ends as well, a while later: to TCP there is no one-way link.
    timing = {"election_timeout": ELECTION_TIMEOUT}
    with running_cluster(tmp_path, prepare=namespaces.put_before, timing=timing) as cluster:
        leader = cluster.leader()
        odd, third = cluster.followers()
        term = leader.status()["term"]
        asked = [leader, third]
        with Load(cluster, seed=seed, choose=lambda: asked) as load:
            for name, ways in {
                "deaf": [(leader, odd), (third, odd)],
                "mute": [(odd, leader), (odd, third)],
                "not heard by the leader": [(odd, leader)],
            }.items():
                with namespaces.cut(*ways):
                    over = time.monotonic() + 3 * ELECTION_TIMEOUT
                    while time.monotonic() < over:
                        load.wait_for_progress(10)

                    assert leader.status()["term"] == term, name

                print(f"{name}: level after {wait_until_level(cluster, odd):.2f} s")  # noqa: T201
                assert leader.status()["term"] == term, name

            # A leader that hears nobody gives up by itself: its heartbeats keep the others from an election.
            asked = [odd, third]
            with namespaces.cut((odd, leader), (third, leader)):
                began = time.monotonic()
                cluster.leader([odd, third])
                load.wait_for_progress(20)
                print(f"deaf leader: acknowledged again after {time.monotonic() - began:.2f} s")  # noqa: T201
                assert_says_no(leader)

            wait_until_level(cluster, leader)
            asked = list(cluster.nodes)
            load.wait_for_progress(20)

        load.judge()
        print(dict(cluster.faults))  # noqa: T201
        assert cluster.faults["packets lost"] > 10
