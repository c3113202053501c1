"""How a node's process ends, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.port import Port

from .cluster import Failed, Gone, running_cluster, until


def test_a_store_that_raises_ends_its_node_with_the_error_by_name(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        sick = cluster.followers()[0]
        sick.kill()
        sick.poisoned = True
        sick.start().ready()
        assert cluster.leader().propose("poison", "", "") == "unharmed"
        assert sick.wait() == 1
        assert "StoreError: Store.apply raised RuntimeError: this Store was poisoned" in sick.log
        # What it could not apply is committed: it comes back to it at every start, until the Store is mended.
        sick.start()
        assert sick.wait() == 1
        sick.poisoned = False
        sick.start().ready()
        sick.propose("append", "k", "cured")
        cluster.wait_for_agreement()


def test_a_caller_of_a_node_that_dies_is_answered(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        sick = cluster.followers()[0]
        sick.kill()
        sick.poisoned = True
        sick.start().ready()
        calls = [sick.begin("propose", command=["poison", "", ""]), sick.begin("read", key="k")]
        calls += [sick.begin("propose", command=["append", "k", str(number)]) for number in range(50)]
        for call in calls:
            error = call.exception(60)
            assert error is None or (
                isinstance(error, Failed) and error.name in ("NotApplied", "OutcomeUnknown", "NodeStopped")
            ), repr(error)

        assert isinstance(calls[0].exception(), Failed)
        assert sick.wait() == 1


def test_a_rejected_command_comes_back_to_whoever_proposed_it(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        for node in cluster.nodes:
            with pytest.raises(Failed) as rejected:
                node.propose("reject", "a detail", "no, thank you")

            assert (rejected.value.name, rejected.value.text, rejected.value.detail) == (
                "CommandRejected",
                "no, thank you",
                "a detail",
            )


def test_a_node_ends_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    # What keeps a killed test run from leaving nodes behind.
    with running_cluster(tmp_path, size=1) as cluster:
        process = cluster[1]._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        assert cluster[1].wait() == 3
        with pytest.raises(Gone):
            cluster[1].status()


class Service:
    """`riteraft run` on a config file."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        folder.mkdir()
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        (folder / "n1.toml").write_text("\n".join(lines) + "\n")
        (folder / "counting.py").write_text(
            "class Counter:\n"
            "    total = 0\n"
            "    def apply(self, command):\n"
            "        self.total += 1\n"
            "        return b''\n"
            "    def snapshot(self):\n"
            "        return str(self.total).encode()\n"
            "    def restore(self, snapshot):\n"
            "        self.total = int(snapshot)\n"
            "class Broken(Counter):\n"
            "    def restore(self, snapshot):\n"
            "        raise ValueError('no way back')\n"
        )
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("riteraft"), "run", "n1.toml"],
                cwd=folder,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("RITERAFT_")},
            )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.log.read_text(), f"{text!r} in the log")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_riteraft_run_ends_with_0_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    # A joiner that nobody lets in yet must end as well as a node that serves.
    common = {"cluster": "c", "store": "counting:Counter", "data_dir": "data"}
    with Port() as port:
        with Service(tmp_path / "founder", **common, address=port.address, bootstrap=True) as founder:
            founder.wait_for("leads in term")
            founder.process.send_signal(number)
            assert founder.process.wait(60) == 0

        with Service(tmp_path / "joiner", **common, address="127.0.0.1:0", peers=[port.address]) as joiner:
            joiner.wait_for("not let in yet")
            joiner.process.send_signal(number)
            assert joiner.process.wait(60) == 0


def test_riteraft_run_ends_with_1_on_a_fatal_error_and_2_on_a_wrong_config(tmp_path: Path) -> None:
    common = {"cluster": "c", "store": "counting:Counter", "data_dir": "data", "address": "127.0.0.1:0"}
    # A start restores the snapshot, the founder's very first one too.
    with Service(tmp_path / "fatal", **{**common, "store": "counting:Broken"}, bootstrap=True) as fatal:
        assert fatal.process.wait(60) == 1
        assert "Store.restore raised ValueError: no way back" in fatal.log.read_text()

    with Service(tmp_path / "wrong", **common) as wrong:
        assert wrong.process.wait(60) == 2
        assert "bootstrap = true" in wrong.log.read_text()
