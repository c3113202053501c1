"""The exchange of a shared secret, both sides by plain calls."""

from __future__ import annotations

import base64
import dataclasses
import pickle
import secrets

import pytest
from riteraft_core.errors import AuthenticationError
from riteraft_core.shared_secret import CHALLENGE_SIZE, NONCE_SIZE, Dialler, Listener, Meeting, Seals, Secret
from riteraft_core.types import Hello

HELLO = Hello(b"c" * 16, 0, 2, b"2" * 16, to=1)
JOINER = Hello(b"", 0, 0, b"", to=0)
MEETING = Meeting("orders", "tcp messages", HELLO)
KEY = secrets.token_bytes(32)


def meet(dialling: Meeting = MEETING, listening: Meeting = MEETING, *, theirs: bytes = KEY) -> tuple[Seals, Seals]:
    dialler = Dialler(Secret(KEY), dialling)
    listener = Listener(Secret(theirs), listening, dialler.nonce, 1)
    proof, at_dialler = dialler.prove(listener.challenge)
    return at_dialler, listener.check(proof)


def test_both_sides_seal_and_check() -> None:
    for meeting in (MEETING, Meeting("orders", "tcp request", JOINER)):
        dialler, listener = meet(meeting, meeting)
        for frame in (b"one", b"", b"two" * 1000):
            listener.check(frame, dialler.seal(frame))
            dialler.check(frame, listener.seal(frame))


def test_another_secret_is_refused() -> None:
    with pytest.raises(AuthenticationError, match="no proof"):
        meet(theirs=secrets.token_bytes(32))


@pytest.mark.parametrize(
    "other",
    [
        Meeting("invoices", "tcp messages", HELLO),
        Meeting("orders", "tcp snapshot", HELLO),
        *(
            Meeting("orders", "tcp messages", hello)
            for hello in (
                dataclasses.replace(HELLO, cluster_id=b"d" * 16),
                dataclasses.replace(HELLO, group=1),
                dataclasses.replace(HELLO, node_id=3),
                dataclasses.replace(HELLO, disk_id=b"3" * 16),
                dataclasses.replace(HELLO, to=0),
            )
        ),
    ],
    ids=["cluster", "purpose", "cluster id", "group", "node id", "disk id", "to"],
)
def test_a_proof_is_for_one_meeting_only(other: Meeting) -> None:
    with pytest.raises(AuthenticationError):
        meet(listening=other)


def test_a_proof_cannot_be_used_again() -> None:
    dialler = Dialler(Secret(KEY), MEETING)
    proof, _ = dialler.prove(Listener(Secret(KEY), MEETING, dialler.nonce, 1).challenge)
    with pytest.raises(AuthenticationError):
        Listener(Secret(KEY), MEETING, dialler.nonce, 1).check(proof)


def test_a_listener_without_the_secret_cannot_seal() -> None:
    dialler = Dialler(Secret(KEY), MEETING)
    impostor = Listener(Secret(secrets.token_bytes(32)), MEETING, dialler.nonce, 1)
    _, seals = dialler.prove(impostor.challenge)
    with pytest.raises(AuthenticationError):
        seals.check(b"welcome", secrets.token_bytes(32))


def test_a_dialler_notices_who_else_answers() -> None:
    with pytest.raises(AuthenticationError, match="node 7 answers"):
        Dialler(Secret(KEY), MEETING).prove(Listener(Secret(KEY), MEETING, bytes(32), 7).challenge)
    to_anyone = dataclasses.replace(HELLO, to=0)
    reflected = Listener(Secret(KEY), MEETING, bytes(32), HELLO.node_id)
    with pytest.raises(AuthenticationError, match="our own"):
        Dialler(Secret(KEY), Meeting("orders", "tcp request", to_anyone)).prove(reflected.challenge)


def test_malformed_parts_are_refused() -> None:
    with pytest.raises(AuthenticationError):
        Dialler(Secret(KEY), MEETING).prove(bytes(CHALLENGE_SIZE - 1))
    with pytest.raises(AuthenticationError):
        Listener(Secret(KEY), MEETING, bytes(NONCE_SIZE + 1), 1)
    for proof in (b"", bytes(32), bytes(33)):
        with pytest.raises(AuthenticationError):
            Listener(Secret(KEY), MEETING, bytes(NONCE_SIZE), 1).check(proof)


def test_a_changed_frame_is_noticed() -> None:
    for position in range(3):
        dialler, listener = meet()
        mac = dialler.seal(b"abc")
        changed = bytearray(b"abc")
        changed[position] ^= 1
        with pytest.raises(AuthenticationError):
            listener.check(changed, mac)


def test_a_repeated_a_lost_and_a_reflected_frame_are_noticed() -> None:
    dialler, listener = meet()
    first, second = dialler.seal(b"frame"), dialler.seal(b"frame")
    with pytest.raises(AuthenticationError):
        listener.check(b"frame", second)
    listener.check(b"frame", first)
    with pytest.raises(AuthenticationError):
        listener.check(b"frame", first)
    with pytest.raises(AuthenticationError):
        dialler.check(b"frame", second)


def test_no_two_connections_share_a_key() -> None:
    assert meet()[0].seal(b"frame") != meet()[0].seal(b"frame")


def test_a_secret_is_hexadecimal_or_base64() -> None:
    secret = Secret.parse(KEY.hex() + "\n")
    assert secret.derive(b"x", b"") == Secret(KEY).derive(b"x", b"")
    assert Secret.parse(base64.b64encode(KEY).decode()).derive(b"x", b"") == secret.derive(b"x", b"")


@pytest.mark.parametrize(
    "text", ["", "correct horse battery staple", "ab" * 31, "00" * 32, "0123456789abcdef" * 4, "ü"]
)
def test_a_weak_secret_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="openssl rand -hex 32") as caught:
        Secret.parse(text)
    assert not text or text not in str(caught.value)


def test_a_secret_does_not_show() -> None:
    secret = Secret(KEY)
    for text in (repr(secret), str(secret), repr(meet()), repr(Dialler(secret, MEETING))):
        assert KEY.hex() not in text
        assert repr(KEY) not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
