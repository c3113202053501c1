"""The consensus engine `rraft`: TiKV's raft through rraft-py, the binding the original riteraft stood on.

It keeps the same rules as the default engine and writes the same bytes, so that both may serve in one cluster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel, ConfigDict
from riteraft_core.hookspecs import hookimpl
from riteraft_core.protocols import Consensus, EngineContext, Provider

try:
    from ._engine import Rraft
except ModuleNotFoundError as exc:
    if exc.name != "rraft":
        raise

    raise ImportError(
        "rraft-py is not installed. It has no wheel; riteraft's repository builds one, for CPython 3.10 to 3.12: "
        'nox -s rraft. On later ones use the default engine: consensus = "raft-rs"'
    ) from exc

__all__ = ["Rraft", "RraftOptions", "open_rraft", "riteraft_consensus_engines"]


class RraftOptions(BaseModel):
    """None: all that may be chosen stands in the config's own `timing` and `limits`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@asynccontextmanager
async def open_rraft(options: RraftOptions, context: EngineContext) -> AsyncIterator[Consensus]:
    """Open the engine; there is nothing to close."""
    yield Rraft(context)


@hookimpl
def riteraft_consensus_engines() -> list[Provider[Consensus]]:
    """Return the engine `rraft`."""
    return [Provider("rraft", options=RraftOptions, open=open_rraft)]
