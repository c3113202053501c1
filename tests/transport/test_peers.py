"""What every transport does for its peers; `riteraft_core.testing.transport_suite` has it through whole transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from riteraft_core._task_group import background
from riteraft_core.peers import Peers
from riteraft_core.testing.transport_suite import RecordingHandler
from riteraft_core.types import Refusal, RefusalCode

pytestmark = pytest.mark.anyio


class Outbox:
    """One that holds nothing, and knows whether it runs."""

    def __init__(self, peer: int, address: str) -> None:
        self.peer = peer
        self.address = address
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()

    async def run(self) -> None:
        try:
            with self.scope:
                await anyio.sleep_forever()
        finally:
            self.ended.set()


class Desk:
    def __init__(self) -> None:
        self.handler = RecordingHandler()
        self.gone: list[int] = []
        self.peers: Peers[Outbox]


@asynccontextmanager
async def opened() -> AsyncIterator[Desk]:
    desk = Desk()
    with anyio.fail_after(20):
        async with background() as tasks:
            desk.peers = Peers(desk.handler, tasks, Outbox, desk.gone.append)
            tasks.start_soon(desk.peers.run)
            yield desk


async def test_a_peer_that_moved_gets_an_outbox_anew_and_what_waited_is_lost() -> None:
    async with opened() as desk:
        desk.peers.replace({2: "h2:1", 3: "h3:1"})
        old, other = desk.peers.outbox(2), desk.peers.outbox(3)
        assert old is not None
        desk.peers.replace({2: "h2:2", 3: "h3:1"})
        new = desk.peers.outbox(2)
        assert new is not None
        assert (new.peer, new.address) == (2, "h2:2")
        assert desk.peers.outbox(3) is other
        await old.ended.wait()
        await desk.handler.until(lambda: desk.handler.unreached)
        assert (desk.handler.unreached, desk.gone) == ([2], [])


async def test_a_peer_that_is_none_any_more_is_shown_out() -> None:
    async with opened() as desk:
        desk.peers.replace({2: "h2:1"})
        outbox = desk.peers.outbox(2)
        assert outbox is not None
        desk.peers.replace({})
        await outbox.ended.wait()
        assert desk.peers.outbox(2) is None
        assert (desk.handler.unreached, desk.gone) == ([], [2])


async def test_what_cannot_be_sent_at_all_is_told_once_until_the_peer_is_known() -> None:
    async with opened() as desk:
        for _ in range(3):
            desk.peers.drop(9)

        assert desk.handler.unreached == []  # not by the one who sends
        await desk.handler.until(lambda: desk.handler.unreached)
        desk.peers.drop(9)
        desk.peers.drop(8)
        await desk.handler.until(lambda: 8 in desk.handler.unreached)
        assert desk.handler.unreached == [9, 8]
        desk.peers.replace({9: "h9:1"})
        desk.peers.replace({})
        desk.peers.drop(9)
        await desk.handler.until(lambda: desk.handler.unreached == [9, 8, 9])


async def test_a_run_of_drops_is_told_as_one() -> None:
    async with opened() as desk:
        for peer in (3, 2, 3):
            desk.peers.dropped(peer)

        await desk.handler.until(lambda: desk.handler.unreached)
        assert desk.handler.unreached == [3, 2]


async def test_a_refusal_at_an_address_is_that_of_the_peer_there() -> None:
    refusal = Refusal(RefusalCode.CLUSTER, "another cluster")
    async with opened() as desk:
        desk.peers.replace({2: "h2:1", 3: "h3:1"})
        desk.peers.refused("h3:1", refusal)
        desk.peers.refused("h4:1", refusal)
        assert desk.handler.refusals == [(3, refusal)]


async def test_the_blocks_own_exception_leaves_as_it_came_and_the_tasks_end() -> None:
    ended = anyio.Event()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def block() -> None:
        async with background() as tasks:
            tasks.start_soon(work)
            await anyio.lowlevel.checkpoint()
            raise KeyError("the block's own")

    with pytest.raises(KeyError):
        await block()

    assert ended.is_set()
