"""The standard services for those who look after a node: `grpc.health.v1.Health` and server reflection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from riteraft_core.types import Hello

from . import _wire as wire
from ._caller import Caller, Fault
from ._guests import Book, Guest

_NOBODY = Hello(cluster_id=b"", group=0, node_id=0, disk_id=b"", to=0)

_STATUS = health_pb2.HealthCheckResponse


class Probes:
    """Says whether this node serves, and what can be called here. Nobody is asked who they are."""

    def __init__(self, limit: int, crowded: Callable[[], None]) -> None:
        """Have `limit` streams open at once; past it new ones are refused and `crowded` is called."""
        self._limit = limit
        self._crowded = crowded
        self._book = Book()
        self._health = health.aio.HealthServicer()
        self._reflection = reflection.aio.ReflectionServicer(
            (wire.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        )

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what a gRPC server is given."""
        check = grpc.unary_unary_rpc_method_handler(
            self._health.Check,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=_STATUS.SerializeToString,
        )
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=health_pb2.HealthCheckRequest.FromString,
            response_serializer=_STATUS.SerializeToString,
        )
        reflect = grpc.stream_stream_rpc_method_handler(
            self._reflect,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return (
            grpc.method_handlers_generic_handler(health.SERVICE_NAME, {"Check": check, "Watch": watch}),
            grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": reflect}),
        )

    async def tell(self, serving: bool) -> None:
        """Say from now on that the node serves, or does not."""
        status = _STATUS.SERVING if serving else _STATUS.NOT_SERVING
        for name in (health.OVERALL_HEALTH, wire.SERVICE):
            await self._health.set(name, status)

    def end_all(self, why: str) -> None:
        """End every stream."""
        self._book.end_all(why)

    async def _watch(self, request: Any, context: Any) -> None:
        await self._serve(context, lambda: self._health.Watch(request, context))

    async def _reflect(self, questions: Any, context: Any) -> None:
        async def answer() -> None:
            async for found in self._reflection.ServerReflectionInfo(questions, context):
                await context.write(found)

        await self._serve(context, answer)

    async def _serve(self, context: Any, work: Callable[[], Awaitable[None]]) -> None:
        caller = Caller(context)
        if len(self._book) >= self._limit:
            self._crowded()
            await caller.end(
                Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many health watches and reflection streams")
            )
        guest = Guest(_NOBODY, "")
        with self._book.entered(guest), guest.scope:
            await work()
        if guest.ended is not None:
            await caller.end(Fault(grpc.StatusCode.UNAVAILABLE, guest.ended))
