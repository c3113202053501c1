"""The messages for one peer over gRPC: a stream of batches."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import anyio
from riteraft_core.outbox import DeniedError, Outbox, Sender

from . import _wire as wire
from ._client import CallLostError, Dialler, Stream
from ._options import GrpcOptions


class GrpcOutbox(Outbox[Stream]):
    """The outbox of one peer: see `Outbox`."""

    def __init__(self, peer: int, address: str, options: GrpcOptions, dialler: Dialler, sender: Sender) -> None:
        """Prepare an outbox that connects by `dialler`."""
        longest = options.max_frame - wire.OVERHEAD
        super().__init__(peer, address, options, sender, max_body=longest, overhead=wire.MESSAGE_OVERHEAD)
        self._options = options
        self._dialler = dialler

    def dial(self) -> AbstractAsyncContextManager[Stream]:
        """See `Outbox.dial`."""
        return self._dialler.dial(self.address, self.hello(), wire.MESSAGES)

    async def serve(self, stream: Stream) -> None:
        """Write what is queued until the stream ends."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._notice_end, stream)
            tasks.start_soon(self._write, stream)

    async def _write(self, stream: Stream) -> None:
        options = self._options
        try:
            while True:
                if not self.queue:
                    with anyio.move_on_after(options.idle_timeout / 2) as waited:
                        await self.until_queued()
                    if waited.cancelled_caught:
                        stream.end("it was idle")
                        return
                batch = self.take()
                try:
                    await stream.send(wire.encode_batch(stream.group, batch), options.frame_timeout)
                except BaseException:
                    self.lost()  # the batch may have arrived, or not
                    raise
                self.wrote()
        except (CallLostError, DeniedError) as exc:
            stream.end(str(exc))

    async def _notice_end(self, stream: Stream) -> None:
        """Wait, only to learn at once that the peer ended the call: what was just written may be lost with it."""
        try:
            await stream.receive()
            why = "the peer said something on our stream of messages"
        except (CallLostError, DeniedError) as exc:
            why = str(exc)
        self.lost()
        stream.end(why)
