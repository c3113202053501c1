"""The outbox of every transport, over a line that the test holds; whole transports are in their suites."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from riteraft_core._task_group import background
from riteraft_core.outbox import DeniedError, LostError, Outbox, OutboxOptions
from riteraft_core.types import Hello, Refusal, RefusalCode

from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.anyio

NEVER = 3600.0
AT_ONCE: dict[str, Any] = {"reconnect_min": 1e-9, "reconnect_max": 1e-9, "refused_wait": 1e-9}
OVERHEAD = 4


class Line:
    """A connection that takes what the test lets it take."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.ended: str | None = None
        self.batches: list[list[bytes]] = []

    def end(self, why: str) -> None:
        self.ended = why
        self.scope.cancel()


class Sender:
    """One that writes down what it is told."""

    def __init__(self) -> None:
        self.logger = logging.getLogger("riteraft.test")
        self.drops: list[int] = []
        self.refusals: list[tuple[int, Refusal]] = []

    def hello(self, to: int) -> Hello:
        return Hello.of(None, to)

    def dropped(self, peer: int) -> None:
        self.drops.append(peer)

    def denied(self, peer: int, refusal: Refusal) -> None:
        self.refusals.append((peer, refusal))


class HeldOutbox(Outbox[Line]):
    def __init__(self, max_body: int = 1024, **options: Any) -> None:
        sender = Sender()
        self.drops, self.refusals = sender.drops, sender.refusals
        self.failures: list[Exception] = []
        """What the next attempts to dial come to."""
        self.attempts = 0
        self.lines: list[Line] = []
        super().__init__(
            2,
            "h2:1",
            OutboxOptions(**options),
            sender,
            max_body=max_body,
            overhead=OVERHEAD,
        )

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Line]:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)

        line = Line()
        self.lines.append(line)
        with line.scope:
            yield line

    async def serve(self, line: Line) -> None:
        while True:
            await self.until_queued()
            line.batches.append(self.take())
            self.wrote()


@asynccontextmanager
async def running(outbox: HeldOutbox) -> AsyncIterator[None]:
    with anyio.fail_after(PATIENCE):
        async with background() as tasks:
            tasks.start_soon(outbox.run)
            yield


def denied(code: RefusalCode) -> DeniedError:
    return DeniedError(Refusal(code, "not you"))


# --- the queue -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sizes", "kept"),
    [
        ({"outbox_messages": 3}, [1] * 5, 3),
        ({"outbox_bytes": 4096}, [1000] * 6, 4),
        ({}, [1020, 1021, 1], 1),
    ],
    ids=["count", "bytes", "length"],
)
async def test_past_a_bound_the_rest_is_dropped_and_told_once(
    options: dict[str, Any], sizes: list[int], kept: int
) -> None:
    outbox = HeldOutbox(**options)
    outbox.put([bytes(size) for size in sizes])
    outbox.put([bytes(4096)])
    assert ([len(message) for message in outbox.queue], outbox.drops) == (sizes[:kept], [2])
    outbox.take()
    outbox.wrote()
    outbox.put([bytes(4096)])
    assert outbox.drops == [2, 2]


async def test_one_write_takes_what_fits_and_at_least_one_message() -> None:
    outbox = HeldOutbox(batch_bytes=100)
    messages = [bytes((number,)) * size for number, size in enumerate((46, 46, 46, 200, 1))]
    outbox.put(messages)
    batches = []
    while outbox.queue:
        batches.append(outbox.take())

    assert batches == [messages[:2], messages[2:3], messages[3:4], messages[4:]]
    outbox.put([b"a", b"b"])
    assert outbox.take() == [b"a", b"b"]


async def test_room_is_there_again_for_what_was_taken() -> None:
    outbox = HeldOutbox(outbox_bytes=4096, batch_bytes=1000)
    for _ in range(100):
        outbox.put([bytes(900)] * 4)
        while outbox.queue:
            outbox.take()

    assert outbox.drops == []


# --- the line --------------------------------------------------------------------------------------------------------


async def test_nothing_is_dialled_before_there_is_something_to_send() -> None:
    outbox = HeldOutbox(**AT_ONCE)
    async with running(outbox):
        for _ in range(10):
            await anyio.lowlevel.checkpoint()

        assert outbox.attempts == 0
        outbox.put([b"a"])
        outbox.put([b"b"])
        await eventually(lambda: outbox.lines and outbox.lines[0].batches)
        assert outbox.lines[0].batches == [[b"a", b"b"]]


