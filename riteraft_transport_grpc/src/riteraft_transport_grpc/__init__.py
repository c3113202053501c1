"""The `grpc` transport of riteraft."""

from __future__ import annotations

from riteraft_core.hookspecs import hookimpl
from riteraft_core.protocols import Provider, Transport

from ._options import GrpcOptions
from ._transport import open_grpc

__all__ = ["GrpcOptions", "open_grpc", "riteraft_transports"]


@hookimpl
def riteraft_transports() -> list[Provider[Transport]]:
    """Bring the transport named `grpc`; gRPC for Python has an event loop of its own kind for asyncio alone."""
    return [
        Provider(
            "grpc",
            options=GrpcOptions,
            open=open_grpc,
            backends=("asyncio",),
            security=("none", "secret", "tls"),
        )
    ]
