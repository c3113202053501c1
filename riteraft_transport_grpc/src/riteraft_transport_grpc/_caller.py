"""The other end of one call, as the listening side sees it."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import anyio
import grpc
from riteraft_core.shared_secret import Seals

from . import _wire as wire

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

_LAST_WORDS = 1.0
"""How long a call stays open after its last answer, for the other side to read it and go."""


class Fault(Exception):
    """The call ends with this status."""

    def __init__(self, code: grpc.StatusCode, text: str, trailing_metadata: tuple[tuple[str, bytes], ...] = ()) -> None:
        """Take what the other side is told; the text is cut to what fits."""
        super().__init__(wire.shorten(text))
        self.code = code
        self.trailing_metadata = trailing_metadata


class Caller:
    """Reads and writes within a time; with a MAC on each message, once there are `seals`."""

    def __init__(self, context: Context) -> None:
        """Take what gRPC gives for a call."""
        self.seals: Seals | None = None
        self._context = context

    @property
    def remote(self) -> str:
        """Where the call comes from, for logs."""
        return self._context.peer()

    @property
    def metadata(self) -> wire.Metadata:
        """What the call began with."""
        return self._context.invocation_metadata() or ()

    @property
    def uris(self) -> list[str]:
        """The URIs among the names in the certificate that was shown; of other names, those that look like one."""
        shown = self._context.auth_context()
        names = shown.get("peer_uri") or shown.get("x509_subject_alternative_name") or ()
        return [name.decode(errors="replace") for name in names if b"://" in name]

    async def read(self, seconds: float) -> bytes | None:
        """Return the next message, or None at the end.

        :raises Fault: there was none in so many seconds.
        :raises AuthenticationError: its MAC does not match.
        """
        with anyio.move_on_after(seconds) as waited:
            raw: object = await self._context.read()
        if waited.cancelled_caught:
            raise Fault(grpc.StatusCode.DEADLINE_EXCEEDED, "it was silent for too long")
        if not isinstance(raw, bytes):
            return None
        return raw if self.seals is None else wire.unseal(raw, self.seals)

    async def write(self, message: bytes, seconds: float) -> None:
        """Write one message. Only its time and gRPC itself, which cancels the call's task, end the wait for it.

        :raises Fault: the other side did not take it in so many seconds.
        """
        if self.seals is not None:
            message = wire.seal(message, self.seals)
        # A call with a write under way cannot be ended: gRPC raises, and the other side would wait for ever.
        with anyio.move_on_after(seconds, shield=True) as waited:
            await self._context.write(message)
        if waited.cancelled_caught:
            raise Fault(grpc.StatusCode.DEADLINE_EXCEEDED, "it did not take what was sent for too long")

    async def linger(self) -> None:
        """Wait a little for the other side to go: a status now could overtake our last message in its eyes.

        When it goes, gRPC cancels the call's task.
        """
        await anyio.sleep(_LAST_WORDS)

    async def end(self, fault: Fault) -> None:
        """End the call with a status; raises what gRPC wants to be raised then."""
        try:
            await self._context.abort(fault.code, str(fault), fault.trailing_metadata)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.BaseError as exc:
            raise asyncio.CancelledError from exc  # it was over before; gRPC would log that as an error
