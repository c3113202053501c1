"""Bytes to frames and back: no socket, no clock, no `await`.

A frame is a header and a body:

    magic 4 | protocol version 1 | kind 1 | flags 2, all zero | group 8 | body length 4 | CRC32 4 | body

in network byte order. The CRC32 covers the header before it and the body, so that one flipped bit anywhere is found.
The header keeps this layout in every later version of the protocol, and so does the body of a `REFUSED` frame: two
versions that meet can tell each other so. With TLS or a shared secret the frames travel inside of it, as they are.

The length is checked against a limit as soon as the header is there: no memory is taken for what was only claimed.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from zlib import crc32

MAGIC = b"RTRF"
PROTOCOL = 1

_HEAD = struct.Struct("!4sBBHQI")
_CRC = struct.Struct("!I")
_COUNT = struct.Struct("!I")
_ONE = struct.Struct("!II")
_REQUEST_ID = struct.Struct("!Q")
_END = struct.Struct("!Q32s")

HEADER_SIZE = _HEAD.size + _CRC.size
REQUEST_OVERHEAD = _REQUEST_ID.size
MESSAGE_OVERHEAD = _COUNT.size
"""Bytes in a `MESSAGES` body beside each message; the count in front takes as much once."""


class Kind(enum.IntEnum):
    """What a frame is. `CHALLENGE` and `PROOF` go between `HELLO` and its answer if there is a shared secret."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    CHALLENGE = 4
    PROOF = 5
    MESSAGES = 16
    REQUEST = 32
    ANSWER = 33
    ERROR = 34
    SNAPSHOT = 48
    CHUNK = 49
    END = 50
    ALIVE = 51
    TAKEN = 52
    NOT_TAKEN = 53


_KINDS = frozenset(int(kind) for kind in Kind)


class Frame(NamedTuple):
    """One frame whose checksum matched. `body` is a view: copy out of it what is to be kept."""

    kind: int
    group: int
    body: memoryview


class FrameError(Exception):
    """The other side sent what no honest peer sends: close the connection. The text holds none of its bytes."""

    reason = "frame"
    """What it is counted as."""


class ForgeryError(FrameError):
    """It did not come from a holder of the secret, or was changed on the way."""

    reason = "forgery"


class TlsError(FrameError):
    """There is no TLS connection: no certificate, one of another CA, an expired one, an old version, no TLS at all."""

    reason = "tls"


class VersionError(FrameError):
    """The frame is of another version of the protocol: worth an answer before the connection is closed."""

    def __init__(self, theirs: int) -> None:
        """Take the version that was read."""
        super().__init__(f"protocol version {theirs}; this side speaks {PROTOCOL}")
        self.theirs = theirs


class FrameDecoder:
    """Takes bytes as they come, in pieces of any size, and gives whole frames. Unusable after a `FrameError`."""

    def __init__(self, limit: int) -> None:
        """Refuse frames with a body over `limit` bytes."""
        self.limit = limit
        # What is left of a frame that is not whole yet. Views of it are handed out with the frame, so it is then
        # replaced, never changed.
        self._partial = bytearray()
        self._need = 0

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and is not whole yet."""
        return bool(self._partial)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes; return the frames that they complete.

        :raises FrameError: close the connection.
        """
        source: bytes | bytearray
        if self._partial:
            source = self._partial
            source += data
            if len(source) < self._need:
                return []
        else:
            source = data
        view = memoryview(source)
        size = len(source)
        offset = 0
        frames: list[Frame] = []
        while True:
            start = offset + HEADER_SIZE
            if size < start:
                self._need = HEADER_SIZE
                break
            magic, version, kind, flags, group, length = _HEAD.unpack_from(source, offset)
            if magic != MAGIC:
                raise FrameError("not a riteraft peer (wrong magic)")
            if version != PROTOCOL and kind != Kind.REFUSED:
                raise VersionError(version)
            if kind not in _KINDS:
                raise FrameError(f"unknown kind of frame {kind}")
            if flags:
                raise FrameError(f"unknown flags {flags:#x} in a frame")
            if length > self.limit:
                raise FrameError(f"a frame of {length} bytes is over the limit of {self.limit}")
            end = start + length
            if size < end:
                self._need = HEADER_SIZE + length
                break
            body = view[start:end]
            if crc32(body, crc32(view[offset : start - _CRC.size])) != _CRC.unpack_from(source, start - _CRC.size)[0]:
                raise FrameError("a frame does not match its checksum")
            frames.append(Frame(kind, group, body))
            offset = end
        if offset == size:
            if self._partial:
                self._partial = bytearray()
        elif offset or source is data:
            self._partial = bytearray(view[offset:])
        else:
            view.release()  # the same bytes are added to next time
        return frames


