"""Whole clusters under random faults, one seed a run.

`RITERAFT_SEEDS=1000` runs seeds 0 to 999, `RITERAFT_SEEDS=40:60` those from 40 to 59; a failure names its seed and how
to repeat it.
"""

from __future__ import annotations

import os

import pytest
from riteraft_core.testing.simulation import prepare, rage

SEEDS = os.environ.get("RITERAFT_SEEDS", "80")
FIRST, _, END = SEEDS.rpartition(":")
LINES = 40
"""Of the story that are shown when a run fails."""


@pytest.mark.parametrize("seed", range(int(FIRST or 0), int(END)))
def test_a_random_run(seed: int) -> None:
    net = prepare(seed)
    try:
        rage(net)
        net.settle()
    except Exception as exc:
        story = "\n".join(net.told[-LINES:])
        pytest.fail(
            f"seed {seed} at {net.clock.now:.2f} s: {type(exc).__name__}: {exc}\n\n{story}\n\nto repeat it: "
            f"RITERAFT_SEEDS={seed}:{seed + 1} python -m pytest tests/simulation/test_random_runs.py"
        )

    # A run that did nothing would prove nothing.
    assert net.checks.acknowledged


def test_same_seed_same_trace() -> None:
    traces = []
    for _ in range(2):
        net = prepare(11)
        rage(net, 10)
        traces.append((net.trace, net.told))

    assert traces[0] == traces[1]


def test_another_seed_another_trace() -> None:
    nets = [prepare(seed) for seed in (3, 4)]
    assert nets[0].trace != nets[1].trace
