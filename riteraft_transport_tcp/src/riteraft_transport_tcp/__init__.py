"""The `tcp` transport of riteraft."""

from __future__ import annotations

from riteraft_core.hookspecs import hookimpl
from riteraft_core.protocols import Provider, Transport

from ._options import TcpOptions
from ._transport import open_tcp

__all__ = ["TcpOptions", "open_tcp", "riteraft_transports"]


@hookimpl
def riteraft_transports() -> list[Provider[Transport]]:
    """Bring the transport named `tcp`."""
    return [Provider("tcp", options=TcpOptions, open=open_tcp, security=("none", "secret", "tls"))]
