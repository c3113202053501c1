"""Those without certificate or secret, and those with another's, against a node that serves others with one."""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import ssl
import warnings
from pathlib import Path

import pytest
from riteraft_core._certificates import Issued, issue
from riteraft_core._requests import Propose, Remove, Status
from riteraft_core.shared_secret import Dialler, Meeting, Secret
from riteraft_core.testing.securities import Securities
from riteraft_core.types import Hello, PrincipalRole, RefusalCode

from riteraft_core import _requests

from .attacker import STRANGER, Errand, Line
from .target import Target, tls

SECONDS = 10.0
PEER = Hello(b"c" * 16, 0, 2, b"d" * 16, 1)

with_tls = pytest.mark.parametrize("target", ["tcp tls", "grpc tls"], indirect=True)
with_secret = pytest.mark.parametrize("target", ["tcp secret", "grpc secret"], indirect=True)


def of_version(version: ssl.TLSVersion, files: Issued, ca: Path) -> ssl.SSLContext:
    context = tls(files, ca)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


@with_tls
def test_s6_who_shows_no_certificate_of_ours_costs_next_to_nothing(
    target: Target, securities: Securities, tmp_path: Path, chance: random.Random
) -> None:
    ca, ours = securities.folder / "ca.pem", securities.files("n2")
    theirs = Securities(tmp_path / "theirs", "tests").files("n2")
    expired = securities.folder / "node-expired.pem"
    if not expired.exists():
        issue(securities.folder, PrincipalRole.NODE, "expired", ["127.0.0.1"], days=-1)
    turned_away = [
        tls(None, ca),
        tls(theirs, ca),
        tls(Issued(expired, expired.with_suffix(".key")), ca),
        of_version(ssl.TLSVersion.TLSv1_1, ours, ca),
    ]
    plain = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", bytes(300), b"RTRT"]
    for attempt in target.attempts("S6"):
        with attempt as attack:
            for _ in attack.rounds():
                for context in turned_away:
                    # With TLS 1.3 one learns it from the first read.
                    with contextlib.suppress(OSError), Line(target.address, context) as line:
                        line.socket.sendall(plain[0])
                        assert line.socket.recv(1000) == b""
                with target.line() as line:
                    line.send(chance.choice([*plain, chance.randbytes(100)]))
                    line.finish()
                    assert line.closed() < SECONDS
            if target.transport == "tcp":  # gRPC does not tell of failed handshakes: docs/grpc-limits.md
                attack.wait_for("transport: tls", attack.round * (len(turned_away) + 1))
            assert not [why for why in target.counters() if "refused" in why and attack.counted(why)]


@with_tls
def test_s6_a_certificate_gives_no_more_than_is_written_in_it(target: Target, securities: Securities) -> None:
    ca, me = securities.folder / "ca.pem", target.node.node_id
    follower = next(node for node in target.cluster.nodes if node is not target.node)
    client, other = securities.files("app", PrincipalRole.CLIENT), securities.files("mallory")
    with target.attacker(client, ca) as attacker:
        assert attacker.greet(STRANGER, Errand.REQUEST) is None
        _, cluster_id, _ = attacker.ask(_requests.encode(_requests.Who())).values
    assert isinstance(cluster_id, bytes)
    for attempt in target.attempts("S6, rights"):
        with attempt as attack:
            for _ in attack.rounds():
                for errand in (Errand.MESSAGES, Errand.SNAPSHOT):
                    # A client that replicates, and one node that speaks for another.
                    for files, node_id in ((client, 99), (other, follower.node_id), (other, me)):
                        with target.attacker(files, ca) as attacker:
                            hello = Hello(cluster_id, 0, node_id, secrets.token_bytes(16), me)
                            refusal = attacker.greet(hello, errand)
                            assert refusal is not None
                            assert refusal.code is RefusalCode.FORBIDDEN
                with target.attacker(client, ca) as attacker:
                    assert attacker.greet(STRANGER, Errand.REQUEST) is None
                    assert attacker.ask(_requests.encode(Remove(follower.node_id))).status is Status.REFUSED
                    command = b'["incr", "key0", ""]'
                    assert attacker.ask(_requests.encode(Propose(command, 30.0))).status is Status.OK
            assert attack.counted("transport: refused forbidden") == 6 * attack.round
            assert attack.counted("refused request: Remove") == attack.round
            assert not [why for why in target.counters() if why.startswith("dropped") and attack.counted(why)]


@with_tls
def test_s7_half_a_handshake_keeps_nobody_out(target: Target, securities: Securities) -> None:
    ca, client = securities.folder / "ca.pem", securities.files("app", PrincipalRole.CLIENT)
    for attempt in target.attempts("S7, TLS"):
        crowd: list[socket.socket] = []
        with attempt as attack:
            try:
                crowd += (socket.create_connection(target.address, 30) for _ in range(200))
                for slow in crowd:
                    with contextlib.suppress(OSError):
                        slow.send(b"\x16\x03\x01")  # a handshake record, with no end
                with target.attacker(client, ca) as honest:
                    assert honest.greet(STRANGER, Errand.REQUEST) is None
                    assert honest.ask(_requests.encode(_requests.Who())).status is Status.OK
                if target.transport == "tcp":
                    attack.wait_for("transport: unauthenticated", 200 - 64)
                    attack.wait_for("transport: handshake-timeout", 1)
                else:  # holds all of them, until their time is over
                    crowd[-1].settimeout(3 * SECONDS)
                    with contextlib.suppress(ConnectionError):
                        while crowd[-1].recv(1000):
                            pass
            finally:
                for slow in crowd:
                    slow.close()


@with_secret
def test_s3_who_does_not_know_the_secret_gets_no_further(target: Target, chance: random.Random) -> None:
    guess = Secret(secrets.token_bytes(32))
    errands = ((PEER, Errand.MESSAGES), (PEER, Errand.SNAPSHOT), (STRANGER, Errand.REQUEST))
    for attempt in target.attempts("S3, secret"):
        with attempt as attack:
            for _ in attack.rounds():
                for hello, errand in errands:
                    meeting = Meeting("tests", f"{target.transport} {errand.value}", hello)
                    for proof in (None, b"", bytes(32), chance.randbytes(32)):
                        dialler = Dialler(guess, meeting)
                        with target.attacker() as attacker:
                            challenge = attacker.challenged(hello, errand, dialler.nonce)
                            attacker.prove(dialler.prove(challenge)[0] if proof is None else proof)
                            assert attacker.closed() < SECONDS
                    with target.attacker() as attacker:  # with no proof at all
                        if errand is not Errand.REQUEST:
                            refusal = attacker.greet(hello, errand)
                            assert refusal is not None
                            assert refusal.code is RefusalCode.FORBIDDEN
            attack.wait_for("transport: forgery", 12 * attack.round)
            assert attack.counted("transport: refused forbidden") == 2 * attack.round
            assert not [why for why in target.counters() if why.startswith("dropped") and attack.counted(why)]
