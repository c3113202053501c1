"""What a node holds is bounded: floods are refused or wait, and whoever does not read costs its own queue (S13)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .cluster import ELECTION_TIMEOUT, NodeProcess, running_cluster

MIB = 1024 * 1024


class Growth:
    """How much more memory a node takes than when this was made, in MiB."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        node.forget_peak()
        self._before = node.memory()

    @property
    def peak(self) -> float:
        return (self._node.memory("VmHWM") - self._before) / MIB


SMALL: dict[str, Any] = {
    "limits": {"max_bytes_in_flight": 8 * MIB},
    "snapshot": {"bytes": 16 * MIB, "tail_bytes": 8 * MIB},
    "timing": {"election_timeout": 4 * ELECTION_TIMEOUT},
}


@pytest.mark.parametrize(("asked", "waiting"), [("leader", 100), ("follower", 20)])
def test_s13_a_flood_of_large_commands_is_refused_at_once_or_waits(tmp_path: Path, asked: str, waiting: int) -> None:
    flood: dict[str, Any] = {"key": "k", "size": MIB - 100}
    with running_cluster(tmp_path, **SMALL) as cluster:
        leader = cluster.leader()
        node = leader if asked == "leader" else cluster.followers()[0]
        node.propose("append", "other", "before")
        growth = Growth(leader)
        outcomes = node.call("pump", 120, **flood, clients=300, wait=False)
        assert outcomes == {"ok": 8, "Busy": 292}
        # Whoever waits gets through, all of them in the end.
        assert node.call("pump", 120, **flood, clients=waiting) == {"ok": waiting}
        for other in cluster.nodes:
            assert other.read("k") == [str(8 + waiting)]

        # What is in flight is held in several forms: for the engine, the disk, each peer and the Store.
        print(f"the leader took {growth.peak:.0f} MiB more")  # noqa: T201
        assert growth.peak < 160
        assert cluster.leader() is leader
