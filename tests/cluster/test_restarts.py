"""Nodes that go and come back: with everything they had, at another address, in turn, or not at all."""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from pathlib import Path

from .cluster import Load, NodeProcess, running_cluster, until


def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    # A snapshot and rows behind it, so that both are needed to come back.
    with running_cluster(tmp_path, snapshot={"entries": 40, "tail": 10}) as cluster:
        for number in range(100):
            cluster[1 + number % 3].propose("append", "k", str(number))

        cluster.wait_for_agreement()
        before = [node.status() for node in cluster.nodes]
        for node in cluster.nodes:
            node.kill()

        cluster.restart(*cluster.nodes)
        after = [node.status() for node in cluster.nodes]
        for then, now in zip(before, after, strict=True):
            for kept in ("node_id", "cluster", "address", "voters", "learners", "members"):
                assert now[kept] == then[kept], kept

            for grows in ("term", "last_index", "snapshot_index"):
                assert now[grows] >= then[grows], grows

            assert then["snapshot_index"] > 1

        for node in cluster.nodes:
            assert node.read("k") == [str(number) for number in range(100)]

        assert cluster.faults["SIGKILL"] == 3


def test_a_follower_restarts_at_another_address_and_the_others_learn_of_it(tmp_path: Path) -> None:
    # Until they know, they answer it where it no longer is: it hears of no leader by raft alone.
    with running_cluster(tmp_path) as cluster:
        node = cluster.followers()[0]
        node.kill()
        cluster.leader().propose("append", "k", "meanwhile")
        node.move()
        moved = node.address
        node.start().ready()
        for other in cluster.nodes:
            until(
                lambda other=other: other.status()["members"].get(str(node.node_id)) == moved,  # type: ignore[misc]
                f"{other} knowing the new address",
            )

        assert node.read("k") == ["meanwhile"]
        node.propose("append", "k", "moved")
        assert cluster.leader().read("k") == ["meanwhile", "moved"]


def test_a_leader_restarts_at_another_address(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        node = cluster.leader()
        node.kill()
        node.move()
        node.start().ready()
        node.propose("append", "k", "moved")
        assert all(other.read("k") == ["moved"] for other in cluster.nodes)


def test_a_single_node_restarts_at_another_address(tmp_path: Path) -> None:
    with running_cluster(tmp_path, size=1) as cluster:
        node = cluster[1]
        node.propose("append", "k", "before")
        node.kill()
        node.move()
        node.start().ready()
        until(lambda: node.status()["members"] == {"1": node.address}, "its own new address in the log")
        assert node.read("k") == ["before"]


def test_g18_a_rolling_restart_fails_no_write_that_is_tried_twice(tmp_path: Path, seed: int) -> None:
    # SIGTERM to each in turn: the leader hands over, nobody is left in doubt, and it ends soon and with 0.
    with running_cluster(tmp_path) as cluster:
        handed_over = 0
        endings = []

        def serving() -> list[NodeProcess]:
            return [node for node in cluster.nodes if node.serving]

        with Load(cluster, seed=seed, choose=serving, retry=True) as load:
            for node in [*cluster.nodes, *cluster.nodes]:
                load.wait_for_progress(20)
                led = cluster.leader() is node
                term = node.status()["term"]
                began = time.monotonic()
                node.terminate()
                assert node.wait() == 0
                endings.append(time.monotonic() - began)
                if led:
                    handed_over += 1
                    heir = cluster.leader(cluster.running)
                    assert heir.status()["term"] > term

                load.wait_for_progress(20)
                node.start().ready()

        load.judge()
        assert cluster.faults["SIGTERM"] == 6
        assert handed_over >= 1
        operations = load.history.operations
        assert load.failed_twice == 0
        assert not [operation for operation in operations if operation.doubted]
        acked = sorted(operation.ended for operation in operations if operation.acked and operation.value is not None)
        gap = max(later - earlier for earlier, later in pairwise(acked))
        print(f"longest gap {gap:.2f} s, longest end {max(endings):.2f} s, {handed_over} handed over")  # noqa: T201
        # The goals are 2 s and 5 s; twice as much is for a machine that is busy with something else.
        assert gap < 4
        assert max(endings) < 10


def test_a_leader_that_is_stopped_hands_over(tmp_path: Path) -> None:
    # Without an election timeout: with one of a minute nothing else could make a leader in time.
    with running_cluster(tmp_path) as cluster:
        for node in cluster.nodes:
            node.kill()

        for node in cluster.nodes:
            node.settings["timing"] = {"election_timeout": 6.0}
            node.start()

        leader = cluster.leader([node.ready() for node in cluster.nodes])
        leader.propose("append", "k", "1")
        leader.terminate()
        assert leader.wait() == 0
        cluster.leader(cluster.running, within=5.0).propose("append", "k", "2", timeout=5.0)


def test_a_second_process_on_one_folder_is_refused_by_name(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        follower = cluster.followers()[0]
        second = cluster.add("second")
        second.folder = follower.folder
        second.start()
        assert second.wait() == 1
        assert "is in use by another node" in second.log
        follower.propose("append", "k", "unharmed")


def test_a_wiped_folder_is_not_the_old_node(tmp_path: Path) -> None:
    # Its disk is empty: what it acknowledged is gone, so it may not vote as the one it was (rule 2).
    with running_cluster(tmp_path) as cluster:
        cluster[1].propose("append", "k", "1")
        wiped = cluster.followers()[0]
        old_id = wiped.node_id
        wiped.kill()
        shutil.rmtree(wiped.folder)

        # Alone it is nobody.
        wiped.start()
        assert wiped.wait() == 2
        assert "data_dir holds no node yet" in wiped.log

        # By joining it is somebody new, at the old one's address.
        wiped.start(peers=[cluster.leader(cluster.running).address]).ready()
        assert wiped.node_id == 4
        assert wiped.read("k") == ["1"]
        until(lambda: wiped.node_id in wiped.status()["voters"], "the new node voting")
        assert old_id in wiped.status()["voters"], "the old one is a member until somebody removes it"
        wiped.propose("append", "k", "2")
        cluster.wait_for_agreement()


def test_a_wiped_founder_does_not_found_a_second_cluster_beside_its_peers(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        founder = cluster[1]
        founder.kill()
        shutil.rmtree(founder.folder)
        founder.start(bootstrap=True, peers=[cluster[2].address, cluster[3].address])
        assert founder.wait() == 2
        assert "set `bootstrap = false` to join" in founder.log
