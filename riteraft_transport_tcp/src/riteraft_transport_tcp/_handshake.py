"""The first frame each way: who knocks, whom it means and what for; then "come in" or why not. No I/O here.

The dialling side sends `HELLO` and nothing more until it is answered by `WELCOME` or `REFUSED`. The hello names an
authentication method; this version knows only "none". Later ones go on with frames of their own before the answer.
"""

from __future__ import annotations

import enum
import struct

from riteraft_core.types import Hello, Identity, Refusal, RefusalCode

from ._framing import PROTOCOL, Frame, FrameError, Kind, VersionError, encode

MAX_HELLO = 1024
"""The limit for frames from someone not yet let in, and for the answer to a hello: a stranger gets no more memory."""

MAX_REFUSAL_TEXT = 512
"""Bytes of a refusal's text on the wire; it is meant for one line of a log."""

_HELLO = struct.Struct("!BBQQBB")  # purpose, authentication, node id, to, length of cluster id, length of disk id
_NO_AUTHENTICATION = 0


class Purpose(enum.IntEnum):
    """What a connection is for: one of these only, so that none holds another up."""

    MESSAGES = 1
    REQUEST = 2
    SNAPSHOT = 3


def hello_of(identity: Identity | None, to: int) -> Hello:
    """Return how a node with this identity introduces itself; None for a joiner."""
    if identity is None:
        return Hello(cluster_id=b"", group=0, node_id=0, disk_id=b"", to=to)
    return Hello(identity.cluster_id, identity.group, identity.node_id, identity.disk_id, to)


def encode_hello(hello: Hello, purpose: Purpose) -> bytes:
    """Return the first frame of the dialling side; the group stands in its header."""
    sizes = (len(hello.cluster_id), len(hello.disk_id))
    fixed = _HELLO.pack(purpose, _NO_AUTHENTICATION, hello.node_id, hello.to, *sizes)
    return encode(Kind.HELLO, hello.group, fixed, hello.cluster_id, hello.disk_id)


def decode_hello(frame: Frame) -> tuple[Hello, Purpose]:
    """Return what the first frame says.

    :raises FrameError: it is no hello, or a malformed one.
    """
    if frame.kind != Kind.HELLO:
        raise FrameError(f"a {Kind(frame.kind).name} frame before a hello")
    if len(frame.body) < _HELLO.size:
        raise FrameError("a hello that is too short")
    purpose, authentication, node_id, to, cluster_size, disk_size = _HELLO.unpack_from(frame.body)
    if authentication != _NO_AUTHENTICATION:
        raise FrameError(f"a hello with authentication method {authentication}, which is not known here")
    if len(frame.body) != _HELLO.size + cluster_size + disk_size:
        raise FrameError("a hello whose lengths do not add up")
    names = bytes(frame.body[_HELLO.size :])
    try:
        return Hello(names[:cluster_size], frame.group, node_id, names[cluster_size:], to), Purpose(purpose)
    except ValueError as exc:
        raise FrameError(f"a hello for unknown purpose {purpose}") from exc


def encode_welcome(group: int) -> bytes:
    """Return the answer that lets the dialling side in."""
    return encode(Kind.WELCOME, group)


def encode_refusal(group: int, refusal: Refusal) -> bytes:
    """Return the answer "no"; the text is cut to `MAX_REFUSAL_TEXT` bytes."""
    code = refusal.code.value.encode()
    text = refusal.text.encode(errors="replace")[:MAX_REFUSAL_TEXT]
    return encode(Kind.REFUSED, group, bytes((len(code),)), code, text)


def decode_answer(frame: Frame) -> Refusal | None:
    """Return None for a welcome, else the refusal.

    :raises FrameError: it is neither.
    """
    if frame.kind == Kind.WELCOME:
        return None
    if frame.kind != Kind.REFUSED or not frame.body:
        raise FrameError("a hello was answered by something else")
    size = frame.body[0]
    text = bytes(frame.body[1 + size :]).decode(errors="replace")
    try:
        return Refusal(RefusalCode(bytes(frame.body[1 : 1 + size]).decode("ascii", errors="replace")), text)
    except ValueError as exc:  # a code of a later version: it means no all the same
        if not text.isprintable():
            raise FrameError("a refusal that cannot be read") from exc
        return Refusal(RefusalCode.FORBIDDEN, text)


def wrong_version(error: VersionError) -> Refusal:
    """Return the refusal for a peer that speaks another version of this protocol."""
    text = f"you speak protocol version {error.theirs}, this node {PROTOCOL}: run the same riteraft on both"
    return Refusal(RefusalCode.VERSION, text)


def no_identity() -> Refusal:
    """Return the refusal for a sender without an identity that wants more than to ask."""
    return Refusal(RefusalCode.FORBIDDEN, "a sender without a node id may only send requests")
