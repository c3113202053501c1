"""The built-in plugins `memory`: a transport and a log storage within one process, for tests and first steps."""

from __future__ import annotations

from ._memory_storage import MemoryDisk, MemoryStorageOptions, open_memory_storage
from ._memory_transport import MemoryNetwork, MemoryTransportOptions, open_memory_transport
from .hookspecs import hookimpl
from .protocols import LogStorage, Provider, Transport

__all__ = ["MemoryDisk", "MemoryNetwork", "MemoryStorageOptions", "MemoryTransportOptions"]


@hookimpl
def riteraft_transports() -> list[Provider[Transport]]:
    """Return the transport `memory`."""
    return [Provider("memory", options=MemoryTransportOptions, open=open_memory_transport)]


@hookimpl
def riteraft_log_storages() -> list[Provider[LogStorage]]:
    """Return the log storage `memory`."""
    return [Provider("memory", options=MemoryStorageOptions, open=open_memory_storage)]
