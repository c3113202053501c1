"""Mutual authentication by a shared secret, for every transport alike: no socket, no clock, no `await`.

Who dials sends 32 fresh random bytes with its hello, who listens answers with a challenge (32 of its own and its node
id), who dials answers with a proof: an HMAC-SHA256 over both, the cluster's name and the whole hello. From there on
each frame carries an HMAC-SHA256 over a counter and its bytes, with a key for this connection and this direction
only. The listener's first frame is its proof: without the secret nobody can seal it.

    dialler = Dialler(secret, meeting)          listener = Listener(secret, meeting, nonce, node_id)
      dialler.nonce              →
                                 ←                listener.challenge
      proof, seals = dialler.prove(challenge)
      proof                      →                seals = listener.check(proof)
      seals.seal(frame)         ⇄                 seals.check(frame, mac)

A frame that was changed, repeated, left out, moved or sent back to its sender does not match, and the connection must
end. Nothing is encrypted: whoever can listen on the network reads everything. Every holder of the secret may speak for
every node.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import struct
from dataclasses import dataclass

from .errors import AuthenticationError
from .types import Hello

__all__ = ["CHALLENGE_SIZE", "MAC_SIZE", "NONCE_SIZE", "Dialler", "Listener", "Meeting", "Seals", "Secret"]

NONCE_SIZE = 32
CHALLENGE_SIZE = NONCE_SIZE + 8
MAC_SIZE = 32
"""Bytes of a proof and of what `Seals.seal` returns."""

MIN_SECRET = 32
"""Bytes a secret must have: as many as the hash, so that guessing it is no easier than breaking that."""
MIN_DISTINCT = 16
"""Different byte values in a secret. 32 random bytes have some 30; so few are never random, but typed."""

_LABEL = b"riteraft shared secret 1"
_ID = struct.Struct("!Q")
_LENGTH = struct.Struct("!I")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")


class Secret:
    """What all members of a cluster know and nobody else; it never shows in a text."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        """Take the random bytes.

        :raises ValueError: they are too few, or not random; the text says how to make better ones.
        """
        if len(key) < MIN_SECRET:
            raise ValueError(f"has {len(key)} bytes, and {MIN_SECRET} random ones are needed: {_CURE}")
        if len(set(key)) < MIN_DISTINCT:
            raise ValueError(f"is not random, it has only {len(set(key))} different bytes: {_CURE}")
        # Extracted once (RFC 5869): what is long or uneven becomes an even key.
        self._key = hmac.digest(_LABEL, key, "sha256")

    @classmethod
    def parse(cls, text: str) -> Secret:
        """Build from hexadecimal digits or base64.

        :raises ValueError: it is neither, too short, or not random. The text of the error holds none of it.
        """
        text = text.strip()
        if _HEX.fullmatch(text):
            return cls(bytes.fromhex(text))
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError:
            raise ValueError(f"is neither hexadecimal nor base64: {_CURE}") from None
        return cls(key)

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")

    def derive(self, label: bytes, transcript: bytes) -> bytes:
        """Return the HMAC-SHA256 of what both sides saw, for one use (RFC 5869, one block)."""
        return hmac.digest(self._key, label + b"\0" + transcript + b"\1", "sha256")


_CURE = "make one with `openssl rand -hex 32`"


@dataclass(frozen=True, slots=True)
class Meeting:
    """What both sides must mean alike for a proof to match."""

    cluster: str
    """The cluster's human name: all that a joiner knows of it."""
    purpose: str
    """The transport and what the connection is for, as `tcp messages`: a proof for one is of no use for another."""
    hello: Hello
    """What the dialling side says of itself and of whom it wants to reach."""

    def transcript(self, nonce: bytes, challenge: bytes) -> bytes:
        """Return the SHA-256 of everything said, each part with its length in front."""
        hello = self.hello
        parts = (
            _LABEL,
            self.cluster.encode(),
            self.purpose.encode(),
            hello.cluster_id,
            _ID.pack(hello.group),
            _ID.pack(hello.node_id),
            hello.disk_id,
            _ID.pack(hello.to),
            nonce,
            challenge,
        )
        digest = hashlib.sha256()
        for part in parts:
            digest.update(_LENGTH.pack(len(part)))
            digest.update(part)
        return digest.digest()


