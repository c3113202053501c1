"""The listening side: how much is served at once, and what each call brings."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import anyio
import grpc
from anyio.abc import TaskGroup
from riteraft_core._complaints import Complaints
from riteraft_core.errors import AuthenticationError
from riteraft_core.protocols import Handler
from riteraft_core.security import Mode, Security

from . import _wire as wire
from . import transport_pb2 as pb
from ._caller import Caller, Context, Fault
from ._door import Door
from ._guests import Desk, Guest
from ._options import GrpcOptions
from ._snapshot import IncomingSnapshot

Work: TypeAlias = Callable[[Caller, Guest, Desk], Awaitable[None]]

_Key = TypeVar("_Key", int, str)

_JOINER = 0


class Server:
    """Serves the calls of `riteraft.transport.v1.Transport`."""

    def __init__(
        self,
        options: GrpcOptions,
        handler: Handler,
        security: Security,
        logger: logging.Logger,
        tasks: TaskGroup,
        node_id: Callable[[], int],
        knocked: Callable[[int], None],
    ) -> None:
        """Hand what arrives to `handler`; tell `knocked` which peer has just been let in."""
        self._options = options
        self._handler = handler
        self._logger = logger
        self._tasks = tasks
        self._knocked = knocked
        self.complaints = Complaints(logger)
        self._door = Door(options, handler, security, self.complaints, node_id)
        self._security = security
        self._desks: dict[int, Desk] = {}
        self._strangers: dict[str, Desk] = {}
        """By connection, oldest first: what senders without an identity have to themselves."""

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server is given.

        All are served as streams, unary ones too, which are the same on the wire: only so can a call be judged before
        its message is read, and is known when its answer has been taken.
        """

        def served(method: str, work: Work) -> grpc.RpcMethodHandler[bytes, bytes]:
            async def serve(_: object, context: Context) -> None:
                await self._serve(Caller(context), method, work)

            return grpc.stream_stream_rpc_method_handler(serve)

        works = {
            wire.MESSAGES: self._messages,
            wire.REQUEST: self._request,
            wire.ASK: self._ask,
            wire.SNAPSHOT: self._snapshot,
        }
        return grpc.method_handlers_generic_handler(
            wire.SERVICE, {method.rpartition("/")[2]: served(method, work) for method, work in works.items()}
        )

    def show_out(self, peer: int) -> None:
        """End every call of a peer: what it may do has changed."""
        if peer in self._desks:
            self._desks[peer].book.end_all("its node is no longer one of the peers")

    def end_all(self, why: str) -> None:
        """End every call."""
        self._door.end_all(why)
        for desk in (*self._desks.values(), *self._strangers.values()):
            desk.book.end_all(why)

    # --- every call ----------------------------------------------------------------------------------------------

    async def _serve(self, caller: Caller, method: str, work: Work) -> None:
        """See one call through."""
        faults: list[Fault] = []
        guest: Guest | None = None
        with self._errors_of(caller, faults):
            guest = await self._door.let_in(caller, method)
        if faults:
            await caller.end(faults[0])
        if guest is None:
            return
        with self._seated(caller, guest) as desk:
            try:
                with self._errors_of(caller, faults), guest.scope:
                    await work(caller, guest, desk)
                if guest.ended is not None and not faults:
                    self._logger.debug("a call from %s: %s", caller.remote, guest.ended)
                    faults.append(Fault(grpc.StatusCode.ABORTED, guest.ended))
                if faults:
                    await caller.end(faults[0])
            finally:
                desk.release(guest.reserved)

    @contextmanager
    def _errors_of(self, caller: Caller, faults: list[Fault]) -> Iterator[None]:
        """Turn what ends a call into a status for the other side, and a line for ours if it is worth one."""
        remote = caller.remote
        try:
            yield
        except Fault as exc:
            faults.append(exc)
        except wire.WireError as exc:
            self.complaints.add("frame", f"a call from {remote} was ended: {exc}")
            faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, str(exc)))
        except AuthenticationError as exc:
            self.complaints.add("forgery", f"a call from {remote} was ended: {exc}")
            faults.append(Fault(grpc.StatusCode.UNAUTHENTICATED, str(exc)))
        except grpc.aio.BaseError as exc:
            # The call was over before us. There is nobody to tell; anything else would be logged by gRPC as an error.
            self._logger.debug("a call from %s: %s", remote, exc)
            raise asyncio.CancelledError from exc
        except Exception:
            self._logger.exception("a call from %s was ended by an error of this node", remote)
            faults.append(Fault(grpc.StatusCode.INTERNAL, "an error of this node"))

    @contextmanager
    def _seated(self, caller: Caller, guest: Guest) -> Iterator[Desk]:
        """Have a guest at its desk; show out whom it replaces."""
        node_id = guest.hello.node_id
        if node_id == _JOINER:
            with self._at_a_desk(self._strangers, caller.remote, guest) as desk:
                yield desk
            return
        self._knocked(node_id)
        with self._at_a_desk(self._desks, node_id, guest) as desk:
            if guest.method in (wire.MESSAGES, wire.SNAPSHOT):
                # The peer has called anew, so the old stream is dead to it. Ended now, it cannot bring an old message
                # after a new one.
                for other in desk.book.of(guest.method):
                    if other is not guest:
                        other.end("replaced by a newer call of the same peer")
            yield desk

    @contextmanager
    def _at_a_desk(self, desks: dict[_Key, Desk], key: _Key, guest: Guest) -> Iterator[Desk]:
        desk = desks.get(key)
        if desk is None:
            if len(self._strangers) >= self._options.max_unauthenticated and guest.hello.node_id == _JOINER:
                self._strangers.pop(next(iter(self._strangers))).book.end_all("too many senders without an identity")
                self.complaints.add("crowd", "too many senders without an identity: ended the calls of the oldest")
            desk = desks[key] = Desk(self._options)
        asks = guest.method in (wire.REQUEST, wire.ASK)
        desk.requests += asks
        try:
            with desk.book.entered(guest):
                yield desk
        finally:
            desk.requests -= asks
            if not desk.book and desks.get(key) is desk:
                del desks[key]

    async def _welcome(self, caller: Caller, guest: Guest) -> None:
        message = wire.encode_progress(guest.hello.group, pb.Progress.ADMITTED)
        await caller.write(message, self._options.handshake_timeout)

    # --- messages ------------------------------------------------------------------------------------------------

    async def _messages(self, caller: Caller, guest: Guest, _: Desk) -> None:
        node_id, group = guest.hello.node_id, guest.hello.group
        await self._welcome(caller, guest)
        while True:
            raw = await caller.read(self._options.idle_timeout)
            if raw is None or guest.ended is not None:
                return
            self._handler.messages(node_id, wire.decode_batch(raw, group))

    # --- requests ------------------------------------------------------------------------------------------------

    async def _request(self, caller: Caller, guest: Guest, desk: Desk) -> None:
        answer = await self._answer(guest, desk, await self._question(caller, guest, desk))
        # No limit: an answer given up would stay in gRPC's memory as long as the other side reads nothing. So it stays
        # in the room of its sender, who gets no more of it.
        await caller.write(wire.encode_payload(guest.hello.group, answer), math.inf)

    async def _ask(self, caller: Caller, guest: Guest, desk: Desk) -> None:
        group = guest.hello.group
        await self._welcome(caller, guest)
        answering = self._answer(guest, desk, await self._question(caller, guest, desk))
        try:
            answer = await answering
            message = wire.encode_progress(group, pb.Progress.ANSWER, payload=answer)
        except Fault as exc:
            message = wire.encode_progress(group, pb.Progress.FAILED, str(exc))
        await caller.write(message, math.inf)

    async def _question(self, caller: Caller, guest: Guest, desk: Desk) -> bytes:
        """Return the request's payload; as many bytes are then reserved for it."""
        options, hello = self._options, guest.hello
        if desk.requests > options.max_requests:
            raise Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests under way")
        # As much as it may turn out to be: how long it is, gRPC says only when it is all there.
        guest.reserved = await desk.reserve(options.max_frame)
        raw = await caller.read(options.frame_timeout)
        if raw is None:
            raise Fault(grpc.StatusCode.INVALID_ARGUMENT, "a call without a request")
        desk.release(guest.reserved - len(raw))
        guest.reserved = len(raw)
        known = hello.node_id != _JOINER or self._security.mode is not Mode.NONE
        if len(raw) > options.max_stranger_frame and not known:
            raise wire.WireError(f"a request of {len(raw)} bytes is over the limit of {options.max_stranger_frame}")
        return wire.decode_payload(raw, hello.group)

    async def _answer(self, guest: Guest, desk: Desk, payload: bytes) -> bytes:
        node_id, principal = guest.hello.node_id, guest.hello.principal
        limit = self._options.max_frame
        answering = self._handler.request(node_id or None, payload, principal)
        del payload  # whoever answers makes something of it, and need not have both
        try:
            answer = await answering
            if len(answer) + wire.OVERHEAD > limit:
                raise ValueError(f"an answer of {len(answer)} bytes is over max_frame ({limit})")
        except Exception as exc:
            self._logger.warning("a request from %s failed: %r", node_id or "a joiner", exc)
            raise Fault(grpc.StatusCode.UNKNOWN, str(exc) or type(exc).__name__) from exc
        desk.release(-len(answer))
        guest.reserved += len(answer)
        return answer

    # --- snapshots -----------------------------------------------------------------------------------------------

    async def _snapshot(self, caller: Caller, guest: Guest, _: Desk) -> None:
        node_id, group = guest.hello.node_id, guest.hello.group
        await self._welcome(caller, guest)
        raw = await caller.read(self._options.idle_timeout)
        if raw is None:
            return
        incoming = IncomingSnapshot(node_id, group, wire.decode_header(raw, group))
        self._tasks.start_soon(incoming.take, self._handler, self._logger)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pump, caller, incoming)
                await incoming.done.wait()
                tasks.cancel_scope.cancel()
        finally:
            incoming.break_off(f"its snapshot ended before the end: {guest.ended or 'the call was ended'}")
        if incoming.refused is None:
            answer = wire.encode_progress(group, pb.Progress.TAKEN)
        else:
            answer = wire.encode_progress(group, pb.Progress.NOT_TAKEN, incoming.refused)
        await caller.write(answer, self._options.frame_timeout)
        await caller.linger()

    async def _pump(self, caller: Caller, incoming: IncomingSnapshot) -> None:
        """Read the parts. Whatever is wrong with them, the handler is told and answers for it."""
        try:
            while (raw := await caller.read(self._options.idle_timeout)) is not None:
                await incoming.put(raw)
        except (Fault, grpc.aio.BaseError) as exc:
            incoming.break_off(str(exc))
        except (wire.WireError, AuthenticationError) as exc:
            reason = "frame" if isinstance(exc, wire.WireError) else "forgery"
            self.complaints.add(reason, f"a snapshot from {caller.remote}: {exc}")
            incoming.break_off(str(exc))
        else:
            incoming.break_off("its snapshot ended before the end")
