"""This tree beside another one, or one Python beside another: short slices in random turn.

A machine goes up and down by half within minutes, and a whole run of one side meets other moments than one of the
other. In slices of half a second both meet the same. What is shown is the quotient of each pair of slices: their
median, and the interval in which it would lie nineteen times in twenty had other pairs been drawn.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from .cluster import RiteraftSettings, riteraft_cluster
from .levels import Row, measure
from .options import LEVELS, SLICES, Options
from .progress import progress

WARM_UP = 0.1
"""Seconds before each slice: both clusters stay, and have found their size after the first."""
DRAWS = 2000
FIGURES = {"writes/s": "writes_per_second", "CPU a write": "cpu_seconds_per_1000_writes", "p99": "p99_ms"}


def quotient(over: Sequence[float], under: Sequence[float]) -> dict[str, Any]:
    """Return the median quotient of pairs, and its 95 % interval (bootstrap; the same pairs give the same one)."""
    found = [above / below for above, below in zip(over, under, strict=True)]
    chance = random.Random(0)
    drawn = sorted(statistics.median(chance.choices(found, k=len(found))) for _ in range(DRAWS))
    return {
        "median": statistics.median(found),
        "interval": [drawn[round(0.025 * (DRAWS - 1))], drawn[round(0.975 * (DRAWS - 1))]],
    }


def run(options: Options, console: Console) -> dict[str, Any]:
    """Measure both at each level, so many pairs of slices."""
    levels = options.levels or LEVELS
    rounds = options.rounds or SLICES
    this = RiteraftSettings(options.loop, options.storage, options.consensus, options.transport)
    other = replace(this, tree=options.against, python=options.against_python)
    rows: dict[int, dict[str, list[Row]]] = {level: {"this": [], "other": []} for level in levels}
    with ExitStack() as stack:
        clusters = {
            name: stack.enter_context(riteraft_cluster(options.data_dir, settings))
            for name, settings in (("this", this), ("other", other))
        }
        with progress(console, "measuring", rounds * len(levels)) as advance:
            for place, level in enumerate(levels):
                for number in range(1, rounds + 1):
                    for name in random.sample(sorted(clusters), 2):
                        row = measure(clusters[name], level, options.seconds, options.at, warm_up=WARM_UP)
                        rows[level][name].append(row)

                    advance(place * rounds + number, f"{level:,} in flight")

    found = {
        level: {
            title: quotient(*([row[name] for row in sides[side]] for side in ("this", "other")))
            for title, name in FIGURES.items()
        }
        for level, sides in rows.items()
    }
    console.print(_table(options, rows, found))
    return {
        "rounds": rounds,
        "other": {
            "tree": options.against and str(options.against),
            "python": options.against_python and str(options.against_python),
        },
        "levels": [{"in_flight": level, **quotients} for level, quotients in found.items()],
        "all_rounds": [{"in_flight": level, **sides} for level, sides in rows.items()],
    }


def _table(options: Options, rows: dict[int, dict[str, list[Row]]], found: dict[int, dict[str, Any]]) -> Table:
    other = " with ".join(str(part) for part in (options.against or "this tree", options.against_python) if part)
    table = Table(title=f"this tree / {other}: median quotient (95 % interval)", title_justify="left")
    for column in ("in flight", "writes/s of this", "of the other", *FIGURES):
        table.add_column(column, justify="right")

    for level, quotients in found.items():
        rates = [statistics.median(row["writes_per_second"] for row in side) for side in rows[level].values()]
        cells = [
            f"{each['median']:.3f} ({each['interval'][0]:.2f} to {each['interval'][1]:.2f})"
            for each in quotients.values()
        ]
        table.add_row(f"{level:,}", *[f"{rate:,.0f}" for rate in rates], *cells)

    return table
