"""The bytes of a connection with a shared secret: cut into records, each with its MAC.

A record is its length in 4 bytes, a MAC of 32 and that many bytes, in network byte order. No byte of a record is used
before its MAC matched, and no memory is taken for a length that no record has.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from anyio.abc import ByteStream
from riteraft_core.errors import AuthenticationError
from riteraft_core.shared_secret import MAC_SIZE, Seals

MAX_RECORD = 256 * 1024
"""Bytes in a record: so much is held before it is known to be genuine."""

_LENGTH = struct.Struct("!I")
_HEAD = _LENGTH.size + MAC_SIZE


class Records:
    """Bytes to records and back; no I/O here. Unusable after an `AuthenticationError`."""

    def __init__(self, seals: Seals) -> None:
        """Take the seals of this connection and this side."""
        self._seals = seals
        self._partial = bytearray()

    def seal(self, data: bytes) -> bytes:
        """Return the records that carry `data`; they must be sent in the order they were made."""
        view = memoryview(data)
        parts: list[bytes | memoryview] = []
        for start in range(0, len(data), MAX_RECORD):
            piece = view[start : start + MAX_RECORD]
            parts += (_LENGTH.pack(len(piece)), self._seals.seal(piece), piece)
        return b"".join(parts)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, in pieces of any size; return what the records that they complete carry.

        :raises AuthenticationError: close the connection.
        """
        self._partial += data
        offset = 0
        genuine: list[bytes] = []
        with memoryview(self._partial) as view:
            while len(view) - offset >= _HEAD:
                (length,) = _LENGTH.unpack_from(view, offset)
                if not 0 < length <= MAX_RECORD:
                    raise AuthenticationError(
                        "no record of a connection with a shared secret: the other side has another secret or none, "
                        "or something was changed on the way"
                    )
                start, end = offset + _HEAD, offset + _HEAD + length
                if len(view) < end:
                    break
                piece = bytes(view[start:end])
                self._seals.check(piece, bytes(view[offset + _LENGTH.size : start]))
                genuine.append(piece)
                offset = end
        del self._partial[:offset]
        return genuine[0] if len(genuine) == 1 else b"".join(genuine)


class SealedStream(ByteStream):
    """A byte stream whose other side has the secret too."""

    def __init__(self, stream: ByteStream, seals: Seals) -> None:
        """Seal and check from the next byte on, each way."""
        self.below = stream
        self._records = Records(seals)
        self.seal = self._records.seal
        """For who writes to the stream below in our place; see `Records.seal`."""
        self.unseal = self._records.feed
        """For who reads the stream below in our place; see `Records.feed`."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next genuine bytes, maybe more than `max_bytes`.

        :raises AuthenticationError: they are not genuine.
        """
        while True:
            data = self._records.feed(await self.below.receive(max_bytes))
            if data:
                return data

    async def send(self, item: bytes) -> None:
        """Send; a call that was cancelled leaves a stream of no more use, for the next record would not match."""
        await self.below.send(self._records.seal(item))

    async def send_eof(self) -> None:
        """Send no more."""
        await self.below.send_eof()

    async def aclose(self) -> None:
        """Close the stream below."""
        await self.below.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Return those of the stream below."""
        return self.below.extra_attributes
