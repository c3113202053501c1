"""Nodes that are brought up by a snapshot, large ones too, and what happens if one of its two ends is killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.crashed_copy import crashed_copy

from .cluster import Load, NodeProcess, running_cluster, until

SMALL: dict[str, int] = {"entries": 20, "tail": 5}
MIB = 1024 * 1024
LARGE = 20 * MIB


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


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_g17_a_huge_state_travels_beside_the_heartbeats_and_in_bounded_memory(tmp_path: Path) -> None:
    # To a follower far behind, while others write: no election, and nobody holds the state more than once.
    huge = 200 * MIB
    with running_cluster(tmp_path, snapshot={"entries": 50, "tail": 5}, timing={"election_timeout": 2.0}) as cluster:
        leader, behind = cluster.leader(), cluster.followers()[0]
        term = leader.status()["term"]
        base = leader.memory()
        reached = leader.status()["last_index"]
        behind.kill()
        leader.propose("ballast", "b", str(huge))
        for number in range(60):
            leader.propose("append", "k", str(number))

        until(lambda: leader.status()["snapshot_index"] > reached + 5, "a snapshot of it")
        made = leader.memory("VmHWM") - base
        leader.forget_peak()
        before = leader.memory()
        behind.start()
        assert len(behind.ready().read("k")) == 60
        sent, taken = leader.memory("VmHWM") - before, behind.memory("VmHWM") - base
        print(f"MiB to make it {made // MIB}, to send it {sent // MIB}, to take it {taken // MIB}")  # noqa: T201
        assert "receiving snapshot" in behind.log
        assert made < huge + 64 * MIB
        assert sent < 64 * MIB
        assert taken < huge + 64 * MIB
        cluster.wait_for_agreement()
        assert cluster.leader().status()["term"] == term, "an election while the snapshot was on its way"


def test_a_sender_that_stands_still_does_not_keep_the_next_one_from_sending(tmp_path: Path) -> None:
    # Its connection stays open, and a silent one is not given up for a minute.
    with running_cluster(tmp_path, snapshot=SMALL) as cluster:
        sender, behind = cluster.leader(), cluster.followers()[0]
        third = next(node for node in cluster.nodes if node not in (sender, behind))
        reached = sender.status()["last_index"]
        behind.kill()
        for letter in "ab":
            sender.propose("ballast", letter, str(LARGE))

        for number in range(60):
            sender.propose("append", "k", str(number))

        # Else it gets the log, while a state this large is still being written down.
        for node in (sender, third):
            until(lambda node=node: node.status()["snapshot_index"] > reached + SMALL["tail"], "the log cut")  # type: ignore[misc]

        before = len(behind.log)
        behind.start()
        until(lambda: "receiving snapshot" in behind.log[before:], "a snapshot on its way")
        sender.pause()
        assert behind.ready().status()["snapshot_index"] < 60, "the snapshot was there before the sender stood still"
        assert len(behind.read("k", timeout=30)) == 60
        assert f"from node {third.node_id}" in behind.log[before:]
        assert cluster.faults["SIGSTOP"] == 1


def snapshots_on_disk(node: NodeProcess) -> list[tuple[int, bool, int]]:
    """Return for each snapshot in a node's database its number, whether it is whole and how many chunks there are.

    It stands still while its folder is copied.
    """
    runs = node.alive
    if runs:
        node.pause()

    with crashed_copy(node.folder) as database:
        if runs:
            node.resume()

        rows = database.execute("SELECT id, crc FROM snapshot ORDER BY id").fetchall()
        count = "SELECT count(*) FROM chunk WHERE snapshot = ?"
        return [(number, crc is not None, database.execute(count, (number,)).fetchone()[0]) for number, crc in rows]


def in_mid_stream(node: NodeProcess, after: int) -> bool:
    """Say whether a part of a snapshot, but not all of it, came later than that of the number."""
    return any(number > after and not whole and chunks > 2 for number, whole, chunks in snapshots_on_disk(node))


@pytest.mark.parametrize(("end", "times"), [("sender", 1), ("receiver", 2)])
def test_g17_an_end_of_a_snapshot_stream_is_killed(tmp_path: Path, end: str, times: int) -> None:
    # In mid-stream: some of its chunks are on the receiver's disk, most are not.
    with running_cluster(tmp_path, snapshot=SMALL) as cluster:
        behind = cluster.followers()[0]
        others = [node for node in cluster.nodes if node is not behind]
        written: list[str] = []

        def write(node: NodeProcess) -> None:
            for _ in range(2 * SMALL["entries"]):
                written.append(str(len(written)))
                node.propose("append", "k", written[-1])

        def leave_behind() -> None:
            reached = cluster.leader().status()["last_index"]
            behind.kill()
            leader = cluster.leader(others)
            write(leader)
            until(lambda: leader.status()["snapshot_index"] > reached + SMALL["tail"], "the log cut that it would need")

        behind.propose("ballast", "b", str(LARGE))
        write(behind)
        leave_behind()
        for _ in range(times):
            log = len(behind.log)
            newest = snapshots_on_disk(behind)[-1][0]  # it may have been killed while it wrote one of its own
            behind.start()
            until(
                lambda log=log, newest=newest: (
                    "receiving snapshot" in behind.log[log:]  # type: ignore[misc]
                    and in_mid_stream(behind, newest)
                ),
                "a part of a snapshot",
            )
            if end == "receiver":
                behind.kill()
                assert in_mid_stream(behind, newest), "it was whole by then"
                continue

            sender = cluster.leader(others)
            sender.kill()
            until(lambda log=log: "its snapshot ended before the end" in behind.log[log:], "the broken stream")  # type: ignore[misc]
            assert behind.ready().status()["snapshot_index"] < len(written), "it had it already"
            # The third one goes on with it, from the beginning.
            assert behind.read("k") == written
            sender.start().ready()
            behind.kill()

        behind.start().ready()
        assert behind.read("k") == written
        cluster.wait_for_agreement()
        behind.kill()
        behind.start().ready()
        # One that another has just replaced may stay until the next, but no part of any.
        until(
            lambda: all(whole for _, whole, _ in snapshots_on_disk(behind)) and len(snapshots_on_disk(behind)) <= 2,
            "the leftovers of broken streams gone",
        )
        assert cluster.faults["SIGKILL"] == 4
