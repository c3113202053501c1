"""What crosses gRPC as bytes: hellos and refusals in metadata, batches, payloads and snapshot parts. No I/O here."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TypeAlias
from zlib import crc32

from google.protobuf.message import DecodeError
from riteraft_core.errors import AuthenticationError
from riteraft_core.shared_secret import MAC_SIZE, Seals
from riteraft_core.types import Hello, Refusal, RefusalCode

from . import transport_pb2 as pb

PROTOCOL = 1
SERVICE = "riteraft.transport.v1.Transport"
MESSAGES = f"/{SERVICE}/Messages"
REQUEST = f"/{SERVICE}/Request"
ASK = f"/{SERVICE}/Ask"
SNAPSHOT = f"/{SERVICE}/Snapshot"

HELLO_KEY = "riteraft-hello-bin"
REFUSAL_KEY = "riteraft-refusal-bin"
"""Keys that end in `-bin` may have bytes for a value."""

OVERHEAD = 128
"""More than any message takes around its payloads."""
MESSAGE_OVERHEAD = 6
"""At most this beside each message of a batch: its tag and its length."""
MAX_TEXT = 512
"""Bytes of a refusal's or an error's text: one line of a log, and well within what gRPC takes as metadata."""

_MAC_TAG = bytes((15 << 3 | 2, MAC_SIZE))
"""How protobuf begins the field `mac`: number 15, bytes, and how many."""

Metadata: TypeAlias = Iterable[tuple[str, "str | bytes"]]


class WireError(Exception):
    """The other side sent what no honest peer sends: end the call. The text holds none of its bytes."""


class VersionError(WireError):
    """The caller speaks another version of the protocol: worth an answer."""

    def __init__(self, theirs: int) -> None:
        """Take the version that was read."""
        super().__init__(f"protocol version {theirs}; this side speaks {PROTOCOL}")
        self.theirs = theirs


# --- metadata --------------------------------------------------------------------------------------------------------


def encode_hello(hello: Hello, nonce: bytes = b"") -> tuple[tuple[str, bytes], ...]:
    """Return the metadata that every call begins with; the nonce is for a shared secret."""
    encoded = pb.Hello(
        protocol=PROTOCOL,
        cluster_id=hello.cluster_id,
        group=hello.group,
        node_id=hello.node_id,
        disk_id=hello.disk_id,
        to=hello.to,
        nonce=nonce,
    )
    return ((HELLO_KEY, encoded.SerializeToString()),)


def decode_hello(metadata: Metadata) -> tuple[Hello, bytes]:
    """Return what a call's metadata says of its sender, and its nonce.

    :raises VersionError: it is a hello of another version.
    :raises WireError: there is none, or a malformed one.
    """
    found = [value for key, value in metadata if key == HELLO_KEY]
    if len(found) != 1 or not isinstance(found[0], bytes):
        raise WireError("a call without a hello")
    try:
        hello = pb.Hello.FromString(found[0])
    except DecodeError as exc:
        raise WireError("a hello that cannot be read") from exc
    if hello.protocol != PROTOCOL:
        raise VersionError(hello.protocol)
    return Hello(hello.cluster_id, hello.group, hello.node_id, hello.disk_id, hello.to), hello.nonce


def encode_refusal(refusal: Refusal) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata that says "no"; the text is cut to `MAX_TEXT` bytes."""
    encoded = pb.Refusal(code=refusal.code.value, text=shorten(refusal.text))
    return ((REFUSAL_KEY, encoded.SerializeToString()),)


def decode_refusal(metadata: Metadata) -> Refusal | None:
    """Return the refusal in a call's trailing metadata, or None: it ended for another reason."""
    for key, value in metadata:
        if key != REFUSAL_KEY or not isinstance(value, bytes):
            continue
        try:
            refusal = pb.Refusal.FromString(value)
        except DecodeError:
            return Refusal(RefusalCode.FORBIDDEN, "a refusal that cannot be read")
        return refusal_of(refusal.code, refusal.text)
    return None


def refusal_of(code: str, text: str) -> Refusal:
    """Return the refusal with this code, as it came."""
    try:
        return Refusal(RefusalCode(code), text)
    except ValueError:  # a code of a later version: it means no all the same
        return Refusal(RefusalCode.FORBIDDEN, text)


def shorten(text: str) -> str:
    """Return as much of the text as fits in `MAX_TEXT` bytes."""
    return text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore")


def wrong_version(error: VersionError) -> Refusal:
    """Return the refusal for a peer that speaks another version of this protocol."""
    text = f"you speak protocol version {error.theirs}, this node {PROTOCOL}: run the same riteraft on both"
    return Refusal(RefusalCode.VERSION, text)


def no_identity() -> Refusal:
    """Return the refusal for a sender without an identity that wants more than to ask."""
    return Refusal(RefusalCode.FORBIDDEN, "a sender without a node id may only send requests")


# --- the shared secret -----------------------------------------------------------------------------------------------


def encode_proof(proof: bytes) -> bytes:
    """Return what a caller sends first, after a challenge."""
    return pb.Proof(proof=proof).SerializeToString()


def decode_proof(raw: bytes) -> bytes:
    """Return the proof.

    :raises WireError: it is malformed.
    """
    try:
        return pb.Proof.FromString(raw).proof
    except DecodeError as exc:
        raise WireError("a proof that cannot be read") from exc


