"""Nodes that are brought up by a snapshot, large ones too, and what happens if one of its two ends is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cluster import Load, running_cluster, until

SMALL: dict[str, int] = {"entries": 20, "tail": 5}
LARGE = 20 * 1024 * 1024


def test_a_follower_far_behind_is_brought_up_by_a_snapshot(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path, snapshot=SMALL) as cluster:
        behind = cluster.followers()[0]
        behind.kill()
        with Load(cluster, seed=seed) as load:
            load.wait_for_progress(150)
            log = behind.log
            behind.start().ready()
            until(lambda: "receiving snapshot" in behind.log[len(log) :], "a snapshot on its way")
            load.wait_for_progress(50)

        load.judge()


def test_a_node_that_was_brought_up_by_a_snapshot_restarts_from_it(tmp_path: Path) -> None:
    with running_cluster(tmp_path, snapshot=SMALL) as cluster:
        behind = cluster.followers()[0]
        behind.kill()
        for number in range(60):
            cluster.leader(cluster.running).propose("append", "k", str(number))

        behind.start().ready()
        until(lambda: behind.status()["snapshot_index"] > 30, "the snapshot installed")
        for node in cluster.nodes:
            node.kill()

        for node in cluster.nodes:
            node.start()

        assert behind.ready().read("k") == [str(number) for number in range(60)]


def test_a_large_state_travels_beside_the_heartbeats(tmp_path: Path) -> None:
    # 20 MB to a new member and to a follower far behind: neither may cost an election.
    timing = {"election_timeout": 1.5}
    with running_cluster(tmp_path, snapshot=SMALL, timing=timing) as cluster:
        behind = cluster.followers()[0]
        leader = cluster.leader()
        behind.kill()
        for number in range(8):
            leader.propose("ballast", chr(ord("a") + number), str(LARGE // 8))

        for number in range(60):
            leader.propose("append", "k", str(number))

        term = leader.status()["term"]
        new = cluster.add().start(peers=[leader.address])
        behind.start()
        for node in (new, behind):
            assert len(node.ready().read("k")) == 60
            assert "receiving snapshot" in node.log

        cluster.wait_for_agreement()
        assert cluster.leader().status()["term"] == term, "an election while snapshots were on their way"


def test_a_sender_that_stands_still_does_not_keep_the_next_one_from_sending(tmp_path: Path) -> None:
    # Its connection stays open, and a silent one is not given up for a minute.
    with running_cluster(tmp_path, snapshot=SMALL) as cluster:
        sender, behind = cluster.leader(), cluster.followers()[0]
        third = next(node for node in cluster.nodes if node not in (sender, behind))
        behind.kill()
        for letter in "ab":
            sender.propose("ballast", letter, str(LARGE))

        for number in range(60):
            sender.propose("append", "k", str(number))

        before = len(behind.log)
        behind.start()
        until(lambda: "receiving snapshot" in behind.log[before:], "a snapshot on its way")
        sender.pause()
        assert behind.ready().status()["snapshot_index"] < 60, "the snapshot was there before the sender stood still"
        assert len(behind.read("k", timeout=30)) == 60
        assert f"from node {third.node_id}" in behind.log[before:]
        assert cluster.faults["SIGSTOP"] == 1


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_g17_an_end_of_a_snapshot_stream_is_killed(tmp_path: Path, seed: int, end: str) -> None:
    with running_cluster(tmp_path, snapshot=SMALL) as cluster:
        behind = cluster.followers()[0]
        behind.kill()
        cluster.leader(cluster.running).propose("ballast", "b", str(LARGE))
        with Load(cluster, seed=seed) as load:
            load.wait_for_progress(60)
            for _ in range(2):
                log = len(behind.log)
                behind.start()
                until(lambda log=log: "receiving snapshot" in behind.log[log:], "a snapshot on its way")  # type: ignore[misc]
                if end == "receiver":
                    behind.kill()
                    continue

                sender = cluster.leader(cluster.running)
                sender.kill()
                sender.start().ready()
                behind.ready()
                load.wait_for_progress(20)
                behind.kill()
                load.wait_for_progress(60)

            behind.start().ready()
            load.wait_for_progress(20)

        load.judge()
        assert cluster.faults["SIGKILL"] >= 3