async def test_what_waits_when_an_attempt_fails_is_dropped_and_told() -> None:
    outbox = HeldOutbox(**AT_ONCE)
    outbox.failures = [LostError("nobody there"), LostError("nobody there")]
    async with running(outbox):
        for number in (1, 2):
            outbox.put([b"old", b"older"])
            await eventually(lambda number=number: len(outbox.drops) == number)  # type: ignore[misc]

        outbox.put([b"new"])
        await eventually(lambda: outbox.lines and outbox.lines[0].batches)
        assert (outbox.lines[0].batches, outbox.drops) == ([[b"new"]], [2, 2])


async def test_a_peer_out_of_reach_stands_in_the_log_once_and_its_return_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    outbox = HeldOutbox(**AT_ONCE)
    async with running(outbox):
        for _ in range(2):
            outbox.failures = [LostError("nobody there"), denied(RefusalCode.CLUSTER)]
            for _ in range(3):
                attempts = outbox.attempts
                outbox.put([b"message"])
                await eventually(lambda attempts=attempts: outbox.attempts > attempts)  # type: ignore[misc]

            await eventually(lambda: outbox.lines[-1].batches)
            outbox.lines[-1].end("the test did")
            await anyio.lowlevel.checkpoint()

    assert [record.getMessage() for record in caplog.records] == [
        "node 2 at h2:1 cannot be reached: nobody there",
        "node 2 at h2:1 is reached again",
    ] * 2


async def test_a_refusal_is_told_and_waits_for_long() -> None:
    outbox = HeldOutbox(reconnect_min=1e-9, reconnect_max=1e-9, refused_wait=NEVER)
    outbox.failures = [denied(RefusalCode.DISK)]
    async with running(outbox):
        outbox.put([b"message"])
        await eventually(lambda: outbox.refusals)
        assert outbox.refusals == [(2, Refusal(RefusalCode.DISK, "not you"))]
        outbox.put([b"message"])
        for _ in range(100):
            await anyio.lowlevel.checkpoint()

        assert outbox.attempts == 1
        outbox.knocked()  # it has been here itself
        await eventually(lambda: outbox.lines)


async def test_a_peer_that_is_not_ready_yet_is_asked_again_soon_and_stands_in_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    outbox = HeldOutbox(reconnect_min=1e-9, reconnect_max=1e-9, refused_wait=NEVER)
    outbox.failures = [denied(RefusalCode.NOT_READY)]
    async with running(outbox):
        outbox.put([b"early"])
        await eventually(lambda: outbox.refusals)
        outbox.put([b"later"])
        await eventually(lambda: outbox.lines)
        assert outbox.drops == [2]
        assert caplog.records == []


@pytest.mark.parametrize("lost", [True, False])
async def test_what_may_be_lost_with_a_line_is_told_and_what_waits_goes_on_the_next(lost: bool) -> None:
    outbox = HeldOutbox(**AT_ONCE)
    async with running(outbox):
        outbox.put([b"first"])
        await eventually(lambda: outbox.lines and outbox.lines[0].batches)
        if lost:
            outbox.lost()

        outbox.lines[0].end("it broke")
        outbox.put([b"second"])
        await eventually(lambda: len(outbox.lines) == 2 and outbox.lines[1].batches)
        assert (outbox.lines[1].batches, outbox.drops) == ([[b"second"]], [2] if lost else [])


async def test_the_wait_grows_up_to_its_bound_and_begins_anew_after_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    move_on_after = anyio.move_on_after

    def noted(delay: float) -> anyio.CancelScope:
        waits.append(delay)
        return move_on_after(0)

    outbox = HeldOutbox(reconnect_min=1.0, reconnect_max=5.0)
    monkeypatch.setattr(anyio, "move_on_after", noted)
    monkeypatch.setattr(outbox._random, "random", lambda: 0.0)
    async with running(outbox):
        outbox.failures = [LostError("nobody there")] * 4
        for number in range(1, 6):
            outbox.put([b"message"])
            await eventually(lambda number=number: outbox.attempts == number)  # type: ignore[misc]

        outbox.lines[0].end("the test did")
        await eventually(lambda: len(waits) == 5)

    assert waits == [1.0, 2.0, 4.0, 5.0, 1.0]


async def test_it_ends_with_its_scope() -> None:
    outbox = HeldOutbox(**AT_ONCE)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outbox.run)
            outbox.put([b"message"])
            await eventually(lambda: outbox.lines)
            outbox.scope.cancel()
