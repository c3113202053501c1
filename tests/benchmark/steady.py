"""Full load for a long time: no election, no growth, and a latency that stays."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from .cluster import RiteraftSettings, riteraft_cluster
from .levels import WARM_UP
from .options import Options
from .progress import progress
from .verdict import verdict
from .work import Stretch

IN_FLIGHT = 256
SETTLED_SECONDS = 60.0
"""Memory is compared with what it was after so long, or after a tenth of a shorter run."""
MOST_GROWTH = 1.1
MOST_P99_MS = 100.0


def run(options: Options, console: Console) -> dict[str, Any]:
    """Write for `amount` seconds; look each second."""
    in_flight = options.in_flight(IN_FLIGHT)
    settled = min(SETTLED_SECONDS, options.amount / 10)
    settings = RiteraftSettings(options.loop, options.storage, options.consensus, options.transport)
    answers: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    with (
        riteraft_cluster(options.data_dir, settings) as cluster,
        progress(console, "full load", options.amount) as advance,
    ):
        proposer = cluster.at(options.at)
        before = cluster.status()
        proposer.begin(in_flight)
        time.sleep(WARM_UP)
        proposer.ask("read")
        began = time.monotonic()
        while (passed := time.monotonic() - began) < options.amount:
            time.sleep(min(1.0, options.amount - passed))
            answers.append(proposer.ask("read"))
            stretch, views = Stretch(answers[-1]), cluster.status()
            samples.append(
                {
                    "seconds": time.monotonic() - began,
                    "writes_per_second": stretch.rate,
                    "p99_ms": stretch.percentile_ms(99),
                    "rss_mib": [view["rss"] / 2**20 for view in views],
                    "term": max(view["term"] for view in views),
                }
            )
            advance(
                round(samples[-1]["seconds"]),
                f"{stretch.rate:,.0f} writes/s, p99 {stretch.percentile_ms(99):.0f} ms",
            )

        ended = proposer.ask("end")
        elections = max(view["term"] for view in cluster.status()) - max(view["term"] for view in before)

    whole = Stretch(*answers)
    base = next((sample for sample in samples if sample["seconds"] >= settled), samples[-1])
    growth = max(last / first for first, last in zip(base["rss_mib"], samples[-1]["rss_mib"], strict=True))
    console.print(f"{whole.writes:,} writes, {whole.rate:,.0f} a second, p50 {whole.percentile_ms(50):.1f} ms")
    return {
        "in_flight": in_flight,
        "writes": whole.writes,
        "writes_per_second": whole.rate,
        "p50_ms": whole.percentile_ms(50),
        "p99_ms": whole.percentile_ms(99),
        "failed": ended["failed"],
        "elections": elections,
        "samples": samples,
        "verdicts": [
            verdict(console, "elections", elections, 0),
            verdict(console, "failed writes", ended["failed"], 0),
            verdict(console, "p99", whole.percentile_ms(99), MOST_P99_MS, " ms"),
            verdict(
                console, f"memory at the end to that after {settled:g} s, the worst node", growth, MOST_GROWTH, " times"
            ),
        ],
    }
