"""The seed's face: `Raft`, that leads or joins, and its `Mailbox`."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import anyio

from ._address import Address
from ._config_sources import PREFIX
from .config import Config
from .errors import ConfigError, NodeStopped
from .node import Node, open_node
from .protocols import Store

__all__ = ["Mailbox", "Raft"]

DEFAULT_CLUSTER = "riteraft"
DEFAULT_FOLDER = "riteraft-data"


class Raft:
    """One node: make it, take its mailbox, then await `lead` on the first node and `join` on the others.

    Both run until the node stops (Ctrl-C, SIGTERM, `Mailbox.leave`). Once the node's folder holds a node, both are a
    restart of that node: who leads is then for the nodes to elect.
    """

    def __init__(
        self,
        addr: str,
        store: Store,
        logger: logging.Logger | None = None,
        *,
        config: Config | None = None,
        **settings: Any,
    ) -> None:
        """Take the address to listen on and the Store.

        `settings` are the config's fields, by name. Without any: transport `tcp`, storage `sqlite`, and a folder
        `riteraft-data/HOST_PORT`. With a `config`, its address gives way to `addr`.

        :raises ConfigError: a setting is wrong; or both a config and settings were given.
        """
        if config is not None and settings:
            raise ConfigError(f"give either a config or settings, not both: {', '.join(sorted(settings))}")

        _check_address("addr", addr)
        if config is None:
            folder = Path(DEFAULT_FOLDER) / re.sub(r"[^\w.-]+", "_", addr).strip("_")
            for name, value in (("cluster", DEFAULT_CLUSTER), ("data_dir", folder)):
                if PREFIX + name.upper() not in os.environ:  # a default gives way to the environment
                    settings.setdefault(name, value)

            config = Config(address=addr, **settings)
        else:
            config = config.model_copy(update={"address": addr})

        self._config = config
        self._store = store
        self._logger = logger
        self._mailbox = Mailbox()

    def mailbox(self) -> Mailbox:
        """Return a mailbox to this node; it may be used before the node serves, and then waits for it."""
        return self._mailbox

    async def lead(self) -> None:
        """Form a new cluster of this node alone, and run until it stops.

        :raises RiteraftError: what ended the node, see `open_node`.
        """
        await self._run(self._config.model_copy(update={"bootstrap": True, "peers": ()}))

    async def join(self, peer_addr: str) -> None:
        """Join the cluster of the node at `peer_addr`, which may be any member, and run until this node stops.

        :raises RiteraftError: what ended the node, see `open_node`.
        """
        _check_address("peer_addr", peer_addr)
        await self._run(self._config.model_copy(update={"bootstrap": False, "peers": (peer_addr,)}))

    async def _run(self, config: Config) -> None:
        try:
            async with open_node(config, self._store, logger=self._logger) as node:
                self._mailbox._deliver_to(node)
                await node.wait_stopped()
        finally:
            self._mailbox._close()


def _check_address(name: str, address: str) -> None:
    try:
        Address.parse(address)
    except ValueError as exc:
        raise ConfigError(f"{name}: {exc}") from None


class Mailbox:
    """The way to a node from the rest of the program, on the same event loop."""

    def __init__(self) -> None:
        """Not for use outside of `Raft.mailbox`."""
        self._node: Node | None = None
        self._closed = False
        self._changed = anyio.Event()

    async def send(self, message: bytes, *, timeout: float | None = None) -> bytes:
        """Have a message applied on every node; return the Store's answer. `timeout` is in seconds.

        :raises ProposalError: see `Node.propose`.
        :raises NodeStopped: the node has stopped.
        """
        return await (await self.node()).propose(message, timeout=timeout)

    async def leave(self, *, timeout: float | None = None) -> None:
        """Leave the cluster; return once that is committed. `lead` or `join` then return too.

        :raises CommandRejected: this is the last voter: stop it instead.
        :raises OutcomeUnknown: it was not confirmed within `timeout` seconds.
        :raises NodeStopped: the node has stopped.
        """
        await (await self.node()).leave(timeout=timeout)

    async def remove(self, node_id: int, *, timeout: float | None = None) -> None:
        """Take another member out of the cluster, whether it runs or not; return once that is committed.

        :raises CommandRejected: no node ever had this id, or it is the last voter.
        :raises OutcomeUnknown: it was not confirmed within `timeout` seconds.
        :raises NodeStopped: the node has stopped.
        :raises ValueError: it is this node itself: use `leave`.
        """
        await (await self.node()).remove(node_id, timeout=timeout)

    async def read_barrier(self, *, timeout: float | None = None) -> None:
        """Wait until a read of the local Store is linearizable: see `Node.read_barrier`.

        :raises ReadError: no proof of that within `timeout` seconds.
        :raises NodeStopped: the node has stopped.
        """
        await (await self.node()).read_barrier(timeout=timeout)

    async def node(self) -> Node:
        """Return the node, once it serves.

        :raises NodeStopped: the node has stopped.
        """
        while self._node is None and not self._closed:
            await self._changed.wait()

        if self._node is None or self._closed:
            raise NodeStopped("the node has stopped")

        return self._node

    def _deliver_to(self, node: Node) -> None:
        self._node = node
        self._changed.set()

    def _close(self) -> None:
        self._closed = True
        self._changed.set()
