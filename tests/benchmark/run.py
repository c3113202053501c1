"""Acknowledged writes a second of three processes on this machine: run by `nox -s benchmark`.

Each write is a 16-byte key and a 100-byte value, proposed within a node's own process, and counts when it was answered:
synced to the disks of two nodes, applied on the proposer. Compare runs on one quiet machine only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

NODE = Path(__file__).with_name("node.py")
IN_FLIGHT = "1,16,64,256,1024"
FORMING_SECONDS = 60.0
END_SECONDS = 5.0


class NodeProcess:
    """One node, asked and answering a line at a time."""

    def __init__(self, loop: str, settings: dict[str, Any], log: Path) -> None:
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(NODE), loop, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,  # Ctrl-C is for this process, which then ends the nodes
            )
        self._log = log

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""

        if not line:
            raise SystemExit(f"a node ended: {self._log.read_text(errors='replace')[-2000:]}")

        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.terminate()

    def reap(self) -> None:
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def cluster(options: argparse.Namespace) -> Iterator[list[NodeProcess]]:
    """Run three nodes that are voters all; afterwards nothing is left of them."""
    nodes: list[NodeProcess] = []
    with tempfile.TemporaryDirectory(prefix="riteraft-benchmark-", dir=options.data_dir) as folder:
        try:
            peers: list[str] = []
            for number in (1, 2, 3):
                settings = {
                    "address": "127.0.0.1:0",
                    "data_dir": f"{folder}/n{number}",
                    "storage": options.storage,
                    "consensus": options.consensus,
                    "bootstrap": not peers,
                    "peers": peers,
                }
                nodes.append(NodeProcess(options.loop, settings, Path(folder) / f"n{number}.log"))
                if not peers:
                    peers = [nodes[0].ask()["address"]]

            deadline = time.monotonic() + FORMING_SECONDS
            while any(node.ask()["voters"] < 3 for node in nodes):
                if time.monotonic() > deadline:
                    raise SystemExit(f"no cluster of three voters in {FORMING_SECONDS:g} s")

                time.sleep(0.05)

            yield nodes
        finally:
            for node in nodes:
                node.end()

            for node in nodes:
                node.reap()


def measure(nodes: Sequence[NodeProcess], in_flight: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one level."""
    before = [node.ask() for node in nodes]
    wanted = "leader" if options.at == "leader" else "follower"
    at = next((node for node, view in zip(nodes, before, strict=True) if view["role"] == wanted), nodes[0])
    profile = f"{options.profile}.{in_flight}" if options.profile else None
    figures = at.ask(in_flight=in_flight, seconds=options.seconds, profile=profile)
    after = [node.ask() for node in nodes]
    cpu = sum(view["cpu"] for view in after) - sum(view["cpu"] for view in before)
    return {
        "in_flight": in_flight,
        "writes": figures["writes"],
        "writes_per_second": figures["rate"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "cpu_seconds_per_1000_writes": 1000 * cpu / figures["all"],
        "rss_mib": [view["rss"] / 2**20 for view in after],
        "elections": max(view["term"] for view in after) - max(view["term"] for view in before),
    }


def table_of(rows: Sequence[dict[str, Any]], title: str) -> Table:
    table = Table(title=title)
    for column in ("in flight", "writes/s", "p50 ms", "p99 ms", "CPU s per 1,000", "MiB each", "elections"):
        table.add_column(column, justify="right")

    for row in rows:
        table.add_row(
            f"{row['in_flight']:,}",
            f"{row['writes_per_second']:,.0f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['cpu_seconds_per_1000_writes']:.3f}",
            " ".join(f"{rss:.0f}" for rss in row["rss_mib"]),
            str(row["elections"]),
        )

    return table


def parse_arguments() -> argparse.Namespace:
    loops = [loop for loop in ("uvloop", "asyncio", "trio") if importlib.util.find_spec(loop)]
    parser = argparse.ArgumentParser(description="Acknowledged writes a second of three processes on this machine.")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of each level")
    parser.add_argument("--in-flight", default=IN_FLIGHT, metavar="N,N,…", help=f"the levels; default {IN_FLIGHT}")
    parser.add_argument("--storage", default="sqlite", choices=["sqlite", "memory"])
    parser.add_argument("--consensus", default="raft-rs", metavar="ENGINE", help="default raft-rs")
    parser.add_argument("--loop", default=loops[0], choices=loops)
    parser.add_argument("--at", default="leader", choices=["leader", "follower"], help="where the writes are proposed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    parser.add_argument("--data-dir", metavar="FOLDER", help="make the nodes' folders within this one")
    parser.add_argument("--profile", metavar="FILE", help="write a cProfile of the proposer to FILE.N for each level")
    options = parser.parse_args()
    options.levels = [int(level) for level in options.in_flight.split(",")]
    return options


def main() -> None:
    options = parse_arguments()
    console = Console()
    title = f"three nodes, {options.consensus}, {options.storage}, {options.loop}, proposed at the {options.at}"
    rows: list[dict[str, Any]] = []
    with cluster(options) as nodes, Live(table_of(rows, title), console=console, auto_refresh=False) as live:
        for in_flight in options.levels:
            rows.append(measure(nodes, in_flight, options))
            live.update(table_of(rows, title), refresh=console.is_terminal)

    if options.json is not None:
        machine = {"python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count()}
        options.json.write_text(
            json.dumps(
                {
                    "machine": machine,
                    "load": os.getloadavg(),
                    "storage": options.storage,
                    "consensus": options.consensus,
                    "loop": options.loop,
                    "at": options.at,
                    "levels": rows,
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
