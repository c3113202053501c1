"""The peers that a transport sends to: for the authors of transports, and used by the built-in ones.

    self._peers = Peers(context, tasks, self._open_outbox)
    tasks.start_soon(self._peers.run)

Then `Transport.identify` is `Peers.identify`, `Transport.set_peers` is `Peers.replace`, and `Transport.send` is
`Peers.send`. A connection begins with `Peers.hello`, a snapshot goes to `Peers.address`, and a peer that was let in is
told to `Peers.knocked`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from ._signal import Signal
from .errors import PeerUnreachable
from .protocols import TransportContext
from .types import Hello, Identity, Refusal

__all__ = ["PeerOutbox", "Peers"]


class PeerOutbox(Protocol):
    """The messages for one peer at one address: what `Peers` needs of it."""

    @property
    def address(self) -> str:
        """Where the peer is dialled."""

    @property
    def scope(self) -> anyio.CancelScope:
        """Cancelled when the peer is gone or has moved: `run` ends with it."""

    def put(self, messages: Sequence[bytes]) -> None:
        """Queue the messages, or drop them; at once."""

    def knocked(self) -> None:
        """Try again now, if it waits to: the peer is alive."""

    async def run(self) -> None:
        """Bring the messages to the peer until `scope` is cancelled."""


OutboxT = TypeVar("OutboxT", bound=PeerOutbox)


class Peers(Generic[OutboxT]):
    """Who this node is to its peers, an outbox for each of them, and who is to be told as unreachable."""

    def __init__(
        self,
        context: TransportContext,
        tasks: TaskGroup,
        open_outbox: Callable[[int, str], OutboxT],
        gone: Callable[[int], None] = lambda peer: None,
    ) -> None:
        """Begin without peers; `open_outbox` makes the outbox of a node id at an address, and `tasks` runs it.

        `gone` is told of each peer that is one no more.
        """
        self.identity = context.identity
        """Who this node is; None until a joiner is told by `identify`."""
        self.logger = context.logger
        """Where the outboxes say what becomes of their peers."""
        self._handler = context.handler
        self._tasks = tasks
        self._open_outbox = open_outbox
        self._gone = gone
        self._outboxes: dict[int, OutboxT] = {}
        self._unreachable: dict[int, None] = {}
        self._unknown: set[int] = set()
        self._tell = Signal()

    @property
    def node_id(self) -> int:
        """The node id in `identity`; 0 while there is none."""
        return 0 if self.identity is None else self.identity.node_id

    def identify(self, identity: Identity) -> None:
        """Be `identity` to the peers from now on: see `Transport.identify`."""
        self.identity = identity

    def hello(self, to: int) -> Hello:
        """Return how this node introduces itself to the peer `to` now; 0 for whoever listens at an address."""
        return Hello.of(self.identity, to)

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

    def address(self, peer: int) -> str:
        """Return where this peer is dialled.

        :raises PeerUnreachable: it is no peer, or this node has no identity yet and may only `request`.
        """
        outbox = self._outboxes.get(peer)
        if outbox is None or self.identity is None:
            raise PeerUnreachable(peer, "its address is not known here, or this node has no identity yet")
        return outbox.address

    def send(self, peer: int, messages: Sequence[bytes]) -> None:
        """Queue messages for `peer`, or drop them; at once: see `Transport.send`.

        Those for a peer that is none, and all while this node has no identity, are dropped: the handler is told of
        such a peer once until `replace` names it.
        """
        outbox = self._outboxes.get(peer)
        if outbox is not None and self.identity is not None:
            outbox.put(messages)
        elif peer not in self._unknown:
            self._unknown.add(peer)
            self.dropped(peer)

    def knocked(self, peer: int) -> None:
        """Have `peer` dialled again now if it waits to be: it has just been let in here, so it is alive."""
        outbox = self._outboxes.get(peer)
        if outbox is not None:
            outbox.knocked()

    def dropped(self, peer: int) -> None:
        """Have the handler told, a little later, that messages for `peer` were lost: `Transport.send` may not do it."""
        self._unreachable[peer] = None
        self._tell.set()

    def denied(self, peer: int, refusal: Refusal) -> None:
        """Tell the handler that `peer` did not let us in."""
        self._handler.refused(peer, refusal)

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
