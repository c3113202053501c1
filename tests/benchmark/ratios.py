"""What one choice costs beside another, measured in turn: only the quotients mean something."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.table import Table

from .cluster import Cluster, RiteraftSettings, riteraft_cluster
from .levels import Row, measure, median_row
from .options import Options, installed
from .progress import progress

IN_FLIGHT = 64
MEMORY_IN_FLIGHT = 256
ROUNDS = 3


def run(options: Options, console: Console) -> dict[str, Any]:
    """Measure every choice once a round; a quotient is the median of those of the rounds."""
    rounds = options.rounds or ROUNDS
    in_flight = options.in_flight(IN_FLIGHT)
    rows: dict[str, list[Row]] = {}
    with ExitStack() as stack:

        def run_cluster(loop: str, storage: str) -> Cluster:
            settings = RiteraftSettings(loop, storage, options.consensus, options.transport)
            return stack.enter_context(riteraft_cluster(options.data_dir, settings))

        chosen = run_cluster(options.loop, "sqlite")
        cases = [
            (f"{options.loop}, at the leader", chosen, in_flight, "leader"),
            (f"{options.loop}, at a follower", chosen, in_flight, "follower"),
        ]
        if options.loop != "asyncio":
            cases.append(("asyncio, at the leader", run_cluster("asyncio", "sqlite"), in_flight, "leader"))

        if options.loop != "trio" and installed("trio"):
            cases.append(("trio, at the leader", run_cluster("trio", "sqlite"), in_flight, "leader"))

        cases += [
            ("sqlite, more in flight", chosen, MEMORY_IN_FLIGHT, "leader"),
            ("memory, more in flight", run_cluster(options.loop, "memory"), MEMORY_IN_FLIGHT, "leader"),
        ]
        with progress(console, "measuring", rounds * len(cases)) as advance:
            for _ in range(rounds):
                for name, cluster, level, at in cases:
                    rows.setdefault(name, []).append(measure(cluster, level, options.seconds, at))
                    advance(sum(map(len, rows.values())), name)

    table = Table(title=f"medians of {rounds} rounds", title_justify="left")
    for column in ("", "in flight", "writes/s", "p50 ms", "p99 ms", "CPU s per 1,000"):
        table.add_column(column, justify="left" if not column else "right")

    for name, _, level, _ in cases:
        row = median_row(rows[name])
        table.add_row(
            name,
            f"{level:,}",
            f"{row['writes_per_second']:,.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['cpu_seconds_per_1000_writes']:.3f}",
        )

    console.print(table)
    wanted = [
        ("follower / leader", f"{options.loop}, at a follower", f"{options.loop}, at the leader"),
        ("trio / asyncio", "trio, at the leader", "asyncio, at the leader"),
        (f"trio / {options.loop}", "trio, at the leader", f"{options.loop}, at the leader"),
        ("memory / sqlite", "memory, more in flight", "sqlite, more in flight"),
    ]
    found = {
        name: statistics.median(
            over["writes_per_second"] / under["writes_per_second"]
            for over, under in zip(rows[above], rows[below], strict=True)
        )
        for name, above, below in wanted
        if above in rows and below in rows and above != below
    }
    for name, value in found.items():
        console.print(f"{name}: {value:.2f} of the writes a second")

    return {"rounds": rounds, "ratios": found, "cases": rows}
