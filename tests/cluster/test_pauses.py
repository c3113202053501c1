"""SIGSTOP: a node that stood still and does not know it (G7)."""

from __future__ import annotations

from pathlib import Path

from .cluster import Failed, Load, running_cluster, until


def test_g7_a_leader_that_stood_still_serves_no_stale_read_and_acknowledges_nothing(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        written: list[str] = []
        for number in range(4):
            stale = cluster.leader()
            others = [node for node in cluster.nodes if node is not stale]
            stale.pause()
            value = f"round {number}"
            successor = cluster.leader(others)
            successor.propose("append", "k", value)
            written.append(value)

            # These wait in its pipe: it finds them when it wakes up and still takes itself for the leader.
            reads = [stale.begin("read", timeout=10, key="k") for _ in range(5)]
            late = stale.begin("propose", timeout=10, command=["append", "k", f"late {number}"])
            stale.resume()
            for read in reads:
                error = read.exception(60)
                if error is None:
                    assert read.result()[: len(written)] == written, "a stale read"
                else:
                    assert isinstance(error, Failed)
                    assert error.name == "ReadError"

            # It may be applied, but by the new leader, after what that one had acknowledged.
            assert late.result(60) == str(len(written) + 1)
            written.append(f"late {number}")
            for node in cluster.nodes:
                assert node.read("k") == written

            until(lambda stale=stale: stale.status()["role"] == "follower", "the stale leader stepping down")  # type: ignore[misc]

        assert cluster.faults["SIGSTOP"] == 4


def test_g7_pauses_of_any_node_under_load(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path) as cluster:
        asked = list(cluster.nodes)
        with Load(cluster, seed=seed, choose=lambda: asked) as load:
            for victim in (cluster.leader(), cluster.followers()[0], cluster.leader()):
                asked = [node for node in cluster.nodes if node is not victim]
                victim.pause()
                load.wait_for_progress(60)
                asked = list(cluster.nodes)  # it is asked the moment it wakes up
                victim.resume()
                load.wait_for_progress(60)

        load.judge()
        assert cluster.faults["SIGSTOP"] == 3


def test_a_short_pause_of_a_follower_costs_no_election(tmp_path: Path) -> None:
    # All the ticks it missed at once would make it stand for election, though its leader's heartbeats lie unread.
    with running_cluster(tmp_path, timing={"election_timeout": 2.0}) as cluster:
        term = cluster.leader().status()["term"]
        follower = cluster.followers()[0]
        follower.pause()
        for number in range(20):
            cluster[1 if follower is not cluster[1] else 2].propose("append", "k", str(number))

        follower.resume()
        assert len(follower.read("k")) == 20
        assert cluster.leader().status()["term"] == term
        assert cluster.faults["SIGSTOP"] == 1