def seal(message: bytes, seals: Seals) -> bytes:
    """Return the message with its MAC, as protobuf would append a field."""
    return b"".join((message, _MAC_TAG, seals.seal(message)))


def unseal(raw: bytes, seals: Seals) -> bytes:
    """Return the message without its MAC.

    :raises AuthenticationError: it has none, or another message's.
    """
    end = len(raw) - len(_MAC_TAG) - MAC_SIZE
    if end < 0 or raw[end:-MAC_SIZE] != _MAC_TAG:
        raise AuthenticationError("a message without a MAC")
    message = raw[:end]
    seals.check(message, raw[-MAC_SIZE:])
    return message


# --- messages and requests -------------------------------------------------------------------------------------------


def encode_batch(group: int, messages: Sequence[bytes]) -> bytes:
    """Return one message of the stream `Messages`."""
    return pb.Batch(group=group, messages=messages, crc32=_checksum(group, messages)).SerializeToString()


def decode_batch(raw: bytes, group: int) -> list[bytes]:
    """Return the messages of a batch.

    :raises WireError: it is malformed, of another group, or does not match its checksum.
    """
    try:
        batch = pb.Batch.FromString(raw)
    except DecodeError as exc:
        raise WireError("a batch that cannot be read") from exc
    messages = list(batch.messages)
    _check(batch.group, group, batch.crc32, messages)
    return messages


def encode_payload(group: int, payload: bytes) -> bytes:
    """Return a request, or the answer to one."""
    return pb.Payload(group=group, payload=payload, crc32=_checksum(group, (payload,))).SerializeToString()


def decode_payload(raw: bytes, group: int) -> bytes:
    """Return the payload of a request or an answer.

    :raises WireError: it is malformed, of another group, or does not match its checksum.
    """
    try:
        message = pb.Payload.FromString(raw)
    except DecodeError as exc:
        raise WireError("a payload that cannot be read") from exc
    payload = message.payload
    _check(message.group, group, message.crc32, (payload,))
    return payload


# --- snapshots -------------------------------------------------------------------------------------------------------


def encode_header(group: int, header: bytes) -> bytes:
    """Return the first part of a snapshot."""
    return pb.SnapshotPart(group=group, header=header, crc32=_checksum(group, (header,))).SerializeToString()


def encode_chunk(group: int, chunk: bytes) -> bytes:
    """Return one piece of a snapshot."""
    return pb.SnapshotPart(group=group, chunk=chunk, crc32=_checksum(group, (chunk,))).SerializeToString()


def encode_end(group: int, size: int, sha256: bytes) -> bytes:
    """Return the last part of a snapshot: how many bytes went before and their SHA-256."""
    return pb.SnapshotPart(group=group, end=pb.SnapshotEnd(size=size, sha256=sha256)).SerializeToString()


def decode_header(raw: bytes, group: int) -> bytes:
    """Return the header that a snapshot begins with.

    :raises WireError: it is something else, of another group, or does not match its checksum.
    """
    part = _snapshot_part(raw)
    if part.WhichOneof("part") != "header":
        raise WireError("a snapshot that does not begin with its header")
    _check(part.group, group, part.crc32, (part.header,))
    return part.header


def decode_part(raw: bytes, group: int) -> bytes | tuple[int, bytes]:
    """Return a chunk, or (total size, SHA-256) for the end.

    :raises WireError: it is neither, of another group, or does not match its checksum.
    """
    part = _snapshot_part(raw)
    kind = part.WhichOneof("part")
    if kind == "chunk":
        chunk = part.chunk
        _check(part.group, group, part.crc32, (chunk,))
        return chunk
    if kind != "end":
        raise WireError("a snapshot with a part that is neither a chunk nor its end")
    _check(part.group, group, None, ())
    return part.end.size, part.end.sha256


def encode_progress(
    group: int, step: pb.Progress.Step, text: str = "", *, code: str = "", payload: bytes = b""
) -> bytes:
    """Return what a stream is answered; the text is cut to `MAX_TEXT` bytes."""
    return pb.Progress(group=group, step=step, text=shorten(text), code=code, payload=payload).SerializeToString()


def decode_progress(raw: bytes, group: int) -> pb.Progress:
    """Return the answer.

    :raises WireError: it is malformed, or of another group.
    """
    try:
        progress = pb.Progress.FromString(raw)
    except DecodeError as exc:
        raise WireError("an answer that cannot be read") from exc
    _check(progress.group, group, None, ())
    return progress


def _snapshot_part(raw: bytes) -> pb.SnapshotPart:
    try:
        return pb.SnapshotPart.FromString(raw)
    except DecodeError as exc:
        raise WireError("a part of a snapshot that cannot be read") from exc


def _checksum(group: int, payloads: Sequence[bytes]) -> int:
    total = crc32(struct.pack(f"!Q{len(payloads)}I", group, *map(len, payloads)))
    for payload in payloads:
        total = crc32(payload, total)
    return total


def _check(group: int, expected: int, checksum: int | None, payloads: Sequence[bytes]) -> None:
    if group != expected:
        raise WireError(f"a message of group {group} in a call of group {expected}")
    if checksum is not None and checksum != _checksum(group, payloads):
        raise WireError("a message does not match its checksum")
