"""Goals S1 to S7 in the bytes of the transport `tcp`, against a node that serves."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct

import pytest
from riteraft_core._requests import AskStatus
from riteraft_core.types import Hello, RefusalCode
from riteraft_transport_tcp._framing import (
    MAGIC,
    PROTOCOL,
    FrameDecoder,
    FrameError,
    Kind,
    encode,
    encode_call,
    encode_messages,
)
from riteraft_transport_tcp._handshake import Purpose, encode_hello
from riteraft_transport_tcp._options import TcpOptions

from riteraft_core import _requests

from .attacker import STRANGER, Errand, mutated
from .target import Target
from .tcp_attacker import TcpAttacker

FRAME, CLOSED_WITHIN = "transport: frame", 10.0
"""A second is the goal; more is allowed to a machine that does something else besides."""

FRAME_TIMEOUT = TcpOptions().frame_timeout

over_tcp = pytest.mark.parametrize("target", ["tcp"], indirect=True)


def header(kind: int, length: int, *, magic: bytes = MAGIC, version: int = PROTOCOL) -> bytes:
    return struct.pack("!4sBBHQII", magic, version, kind, 0, 0, length, 0)


@over_tcp
def test_s1_a_length_over_the_limit_is_refused_from_the_header(target: Target) -> None:
    lengths = (1025, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
    hello = target.newcomer()
    for attempt in target.attempts("S1"):
        with attempt as attack:
            for _ in attack.rounds():
                for length in lengths:  # before anybody is let in: 1 KiB
                    with target.line() as line:
                        line.send(header(Kind.HELLO, length))
                        assert line.closed() < CLOSED_WITHIN
                for length in lengths[2:]:  # after it: 16 MiB
                    with TcpAttacker(target.address) as attacker:
                        assert attacker.greet(hello, Errand.MESSAGES) is None
                        attacker.send(header(Kind.MESSAGES, length) + bytes(100))
                        assert attacker.closed() < CLOSED_WITHIN
                with target.line() as line:
                    line.send(encode(Kind.HELLO, 0, b""))
                    assert line.closed() < CLOSED_WITHIN
            attack.wait_for(FRAME, attack.round * (len(lengths) + 4))


@over_tcp
def test_s2_mutations_of_good_frames_over_the_wire(target: Target, chance: random.Random) -> None:
    hello = encode_hello(target.newcomer(), Purpose.MESSAGES)
    batch = encode_messages(0, [b"not raft", b"", b"x" * 100])
    for attempt in target.attempts("S2"):
        with attempt as attack:
            for _ in attack.rounds():
                data = mutated(hello if chance.random() < 0.5 else hello + batch, chance)
                with target.line() as line:
                    line.send(data)
                    line.finish()
                    line.closed()
            assert attack.counted(FRAME) >= attack.round / 3


def test_s2_a_hundred_thousand_mutations_of_good_frames(chance: random.Random) -> None:
    # Only "rejected", "not whole yet", or the same message.
    good = [
        encode_messages(7, [b"first", b"", b"x" * 100]),
        encode_hello(Hello(b"c" * 16, 7, 2, b"d" * 16, 1), Purpose.SNAPSHOT, bytes(32)),
        encode_call(Kind.REQUEST, 7, 12, b"payload"),
        encode(Kind.CHUNK, 7, b"chunk"),
    ]
    whole = {bytes(frame.body) for data in good for frame in FrameDecoder(4096).feed(data)}
    for _ in range(100_000):
        data = mutated(chance.choice(good), chance, good)
        with contextlib.suppress(FrameError):
            assert {bytes(frame.body) for frame in FrameDecoder(4096).feed(data)} <= whole


@over_tcp
def test_s3_what_speaks_another_protocol_is_closed(target: Target) -> None:
    others = (header(1, 0, magic=b"HTTP"), b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n", bytes(300))
    for attempt in target.attempts("S3, protocol"):
        with attempt as attack:
            for _ in attack.rounds():
                for data in others:
                    with target.line() as line:
                        line.send(data)
                        assert line.closed() < CLOSED_WITHIN
            with target.line() as line:
                line.send(header(1, 0, version=9))
                line.closed()
            assert attack.counted(f"transport: refused {RefusalCode.VERSION.value}") == 1
            attack.wait_for(FRAME, attack.round * len(others))


@over_tcp
def test_s7_slow_connections_keep_nobody_out(target: Target) -> None:
    hello = encode_hello(target.newcomer(), Purpose.MESSAGES)
    for attempt in target.attempts("S7"):
        crowd: list[socket.socket] = []
        with attempt as attack:
            try:
                crowd += (socket.create_connection(target.address, 30) for _ in range(500))
                for byte in hello[:3]:
                    for slow in crowd:
                        with contextlib.suppress(OSError):
                            slow.send(bytes((byte,)))
                    target.serves_strangers()
                # Half-open: says nothing more, and reads nothing.
                attack.wait_for("transport: unauthenticated", 500 - 64)
                assert target.connections <= 64 + 64 + 12
                attack.wait_for("transport: handshake-timeout", 1)
            finally:
                for slow in crowd:
                    slow.close()


@over_tcp
def test_s7_who_never_reads_its_answers_is_sent_away(target: Target) -> None:
    questions = 50 * encode_call(Kind.REQUEST, 0, 1, _requests.encode(AskStatus()))
    for attempt in target.attempts("S7, unread"):
        with attempt as attack, TcpAttacker(target.address) as attacker:
            attacker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            assert attacker.greet(STRANGER, Errand.REQUEST) is None
            attacker.socket.settimeout(1.0)
            with contextlib.suppress(
                TimeoutError, ConnectionError
            ):  # no more of it is read, or it was sent away already
                for sent in range(10_000):
                    attacker.socket.sendall(questions)
                    attack.keep_to(sent, 40)
            target.serves_strangers()
            ended = select.poll()
            ended.register(attacker.socket, 0)  # only that the connection is gone; to read would be to make room
            assert ended.poll(1000 * (FRAME_TIMEOUT + CLOSED_WITHIN)), "it was kept"
