"""Full disks and their end (G13): nothing acknowledged without a quorum, a clear end, and back without hand work."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.cluster.cluster import Failed, Load, NodeProcess, running_cluster, until
from tests.crashed_copy import crashed_copy

from .disks import SmallDisk
from .shim import Shims

MIB = 1024 * 1024
STORAGE = {"name": "sqlite", "checkpoint_bytes": 64 * 1024}
FULL = "the disk is full: make room on it and start the node again"


def lay_out(disks: Mapping[str, SmallDisk]) -> Callable[[NodeProcess], None]:
    """Return what puts the folders of these nodes on these disks."""

    def put(node: NodeProcess) -> None:
        if node.name in disks:
            node.folder = disks[node.name].folder / node.name

    return put


def assert_ended_by_a_full_disk(node: NodeProcess, before: int) -> None:
    """It ended by itself, with the reason, and at every start it says the same until there is room."""
    assert node.wait() == 1
    last = node.log[before:].strip().splitlines()[-1]
    assert last.startswith("StorageError: "), last
    assert str(node.folder) in last, last
    assert FULL in last, last
    assert "Traceback" not in node.log


def test_g13_a_sync_that_finds_no_room(tmp_path: Path, shims: Shims) -> None:
    # So says a file system that looks for room only when it writes back. SQLite does not tell it from a broken disk.
    with running_cluster(tmp_path, prepare=shims.put_before, storage=STORAGE) as cluster:
        node = cluster.followers()[0]
        before = len(node.log)
        shims[node].sync.fail("raft.db", errno.ENOSPC)
        cluster.leader().propose("append", "k", "x")
        assert node.wait() == 1
        assert "disk I/O error; the disk fails, or was full: make sure that there is room" in node.log[before:]
        shims[node].sync.stop()
        assert node.start().ready().read("k") == ["x"]


def halves_of_snapshots(node: NodeProcess) -> int:
    """Return how many snapshots its folder holds that were begun and not ended, as a copy of it tells."""
    with crashed_copy(node.folder) as raw:
        (count,) = raw.execute("SELECT count(*) FROM snapshot WHERE size IS NULL").fetchone()
        return int(count)


def assert_alone(node: NodeProcess) -> None:
    """Neither a write nor a read succeeds on a node without a quorum."""
    with pytest.raises(Failed) as write:
        node.propose("append", "alone", "x", timeout=1)

    assert write.value.name in ("NotApplied", "OutcomeUnknown")
    with pytest.raises(Failed) as read:
        node.read("alone", timeout=1)

    assert read.value.name == "ReadError"


@pytest.mark.parametrize("small_blocks", [False, True])
def test_g13_one_full_disk_then_two_then_room_again(
    tmp_path: Path, seed: int, small_disk: Callable[..., SmallDisk], small_blocks: bool
) -> None:
    # Where blocks are smaller than pages, a page of a mapped file may be found to have no room when it is written to.
    disks = [small_disk(8 * MIB, small_blocks=small_blocks) for _ in range(2)]
    put = lay_out({"n2": disks[0], "n3": disks[1]})
    with running_cluster(tmp_path, prepare=put, storage=STORAGE, snapshot={"entries": 200, "tail": 50}) as cluster:
        large, *small = cluster.nodes
        logs = [len(node.log) for node in small]
        with Load(cluster, seed=seed) as load:
            disks[0].fill()
            until(lambda: not small[0].alive, "the end of the node whose disk is full")
            assert_ended_by_a_full_disk(small[0], logs[0])
            load.wait_for_progress(100)  # two of three go on

            disks[1].fill()
            until(lambda: not small[1].alive, "the end of the other node whose disk is full")
            assert_ended_by_a_full_disk(small[1], logs[1])

            # One of three: nothing may be acknowledged, but for what was on its way already.
            assert_alone(large)
            acknowledged = load.history.count()
            assert_alone(large)
            assert load.history.count() == acknowledged

            # A start on a disk that is still full ends the same way, sooner or later.
            before = len(small[0].log)
            small[0].start()
            assert_ended_by_a_full_disk(small[0], before)
            for disk, node in zip(disks, small, strict=True):
                disk.clear()
                node.start()

            for node in small:
                node.ready()

            load.wait_for_progress(100)

        load.judge()


def test_g13_a_disk_that_fills_up_while_a_snapshot_is_written(
    tmp_path: Path, small_disk: Callable[..., SmallDisk]
) -> None:
    # The state, 3 MB, fits beside nothing: neither one's own snapshot nor a leader's.
    disk = small_disk(4 * MIB)
    put = lay_out({"n3": disk})
    with running_cluster(tmp_path, prepare=put, storage=STORAGE, snapshot={"entries": 100, "tail": 10}) as cluster:
        writer, node = cluster[1], cluster[3]
        disk.fill(leave=MIB)
        before = len(node.log)
        writer.propose("ballast", "b", str(3 * MIB))
        for number in range(120):
            writer.propose("append", "k", str(number))

        # Only the snapshot is that large; whether its own write, the WAL's copying or a save meets the end is chance.
        assert_ended_by_a_full_disk(node, before)

        # It is full of half a snapshot: that alone must go by itself, once the ballast is gone, and the disk grown.
        disk.clear()
        assert halves_of_snapshots(node) > 0
        disk.resize(16 * MIB)
        for number in range(120, 240):
            writer.propose("append", "k", str(number))

        before = len(node.log)
        node.start().ready()
        assert node.read("k") == [str(number) for number in range(240)]
        cluster.wait_for_agreement()
        until(lambda: node.status()["snapshot_index"] > 120, "a snapshot of its own or of the leader's")
