"""A given number of writes, as fast as they go."""

from __future__ import annotations

import time

from .process import NodeProcess
from .progress import Advance
from .work import Stretch

LOOK_SECONDS = 0.2
STILL_SECONDS = 120.0
"""Without a single write for so long, the run is given up."""


def fill(
    proposer: NodeProcess,
    in_flight: int,
    writes: int,
    advance: Advance,
    *,
    done: int = 0,
) -> None:
    """Return when so many writes are acknowledged; `done` were before, which only the progress tells.

    :raises SystemExit: a write failed, or there were none for too long.
    """
    proposer.begin(in_flight, writes=writes)
    acknowledged, seen_at = 0, time.monotonic()
    while acknowledged < writes:
        time.sleep(LOOK_SECONDS)
        view = proposer.ask("read")
        if view["failed"]:
            raise SystemExit(f"{view['failed']} writes failed")

        if view["acknowledged"] > acknowledged:
            acknowledged, seen_at = view["acknowledged"], time.monotonic()
        elif time.monotonic() - seen_at > STILL_SECONDS:
            raise SystemExit(f"no write was acknowledged for {STILL_SECONDS:g} s")

        advance(done + acknowledged, f"{Stretch(view).rate:,.0f} writes/s")

    proposer.ask("end")
