"""The first frames each way: who knocks, whom it means and what for; then "come in" or why not. No I/O here.

The dialling side sends `HELLO` and nothing more until it is answered by `WELCOME` or `REFUSED`. The hello names an
authentication method: "none" (also within TLS, where it was done before), or a shared secret. Then a nonce ends the
hello, the answer is a `CHALLENGE`, the dialling side sends its `PROOF`, and all that follows, the welcome or refusal
first of all, is sealed.
"""

from __future__ import annotations

import enum
import struct

from riteraft_core.shared_secret import NONCE_SIZE
from riteraft_core.types import Hello, Refusal, RefusalCode

from ._framing import PROTOCOL, Frame, FrameError, Kind, VersionError, encode, readable

MAX_HELLO = 1024
"""The limit for frames from someone not yet let in, and for the answer to a hello: a stranger gets no more memory."""

MAX_REFUSAL_TEXT = 512
"""Bytes of a refusal's text on the wire; it is meant for one line of a log."""

_HELLO = struct.Struct("!BBQQBB")  # purpose, authentication, node id, to, length of cluster id, length of disk id
_NO_AUTHENTICATION = 0
_SHARED_SECRET = 1


class Purpose(enum.IntEnum):
    """What a connection is for: one of these only, so that none holds another up."""

    MESSAGES = 1
    REQUEST = 2
    SNAPSHOT = 3

    @property
    def meeting(self) -> str:
        """What a proof of the shared secret is for."""
        return f"tcp {self.name.lower()}"


def encode_hello(hello: Hello, purpose: Purpose, nonce: bytes = b"") -> bytes:
    """Return the first frame of the dialling side; the group stands in its header, a nonce asks for a challenge."""
    method = _SHARED_SECRET if nonce else _NO_AUTHENTICATION
    sizes = (len(hello.cluster_id), len(hello.disk_id))
    fixed = _HELLO.pack(purpose, method, hello.node_id, hello.to, *sizes)
    return encode(Kind.HELLO, hello.group, fixed, hello.cluster_id, hello.disk_id, nonce)


def decode_hello(frame: Frame) -> tuple[Hello, Purpose, bytes]:
    """Return what the first frame says, and its nonce, empty without one.

    :raises FrameError: it is no hello, or a malformed one.
    """
    if frame.kind != Kind.HELLO:
        raise FrameError(f"a {Kind(frame.kind).name} frame before a hello")
    if len(frame.body) < _HELLO.size:
        raise FrameError("a hello that is too short")
    purpose, method, node_id, to, cluster_size, disk_size = _HELLO.unpack_from(frame.body)
    if method not in (_NO_AUTHENTICATION, _SHARED_SECRET):
        raise FrameError(f"a hello with authentication method {method}, which is not known here")
    nonce_size = NONCE_SIZE if method == _SHARED_SECRET else 0
    if len(frame.body) != _HELLO.size + cluster_size + disk_size + nonce_size:
        raise FrameError("a hello whose lengths do not add up")
    names = bytes(frame.body[_HELLO.size :])
    nonce = names[cluster_size + disk_size :]
    names = names[: cluster_size + disk_size]
    try:
        return Hello(names[:cluster_size], frame.group, node_id, names[cluster_size:], to), Purpose(purpose), nonce
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
    text = readable(frame.body[1 + size :])
    try:
        return Refusal(RefusalCode(bytes(frame.body[1 : 1 + size]).decode("ascii", errors="replace")), text)
    except ValueError:  # a code of a later version: it means no all the same
        return Refusal(RefusalCode.FORBIDDEN, text)


def wrong_version(error: VersionError) -> Refusal:
    """Return the refusal for a peer that speaks another version of this protocol."""
    text = f"you speak protocol version {error.theirs}, this node {PROTOCOL}: run the same riteraft on both"
    return Refusal(RefusalCode.VERSION, text)


def other_method(nonce: bytes) -> Refusal:
    """Return the refusal for a peer that uses a shared secret where we have none, or none where we have one."""
    if nonce:
        text = "this node has no shared secret: give the same [security] to every node"
    else:
        text = "this node has a shared secret, and no proof of it was offered: give the same [security] to every node"
    return Refusal(RefusalCode.FORBIDDEN, text)


def no_identity() -> Refusal:
    """Return the refusal for a sender without an identity that wants more than to ask."""
    return Refusal(RefusalCode.FORBIDDEN, "a sender without a node id may only send requests")
