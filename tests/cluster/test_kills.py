"""SIGKILL under load: nothing acknowledged is lost, nothing is applied twice, the rest goes on (G2, G3, G4, G21)."""

from __future__ import annotations

import random
from pathlib import Path

from .cluster import ELECTION_TIMEOUT, Load, running_cluster


def test_a_killed_follower_stops_nobody_and_catches_up(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path) as cluster:
        with Load(cluster, seed=seed) as load:
            for victim in cluster.followers():
                victim.kill()
                load.wait_for_progress(50)
                victim.start().ready()
                load.wait_for_progress(50)

        load.judge()
        assert cluster.faults["SIGKILL"] == 2


def test_a_killed_leader_is_replaced_within_a_few_election_timeouts(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path) as cluster:
        gaps = []
        with Load(cluster, seed=seed) as load:
            for _ in range(3):
                victim = cluster.leader()
                victim.kill()
                gaps.append(load.wait_for_progress(1))
                victim.start().ready()
                load.wait_for_progress(30)

        load.judge()
        assert cluster.faults["SIGKILL"] == 3
        print("next acknowledged write after", [f"{gap:.2f} s" for gap in gaps])  # noqa: T201
        # A node waits between one and two timeouts before it stands for election; the rest is for a busy machine.
        assert min(gaps) < 8 * ELECTION_TIMEOUT


def test_all_killed_at_once_come_back_with_everything(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path, snapshot={"entries": 200, "tail": 50}) as cluster:
        with Load(cluster, seed=seed) as load:
            for _ in range(4):
                for node in cluster.nodes:
                    node.kill()
                cluster.restart(*cluster.nodes)
                load.wait_for_progress(60)

        load.judge()
        assert cluster.faults["SIGKILL"] == 4 * 3


def test_random_kills_lose_nothing(tmp_path: Path, seed: int) -> None:
    # Snapshots all the time, so that some of the kills hit one.
    chance = random.Random(seed)
    kills = 12
    with running_cluster(tmp_path, snapshot={"entries": 50, "tail": 10}) as cluster:
        with Load(cluster, seed=seed) as load:
            for _ in range(kills):
                victims = chance.sample(cluster.nodes, chance.choice([1, 1, 2]))
                load.wait_for_progress(chance.randrange(1, 40))
                for victim in victims:
                    victim.kill()
                if len(victims) == 1:
                    load.wait_for_progress(chance.randrange(1, 40))
                for victim in victims:
                    victim.start()
                for victim in victims:
                    victim.ready()

            load.wait_for_progress(20)

        load.judge()
        assert cluster.faults["SIGKILL"] >= kills


def test_what_is_proposed_on_followers_is_applied_once_while_leaders_die(tmp_path: Path, seed: int) -> None:
    # The follower does not know whether the leader it had asked took its commands along, and must ask the next one.
    with running_cluster(tmp_path) as cluster:
        origin = cluster.followers()[0]
        with Load(cluster, seed=seed, clients=16, reads=0, choose=lambda: [origin]) as load:
            for _ in range(4):
                victim = cluster.leader()
                if victim is origin:
                    break
                victim.kill()
                load.wait_for_progress(40)
                victim.start().ready()
                load.wait_for_progress(10)

        assert cluster.faults["SIGKILL"] >= 1
        assert load.history.unknown == 0, "the origin was there all the time: it must learn of every outcome"
        load.judge()
