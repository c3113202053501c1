"""Those without certificate or secret, against a node that serves others with one."""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from riteraft_core.shared_secret import Dialler, Meeting, Secret
from riteraft_core.testing.securities import Securities
from riteraft_core.types import Hello
from riteraft_transport_tcp._framing import encode
from riteraft_transport_tcp._handshake import Purpose, encode_hello

from riteraft_transport_tcp import _framing

from .attacker import STRANGER, Attacker
from .target import Target, attacked_cluster

SECONDS = 10.0
PEER = Hello(b"c" * 16, 0, 2, b"d" * 16, 1)


@pytest.fixture(autouse=True)
def _over_tcp(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--transport") != "tcp":
        pytest.skip("these bytes are tcp's")


@pytest.fixture(scope="module")
def securities(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    return Securities(tmp_path_factory.mktemp("securities"), "tests")


@pytest.fixture(scope="module")
def with_tls(securities: Securities, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    def of(name: str) -> dict[str, str]:
        return {field: str(path) for field, path in securities.options(name).model_dump(exclude_none=True).items()}

    with attacked_cluster(tmp_path_factory.mktemp("tls"), security=of) as target:
        yield target


@pytest.fixture(scope="module")
def with_secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    path: Path = tmp_path_factory.mktemp("secret") / "secret"
    path.touch(0o600)
    path.write_text(secrets.token_hex(32))
    folder = tmp_path_factory.mktemp("nodes")
    with attacked_cluster(folder, security=lambda _: {"secret_file": str(path)}) as target:
        yield target


def test_s6_who_shows_no_certificate_of_ours_costs_next_to_nothing(
    with_tls: Target, securities: Securities, tmp_path: Path, chance: random.Random
) -> None:
    theirs = Securities(tmp_path / "theirs", "tests").files("n2")
    nobody = ssl.create_default_context(cafile=securities.folder / "ca.pem")
    stranger = ssl.create_default_context(cafile=securities.folder / "ca.pem")
    stranger.load_cert_chain(theirs.certificate, theirs.key)
    plain = [encode_hello(STRANGER, Purpose.REQUEST), b"GET / HTTP/1.1\r\n\r\n", bytes(300)]
    with with_tls.attacked("S6") as attack:
        for _ in range(30):
            for context in (nobody, stranger):
                with contextlib.suppress(OSError), Attacker(with_tls) as attacker:
                    secured = context.wrap_socket(attacker.socket, server_hostname="127.0.0.1")
                    with secured:
                        secured.sendall(plain[0])
                        assert secured.recv(1000) == b""
            with Attacker(with_tls) as attacker:
                attacker.send(chance.choice([*plain, chance.randbytes(100)]))
                with contextlib.suppress(OSError):
                    attacker.socket.shutdown(socket.SHUT_WR)
                assert attacker.closed() < SECONDS
        attack.wait_for("transport: tls", 90)
        assert not [why for why in with_tls.counters() if "refused" in why and attack.counted(why)]


def test_s7_half_a_handshake_keeps_nobody_out(with_tls: Target) -> None:
    with with_tls.attacked("S7, TLS") as attack:
        crowd: list[socket.socket] = []
        try:
            crowd += (socket.create_connection(with_tls.address, 30) for _ in range(200))
            for slow in crowd:
                with contextlib.suppress(OSError):
                    slow.send(b"\x16\x03\x01")  # a handshake record, with no end
            attack.wait_for("transport: unauthenticated", 200 - 64)
            attack.wait_for("transport: handshake-timeout", 1)
        finally:
            for slow in crowd:
                slow.close()


def test_s3_who_does_not_know_the_secret_gets_no_further(with_secret: Target, chance: random.Random) -> None:
    guess = Secret(secrets.token_bytes(32))
    with with_secret.attacked("S3, secret") as attack:
        for hello, purpose in ((PEER, Purpose.MESSAGES), (PEER, Purpose.SNAPSHOT), (STRANGER, Purpose.REQUEST)):
            for proof in (None, b"", bytes(32), chance.randbytes(32)):
                dialler = Dialler(guess, Meeting("tests", purpose.meeting, hello))
                with Attacker(with_secret) as attacker:
                    attacker.send(encode_hello(hello, purpose, dialler.nonce))
                    challenge = attacker.frame()
                    assert challenge.kind == _framing.Kind.CHALLENGE
                    said = dialler.prove(bytes(challenge.body))[0] if proof is None else proof
                    attacker.send(encode(_framing.Kind.PROOF, hello.group, said))
                    assert attacker.closed() < SECONDS
            with Attacker(with_secret) as attacker:
                assert attacker.greet(hello, purpose) is not None  # with no proof at all
        attack.wait_for("transport: forgery", 12)
        assert attack.counted("transport: refused forbidden") == 3
        assert not [why for why in with_secret.counters() if why.startswith("dropped") and attack.counted(why)]
