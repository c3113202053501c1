"""A follower that stands still, or has little CPU, a slow disk or a slow link, costs the others little (G11)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .cluster import NodeProcess, running_cluster, until
from .network import Network

SECONDS = 2.0
"""Of load in each phase."""
KEPT = 0.7
"""Of the calm throughput, with one follower slow."""
ATTEMPTS = 5
"""Until that is seen: what else a machine does makes two calm phases differ by half. A leader that waits for its
follower keeps a few per cent, however often it is tried."""
MIB = 1024 * 1024
SHIM = Path(__file__).with_name("slow_sync.c")


@contextmanager
def standing_still(node: NodeProcess) -> Iterator[None]:
    node.pause()
    try:
        yield
    finally:
        node.resume()


@contextmanager
def a_tenth_of_the_cpu(node: NodeProcess) -> Iterator[None]:
    over = threading.Event()

    def starve() -> None:
        while not over.wait(0.01):
            node.pause()
            over.wait(0.09)
            node.resume()

    starving = threading.Thread(target=starve)
    starving.start()
    try:
        yield
    finally:
        over.set()
        starving.join()


@contextmanager
def a_slow_disk(node: NodeProcess) -> Iterator[None]:
    switch = Path(node.environment["SLOW_SYNC"])
    switch.write_text("500")
    try:
        yield
    finally:
        switch.unlink()
        node.faults["slow syncs"] = switch.with_name(f"{switch.name}.count").stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, and the disk slowed by LD_PRELOAD")
def test_g11_a_slow_follower_costs_the_others_little(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")

    shim = tmp_path / "slow_sync.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, SHIM, "-ldl"], check=True)
    # The log is held in memory up to a bound; a small one is reached in the first phase, so that it counts in none.
    settings: dict[str, Any] = {"timing": {"election_timeout": 2.0}, "snapshot": {"bytes": 4 * MIB, "tail_bytes": MIB}}
    folder = tmp_path / "cluster"
    folder.mkdir()

    def prepare(node: NodeProcess) -> None:
        node.environment.update({"LD_PRELOAD": str(shim), "SLOW_SYNC": str(tmp_path / node.name)})
        network.put_before(node)

    with Network() as network, running_cluster(folder, prepare=prepare, **settings) as cluster:
        leader, slow = cluster.leader(), cluster.followers()[0]
        term = leader.status()["term"]

        def written() -> int:
            outcomes: dict[str, int] = leader.call("pump", key="k", clients=64, size=512, seconds=SECONDS)
            assert set(outcomes) == {"ok"}
            return outcomes["ok"]

        written()  # so that everything has its size
        leader.forget_peak()
        memory = leader.memory()
        troubles: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "standing still": lambda: standing_still(slow),
            "a tenth of the CPU": lambda: a_tenth_of_the_cpu(slow),
            "fsyncs of half a second": lambda: a_slow_disk(slow),
            "64 kB/s": lambda: network.slow(slow, 64_000),
        }
        for name, trouble in troubles.items():
            shares: list[float] = []
            while not shares or (shares[-1] < KEPT and len(shares) < ATTEMPTS):
                calm = written()
                with trouble():
                    shares.append(written() / calm)
                    reached = leader.status()["applied"]

                began = time.monotonic()
                until(lambda: slow.status()["applied"] >= reached, f"the follower level after {name}", 30)  # noqa: B023
                print(f"{name}: {shares[-1]:.2f} of {calm}, level after {time.monotonic() - began:.1f} s")  # noqa: T201

            assert shares[-1] >= KEPT, f"{name}: {shares}"

        growth = (leader.memory("VmHWM") - memory) / MIB
        print(f"the leader took {growth:.0f} MiB more, {dict(cluster.faults)}")  # noqa: T201
        assert growth < 64
        assert leader.status()["term"] == term
        assert cluster.faults["SIGSTOP"] > 10
        assert cluster.faults["slow syncs"] >= 2
        assert network.delayed[slow.node_id] > 0
        cluster.wait_for_agreement()
