"""The messages for one peer: for the authors of transports, and used by the built-in ones.

A subclass of `Outbox` says how a connection is made (`dial`) and how messages go over it (`serve`). What is the same
on every wire is here: what the queue holds, when the handler is told of drops, when the peer is dialled again, and
what the log says of it.
"""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

import anyio
from pydantic import BaseModel, ConfigDict, Field

from ._signal import Signal
from .types import Hello, Refusal, RefusalCode

__all__ = ["DeniedError", "Line", "LostError", "Outbox", "OutboxOptions", "Sender"]

_KIB = 1024
_MIB = 1024 * _KIB


class OutboxOptions(BaseModel):
    """Of the options of a transport, those of its outboxes. Sizes are bytes, times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outbox_messages: int = Field(default=16_384, ge=1)
    """Messages that wait for one peer; past it they are dropped, and raft is told."""
    outbox_bytes: int = Field(default=32 * _MIB, ge=4 * _KIB)
    """The same in bytes: twice what raft has under way to a peer (64 appends of 256 KiB)."""
    batch_bytes: int = Field(default=1 * _MIB, ge=1)
    """About what one write takes from an outbox: enough to spread its cost, little to lose with a connection."""

    reconnect_min: float = Field(default=0.05, gt=0)
    reconnect_max: float = Field(default=0.5, gt=0)
    """Between attempts to reach a peer the wait doubles from one to the other (less a random half): a restarted peer
    is to be found well within an election timeout, and a dead one costs two attempts a second."""
    refused_wait: float = Field(default=2.0, gt=0)
    """The wait after a refusal, which seldom cures itself."""


class LostError(Exception):
    """A connection is of no more use; the text says why."""


class DeniedError(Exception):
    """The other side did not let us in."""

    def __init__(self, refusal: Refusal) -> None:
        """Take its refusal."""
        super().__init__(f"it refused us ({refusal.code.value}): {refusal.text}")
        self.refusal = refusal


class Line(Protocol):
    """What an outbox must know of a connection."""

    @property
    def ended(self) -> str | None:
        """Why it was ended; None if it never was."""


LineT = TypeVar("LineT", bound=Line)


class Sender(Protocol):
    """What an outbox must know of the node that it sends for; `riteraft_core.peers.Peers` is one."""

    @property
    def logger(self) -> logging.Logger:
        """Where it is said that a peer cannot be reached, or is back."""

    def hello(self, to: int) -> Hello:
        """Return how the node introduces itself to the peer `to` now."""

    def dropped(self, peer: int) -> None:
        """Note that messages for `peer` were lost: called once for each run of drops."""

    def denied(self, peer: int, refusal: Refusal) -> None:
        """Note that `peer` did not let us in."""


class Outbox(ABC, Generic[LineT]):
    """Takes messages at once, or drops them; `run` brings them to the peer, in order, while it can be reached.

    A connection is made when there is something to send, so a peer that is gone for good costs nothing once raft is
    silent about it. Messages that wait when an attempt fails are dropped: raft has newer ones by the next.
    """

    def __init__(
        self, peer: int, address: str, options: OutboxOptions, sender: Sender, *, max_body: int, overhead: int
    ) -> None:
        """Prepare an outbox; `sender` is told once of each run of drops, and of each refusal.

        A run of drops ends with the next write, or with the next attempt to connect. `max_body` is the most that one
        write may carry, `overhead` what each message takes of it beside its own bytes.
        """
        self.peer = peer
        self.address = address
        self.scope = anyio.CancelScope()
        self._limits = options
        self._sender = sender
        self._logger = sender.logger
        self._longest = max_body - overhead
        self._batch_bytes = min(options.batch_bytes, max_body)
        self._overhead = overhead
        self.queue: deque[bytes] = deque()
        """What waits; only `put` and `take` change it."""
        self._bytes = 0
        self._dropping = False
        self._lost = False
        self._wake = Signal()
        self._knocked = anyio.Event()
        self._reported = False
        # Spreads the attempts of nodes that lost the same peer at the same time; nothing secret depends on it.
        self._random = random.Random()  # noqa: S311

    # --- what a transport calls --------------------------------------------------------------------------------------

    def put(self, messages: Sequence[bytes]) -> None:
        """Queue the messages, or drop those from the first one on for which there is no room."""
        limits = self._limits
        queue = self.queue
        room = limits.outbox_messages - len(queue)
        size = self._bytes
        for message in messages:
            size += len(message)
            if room <= 0 or size > limits.outbox_bytes or len(message) > self._longest:
                size -= len(message)
                if not self._dropping:
                    self._dropping = True
                    self._sender.dropped(self.peer)
                break
            room -= 1
            queue.append(message)
        self._bytes = size
        self.queued()

    def knocked(self) -> None:
        """Try again now: the peer has just been here itself, so it is alive."""
        self._knocked.set()

    async def run(self) -> None:
        """Serve until `scope` is cancelled."""
        limits = self._limits
        wait = limits.reconnect_min
        with self.scope:
            while True:
                await self.until_queued()
                connected = starting = False
                self._knocked = anyio.Event()
                try:
                    async with self.dial() as line:
                        connected = True
                        self._lost = False
                        self._report(None)
                        await self.serve(line)
                    why = line.ended or "the connection ended"
                except DeniedError as exc:
                    why = str(exc)
                    self._sender.denied(self.peer, exc.refusal)
                    starting = exc.refusal.code is RefusalCode.NOT_READY
                    if not starting:
                        wait = limits.refused_wait
                except LostError as exc:
                    why = str(exc)
                if connected:
                    wait = limits.reconnect_min
                    self._logger.debug("messages to node %d at %s: %s", self.peer, self.address, why)
                    if self._lost:
                        self._sender.dropped(self.peer)
                else:
                    if not starting:
                        self._report(why)
                    self.queue.clear()
                    self._bytes = 0
                    self._sender.dropped(self.peer)
                self._dropping = False
                with anyio.move_on_after(wait * (1 - self._random.random() / 2)):
                    await self._knocked.wait()
                wait = min(2 * wait, limits.reconnect_max)

    # --- what a subclass says ----------------------------------------------------------------------------------------

    @abstractmethod
    def dial(self) -> AbstractAsyncContextManager[LineT]:
        """Connect and be let in; the connection is closed at the end of the block.

        If the connection is ended meanwhile, the block is cancelled and left.

        :raises DeniedError: the other side said no.
        :raises LostError: there is no connection, or it broke before the answer.
        """

    @abstractmethod
    async def serve(self, line: LineT) -> None:
        """Until `line` is ended: wait `until_queued`, `take` a batch, write it, and call `wrote` or `lost`."""

    def queued(self) -> None:
        """Wake whoever waits `until_queued`; called by each `put`, so a line that writes at once may do it here."""
        self._wake.set()

    # --- what it does that with --------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        """Return how the sender introduces itself to the peer now."""
        return self._sender.hello(self.peer)

    async def until_queued(self) -> None:
        """Wait until there is something to write; one task at a time."""
        while not self.queue:
            await self._wake.wait()

    def take(self) -> list[bytes]:
        """Take what one write carries: all that gathered, up to `batch_bytes`, and at least one message."""
        queue = self.queue
        overhead = self._overhead
        limit = self._batch_bytes
        if self._bytes + overhead * len(queue) <= limit:
            batch = list(queue)
            queue.clear()
            self._bytes = 0
            return batch
        batch = [queue.popleft()]
        size = len(batch[0])
        framed = size + overhead
        while queue and framed + len(queue[0]) + overhead <= limit:
            message = queue.popleft()
            batch.append(message)
            size += len(message)
            framed += len(message) + overhead
        self._bytes -= size
        return batch

    def wrote(self) -> None:
        """Note that a batch was written: the next message that is dropped begins a new run of drops."""
        self._dropping = False

    def lost(self) -> None:
        """Note that what was written on this connection may not have arrived: the handler is told once it ended."""
        self._lost = True

    def _report(self, why: str | None) -> None:
        """Log that the peer is out of reach, or back; each once."""
        if why is not None and not self._reported:
            self._reported = True
            self._logger.warning("node %d at %s cannot be reached: %s", self.peer, self.address, why)
        elif why is None and self._reported:
            self._reported = False
            self._logger.info("node %d at %s is reached again", self.peer, self.address)
