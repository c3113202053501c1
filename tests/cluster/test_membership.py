"""Who belongs to a cluster: joining through any member, and leaving it for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cluster import Cluster, Failed, Load, NodeProcess, running_cluster, until


def assert_left(cluster: Cluster, node: NodeProcess) -> None:
    """It ended in peace, does not come back, and the others go on without it."""
    assert node.wait() == 0
    rest = [other for other in cluster.nodes if other is not node]
    cluster.wait_for_voters(*rest)
    node.start()
    assert node.wait() == 2
    assert "belongs to a node that left its cluster" in node.log
    cluster.forget(node)
    rest[0].propose("append", "after", node.name)
    assert all(node.name in other.read("after") for other in rest)


def test_a_node_joins_through_a_follower(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        cluster[1].propose("append", "k", "1")
        follower = cluster.followers()[0]
        node = cluster.add().start(peers=[follower.address]).ready()
        assert node.node_id == 4
        assert node.read("k") == ["1"]
        cluster.wait_for_voters(*cluster.nodes)


def test_a_join_goes_on_until_there_is_a_leader(tmp_path: Path) -> None:
    # The only member that is asked has no quorum at first.
    with running_cluster(tmp_path) as cluster:
        cluster[1].kill()
        cluster[2].kill()
        node = cluster.add().start(peers=[cluster[3].address])
        until(lambda: "not let in yet" in node.log, "a join that was put off")
        cluster[1].start().ready()
        node.ready()
        assert node.node_id == 4


def test_a_killed_joiner_comes_back_as_the_same_node(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        node = cluster.add().start(peers=[cluster[1].address])
        until(
            lambda: any("4" in other.status()["members"] for other in cluster.nodes[:3]), "the joiner's id in the log"
        )
        node.kill()
        node.start(peers=[cluster[1].address]).ready()
        assert node.node_id == 4
        cluster.wait_for_voters(*cluster.nodes)


def test_a_follower_leaves(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path) as cluster:
        with Load(cluster, seed=seed) as load:
            follower = cluster.followers()[0]
            follower.call("leave")
            load.wait_for_progress()

        assert_left(cluster, follower)
        load.judge()


def test_a_leader_leaves(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path) as cluster:
        with Load(cluster, seed=seed) as load:
            leader = cluster.leader()
            leader.call("leave")
            load.wait_for_progress()

        assert_left(cluster, leader)
        load.judge()


def test_the_last_voter_cannot_leave(tmp_path: Path) -> None:
    with running_cluster(tmp_path, size=2) as cluster:
        leader, follower = cluster.leader(), cluster.followers()[0]
        follower.call("leave")
        assert_left(cluster, follower)
        with pytest.raises(Failed, match="last voter") as refused:
            leader.call("leave")

        assert refused.value.name == "CommandRejected"
        leader.propose("append", "k", "it goes on")


def test_all_but_one_leave_at_once(tmp_path: Path) -> None:
    # Each of them asks a leader that may itself be leaving.
    with running_cluster(tmp_path) as cluster:
        cluster[1].propose("append", "k", "1")
        leaving = cluster.nodes[:2]
        answers = [node.begin("leave") for node in leaving]
        for answer in answers:
            answer.result(60)

        assert [node.wait() for node in leaving] == [0, 0]
        cluster.forget(*leaving)
        cluster.wait_for_voters(*cluster.nodes)
        assert cluster.nodes[0].read("k") == ["1"]
