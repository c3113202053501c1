"""A cluster of real processes that serves honest clients while one of its nodes is attacked, and what that costs it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..cluster.cluster import Cluster, NodeProcess, running_cluster, until

RATE = 200
"""Honest writes a second."""
CALM = 2.0
"""Seconds for which the cluster is watched before anybody attacks it."""
MEMORY = 32 * 1024 * 1024
"""Bytes that an attack may cost."""
SLOWEST = 3.0
"""Seconds an honest write may take at the 99th percentile, whatever the calm figure: the machine may be busy."""
_PAUSE = threading.Event()


class Writers:
    """Honest clients of the attacked node: `RATE` writes a second, each with the time its answer took."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._taken: list[tuple[float, float]] = []
        self.failures: list[BaseException] = []
        self.behind = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def since(self, moment: float) -> list[float]:
        """Return how long the writes took that were begun after `moment`, in order of length."""
        with self._lock:
            return sorted(took for began, took in self._taken if began >= moment)

    def _run(self) -> None:
        number = 0
        waiting: set[Future[Any]] = set()
        while not self._over.wait(0.05):
            waiting = {answer for answer in waiting if not answer.done()}
            for _ in range(RATE // 20):
                if len(waiting) >= RATE:  # a second's worth: an honest client waits for its answers
                    self.behind += 1
                    break
                number += 1
                began = time.monotonic()
                answer = self._node.begin("propose", 30.0, command=["incr", f"key{number % 8}", ""])
                waiting.add(answer)
                answer.add_done_callback(lambda done, began=began: self._note(done, began))  # type: ignore[misc]

    def _note(self, done: Future[Any], began: float) -> None:
        failure = done.exception()
        with self._lock:
            if failure is None:
                self._taken.append((began, time.monotonic() - began))
            else:
                self.failures.append(failure)


@dataclass
class Attack:
    """One attack under way."""

    target: Target
    before: Mapping[str, int]
    peak: int = 0

    def counted(self, reason: str) -> int:
        """Return how often the node counted something since the attack began."""
        return self.target.counters()[reason] - self.before[reason]

    def wait_for(self, reason: str, times: int, within: float = 30.0) -> None:
        """Wait until it was counted so often."""
        until(lambda: self.counted(reason) >= times, f"{times} times {reason!r}", within)


class Target:
    """The leader of a cluster under load, which is the node that has most to lose."""

    def __init__(self, cluster: Cluster, node: NodeProcess, writers: Writers) -> None:
        self.cluster = cluster
        self.node = node
        self.writers = writers
        assert node._process is not None
        self.process = psutil.Process(node._process.pid)
        self.calm_p99 = 0.0
        self.figures: list[str] = []

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.node.address.rpartition(":")
        return host, int(port)

    def counters(self) -> Counter[str]:
        """Return all that it counts."""
        return Counter(self.node.status()["counters"])

    def measure_calm(self) -> None:
        """See how fast it is when nobody attacks it."""
        began = time.monotonic()
        _PAUSE.wait(CALM)
        until(lambda: len(self.writers.since(began)) > 50, "honest writes acknowledged")
        self.calm_p99 = _p99(self.writers.since(began))

    @contextmanager
    def attacked(self, what: str, memory: int = MEMORY, slowest: float = SLOWEST) -> Iterator[Attack]:
        """Watch the node while the block attacks it, and check afterwards that it took no harm."""
        status = self.node.status()
        attack = Attack(self, Counter(status["counters"]))
        open_files, size = self.process.num_fds(), self.process.memory_info().rss
        over = threading.Event()

        def sample() -> None:
            while not over.wait(0.1):
                attack.peak = max(attack.peak, self.process.memory_info().rss)

        sampling = threading.Thread(target=sample, daemon=True)
        sampling.start()
        began = time.monotonic()
        try:
            yield attack
        finally:
            seconds = time.monotonic() - began
            over.set()
            sampling.join()
            attack.peak = max(attack.peak, self.process.memory_info().rss)

        # Honest clients were served all the time, and are.
        now = time.monotonic()
        until(lambda: len(self.writers.since(now)) >= 20, "honest writes after the attack")
        assert self.writers.failures == []
        taken = self.writers.since(began)
        p99 = _p99(taken)
        self.figures.append(
            f"{what}: {seconds:.1f} s, {len(taken) / (time.monotonic() - began):.0f} honest writes/s, "
            f"p99 {p99 * 1000:.0f} ms (calm {self.calm_p99 * 1000:.0f}), memory {(attack.peak - size) >> 10:+d} KiB"
        )
        assert p99 <= max(2 * self.calm_p99, slowest), self.figures[-1]
        assert attack.peak - size <= memory, self.figures[-1]

        # The same leader in the same term, on every node.
        for node in self.cluster.nodes:
            view = node.status()
            assert (view["leader"], view["term"]) == (status["leader"], status["term"]), f"{node} saw an election"

        until(lambda: self.process.num_fds() <= open_files + 2, "the attack's connections closed", 60)
        assert "Traceback" not in self.node.log, "an error of the node itself"


@contextmanager
def attacked_cluster(folder: Path, **settings: Any) -> Iterator[Target]:
    """Run three nodes with honest clients; yield the leader."""
    with running_cluster(folder, timing={"election_timeout": 4.0}, **settings) as cluster:
        leader = cluster.leader()
        with Writers(leader) as writers:
            target = Target(cluster, leader, writers)
            target.measure_calm()
            yield target
            for line in target.figures:
                print(line)  # noqa: T201 - pytest -rP shows it

        cluster.wait_for_agreement()


def _p99(taken: list[float]) -> float:
    return taken[len(taken) * 99 // 100]
