"""One node from its start to its end, as a program of its own."""

from __future__ import annotations

import signal

import anyio
from anyio.abc import TaskStatus

from .._garbage import settle
from ..config import Config
from ..errors import RiteraftError
from ..protocols import Store


async def serve(config: Config, store: Store) -> None:
    """Run a node until SIGTERM or Ctrl-C, which end it in peace, or until something ends it.

    A second signal while the node is stopping does what it does to any program.

    :raises RiteraftError: what ended the node.
    """
    from riteraft_core import open_node

    ended_by: RiteraftError | None = None
    async with anyio.create_task_group() as tasks:
        await tasks.start(_cancel_on_signal, tasks.cancel_scope)
        try:
            async with open_node(config, store) as node:
                settle()
                await node.wait_stopped()
        except RiteraftError as exc:
            ended_by = exc  # raised below: a task group would wrap it
        tasks.cancel_scope.cancel()
    if ended_by is not None:
        raise ended_by


async def _cancel_on_signal(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return
