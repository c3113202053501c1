"""Who is let in: the hello of a call, what proves it, and the handler's word."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import grpc
from riteraft_core._complaints import Complaints
from riteraft_core.errors import AuthenticationError
from riteraft_core.protocols import Handler
from riteraft_core.security import Mode, Security, read_principal
from riteraft_core.shared_secret import Listener, Meeting, Secret
from riteraft_core.types import Hello, Refusal, RefusalCode

from . import _wire as wire
from . import transport_pb2 as pb
from ._caller import Caller, Fault
from ._guests import Book, Guest
from ._options import GrpcOptions

PURPOSES = {wire.MESSAGES: "grpc messages", wire.ASK: "grpc request", wire.SNAPSHOT: "grpc snapshot"}
"""What a proof of the shared secret is for, so that it is of no use for anything else."""

_UNPROVEN = "this node asks for the cluster's shared secret, and you gave none: set secret_file under [security]"
_OPEN = "this node has no shared secret, and you have: give both the same [security]"

_JOINER = 0


class Door:
    """Stands before every call of the transport's own service."""

    def __init__(
        self,
        options: GrpcOptions,
        handler: Handler,
        security: Security,
        complaints: Complaints,
        node_id: Callable[[], int],
    ) -> None:
        """Ask `handler` whom to admit; `node_id` is our own, 0 as long as there is none."""
        self._options = options
        self._handler = handler
        self._security = security
        self._complaints = complaints
        self._node_id = node_id
        self._unproven = Book()

    def end_all(self, why: str) -> None:
        """End every call that has not been let in yet."""
        self._unproven.end_all(why)

    async def let_in(self, caller: Caller, method: str) -> Guest | None:
        """Return the guest; None if it was refused and has been told so.

        :raises Fault: it was refused and is to be told so.
        :raises WireError: there is no hello, or no proof, that can be read.
        :raises AuthenticationError: it could not prove who it is.
        """
        try:
            hello, nonce = wire.decode_hello(caller.metadata)
        except wire.VersionError as exc:
            await self._refuse(caller, 0, wire.wrong_version(exc))
            return None
        judged = await self._judge(caller, method, hello, nonce)
        if isinstance(judged, Refusal):
            await self._refuse(caller, hello.group, judged)
            return None
        return judged

    async def _judge(self, caller: Caller, method: str, hello: Hello, nonce: bytes) -> Guest | Refusal:
        secret = self._security.secret
        if self._security.mode is Mode.TLS:
            try:
                hello = dataclasses.replace(hello, principal=read_principal(caller.uris))
            except AuthenticationError as exc:
                return Refusal(RefusalCode.FORBIDDEN, str(exc))
        if secret is not None:
            if not nonce:
                return Refusal(RefusalCode.FORBIDDEN, _UNPROVEN)
            await self._prove(caller, method, hello, nonce, secret)
        elif nonce:
            return Refusal(RefusalCode.FORBIDDEN, _OPEN)
        if hello.node_id == _JOINER and method not in (wire.REQUEST, wire.ASK):
            return wire.no_identity()
        return self._handler.admit(hello) or Guest(hello, method)

    async def _prove(self, caller: Caller, method: str, hello: Hello, nonce: bytes, secret: Secret) -> None:
        """Have the caller prove the secret; from then on it has seals."""
        purpose = PURPOSES.get(method)
        if purpose is None:
            raise wire.WireError("a call that takes no shared secret")
        if len(self._unproven) >= self._options.max_unauthenticated:
            self._unproven.end_oldest("too many calls without a proof")
            self._complaints.add("unauthenticated", "too many calls that have not proved the secret: ended the oldest")
        listener = Listener(secret, Meeting(self._security.cluster, purpose, hello), nonce, self._node_id())
        visitor = Guest(hello, method)
        seconds = self._options.handshake_timeout
        with self._unproven.entered(visitor), visitor.scope:
            challenge = wire.encode_progress(hello.group, pb.Progress.CHALLENGE, payload=listener.challenge)
            try:
                await caller.write(challenge, seconds)
                raw = await caller.read(seconds)
            except Fault:
                self._complaints.counters["handshake-timeout"] += 1
                raise
            if raw is None:
                raise Fault(grpc.StatusCode.UNAUTHENTICATED, "it left without a proof")
            caller.seals = listener.check(wire.decode_proof(raw))
        if visitor.ended is not None:
            raise Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, visitor.ended)

    async def _refuse(self, caller: Caller, group: int, refusal: Refusal) -> None:
        if refusal.code is RefusalCode.NOT_READY:  # part of every start
            self._complaints.counters["refused not-ready"] += 1
            code = grpc.StatusCode.UNAVAILABLE
        else:
            text = f"refused {caller.remote} ({refusal.code.value}): {refusal.text}"
            self._complaints.add(f"refused {refusal.code.value}", text)
            code = grpc.StatusCode.PERMISSION_DENIED
        if caller.seals is None:
            raise Fault(code, refusal.text, wire.encode_refusal(refusal))
        # A status has no MAC, so it would not be believed.
        message = wire.encode_progress(group, pb.Progress.REFUSED, refusal.text, code=refusal.code.value)
        await caller.write(message, self._options.handshake_timeout)
