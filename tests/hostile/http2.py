"""HTTP/2 by hand, as much of it as an attacker needs: frames that gRPC's own client would never send."""

from __future__ import annotations

import base64
import enum
import time
from collections.abc import Iterable, Sequence

import riteraft_transport_grpc._wire as wire
from riteraft_core.types import Hello

from .attacker import PATIENCE, Line

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ACK, END_STREAM, END_HEADERS = 1, 1, 4
LARGEST = 16_384
"""Bytes of a frame's payload, unless the other side allows more."""


class Kind(enum.IntEnum):
    """The frames of RFC 9113."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Http2Line(Line):
    """A connection that has agreed on HTTP/2."""

    def __init__(self, address: tuple[str, int], settings: bytes | None = None) -> None:
        """Take what to say of ourselves instead of nothing special."""
        super().__init__(address)
        self._read = b""
        self.send(PREFACE + (settings or SETTINGS))
        self.until(Kind.SETTINGS)
        self.send(frame(Kind.SETTINGS, ACK, 0))

    def __enter__(self) -> Http2Line:
        return self

    def until(self, kind: int, stream: int = 0) -> bytes:
        """Read on to the next such frame; return its payload. Pings are answered on the way.

        :raises ConnectionError: the other side closed before it came.
        """
        while True:
            for position, (found, flags, of, payload) in enumerate(frames(self._read)):
                if found == Kind.PING and not flags & ACK:
                    self.send(frame(Kind.PING, ACK, 0, payload))
                if (found, of) == (kind, stream):
                    for _ in range(position + 1):
                        self._read = self._read[9 + int.from_bytes(self._read[:3], "big") :]
                    return payload
            data = self.socket.recv(1 << 16)
            if not data:
                raise ConnectionError("closed")
            self._read += data

    def ended(self, stream: int, within: float = PATIENCE) -> float:
        """Wait until the other side has ended the stream, or the connection; return the seconds that took."""
        began = time.monotonic()
        self.socket.settimeout(within)
        try:
            while not any(
                of == stream and (kind == Kind.RST_STREAM or (kind == Kind.HEADERS and flags & END_STREAM))
                for kind, flags, of, _ in frames(self._read)
            ):
                data = self.socket.recv(1 << 16)
                if not data:
                    break
                self._read += data
        except ConnectionError:
            pass
        return time.monotonic() - began


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """Return one frame; `length` is what it claims instead of the truth."""
    claimed = len(payload) if length is None else length
    return claimed.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(Kind.SETTINGS, 0, 0)
READS_NOTHING = frame(Kind.SETTINGS, 0, 0, b"\0\4" + bytes(4))
"""An initial window of 0: no byte of an answer may be sent."""


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return header fields as literals that are never indexed (RFC 7541, 6.2.2)."""
    return raw_block((name.encode(), value.encode()) for name, value in fields)


def raw_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the same of bytes, that need be no text."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def call(stream: int, method: str, hello: Hello | None, *more: tuple[str, str], end: bool = False) -> bytes:
    """Return the HEADERS frame that begins a call of gRPC."""
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "node"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    if hello is not None:
        ((key, value),) = wire.encode_hello(hello)
        fields.append((key, base64.b64encode(value).decode()))
    return frame(Kind.HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block([*fields, *more]))


def message(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    """Return one message of gRPC in as many DATA frames as it takes."""
    data = b"\0" + len(payload).to_bytes(4, "big") + payload
    pieces = [data[start : start + LARGEST] for start in range(0, len(data), LARGEST)]
    *most, last = pieces
    return b"".join(frame(Kind.DATA, 0, stream, piece) for piece in most) + frame(
        Kind.DATA, END_STREAM if end else 0, stream, last
    )


def frames(data: bytes) -> Sequence[tuple[int, int, int, bytes]]:
    """Return kind, flags, stream and payload of each whole frame."""
    found = []
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        if len(data) < 9 + length:
            break
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def messages(data: bytes) -> Sequence[bytes]:
    """Return each whole message of gRPC in what the DATA frames of one call held."""
    found = []
    while len(data) >= 5:
        length = int.from_bytes(data[1:5], "big")
        if len(data) < 5 + length:
            break
        found.append(data[5 : 5 + length])
        data = data[5 + length :]
    return found


def _string(raw: bytes) -> bytes:
    return _integer(len(raw)) + raw


def _integer(value: int, bits: int = 7) -> bytes:
    """Return an integer as RFC 7541, 5.1, has it; what stands before its bits is 0."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    value -= most
    found = bytearray((most,))
    while value >= 128:
        found.append(value % 128 + 128)
        value //= 128
    found.append(value)
    return bytes(found)
