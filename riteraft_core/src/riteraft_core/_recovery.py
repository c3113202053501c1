"""How a node comes to be: it restarts from its folder, founds a cluster, or joins one.

All three end the same way: identity, log and snapshot are durable, the Store holds what was committed, and the
transport listens. Until then no raft message has left.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import anyio.to_thread

from ._applier import Applier, in_chunks
from ._effects import Compact, Write
from ._folder import Folder
from ._joining import find_member, join
from ._membership import FOUNDER_ID
from ._plugins import CONSENSUS, KINDS, STORAGE, TRANSPORT, Plugins, require_backend, require_security
from ._replica import FOUNDING, Replica, ReplicaSettings, found
from ._requests import Join
from .config import Config
from .errors import ConfigError
from .protocols import Consensus, EngineContext, Handler, LogStorage, StorageContext, Transport, TransportContext
from .security import Security
from .types import HardState, Identity, LogBatch, Recovered

GROUP = 0
"""One raft group a process, for now; every frame and row carries the number already."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node is made of, once it is ready to run."""

    replica: Replica
    storage: LogStorage
    transport: Transport
    applier: Applier
    folder: Folder
    security: Security


@dataclass(frozen=True, slots=True)
class Recovery:
    """One start of one node."""

    config: Config
    plugins: Plugins
    applier: Applier
    handler: Handler
    logger: logging.Logger
    stack: AsyncExitStack
    """Everything opened is pushed here, to be closed in reverse."""

    async def run(self) -> Parts:
        """Do all that comes before the first tick."""
        config = self.config
        for kind in KINDS:
            provider, _ = config.resolve(kind, self.plugins)
            require_backend(kind, provider)

        security = await anyio.to_thread.run_sync(Security.load, config.security, config.cluster, self.logger)
        require_security(config.resolve(TRANSPORT, self.plugins)[0], security)
        folder = Folder(config.data_dir)
        with _placed(config):
            await anyio.to_thread.run_sync(folder.refuse_if_left)

        storage = await self._open_storage()
        recovered = await storage.load()
        transport: Transport | None = None
        if recovered.identity is None:
            # It listens from now on, so that the address it tells is its own, but admits nobody before `identify`.
            transport = await self._listen(None, security)
            address = config.advertise or transport.address
            identity = await self._enter(transport, folder, address)
            await storage.create(identity)
        else:
            identity = recovered.identity
            self._check(identity)
            address = config.advertise or config.address

        await anyio.to_thread.run_sync(folder.spend_token)
        if recovered.snapshot is None and identity.node_id == FOUNDER_ID:
            # Also after a crash between the identity and the first snapshot: no packet has left yet.
            founding = found(identity, address, _name_in(security))
            token = await storage.stage_snapshot(founding, in_chunks(await self.applier.snapshot()))
            await storage.save(LogBatch(token, FOUNDING))
            recovered = await storage.load()

        hints = await anyio.to_thread.run_sync(folder.hints)
        replica = await self._recover(storage, identity, recovered, address, hints, _name_in(security))
        wrong_name = replica.wrong_name()
        if wrong_name is not None:
            raise config.wrong("security", f"certificate: {config.security.certificate} {wrong_name}")

        if transport is None:
            transport = await self._listen(identity, security)
            replica.address = config.advertise or transport.address
        else:
            transport.identify(identity)

        transport.set_peers(replica.peers())
        return Parts(replica, storage, transport, self.applier, folder, security)

    async def _enter(self, transport: Transport, folder: Folder, address: str) -> Identity:
        """Found a cluster or get into one: the folder holds no node yet."""
        config = self.config
        if not config.bootstrap:
            if not config.peers:
                raise config.neither_bootstrap_nor_peers()

            disk_id = await anyio.to_thread.run_sync(folder.join_token)
            admitted = await join(transport, config.peers, Join(config.cluster, disk_id, address), self.logger)
            await anyio.to_thread.run_sync(folder.keep_hints, admitted.addresses)
            return Identity(config.cluster, admitted.cluster_id, GROUP, admitted.node_id, disk_id)

        member = await find_member(transport, config.peers)
        if member is not None:
            peer, cluster = member
            raise config.wrong(
                "bootstrap",
                f"{peer} is a member of cluster {cluster!r} already, and this would form a second one beside it; "
                f"set `bootstrap = false` to join",
            )

        self.logger.info("forming cluster %r", config.cluster)
        return Identity(config.cluster, secrets.token_bytes(16), GROUP, FOUNDER_ID, secrets.token_bytes(16))

    def _check(self, identity: Identity) -> None:
        config = self.config
        if identity.cluster != config.cluster:
            raise config.wrong(
                "cluster",
                f"data_dir {config.data_dir} holds node {identity.node_id} of cluster {identity.cluster!r}, not of "
                f"{config.cluster!r}: correct the name, or use another data_dir",
            )

        if config.bootstrap or config.peers:
            self.logger.info(
                "data_dir holds node %d of cluster %r, which restarts: bootstrap and peers are ignored",
                identity.node_id,
                identity.cluster,
            )

    async def _recover(
        self,
        storage: LogStorage,
        identity: Identity,
        recovered: Recovered,
        address: str,
        hints: dict[int, str],
        name: str,
    ) -> Replica:
        """Restore the Store from the snapshot and apply again what was committed after it."""
        config = self.config
        hard_state = recovered.hard_state
        if hard_state.term == 0:
            hard_state = HardState(term=1)  # a joiner that heard nothing yet; raft-rs panics in term 0

        if recovered.snapshot is not None:
            async with storage.read_snapshot() as (_, chunks):
                await self.applier.restore(chunks)

        engine = await self._open_engine(
            EngineContext(
                node_id=identity.node_id,
                seed=config.seed if config.seed is not None else secrets.randbits(63),
                hard_state=hard_state,
                anchor=recovered.anchor,
                snapshot=recovered.snapshot,
                entries=recovered.entries,
                commit_notices=False,
                timing=config.timing.engine,
                limits=config.limits.engine,
                logger=self.logger,
            )
        )
        replica = Replica(
            engine,
            identity,
            Recovered(identity, hard_state, recovered.anchor, recovered.snapshot, recovered.entries),
            address=address,
            nonce=secrets.token_bytes(16),
            name=name,
            hints=hints,
            settings=ReplicaSettings(
                max_proposals_in_flight=config.limits.max_proposals_in_flight,
                max_bytes_in_flight=config.limits.max_bytes_in_flight,
                snapshot_entries=config.snapshot.entries,
                snapshot_bytes=config.snapshot.bytes,
                tail_entries=config.snapshot.tail,
                tail_bytes=config.snapshot.tail_bytes,
                digest_entries=config.snapshot.digest if self.applier.has_digest else 0,
                max_pinned_bytes=config.limits.max_pinned_bytes,
                retry_ticks=config.timing.engine.election_tick,
            ),
        )
        committed = replica.engine_status().commit
        while replica.applied < committed:
            effects = replica.effects()
            if effects.write is not None:
                await carry_out_write(storage, effects.write)
                replica.saved(effects.write)

            if effects.apply is not None:
                replica.applied_batch(
                    effects.apply, await self.applier.apply(effects.apply.commands, effects.apply.index)
                )
            elif effects.snapshot is not None:
                data = await self.applier.snapshot()
                replica.snapshot_taken()
                replica.snapshot_staged(
                    effects.snapshot, await storage.stage_snapshot(effects.snapshot, in_chunks(data))
                )

        return replica

    async def _open_storage(self) -> LogStorage:
        provider, options = self.config.resolve(STORAGE, self.plugins)
        context = StorageContext(self.config.data_dir, GROUP, self.logger)
        with _placed(self.config):
            return await self.stack.enter_async_context(provider.open(options, context))

    async def _listen(self, identity: Identity | None, security: Security) -> Transport:
        provider, options = self.config.resolve(TRANSPORT, self.plugins)
        context = TransportContext(identity, self.config.address, self.handler, self.logger, security)
        with _placed(self.config):
            return await self.stack.enter_async_context(provider.open(options, context))

    async def _open_engine(self, context: EngineContext) -> Consensus:
        provider, options = self.config.resolve(CONSENSUS, self.plugins)
        return await self.stack.enter_async_context(provider.open(options, context))


@contextmanager
def _placed(config: Config) -> Iterator[None]:
    """Say of a field that a part found wrong where it stands: the part knows its own context only."""
    try:
        yield
    except ConfigError as exc:
        raise config.placed(exc) from exc.__cause__


async def carry_out_write(storage: LogStorage, write: Write) -> None:
    """Give one write of a replica to the storage."""
    if isinstance(write, Compact):
        await storage.compact(write.token, write.index)
    else:
        await storage.save(write.batch)


def _name_in(security: Security) -> str:
    return security.principal.name if security.principal is not None else ""
