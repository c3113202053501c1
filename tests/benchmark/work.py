"""The work that is measured, the same for every system: which writes, and what is counted of them."""

from __future__ import annotations

import base64
import os
import resource
import sys
import time
from array import array
from pathlib import Path
from typing import Any

KEY_BYTES = 16
VALUE_BYTES = 100
KEYS = tuple(b"%0*d" % (KEY_BYTES, number) for number in range(10_000))
"""Written again and again: the Store stays small, so memory that grows is the node's own."""


def key_of(number: int) -> bytes:
    """Return the key of a write."""
    return KEYS[number % len(KEYS)]


VALUE = b"v" * VALUE_BYTES
"""Of every write."""


class Tally:
    """Counts the writes of one load; what was counted is given out a stretch at a time."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit` is how many writes there are to be; None: until `stop`."""
        self.started = 0
        self.acknowledged = 0
        self.failed = 0
        self._limit = sys.maxsize if limit is None else limit
        self._clear()
        self._last = self._since

    def _clear(self) -> None:
        self._latencies = array("f")
        self._since = time.monotonic()
        self._pause = 0.0
        self._pause_end = 0.0

    def take(self) -> int | None:
        """Return the number of the next write, or None if there is to be none."""
        if self.started >= self._limit:
            return None

        self.started += 1
        return self.started

    def stop(self) -> None:
        """Let no further write begin."""
        self._limit = 0

    @property
    def over(self) -> bool:
        """Whether no further write will begin."""
        return self.started >= self._limit

    def note(self, began: float) -> None:
        """Count an acknowledged write that began at this time of `time.monotonic`."""
        now = time.monotonic()
        self.acknowledged += 1
        self._latencies.append(now - began)
        if now - self._last > self._pause:
            self._pause = now - self._last
            self._pause_end = now

        self._last = now

    def read(self) -> dict[str, Any]:
        """Return what was counted since the last call, as plain values, and begin anew."""
        now = time.monotonic()
        latencies, since, pause, pause_end = self._latencies, self._since, self._pause, self._pause_end
        self._clear()
        return {
            "started": self.started,
            "acknowledged": self.acknowledged,
            "failed": self.failed,
            "seconds": now - since,
            "latencies": base64.b64encode(latencies.tobytes()).decode(),
            "pause": [pause_end - pause, pause_end],
        }


class Stretch:
    """A time in which a load was watched: what `Tally.read` said, on the side that asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        """Take one answer, or several that followed one another."""
        latencies = array("f")
        for answer in answers:
            latencies.frombytes(base64.b64decode(answer["latencies"]))

        self._ordered = sorted(latencies)
        self.writes = len(latencies)
        self.seconds: float = sum(answer["seconds"] for answer in answers)

    @property
    def rate(self) -> float:
        """Acknowledged writes a second."""
        return self.writes / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """Return the latency in milliseconds that so many percent of the writes kept to; NaN without a write."""
        if not self._ordered:
            return float("nan")

        return 1000 * self._ordered[min(self.writes - 1, self.writes * percent // 100)]


def resident_bytes() -> int:
    """Return the memory this process has now; where the system does not say, the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most

    return pages * os.sysconf("SC_PAGE_SIZE")


def used() -> dict[str, Any]:
    """Return what this process took of the machine: CPU seconds since its start, and bytes of memory now."""
    return {"cpu": time.process_time(), "rss": resident_bytes()}
