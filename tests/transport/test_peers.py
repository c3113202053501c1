"""What every transport does for its peers; `riteraft_core.testing.transport_suite` has it through whole transports."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from riteraft_core._task_group import background
from riteraft_core.errors import PeerUnreachable
from riteraft_core.peers import Peers
from riteraft_core.protocols import TransportContext
from riteraft_core.testing.transport_suite import RecordingHandler, identity_of
from riteraft_core.types import Hello, Identity, Refusal, RefusalCode

pytestmark = pytest.mark.anyio

ME = identity_of(1)


class Outbox:
    """One that brings nothing anywhere, and knows whether it runs."""

    def __init__(self, peer: int, address: str) -> None:
        self.peer = peer
        self.address = address
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.queue: list[bytes] = []
        self.knocks = 0

    def put(self, messages: Sequence[bytes]) -> None:
        self.queue.extend(messages)

    def knocked(self) -> None:
        self.knocks += 1

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
async def opened(identity: Identity | None = ME) -> AsyncIterator[Desk]:
    desk = Desk()
    context = TransportContext(identity, None, desk.handler, logging.getLogger("riteraft.test"))
    with anyio.fail_after(20):
        async with background() as tasks:
            desk.peers = Peers(context, tasks, Outbox, desk.gone.append)
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
            desk.peers.send(9, [b"lost"])

        assert desk.handler.unreached == []  # not by the one who sends
        await desk.handler.until(lambda: desk.handler.unreached)
        desk.peers.send(9, [b"lost"])
        desk.peers.send(8, [b"lost"])
        await desk.handler.until(lambda: 8 in desk.handler.unreached)
        assert desk.handler.unreached == [9, 8]
        desk.peers.replace({9: "h9:1"})
        desk.peers.replace({})
        desk.peers.send(9, [b"lost"])
        await desk.handler.until(lambda: desk.handler.unreached == [9, 8, 9])


async def test_without_an_identity_nothing_goes_to_a_peer_though_it_is_known() -> None:
    async with opened(identity=None) as desk:
        desk.peers.replace({2: "h2:1"})
        outbox = desk.peers.outbox(2)
        assert outbox is not None
        assert (desk.peers.node_id, desk.peers.hello(2)) == (0, Hello.of(None, 2))
        desk.peers.send(2, [b"lost"])
        await desk.handler.until(lambda: desk.handler.unreached == [2])
        with pytest.raises(PeerUnreachable, match="no identity yet"):
            desk.peers.address(2)

        desk.peers.identify(ME)
        desk.peers.send(2, [b"first", b"second"])
        assert outbox.queue == [b"first", b"second"]
        assert desk.peers.address(2) == "h2:1"
        assert (desk.peers.node_id, desk.peers.hello(2)) == (1, Hello.of(ME, 2))


async def test_who_is_no_peer_has_no_address_and_its_knocking_is_nothing() -> None:
    async with opened() as desk:
        desk.peers.replace({2: "h2:1"})
        outbox = desk.peers.outbox(2)
        assert outbox is not None
        desk.peers.knocked(2)
        desk.peers.knocked(9)
        assert outbox.knocks == 1
        with pytest.raises(PeerUnreachable, match="not known here"):
            desk.peers.address(9)


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
        desk.peers.denied(2, refusal)
        assert desk.handler.refusals == [(3, refusal), (2, refusal)]


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
