"""How long a node takes to start with many entries after its snapshot."""

from __future__ import annotations

import statistics
from typing import Any

from rich.console import Console

from .cluster import RiteraftSettings, riteraft_cluster
from .filling import fill
from .options import Options
from .process import PATIENCE
from .progress import progress
from .verdict import verdict
from .work import KEY_BYTES, VALUE_BYTES

IN_FLIGHT = 1024
STARTS = 3
TARGETS = ((100_000, 3.0), (1_000_000, 15.0))
"""Entries, and seconds to serve with no more than those."""
SERVING_SECONDS = 300.0


def run(options: Options, console: Console) -> dict[str, Any]:
    """Fill a node's log with `amount` entries, kill it, and start it again a few times.

    It is alone in its cluster: so it is the start that is measured, and not what it missed meanwhile.
    """
    entries = options.amount
    settings = RiteraftSettings(
        options.loop, options.storage, options.consensus, options.transport, snapshots=False, size=1
    )
    starts = []
    with riteraft_cluster(options.data_dir, settings) as cluster:
        (node,) = cluster.nodes
        with progress(console, "filling the log", entries) as advance:
            fill(node, options.in_flight(IN_FLIGHT), entries, advance)

        view = node.ask("status")
        after_snapshot = view["last_index"] - view["snapshot_index"]
        if after_snapshot < entries:
            raise SystemExit(f"only {after_snapshot:,} entries are after the snapshot: it was made too early")

        for _ in range(options.rounds or STARTS):
            node.kill()
            node.start()
            served = node.ask("status", SERVING_SECONDS)
            level = node.ask("barrier", SERVING_SECONDS + PATIENCE, timeout=SERVING_SECONDS)
            if node.ask("status")["applied"] < view["last_index"]:
                raise SystemExit("the node came back with less than it had")

            starts.append(
                {
                    "serving_seconds": served["serving_since"] - node.started_at,
                    "readable_seconds": level["at"] - node.started_at,
                    "cpu_seconds": served["cpu"],
                    "rss_mib": served["rss"] / 2**20,
                }
            )
            console.print(
                f"start {len(starts)}: serving after {starts[-1]['serving_seconds']:.2f} s, "
                f"all of it readable after {starts[-1]['readable_seconds']:.2f} s, "
                f"{starts[-1]['cpu_seconds']:.2f} s of CPU, {starts[-1]['rss_mib']:.0f} MiB"
            )

    target = next((seconds for most, seconds in TARGETS if entries <= most), TARGETS[-1][1] * entries / TARGETS[-1][0])
    median = statistics.median(start["serving_seconds"] for start in starts)
    what = (
        f"from the start of the process to serving, {after_snapshot:,} entries of {KEY_BYTES + VALUE_BYTES} B, median"
    )
    return {
        "entries_after_snapshot": after_snapshot,
        "command_bytes": KEY_BYTES + VALUE_BYTES,
        "starts": starts,
        "verdicts": [verdict(console, what, median, target, " s")],
    }
