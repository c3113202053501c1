"""Acknowledged writes a second of three processes on this machine, and long runs: `nox -s benchmark -- --help`.

Each write is a 16-byte key and a 100-byte value, proposed within a node's own process, and counts when it was answered:
synced to the disks of two nodes, applied on the proposer. Compare runs on one quiet machine only.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console

from . import against, failover, levels, memory, ratios, report, restart, steady
from .options import Options, installed, parse
from .plot import draw
from .work import KEY_BYTES, VALUE_BYTES

MODES = {
    "levels": levels.run,
    "memory": memory.run,
    "restart": restart.run,
    "failover": failover.run,
    "steady": steady.run,
    "ratios": ratios.run,
    "against": against.run,
}


def picture(options: Options, found: dict[str, Any], machine: dict[str, Any], began: float, console: Console) -> None:
    if not options.plotting:
        return

    if not installed("matplotlib"):
        console.print("no picture: matplotlib is not installed here")
        return

    file = options.plot or report.place(options, ".png", began)
    kept = "synced to disk" if options.storage == "sqlite" else "in memory"
    names = {"riteraft": f"riteraft ({kept}, {options.loop})", "pysyncobj": "PySyncObj (in memory)"}
    names["pysyncobj_batched"] = f"PySyncObj (in memory, batches every {1000 * options.batch_seconds:g} ms)"
    title = f"Three processes on one machine, writes proposed at the {options.at}"
    small = (
        f"{machine['cores']} cores of {machine['processor']}, CPython {machine['python']}; "
        f"{KEY_BYTES}-byte keys, {VALUE_BYTES}-byte values"
    )
    draw(found["levels"], names, title, small, file)
    console.print(f"the picture: {file}", soft_wrap=True)


def main() -> None:
    options = parse()
    console = Console()
    began = time.time()
    machine = report.machine()
    found = MODES[options.mode](options, console)
    console.print(f"the figures: {report.save(options, found, began, machine)}", soft_wrap=True)
    if options.mode == "levels":
        picture(options, found, machine, began, console)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
