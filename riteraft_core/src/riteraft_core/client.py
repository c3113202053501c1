"""`Client`: asks the members of a cluster, without being one of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread

from . import _requests
from ._plugins import TRANSPORT, Plugins, require_backend, require_security
from ._requests import AskStatus, Propose, Remove, Reply, Request, Status
from ._security_options import SecurityOptions
from .config import PluginChoice, resolve
from .errors import CommandRejected, NotApplied, OutcomeUnknown, PeerUnreachable, RequestRefused
from .protocols import Transport, TransportContext
from .security import Security
from .types import Hello, NodeStatus, Principal, Refusal, RefusalCode

__all__ = ["Client", "open_client"]

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between two attempts to reach a leader."""


class Client:
    """Asks members by their address; made by `open_client`. Times are seconds."""

    def __init__(self, transport: Transport) -> None:
        """Not for use outside of `open_client`."""
        self._transport = transport

    async def status(self, address: str, *, timeout: float = 5.0) -> NodeStatus:
        """Return how the node at `address` sees itself and its cluster.

        :raises PeerUnreachable: no answer in that time; the text says why, if the node does not let us in.
        :raises RequestRefused: it does not answer this to us.
        """
        reply = await self._request(address, AskStatus(), timeout)
        if reply.status is not Status.OK:
            raise PeerUnreachable(address, _requests.read_text(reply))

        return _requests.read_status(reply)

    async def propose(self, address: str, command: bytes, *, timeout: float = 10.0) -> bytes:
        """Have the node at `address` propose a command; return the Store's answer.

        Not repeated by itself: a command whose outcome is unknown may have been applied.

        :raises CommandRejected: the Store said no.
        :raises NotApplied: it will not take effect, send it again if you like.
        :raises OutcomeUnknown: it may or may not take effect.
        :raises RequestRefused: the node does not take commands from us.
        """
        try:
            # The node gives up a little sooner, so that its word comes back and not only silence.
            reply = await self._request(address, Propose(command, float(timeout)), timeout + 1.0)
        except PeerUnreachable as exc:
            raise OutcomeUnknown(str(exc)) from exc

        if reply.status is Status.OK:
            return _requests.read_answer(reply)

        if reply.status is Status.REJECTED:
            raise CommandRejected(*_requests.read_rejection(reply))

        if reply.status is Status.UNKNOWN:
            raise OutcomeUnknown(_requests.read_text(reply))

        raise NotApplied(_requests.read_text(reply))

    async def remove(self, address: str, node_id: int, *, timeout: float = 30.0) -> None:
        """Take a node out of the cluster, asking any member; return once that is committed. Safe to repeat.

        The node's folder is of no use after that. With TLS this takes an admin's certificate.

        :raises RequestRefused: we may not, there is no such node, or it is the last voter.
        :raises OutcomeUnknown: not confirmed in that time; ask again.
        """
        why = "no answer"
        pause = FIRST_PAUSE
        with anyio.move_on_after(timeout):
            while True:
                try:
                    reply = await self._at_leader(address, Remove(node_id))
                    if reply.status is Status.OK:
                        return

                    why = "no leader is known" if reply.status is Status.NOT_LEADER else _requests.read_text(reply)
                except PeerUnreachable as exc:
                    why = str(exc)

                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

        raise OutcomeUnknown(f"the removal of node {node_id} was not confirmed within {timeout:g} s ({why}): ask again")

    async def _at_leader(self, address: str, request: Request) -> Reply:
        reply = await self._request(address, request, 10.0)
        leader = _requests.read_leader(reply) if reply.status is Status.NOT_LEADER else None
        return reply if leader is None else await self._request(leader, request, 10.0)

    async def _request(self, address: str, request: Request, timeout: float) -> Reply:
        try:
            with anyio.fail_after(timeout):
                reply = _requests.decode_reply(await self._transport.request(address, _requests.encode(request)))
        except TimeoutError:
            raise PeerUnreachable(address, f"no answer within {timeout:g} s") from None
        except ValueError as exc:
            raise PeerUnreachable(address, str(exc)) from exc

        if reply.status is Status.REFUSED:
            raise RequestRefused(_requests.read_text(reply))

        return reply


class _NoMember:
    """The handler of one that nobody can reach."""

    def admit(self, hello: Hello) -> Refusal | None:
        return Refusal(RefusalCode.FORBIDDEN, "this is no member")

    def messages(self, peer: int, messages: object) -> None:
        raise AssertionError("nobody was let in")

    async def request(self, peer: int | None, payload: bytes, principal: Principal | None = None) -> bytes:
        raise AssertionError("nobody was let in")

    async def snapshot(self, peer: int, header: bytes, chunks: object) -> None:
        raise AssertionError("nobody was let in")

    def unreachable(self, peer: int) -> None:
        """Nothing: no messages are sent."""

    def refused(self, peer: int, refusal: Refusal) -> None:
        """Nothing: the request that was refused says so."""


@asynccontextmanager
async def open_client(
    *,
    cluster: str | None = None,
    transport: str | PluginChoice = "tcp",
    security: SecurityOptions | None = None,
    plugins: Plugins | None = None,
    logger: logging.Logger | None = None,
) -> AsyncIterator[Client]:
    """Be able to ask members for the time of the block; nothing listens.

    `security` must be of the members' mode. `cluster` is needed with a shared secret; a certificate names it itself.

    :raises ConfigError: the security files cannot be used.
    :raises PluginError: the transport is missing or broken, or cannot carry out that mode.
    """
    logger = logger or logging.getLogger("riteraft.client")
    choice = PluginChoice(transport) if isinstance(transport, str) else transport
    provider, options = resolve(TRANSPORT, choice, plugins or Plugins.load())
    require_backend(TRANSPORT, provider)
    secured = await anyio.to_thread.run_sync(
        lambda: Security.load(security or SecurityOptions(), cluster, logger, node=False)
    )
    require_security(provider, secured)
    async with provider.open(options, TransportContext(None, None, _NoMember(), logger, secured)) as opened:
        yield Client(opened)
