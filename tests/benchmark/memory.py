"""Resident memory after many writes against that after a tenth of them: it should stand still."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from .cluster import RiteraftSettings, riteraft_cluster
from .filling import fill
from .options import Options
from .progress import progress
from .verdict import verdict

IN_FLIGHT = 256
TARGET = 1.1


def run(options: Options, console: Console) -> dict[str, Any]:
    """Write `amount` times; compare the memory at the end with that after a tenth."""
    total, tenth = options.amount, max(1, options.amount // 10)
    in_flight = options.in_flight(IN_FLIGHT)
    settings = RiteraftSettings(options.loop, options.storage, options.consensus, options.transport)
    with riteraft_cluster(options.data_dir, settings) as cluster:
        samples: list[dict[str, Any]] = []
        with progress(console, "writing", total) as advance:
            done = 0
            # A tenth at a time: the samples between show whether memory grew on the way.
            while done < total:
                writes = min(tenth, total - done)
                fill(cluster.at(options.at), in_flight, writes, advance, done=done)
                cluster.wait_level()
                done += writes
                samples.append({"writes": done, "rss_mib": [view["rss"] / 2**20 for view in cluster.status()]})

    first, last = samples[0]["rss_mib"], samples[-1]["rss_mib"]
    for sample in samples:
        console.print(
            f"{sample['writes']:>12,} writes: " + " ".join(f"{rss:6.1f}" for rss in sample["rss_mib"]) + " MiB"
        )

    worst = max(after / before for before, after in zip(first, last, strict=True))
    found = verdict(
        console, f"memory at {total:,} writes to that at {tenth:,}, the worst node", worst, TARGET, " times"
    )
    return {"in_flight": in_flight, "samples": samples, "verdicts": [found]}
