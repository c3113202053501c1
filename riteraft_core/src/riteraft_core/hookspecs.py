"""The hooks a plugin implements: one for each kind, each returning a list of `Provider`.

A plugin is a module named by an entry point of the group `riteraft`; its `pyproject.toml` holds

    [project.entry-points.riteraft]
    pigeon = "riteraft_transport_pigeon"

and the module implements one or more of the hooks below. A name the user writes in a config (`transport = "pigeon"`)
is the name of a `Provider`, not of an entry point; giving both the same name is good manners and makes for better
errors when the module cannot be imported.
"""

from __future__ import annotations

import pluggy

from .protocols import Consensus, LogStorage, Provider, Transport

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("riteraft")
hookimpl = pluggy.HookimplMarker("riteraft")
"""Marks a function of a plugin as the implementation of the hook of the same name."""


@hookspec
def riteraft_transports() -> list[Provider[Transport]]:  # type: ignore[empty-body]
    """Return the transports that this plugin brings.

    A whole plugin, of which `open_pigeon` is the only part with work in it:

        class PigeonOptions(BaseModel):
            model_config = ConfigDict(frozen=True, extra="forbid")
            birds: int = Field(default=2, ge=1)

        @asynccontextmanager
        async def open_pigeon(options: PigeonOptions, context: TransportContext) -> AsyncIterator[Transport]:
            async with create_task_group() as tasks:
                loft = Loft(options.birds, context, tasks)
                await loft.listen()
                yield loft
                tasks.cancel_scope.cancel()

        @hookimpl
        def riteraft_transports() -> list[Provider[Transport]]:
            return [Provider("pigeon", options=PigeonOptions, open=open_pigeon)]
    """


@hookspec
def riteraft_log_storages() -> list[Provider[LogStorage]]:  # type: ignore[empty-body]
    """Return the log storages that this plugin brings.

    A whole plugin:

        class ClayOptions(BaseModel):
            model_config = ConfigDict(frozen=True, extra="forbid")

        @asynccontextmanager
        async def open_clay(options: ClayOptions, context: StorageContext) -> AsyncIterator[LogStorage]:
            tablets = ClayTablets(context.data_dir, context.group)
            try:
                yield tablets
            finally:
                tablets.close()

        @hookimpl
        def riteraft_log_storages() -> list[Provider[LogStorage]]:
            return [Provider("clay", options=ClayOptions, open=open_clay)]
    """


@hookspec
def riteraft_consensus_engines() -> list[Provider[Consensus]]:  # type: ignore[empty-body]
    """Return the consensus engines that this plugin brings.

    A whole plugin:

        class QuorumOptions(BaseModel):
            model_config = ConfigDict(frozen=True, extra="forbid")

        @asynccontextmanager
        async def open_quorum(options: QuorumOptions, context: EngineContext) -> AsyncIterator[Consensus]:
            yield QuorumEngine(context)

        @hookimpl
        def riteraft_consensus_engines() -> list[Provider[Consensus]]:
            return [Provider("quorum", options=QuorumOptions, open=open_quorum)]
    """
