from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .against import quotient
from .process import ROOT, until
from .work import Stretch, Tally

COMMAND = [sys.executable, "-m", "tests.benchmark", "--loop", "asyncio"]
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "error"}


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for the nodes, of which nothing may be left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def run(scratch: Path, *arguments: str) -> dict[str, Any]:
    figures = scratch.parent / "figures.json"
    subprocess.run(
        [*COMMAND, *arguments, "--json", str(figures), "--data-dir", str(scratch)],
        check=True,
        timeout=170,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def test_it_measures_each_level_and_leaves_nothing(scratch: Path) -> None:
    profile = scratch.parent / "profile"
    arguments = ["--seconds", "0.2", "--in-flight", "1,8", "--at", "follower", "--profile", str(profile)]
    levels = run(scratch, *arguments, "--no-pysyncobj", "--no-plot")["levels"]

    assert [level["in_flight"] for level in levels] == [1, 8]
    assert all(level["riteraft"]["writes"] > 0 for level in levels)
    assert "(riteraft_core/node.py)" in profile.with_name("profile.8").read_text()


def test_memory_is_compared_with_that_after_a_tenth(scratch: Path) -> None:
    found = run(scratch, "--memory", "200", "--in-flight", "8")

    assert [sample["writes"] for sample in found["samples"]] == list(range(20, 201, 20))
    assert [len(sample["rss_mib"]) for sample in found["samples"]] == [3] * 10
    assert found["verdicts"][0]["value"] > 0


def test_a_restart_is_timed_with_all_entries_behind_the_snapshot(scratch: Path) -> None:
    found = run(scratch, "--restart", "300", "--in-flight", "64", "--rounds", "1")

    assert found["entries_after_snapshot"] >= 300
    (start,) = found["starts"]
    assert 0 < start["serving_seconds"] <= start["readable_seconds"]


def test_a_failover_is_timed_from_a_real_kill(scratch: Path) -> None:
    found = run(scratch, "--failover", "1", "--in-flight", "4")

    (kill,) = found["kills"]
    # Nobody stands for election before the timeout has passed, and it began with a heartbeat up to a tenth before.
    assert kill["seconds"] > 0.8 * found["election_timeout"]
    assert kill["terms"] >= 1


def test_steady_load_is_looked_at_each_second(scratch: Path) -> None:
    found = run(scratch, "--steady", "2", "--in-flight", "8")

    assert len(found["samples"]) >= 2
    assert found["writes"] > 0
    assert [verdict["what"] for verdict in found["verdicts"]][:2] == ["elections", "failed writes"]


def test_another_tree_is_measured_in_turn(scratch: Path) -> None:
    found = run(scratch, "--against", str(ROOT), "--seconds", "0.1", "--rounds", "3", "--in-flight", "1,8")

    for level, measured in zip(found["levels"], found["all_rounds"], strict=True):
        assert [len(measured[side]) for side in ("this", "other")] == [3, 3]
        low, high = level["writes/s"]["interval"]
        assert low <= level["writes/s"]["median"] <= high


def test_the_other_tree_runs_its_own_code(scratch: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "riteraft_core" / "src", other / "riteraft_core" / "src")
    with (other / "riteraft_core" / "src" / "riteraft_core" / "__init__.py").open("a") as file:
        file.write('\nraise SystemExit("imported from the other tree")\n')

    arguments = ["--against", str(other), "--data-dir", str(scratch)]
    ended = subprocess.run([*COMMAND, *arguments], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert "imported from the other tree" in ended.stderr


def test_what_is_no_tree_is_refused(scratch: Path) -> None:
    arguments = [*COMMAND, "--against", str(scratch)]
    ended = subprocess.run(arguments, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert f"{scratch} has no riteraft_core/src" in ended.stderr


def test_a_quotient_has_an_interval_around_it() -> None:
    chance = random.Random(5)
    under = [chance.uniform(50, 100) for _ in range(200)]
    found = quotient([1.1 * value * chance.uniform(0.8, 1.2) for value in under], under)

    assert found["interval"][0] < 1.1 < found["interval"][1]
    assert found["interval"][1] - found["interval"][0] < 0.1
    assert quotient([2.0, 4.0], [1.0, 2.0]) == {"median": 2.0, "interval": [2.0, 2.0]}


def test_ctrl_c_ends_a_long_run_and_its_nodes(scratch: Path) -> None:
    arguments = ["--steady", "600", "--in-flight", "8", "--data-dir", str(scratch)]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    try:
        until(lambda: len(psutil.Process(process.pid).children()) == 3, "three nodes")
        nodes = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert not any(node.is_running() for node in nodes)
    finally:
        process.kill()
        process.wait()


def test_a_tally_gives_out_a_stretch_at_a_time() -> None:
    tally = Tally(3)
    assert [tally.take() for _ in range(4)] == [1, 2, 3, None]
    for began in (0.0, 0.0, 0.0):
        tally.note(began)

    first = tally.read()
    assert (first["acknowledged"], Stretch(first).writes) == (3, 3)
    assert Stretch(tally.read()).writes == 0
    assert tally.over


def test_a_stretch_has_percentiles_of_all_its_answers() -> None:
    tally = Tally()
    answers = []
    for _ in range(2):
        tally.note(tally.take() or 0.0)
        answers.append({**tally.read(), "seconds": 0.5})

    stretch = Stretch(*answers)
    assert stretch.rate == 2.0
    assert stretch.percentile_ms(0) <= stretch.percentile_ms(99)
