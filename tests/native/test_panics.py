"""A panic in raft-rs stops one node, not the process (rule 25)."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from riteraft_raftrs import RaftPanic, RaftRefused

from .cluster import Cluster, Disk, drain, follower, leader
from .test_conf_changes import calls


def test_rule_25_the_first_panic_poisons_the_object() -> None:
    node = leader()
    with pytest.raises(RaftPanic, match=r"^on purpose \(node\.rs:\d+\)$") as first:
        node.panic_on_purpose()
    for call in calls(node):
        assert callable(call)
        with pytest.raises(RaftPanic) as again:
            call()
        assert again.value.args == first.value.args
    assert ("info", "became leader at term 2, term: 2") in node.take_log()


def test_rule_25_the_errors_are_exceptions_like_others() -> None:
    # PyO3's own PanicException is a BaseException: `except Exception` would not stop it, a task group would die of it.
    assert issubclass(RaftPanic, Exception)
    assert issubclass(RaftRefused, Exception)


def test_rule_25_other_nodes_go_on() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    with pytest.raises(RaftPanic):
        cluster[1].panic_on_purpose()
    cluster.removed = {1}
    cluster.tick_until(lambda: cluster.leader is not None)
    assert cluster.leader in {2, 3}


def test_rule_25_a_poisoned_object_can_be_dropped() -> None:
    node = follower(5)
    with pytest.raises(RaftPanic):
        node.panic_on_purpose()
    del node
    gc.collect()


SILENT = """
import sys
from riteraft_raftrs import RaftPanic, RawNode
node = RawNode(
    node_id=1, hard_state=(1, 0, 1), anchor=(1, 1), snapshot=(1, 1, ([1], [], [], [], False)), entries=[], seed=1
)
for _ in range(2):
    try:
        node.panic_on_purpose()
    except Exception as exc:
        assert isinstance(exc, RaftPanic)
print("alive")
"""


def test_rule_25_a_caught_panic_writes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("alive\n", "")


def test_rule_25_raft_logs_into_a_bounded_ring() -> None:
    node = Disk.founded([1, 2, 3]).open(1)
    assert ("info", "RawNode created with id 1., id: 1") in node.take_log()
    assert node.take_log() == []
    for _ in range(400):
        node.campaign()
        drain(node)
    records = node.take_log()
    assert len(records) == 257
    level, text = records[0]
    assert level == "warning"
    assert text.endswith("log records were lost")


def test_the_methods_may_be_called_from_any_thread() -> None:
    node = leader()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for step in range(200):
                node.propose_many([(b"", b"%d" % step)])
                # Large enough for the interpreter to be given up meanwhile.
                node.step_many(2, [b"\xff" * 100_000])
                node.tick()
                ready = node.ready()
                if ready is not None:
                    node.persisted(ready.number)
        except RaftRefused:
            pass
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
