"""Two ways to see where a node's event loop spends its time."""

from __future__ import annotations

import cProfile
import signal
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Protocol

PROFILERS = ("cpu", "calls")
INTERVAL = 0.001
"""Seconds of CPU between two samples; Linux makes it 0.004 on most machines."""


class Profiler(Protocol):
    """Watches the thread that starts it."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End, and write the file."""


class CpuProfiler:
    """Samples the main thread's stack whenever the process used so much CPU, and writes the stacks with their counts.

    Three nodes and two cores: whoever samples by the clock finds a process where it waits for a core, above all in
    the write to a socket, which wakes the peer. The file has one line a stack, as flame graphs and speedscope read.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stacks: Counter[str] = Counter()

    def start(self) -> None:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._file.write_text("".join(f"{stack} {count}\n" for stack, count in self._stacks.most_common()))

    def _sample(self, _: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None:
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)  # Python 3.10 has the bare name only
            names.append(f"{name} ({'/'.join(Path(code.co_filename).parts[-2:])})")
            frame = frame.f_back

        self._stacks[";".join(reversed(names))] += 1


class CallProfiler:
    """Counts and times every call with cProfile: exact counts, shares that favour what is called often."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._profile = cProfile.Profile()

    def start(self) -> None:
        self._profile.enable()

    def stop(self) -> None:
        self._profile.disable()
        self._profile.dump_stats(self._file)


def profiler(name: str, file: str) -> Profiler:
    """Return the profiler of this name; it will write to `file`."""
    return CpuProfiler(Path(file)) if name == "cpu" else CallProfiler(Path(file))
