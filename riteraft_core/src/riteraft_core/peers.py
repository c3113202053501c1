"""The peers that a transport sends to: for the authors of transports, and used by the built-in ones.

    self._peers = Peers(context.handler, tasks, self._open_outbox)
    tasks.start_soon(self._peers.run)

Then `Transport.set_peers` is `Peers.replace`, and `Transport.send` puts into `Peers.outbox(peer)` or, if there is
none or this node has no identity yet, calls `Peers.drop`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from ._signal import Signal
from .protocols import Handler
from .types import Refusal

__all__ = ["PeerOutbox", "Peers"]


class PeerOutbox(Protocol):
    """The messages for one peer at one address: what `Peers` needs of it."""

    @property
    def address(self) -> str:
        """Where the peer is dialled."""

    @property
    def scope(self) -> anyio.CancelScope:
        """Cancelled when the peer is gone or has moved: `run` ends with it."""

    async def run(self) -> None:
        """Bring the messages to the peer until `scope` is cancelled."""


OutboxT = TypeVar("OutboxT", bound=PeerOutbox)


class Peers(Generic[OutboxT]):
    """An outbox for each peer, and who is to be told to the handler as unreachable."""

    def __init__(
        self,
        handler: Handler,
        tasks: TaskGroup,
        open_outbox: Callable[[int, str], OutboxT],
        gone: Callable[[int], None] = lambda peer: None,
    ) -> None:
        """Begin without peers; `open_outbox` makes the outbox of a node id at an address, and `tasks` runs it.

        `gone` is told of each peer that is one no more.
        """
        self._handler = handler
        self._tasks = tasks
        self._open_outbox = open_outbox
        self._gone = gone
        self._outboxes: dict[int, OutboxT] = {}
        self._unreachable: dict[int, None] = {}
        self._unknown: set[int] = set()
        self._tell = Signal()

    def replace(self, addresses: Mapping[int, str]) -> None:
        """Replace the map node id → address: see `Transport.set_peers`."""
        for peer, outbox in tuple(self._outboxes.items()):
            if addresses.get(peer) != outbox.address:
                outbox.scope.cancel()
                del self._outboxes[peer]
                if peer in addresses:
                    self.dropped(peer)  # what waited for it at its old address
                else:
                    self._gone(peer)

        self._unknown.difference_update(addresses)
        for peer, address in addresses.items():
            if peer not in self._outboxes:
                outbox = self._outboxes[peer] = self._open_outbox(peer, address)
                self._tasks.start_soon(outbox.run)

    def outbox(self, peer: int) -> OutboxT | None:
        """Return the outbox of this peer, if it is one."""
        return self._outboxes.get(peer)

    def drop(self, peer: int) -> None:
        """Note that messages for a peer that cannot be sent to at all were dropped; it counts once until `replace`."""
        if peer not in self._unknown:
            self._unknown.add(peer)
            self.dropped(peer)

    def dropped(self, peer: int) -> None:
        """Have the handler told, a little later, that messages for `peer` were lost: `Transport.send` may not do it."""
        self._unreachable[peer] = None
        self._tell.set()

    def refused(self, address: str, refusal: Refusal) -> None:
        """Tell the handler that whoever listens at `address` did not let us in."""
        for peer, outbox in self._outboxes.items():
            if outbox.address == address:
                self._handler.refused(peer, refusal)

    async def run(self) -> None:
        """Tell the handler of unreachable peers until cancelled."""
        while True:
            await self._tell.wait()
            peers, self._unreachable = self._unreachable, {}
            for peer in peers:
                self._handler.unreachable(peer)
