"""Too few file descriptors: a node whose sockets are hoarded goes on or says why not, and is well afterwards."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster.cluster import Load, NodeProcess, running_cluster, until

from .circumstances import under

SPARE = 8
"""Descriptors beyond those that a node needs when all is well."""


def descriptors(node: NodeProcess) -> int:
    assert node._process is not None
    return len(os.listdir(f"/proc/{node._process.pid}/fd"))


@contextmanager
def hoarded(node: NodeProcess, count: int) -> Iterator[None]:
    """Hold connections to a node that say nothing."""
    host, _, port = node.address.rpartition(":")
    with ExitStack() as held:
        for _ in range(count):
            held.enter_context(socket.create_connection((host, int(port)), timeout=10))

        yield


def test_a_node_without_descriptors_goes_on_or_ends_with_the_reason(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path, snapshot={"entries": 50, "tail": 10}) as cluster:
        victim = cluster.followers()[0]
        limit = max(descriptors(node) for node in cluster.nodes) + SPARE
        victim.wrapper = under("--descriptors", str(limit))
        with Load(cluster, seed=seed) as load:
            victim.kill()
            victim.start().ready()
            load.wait_for_progress(30)
            before = len(victim.log)
            term = cluster.leader().status()["term"]
            with hoarded(victim, 3 * SPARE):
                until(lambda: not victim.alive or descriptors(victim) >= limit, "all of its descriptors in use")
                load.wait_for_progress(60)
                # Its peers must find it again, though nobody lets go.
                others = [node for node in cluster.nodes if node is not victim]
                other = next(node for node in others if node is not cluster.leader(others))
                other.kill()
                other.start().ready()
                load.wait_for_progress(30)

            if not victim.alive:
                assert victim.wait() == 1
                assert "ulimit -n" in victim.log[before:].strip().splitlines()[-1]
                victim.start().ready()

            load.wait_for_progress(30)
            print(victim.log[before:], term)  # noqa: T201

        load.judge()
        assert "Traceback" not in victim.log[before:]
        assert len(victim.log) - before < 20_000, "it fills the disk with complaints"


def test_a_start_with_too_few_descriptors_says_so(tmp_path: Path) -> None:
    with running_cluster(tmp_path, size=1) as cluster:
        node = cluster[1]
        node.propose("append", "k", "1")
        needed = descriptors(node)
        node.kill()
        refusals = 0
        for limit in range(needed - 1, needed - 7, -1):
            node.wrapper = under("--descriptors", str(limit))
            before = len(node.log)
            node.start()
            until(lambda: node._ready.is_set() or not node.alive, "a start or an end")
            if node.alive:
                node.kill()
                continue

            last = node.log[before:].strip().splitlines()[-1]
            assert node.wait() in (1, 2)
            assert last.startswith(("StorageError: ", "ConfigError: ")), last
            assert "Too many open files" in last or "ulimit -n" in last, last
            refusals += 1

        assert refusals > 0
        node.wrapper = []
        node.start().ready()
        assert node.read("k") == ["1"]
