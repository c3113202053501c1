"""The main measurement: writes a second, latency, CPU and memory at each number of writes in flight."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from .cluster import Cluster, RiteraftSettings, pysyncobj_cluster, riteraft_cluster
from .options import LEVELS, Options, installed
from .work import Stretch

WARM_UP = 0.5
"""Seconds, not counted: outboxes, caches and the log find their size."""

Row = dict[str, Any]
OpenCluster = Callable[[], AbstractContextManager[Cluster]]


def measure(
    cluster: Cluster,
    in_flight: int,
    seconds: float,
    at: str,
    profile: Path | None = None,
    profiler: str = "cpu",
    warm_up: float = WARM_UP,
) -> Row:
    """Return the figures of one cluster at one level."""
    proposer = cluster.at(at)
    before = cluster.status()
    proposer.begin(in_flight, profile=profile, profiler=profiler)
    time.sleep(warm_up)
    proposer.ask("read")
    time.sleep(seconds)
    stretch = Stretch(proposer.ask("read"))
    ended = proposer.ask("end")
    cluster.wait_level()
    after = cluster.status()
    cpu = sum(view["cpu"] for view in after) - sum(view["cpu"] for view in before)
    return {
        "writes": stretch.writes,
        "writes_per_second": stretch.rate,
        "p50_ms": stretch.percentile_ms(50),
        "p99_ms": stretch.percentile_ms(99),
        "cpu_seconds_per_1000_writes": 1000 * cpu / max(1, ended["acknowledged"]),
        "rss_mib": [view["rss"] / 2**20 for view in after],
        "elections": max(view["term"] for view in after) - max(view["term"] for view in before),
        "failed": ended["failed"],
    }


def median_row(rows: Sequence[Row]) -> Row:
    """Return the row whose writes a second are the median, the lower one of an even number."""
    middle = statistics.median_low(row["writes_per_second"] for row in rows)
    return next(row for row in rows if row["writes_per_second"] == middle)


def ratios(ours: Row, theirs: Row) -> Row:
    """Return how many times theirs ours is, figure by figure."""
    names = ("writes_per_second", "p50_ms", "p99_ms", "cpu_seconds_per_1000_writes")
    return {name: ours[name] / theirs[name] for name in names if theirs[name]}


@contextmanager
def _systems(options: Options, console: Console) -> Iterator[list[tuple[str, OpenCluster]]]:
    """Give what is to be compared. Most run all the time: while they get no writes they cost next to nothing."""
    settings = RiteraftSettings(options.loop, options.storage, options.consensus, options.transport)
    with ExitStack() as stack:

        def standing(cluster: AbstractContextManager[Cluster]) -> OpenCluster:
            running = stack.enter_context(cluster)
            return lambda: nullcontext(running)

        systems = [("riteraft", standing(riteraft_cluster(options.data_dir, settings)))]
        if options.pysyncobj and not installed("pysyncobj"):
            console.print("PySyncObj is not installed here and is left out")
        elif options.pysyncobj:
            systems.append(("pysyncobj", standing(pysyncobj_cluster(options.data_dir))))
            if options.batch_seconds:
                # It ticks too often to run beside the others, so it is started for each level.
                systems.append(
                    ("pysyncobj_batched", partial(pysyncobj_cluster, options.data_dir, options.batch_seconds))
                )

        yield systems


def run(options: Options, console: Console) -> dict[str, Any]:
    """Measure level by level, the systems in turn within each, so that a busy machine is busy for all of them."""
    levels = options.levels or LEVELS
    rounds = options.rounds or 1
    rows: dict[int, dict[str, list[Row]]] = {level: {} for level in levels}
    view = _View(options)
    # Gone when it ends: where the output is no terminal, only the last state is to be printed, and whole.
    with (
        _systems(options, console) as systems,
        Live(view.show({}), console=console, auto_refresh=False, transient=True) as live,
    ):
        for turn in range(rounds):
            for level in levels:
                # Who comes first changes from round to round.
                for name, open_cluster in systems if turn % 2 == 0 else reversed(systems):
                    profile = None
                    if options.profile is not None and name == "riteraft":
                        profile = options.profile.with_name(f"{options.profile.name}.{level}")

                    with open_cluster() as cluster:
                        row = measure(cluster, level, options.seconds, options.at, profile, options.profiler)

                    rows[level].setdefault(name, []).append(row)
                    live.update(view.show(_summary(rows)), refresh=console.is_terminal)

    summary = _summary(rows)
    console.print(view.show(summary))
    return {
        "rounds": rounds,
        "levels": [{"in_flight": level, **figures} for level, figures in summary.items()],
        "all_rounds": [{"in_flight": level, **by_name} for level, by_name in rows.items()],
    }


def _summary(rows: dict[int, dict[str, list[Row]]]) -> dict[int, dict[str, Row]]:
    summary = {}
    for level, by_name in rows.items():
        if by_name:
            summary[level] = {name: median_row(found) for name, found in by_name.items()}
            ours = summary[level]["riteraft"] if "riteraft" in by_name else None
            if ours is not None:
                summary[level]["ratios"] = {
                    name: ratios(ours, theirs) for name, theirs in summary[level].items() if theirs is not ours
                }

    return summary


class _View:
    """The tables, as far as they are known."""

    def __init__(self, options: Options) -> None:
        self._titles = {
            "riteraft": f"riteraft: three nodes, {options.consensus}, {options.transport}, {options.storage}, "
            f"{options.loop}, proposed at the {options.at}",
            "pysyncobj": "PySyncObj, in memory, each write by itself",
            "pysyncobj_batched": f"PySyncObj, in memory, batches every {1000 * options.batch_seconds:g} ms",
        }

    def show(self, summary: dict[int, dict[str, Row]]) -> Group:
        tables = []
        for name, title in self._titles.items():
            rows = {level: figures[name] for level, figures in summary.items() if name in figures}
            if rows or name == "riteraft":
                tables.append(self._table(title, rows))

        for name, title in self._titles.items():
            found = {level: figures.get("ratios", {}).get(name) for level, figures in summary.items()}
            if any(found.values()):
                tables.append(self._ratios(f"riteraft / {title}", {level: row for level, row in found.items() if row}))

        return Group(*tables)

    def _table(self, title: str, rows: dict[int, Row]) -> Table:
        table = Table(title=title, title_justify="left")
        for column in ("in flight", "writes/s", "p50 ms", "p99 ms", "CPU s per 1,000", "MiB each", "elections"):
            table.add_column(column, justify="right")

        for level, row in rows.items():
            table.add_row(
                f"{level:,}",
                f"{row['writes_per_second']:,.0f}",
                f"{row['p50_ms']:.2f}",
                f"{row['p99_ms']:.2f}",
                f"{row['cpu_seconds_per_1000_writes']:.3f}",
                " ".join(f"{rss:.0f}" for rss in row["rss_mib"]),
                str(row["elections"]),
            )

        return table

    def _ratios(self, title: str, rows: dict[int, Row]) -> Table:
        table = Table(title=title, title_justify="left")
        for column in ("in flight", "writes/s", "p50", "p99", "CPU a write"):
            table.add_column(column, justify="right")

        for level, row in rows.items():
            table.add_row(f"{level:,}", *[f"{value:.2f}" for value in row.values()])

        return table
