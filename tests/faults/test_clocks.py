"""Wall clocks that are set an hour forward and back under load (G16): only time that passes counts, not what it is."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.cluster import Load, running_cluster

from .shim import Shims

HOUR = 3600
# Far above what a busy machine makes a node wait: a jump of an hour would be seen all the same.
TIMING = {"election_timeout": 4.0}


def test_g16_clocks_that_jump_cost_no_election(tmp_path: Path, seed: int, shims: Shims) -> None:
    with running_cluster(tmp_path, prepare=shims.put_before, timing=TIMING, snapshot={"entries": 50}) as cluster:
        term = cluster.leader().status()["term"]
        with Load(cluster, seed=seed) as load:
            for nodes in ([cluster.leader()], [cluster.followers()[0]], cluster.nodes):
                for ahead in (HOUR, -HOUR, 2, -2, 0):
                    for node in nodes:
                        shims[node].set_clock(ahead)

                    load.wait_for_progress(20)
                    for node in nodes:
                        assert abs(node.call("clock") - time.time() - ahead) < 0.9, "its clock was not set"

        load.judge()
        assert load.history.unknown == 0
        for node in cluster.nodes:
            assert node.status()["term"] == term, "an election"
