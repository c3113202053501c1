"""Waiting for what no event tells of."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel

PATIENCE = 20.0
"""Seconds until a test that waits has failed; none that passes comes near."""


async def eventually(condition: Callable[[], object]) -> None:
    """Let the other tasks run until `condition` holds."""
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.lowlevel.checkpoint()
