"""How a node with an empty folder gets into a cluster: it asks any member, as often as it takes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import anyio

from . import _requests
from ._requests import Admitted, Join, Reply, Request, Status, Who
from .errors import ConfigError, PeerUnreachable
from .protocols import Transport

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds between rounds of asking: a member that is starting is found soon, one that is down is not flooded."""
ANSWER_WITHIN = 10.0
"""Seconds for one answer: an admission is a log entry, so it takes a leader and a quorum."""
WHO_WITHIN = 2.0


async def join(transport: Transport, peers: Iterable[str], request: Join, logger: logging.Logger) -> Admitted:
    """Ask `peers`, and the leader they name, until one lets us in.

    :raises ConfigError: a member refused for good: another cluster's name.
    """
    pause = FIRST_PAUSE
    known = tuple(peers)
    while True:
        logger.info("asking %s to join cluster %r", ", ".join(known), request.cluster)
        reasons: list[str] = []
        for address in known:
            admitted = await _ask_one(transport, address, request, reasons)
            if admitted is not None:
                return admitted

        logger.info("not let in yet (%s); asking again in %.1f s", "; ".join(reasons), pause)
        await anyio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


async def find_member(transport: Transport, peers: Iterable[str]) -> tuple[str, str] | None:
    """Return (address, cluster name) of the first of `peers` that is a member of a cluster, or None."""
    for address in peers:
        try:
            with anyio.fail_after(WHO_WITHIN):
                reply = await _request(transport, address, Who())
        except (PeerUnreachable, TimeoutError, ValueError):
            continue

        match reply:
            case Reply(Status.OK, (str() as cluster, *_)):
                return address, cluster

    return None


async def _ask_one(transport: Transport, address: str, request: Join, reasons: list[str]) -> Admitted | None:
    """Ask one address and follow it to its leader, once."""
    asked: set[str] = set()
    target: str | None = address
    while target is not None and target not in asked:
        asked.add(target)
        try:
            with anyio.fail_after(ANSWER_WITHIN):
                reply = await _request(transport, target, request)
                if reply.status is Status.OK:
                    return _requests.read_admitted(reply)
        except PeerUnreachable as exc:
            reasons.append(str(exc))
            return None
        except (TimeoutError, ValueError) as exc:
            reasons.append(f"{target}: {str(exc) or 'no answer in time'}")
            return None

        if reply.status is Status.REFUSED:
            raise ConfigError(f"{target} refused to let this node join: {_requests.read_text(reply)}")

        if reply.status is Status.RETRY:
            reasons.append(f"{target}: {_requests.read_text(reply)}")
            return None

        target = _requests.read_leader(reply)
        if target is None:
            reasons.append(f"{address}: no leader known")

    return None


async def _request(transport: Transport, address: str, request: Request) -> Reply:
    return _requests.decode_reply(await transport.request(address, _requests.encode(request)))
