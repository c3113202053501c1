"""The `sqlite` log storage of riteraft: one database a node, durable at every save."""

from __future__ import annotations

from riteraft_core.hookspecs import hookimpl
from riteraft_core.protocols import LogStorage, Provider

from ._options import SqliteOptions
from ._storage import open_sqlite

__all__ = ["SqliteOptions", "open_sqlite", "riteraft_log_storages"]


@hookimpl
def riteraft_log_storages() -> list[Provider[LogStorage]]:
    """Bring the log storage named `sqlite`."""
    return [Provider("sqlite", options=SqliteOptions, open=open_sqlite)]
