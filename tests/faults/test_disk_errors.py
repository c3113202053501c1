"""A disk that answers with errors (G14): the node stops at the first one, says so, and comes back whole."""

from __future__ import annotations

import errno
import random
from pathlib import Path

from tests.cluster.cluster import Cluster, Load, NodeProcess, running_cluster, until

from .shim import Shims

MIB = 1024 * 1024


def assert_ended(node: NodeProcess, before: int, *said: str) -> None:
    """It ended by itself for the reason it names."""
    assert node.wait() == 1
    last = node.log[before:].strip().splitlines()[-1]
    assert last.startswith(f"StorageError: {node.folder}"), last
    for text in said:
        assert text in last, last

    assert "Traceback" not in node.log[before:]


def test_g14_a_node_stops_at_the_first_failed_fsync(tmp_path: Path, seed: int, shims: Shims) -> None:
    # After it nobody knows what is on the disk: a second one that succeeds would be a lie.
    chance = random.Random(seed)
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 50, "tail": 10}) as cluster:
        with Load(cluster, seed=seed) as load:
            for role in ("follower", "leader"):
                victim = cluster.leader() if role == "leader" else cluster.followers()[0]
                shim = shims[victim]
                before = len(victim.log)
                which = chance.randrange(1, 20)
                shim.sync.fail("raft.db", errno.EIO, first=which, last=which)
                assert_ended(victim, before, "disk I/O error", "the disk fails")
                assert shim.sync.failed == 1
                assert shim.sync.again == 0, "it tried again"
                # The WAL is copied beside the saves: one sync may have been under way in the other thread.
                assert shim.sync.calls <= which + 1, "another thread went on"
                load.wait_for_progress(20)  # the others go on
                shim.sync.stop()
                victim.start().ready()
                load.wait_for_progress(20)

        load.judge()


def test_g14_a_node_stops_at_a_failed_write_and_at_every_start_until_it_is_cured(
    tmp_path: Path, seed: int, shims: Shims
) -> None:
    cases = [("raft.db-wal", errno.ENOSPC, "the disk is full"), ("raft.db", errno.EIO, "the disk fails")]
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 50, "tail": 10}) as cluster:
        with Load(cluster, seed=seed) as load:
            for place, number, said in cases:
                victim = cluster.followers()[0]
                shim = shims[victim]
                shim.write.fail(place, number)
                for attempt in range(2):
                    before = len(victim.log)
                    if attempt:
                        victim.start()

                    assert_ended(victim, before, said)

                assert shim.write.failed > 1
                load.wait_for_progress(20)
                shim.write.stop()
                victim.start().ready()
                load.wait_for_progress(20)

        load.judge()


def test_g14_a_start_from_a_disk_that_cannot_be_read(tmp_path: Path, seed: int, shims: Shims) -> None:
    chance = random.Random(seed)
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 50, "tail": 10}) as cluster:
        victim = cluster.followers()[0]
        read = shims[victim].read
        with Load(cluster, seed=seed) as load:
            load.wait_for_progress(100)
            victim.kill()
            read.watch("raft.db")
            victim.start().ready()
            reads = read.calls
            victim.kill()
            for which in (1, chance.randrange(1, reads // 2), chance.randrange(1, reads // 2)):
                before = len(victim.log)
                read.fail("raft.db", errno.EIO, first=which)
                victim.start()
                assert victim.wait() == 1
                last = victim.log[before:].strip().splitlines()[-1]
                print(f"read {which} of about {reads}: {last}")  # noqa: T201
                assert last.startswith(f"StorageError: {victim.folder}")
                assert "the disk fails" in last  # though SQLite takes some of them for damage
                assert read.failed > 0

            read.stop()
            victim.start().ready()
            load.wait_for_progress(20)

        load.judge()


def behind_by_a_snapshot(cluster: Cluster) -> NodeProcess:
    """Return a node, killed, that can only be brought up by a snapshot, of 2 MB."""
    behind = cluster.followers()[0]
    behind.kill()
    leader = cluster.leader(cluster.running)
    leader.propose("ballast", "b", str(2 * MIB))
    for number in range(60):
        leader.propose("append", "k", str(number))

    return behind


def test_g14_a_snapshot_that_cannot_be_read_ends_its_sender_and_the_next_leader_sends_one(
    tmp_path: Path, shims: Shims
) -> None:
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 20, "tail": 5}) as cluster:
        behind = behind_by_a_snapshot(cluster)
        sender = cluster.leader(cluster.running)
        before = len(sender.log)
        read = shims[sender].read
        read.fail("raft.db", errno.EIO)
        behind.start()
        assert_ended(sender, before, "the disk fails")
        assert read.failed > 0
        read.stop()
        sender.start().ready()
        assert behind.ready().read("k") == [str(number) for number in range(60)]
        cluster.wait_for_agreement()


def test_a_snapshot_that_cannot_be_staged_ends_its_receiver(tmp_path: Path, shims: Shims) -> None:
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 20, "tail": 5}) as cluster:
        behind = behind_by_a_snapshot(cluster)
        write = shims[behind].write
        write.fail("raft.db-wal", errno.EIO, first=200)  # in the midst of it
        before = len(behind.log)
        behind.start()
        assert_ended(behind, before, "staging a snapshot failed", "the disk fails")
        assert "receiving snapshot" in behind.log[before:]
        assert write.failed > 0
        write.stop()
        behind.start().ready()
        assert behind.read("k") == [str(number) for number in range(60)]
        cluster.wait_for_agreement()


def test_a_snapshot_of_ones_own_that_cannot_be_staged_ends_the_node(tmp_path: Path, shims: Shims) -> None:
    with running_cluster(tmp_path, prepare=shims.put_before, snapshot={"entries": 30, "tail": 5}) as cluster:
        victim = cluster.followers()[0]
        cluster.leader().propose("ballast", "b", str(2 * MIB))
        until(lambda: victim.status()["applied"] == cluster.leader().status()["applied"], "level nodes")
        before = len(victim.log)
        shims[victim].write.fail("raft.db-wal", errno.EIO, first=300)
        for number in range(40):
            cluster.leader(cluster.running).propose("append", "k", str(number))

        assert_ended(victim, before, "staging a snapshot failed", "the disk fails")
        shims[victim].write.stop()
        victim.start().ready()
        assert victim.read("k") == [str(number) for number in range(40)]
        cluster.wait_for_agreement()
