"""Where the figures of a run go: a JSON file, which says what they were measured on and with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from .options import Options
from .process import ROOT

FOLDER = ROOT / ".benchmark"
"""Ignored by git. A run never writes over another one's files."""


def place(options: Options, suffix: str, began: float) -> Path:
    """Return where a file of this run belongs that the command line does not name."""
    FOLDER.mkdir(exist_ok=True)
    return FOLDER / f"{options.mode}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(began))}{suffix}"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("riteraft-core", "riteraft-raftrs", "uvloop", "trio", "PySyncObj")
            if importlib.util.find_spec(name.lower().replace("-", "_"))
        },
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass

    return platform.processor() or platform.machine()


def save(options: Options, found: dict[str, Any], began: float, before: dict[str, Any]) -> Path:
    """Write the figures and return where; `before` is the machine as it was when the run began."""
    file = options.json or place(options, ".json", began)
    setting = {
        name: getattr(options, name)
        for name in ("at", "loop", "storage", "consensus", "transport", "seconds", "amount")
    }
    whole = {
        "mode": options.mode,
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(began)),
        "machine": before,
        "load_average_at_the_end": os.getloadavg(),
        "options": setting,
        **found,
    }
    file.write_text(json.dumps(whole, indent=2) + "\n")
    return file