class Seals:
    """The keys of one connection, one for each direction, and how many frames went each way."""

    __slots__ = ("_received", "_receiving", "_sending", "_sent")

    def __init__(self, sending: bytes, receiving: bytes) -> None:
        """Begin to count."""
        self._sending = sending
        self._receiving = receiving
        self._sent = 0
        self._received = 0

    def __repr__(self) -> str:
        return f"Seals(sent={self._sent}, received={self._received})"

    def seal(self, frame: bytes | bytearray | memoryview) -> bytes:
        """Return the MAC of the next frame to send; frames must be sent in the order they are sealed."""
        mac = hmac.new(self._sending, _ID.pack(self._sent), hashlib.sha256)
        mac.update(frame)
        self._sent += 1
        return mac.digest()

    def check(self, frame: bytes | bytearray | memoryview, mac: bytes | bytearray | memoryview) -> None:
        """Take the next frame that came in.

        :raises AuthenticationError: it is not what was sent next: end the connection.
        """
        expected = hmac.new(self._receiving, _ID.pack(self._received), hashlib.sha256)
        expected.update(frame)
        if not hmac.compare_digest(expected.digest(), mac):
            raise AuthenticationError("a frame that was forged, changed, repeated or moved on the way")
        self._received += 1


class Dialler:
    """The side that connects."""

    def __init__(self, secret: Secret, meeting: Meeting) -> None:
        """Draw a nonce, to be sent with the hello."""
        self._secret = secret
        self._meeting = meeting
        self.nonce = secrets.token_bytes(NONCE_SIZE)

    def prove(self, challenge: bytes) -> tuple[bytes, Seals]:
        """Return the proof to send, and the seals for every frame after it, the first one received included.

        :raises AuthenticationError: the challenge is malformed, or another node's than the one to be reached.
        """
        if len(challenge) != CHALLENGE_SIZE:
            raise AuthenticationError("a malformed challenge")
        (listener,) = _ID.unpack_from(challenge, NONCE_SIZE)  # 0: it is still joining, and will say so
        hello = self._meeting.hello
        if hello.to and listener not in (0, hello.to):
            raise AuthenticationError(f"node {listener} answers where node {hello.to} is expected: check the address")
        if listener and listener == hello.node_id:
            raise AuthenticationError("our own node answers")
        transcript = self._meeting.transcript(self.nonce, challenge)
        keys = _keys(self._secret, transcript)
        return self._secret.derive(b"proof", transcript), Seals(*keys)


class Listener:
    """The side that was connected to."""

    def __init__(self, secret: Secret, meeting: Meeting, nonce: bytes, node_id: int) -> None:
        """Take the dialler's nonce; `node_id` is our own, 0 if we have none yet.

        :raises AuthenticationError: the nonce is malformed.
        """
        if len(nonce) != NONCE_SIZE:
            raise AuthenticationError("a malformed nonce")
        self._secret = secret
        self.challenge = secrets.token_bytes(NONCE_SIZE) + _ID.pack(node_id)
        self._transcript = meeting.transcript(nonce, self.challenge)

    def check(self, proof: bytes) -> Seals:
        """Take the proof; return the seals for every frame after it.

        :raises AuthenticationError: the other side does not have our secret, or means another cluster.
        """
        if not hmac.compare_digest(self._secret.derive(b"proof", self._transcript), proof):
            raise AuthenticationError("no proof of this cluster's secret: check the secret and `cluster` on both sides")
        to_listener, to_dialler = _keys(self._secret, self._transcript)
        return Seals(to_dialler, to_listener)


def _keys(secret: Secret, transcript: bytes) -> tuple[bytes, bytes]:
    return secret.derive(b"to the listener", transcript), secret.derive(b"to the dialler", transcript)