def encode(kind: Kind, group: int, *parts: bytes) -> bytes:
    """Return one frame whose body is the parts joined."""
    head = _HEAD.pack(MAGIC, PROTOCOL, kind, 0, group, sum(map(len, parts)))
    crc = crc32(head)
    for part in parts:  # joined once, at the end: to copy a large part takes longer than its checksum
        crc = crc32(part, crc)
    return b"".join((head, _CRC.pack(crc), *parts))


def encode_messages(group: int, messages: Sequence[bytes]) -> bytes:
    """Return one frame for a batch: count, all lengths, all messages."""
    count = len(messages)
    if count == 1:  # mostly, with few writes in flight; to look the format up takes longer than the rest
        lengths = _ONE.pack(1, len(messages[0]))
    else:
        lengths = struct.pack(f"!{count + 1}I", count, *map(len, messages))

    return encode(Kind.MESSAGES, group, lengths, *messages)


def decode_messages(body: memoryview) -> list[bytes]:
    """Return the batch in the body of a `MESSAGES` frame.

    :raises FrameError: the lengths do not add up.
    """
    if len(body) < _COUNT.size:
        raise FrameError("a batch without a count")
    (count,) = _COUNT.unpack_from(body)
    offset = _COUNT.size * (count + 1)
    if offset > len(body):
        raise FrameError("a batch with more messages than its frame can hold")
    if count == 1:
        lengths = _COUNT.unpack_from(body, _COUNT.size)
    else:
        lengths = struct.unpack_from(f"!{count}I", body, _COUNT.size)
    if offset + sum(lengths) != len(body):
        raise FrameError("a batch whose lengths do not add up to its frame")
    messages = []
    for length in lengths:
        end = offset + length
        messages.append(bytes(body[offset:end]))
        offset = end
    return messages


def encode_call(kind: Kind, group: int, request_id: int, payload: bytes) -> bytes:
    """Return a `REQUEST`, an `ANSWER` or an `ERROR`: the id that ties them together, then the payload."""
    return encode(kind, group, _REQUEST_ID.pack(request_id), payload)


def decode_call(body: memoryview) -> tuple[int, bytes]:
    """Return (request id, payload).

    :raises FrameError: it is too short for an id.
    """
    if len(body) < _REQUEST_ID.size:
        raise FrameError("a request or an answer without an id")
    (request_id,) = _REQUEST_ID.unpack_from(body)
    return request_id, bytes(body[_REQUEST_ID.size :])


def encode_end(group: int, total: int, sha256: bytes) -> bytes:
    """Return the frame that ends a snapshot: how many bytes went before and their SHA-256."""
    return encode(Kind.END, group, _END.pack(total, sha256))


def decode_end(body: memoryview) -> tuple[int, bytes]:
    """Return (total size, SHA-256).

    :raises FrameError: it is of the wrong size.
    """
    if len(body) != _END.size:
        raise FrameError("the end of a snapshot is malformed")
    total, sha256 = _END.unpack_from(body)
    return total, sha256


def expect(frames: Iterable[Frame], group: int, *kinds: Kind) -> None:
    """Check that each frame is of a kind and the group that this connection is for.

    :raises FrameError: one is not.
    """
    for frame in frames:
        if frame.kind not in kinds:
            raise FrameError(f"a {Kind(frame.kind).name} frame where none belongs")
        if frame.group != group:
            raise FrameError(f"a frame of group {frame.group} on a connection of group {group}")


def readable(body: bytes | memoryview) -> str:
    """Return a text that the other side sent, without what a log or a terminal would take for more than text."""
    text = bytes(body).decode(errors="replace")
    return "".join(character if character.isprintable() else "?" for character in text)
