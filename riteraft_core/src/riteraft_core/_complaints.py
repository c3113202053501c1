"""What went wrong at the door, counted by reason and logged sparingly."""

from __future__ import annotations

import logging
from collections import Counter

import anyio


class Complaints:
    """Counts what went wrong by reason, and logs a line a second at most: a flood must not fill the disk."""

    def __init__(self, logger: logging.Logger) -> None:
        """Log to `logger`."""
        self.counters: Counter[str] = Counter()
        self._logger = logger
        self._quiet_until = 0.0
        self._unsaid = 0

    def add(self, reason: str, text: str) -> None:
        """Count `reason`; log `text`, which holds no payload, if the last line is a second old."""
        self.counters[reason] += 1
        now = anyio.current_time()
        if now < self._quiet_until:
            self._unsaid += 1
            return
        self._quiet_until = now + 1.0
        more = f" (and {self._unsaid} more such lines were left out)" if self._unsaid else ""
        self._unsaid = 0
        self._logger.warning("%s%s", text, more)
