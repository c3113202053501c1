"""Goals S1 to S13 against a node that serves: what is sent here reaches a real port of a real process."""

from __future__ import annotations

import contextlib
import random
import resource
import secrets
import socket
import struct
import threading
import time

import msgpack
import pytest
from riteraft_core._requests import Propose, Status
from riteraft_core.testing.eraftpb import Entry, Kind, Message, Snapshot
from riteraft_core.types import ConfState, Hello, RefusalCode, SnapshotMeta
from riteraft_transport_tcp._framing import (
    MAGIC,
    PROTOCOL,
    FrameDecoder,
    FrameError,
    encode,
    encode_call,
    encode_messages,
)
from riteraft_transport_tcp._handshake import Purpose, encode_hello

from riteraft_core import _requests
from riteraft_transport_tcp import _framing

from .attacker import STRANGER, Attacker, newcomer
from .target import Target

FRAME, CLOSED_WITHIN = "transport: frame", 10.0
"""A second is the goal; more is allowed to a machine that does something else besides."""


@pytest.fixture(autouse=True)
def _over_tcp(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--transport") != "tcp":
        pytest.skip("these bytes are tcp's")


def header(kind: int, length: int, *, magic: bytes = MAGIC, version: int = PROTOCOL) -> bytes:
    return struct.pack("!4sBBHQII", magic, version, kind, 0, 0, length, 0)


def test_s1_a_length_over_the_limit_is_refused_from_the_header(target: Target) -> None:
    lengths = (1025, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
    with target.attacked("S1") as attack:
        for length in lengths:  # before anybody is let in: 1 KiB
            with Attacker(target) as attacker:
                attacker.send(header(_framing.Kind.HELLO, length))
                assert attacker.closed() < CLOSED_WITHIN
        hello = newcomer(target)
        for length in lengths[2:]:  # after it: 16 MiB
            with Attacker(target) as attacker:
                assert attacker.greet(hello, Purpose.MESSAGES) is None
                attacker.send(header(_framing.Kind.MESSAGES, length) + bytes(100))
                assert attacker.closed() < CLOSED_WITHIN
        with Attacker(target) as attacker:
            attacker.send(encode(_framing.Kind.HELLO, 0, b""))
            assert attacker.closed() < CLOSED_WITHIN
        attack.wait_for(FRAME, len(lengths) + 4)


def test_s2_mutations_of_good_frames_over_the_wire(target: Target, chance: random.Random) -> None:
    hello = encode_hello(newcomer(target), Purpose.MESSAGES)
    batch = encode_messages(0, [b"not raft", b"", b"x" * 100])
    with target.attacked("S2") as attack:
        for _ in range(150):
            data = bytearray(hello if chance.random() < 0.5 else hello + batch)
            match chance.randrange(3):
                case 0:
                    del data[chance.randrange(len(data)) :]
                case 1:
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                case _:
                    data[:] = chance.randbytes(chance.randrange(1, 300))
            with Attacker(target) as attacker:
                attacker.send(bytes(data))
                with contextlib.suppress(OSError):
                    attacker.socket.shutdown(socket.SHUT_WR)
                attacker.closed()
        assert attack.counted(FRAME) >= 50


def test_s2_a_hundred_thousand_mutations_of_good_frames(chance: random.Random) -> None:
    # Only "rejected", "not whole yet", or the same message.
    good = [
        encode_messages(7, [b"first", b"", b"x" * 100]),
        encode_hello(Hello(b"c" * 16, 7, 2, b"d" * 16, 1), Purpose.SNAPSHOT, bytes(32)),
        encode_call(_framing.Kind.REQUEST, 7, 12, b"payload"),
        encode(_framing.Kind.CHUNK, 7, b"chunk"),
    ]
    whole = {bytes(frame.body) for data in good for frame in FrameDecoder(4096).feed(data)}
    for _ in range(100_000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 4)):
            match chance.randrange(4):
                case 0:
                    del data[chance.randrange(len(data)) :]
                case 1:
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                case 2:
                    data[chance.randrange(len(data)) :] = chance.randbytes(8)
                case _:
                    data += chance.choice(good)
            if not data:
                data += b"R"
        with contextlib.suppress(FrameError):
            assert {bytes(frame.body) for frame in FrameDecoder(4096).feed(bytes(data))} <= whole


def test_s3_who_is_not_what_it_says_is_refused_before_raft_sees_it(target: Target) -> None:
    ours = newcomer(target)
    me, follower = target.node.node_id, next(node for node in target.cluster.nodes if node is not target.node)
    refused = [
        (Hello(b"another cluster!", 0, 99, ours.disk_id, me), RefusalCode.CLUSTER),
        (Hello(ours.cluster_id, 7, 99, ours.disk_id, me), RefusalCode.GROUP),
        (Hello(ours.cluster_id, 0, 99, ours.disk_id, me + 1), RefusalCode.RECEIVER),
        (Hello(ours.cluster_id, 0, me, ours.disk_id, me), RefusalCode.FORBIDDEN),
        (Hello(ours.cluster_id, 0, follower.node_id, ours.disk_id, me), RefusalCode.DISK),
        (Hello(ours.cluster_id, 0, 0, b"", me), RefusalCode.FORBIDDEN),
    ]
    with target.attacked("S3") as attack:
        for hello, code in refused:
            with Attacker(target) as attacker:
                refusal = attacker.greet(hello, Purpose.MESSAGES)
                assert refusal is not None
                assert refusal.code is code
                assert attacker.closed() < CLOSED_WITHIN
        for data in (header(1, 0, magic=b"HTTP"), b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"):
            with Attacker(target) as attacker:
                attacker.send(data)
                assert attacker.closed() < CLOSED_WITHIN
        with Attacker(target) as attacker:
            attacker.send(header(1, 0, version=9))
            attacker.closed()
        with Attacker(target) as attacker:  # of another group than its hello
            assert attacker.greet(ours, Purpose.MESSAGES) is None
            attacker.send(encode_messages(7, [b"x"]))
            assert attacker.closed() < CLOSED_WITHIN
        for _, code in refused:
            assert attack.counted(f"transport: refused {code.value}") >= 1
        assert attack.counted(f"transport: refused {RefusalCode.VERSION.value}") == 1
        attack.wait_for(FRAME, 3)
        assert not [why for why in target.counters() if why.startswith("dropped") and attack.counted(why)]


def test_s4_forged_messages_are_dropped_before_raft_believes_them(target: Target, chance: random.Random) -> None:
    me, status = target.node.node_id, target.node.status()
    term, last, most = status["term"], status["last_index"], (1 << 64) - 1
    forged = [
        Message(Kind.HEARTBEAT, me, 99, term, commit=last + 1_000_000),
        Message(Kind.HEARTBEAT, me, 99, most, commit=1),
        Message(Kind.HEARTBEAT, me, 2, term, commit=1),
        Message(Kind.APPEND, me, 99, term, index=1, log_term=1, entries=[Entry(5, 1, b"gap")]),
        Message(Kind.APPEND, me, 99, most, index=1, log_term=1, entries=[Entry(2, 1)]),
        Message(Kind.APPEND, me, 99, term + (1 << 40), index=1, log_term=1),
        Message(Kind.APPEND_RESPONSE, me, 99, term, index=last + 1_000_000),
        Message(Kind.SNAPSHOT, me, 99, term, snapshot=Snapshot(last + 9, term, ConfState((99,)))),
        Message(Kind.TIMEOUT_NOW, me, 99, term),
        Message(Kind.HUP, me, 99, term),
        Message(Kind.PROPOSE, me, 99, term, entries=[Entry(0, 0, b"mine")]),
        Message(Kind.TRANSFER_LEADER, me, 99, term),
        Message(Kind.UNREACHABLE, me, 99, term),
        Message(77, me, 99, term),
        Message(Kind.VOTE, me, 99, 0, index=last, log_term=term),
    ]
    ignored = [  # not impossible, only of no use while there is a leader
        Message(Kind.VOTE, me, 99, term + 1, index=last + 100, log_term=term),
        Message(Kind.PRE_VOTE, me, 99, term + 1, index=last + 100, log_term=term),
    ]
    with target.attacked("S4") as attack, Attacker(target) as attacker:
        assert attacker.greet(newcomer(target), Purpose.MESSAGES) is None
        for _ in range(100):
            storm = [chance.choice(forged).encode() for _ in range(90)]
            storm += [chance.choice(ignored).encode() for _ in range(5)]
            storm += [chance.randbytes(chance.randrange(60)) for _ in range(5)]
            attacker.send(encode_messages(0, storm))

        def dropped() -> int:
            return sum(attack.counted(why) for why in target.counters() if why.startswith("dropped: "))

        from ..cluster.cluster import until

        until(lambda: dropped() >= 9_000, "9000 forged messages dropped")


def test_s7_slow_connections_keep_nobody_out(target: Target) -> None:
    hello = encode_hello(newcomer(target), Purpose.MESSAGES)
    with target.attacked("S7") as attack:
        crowd: list[socket.socket] = []
        try:
            crowd += (socket.create_connection(target.address, 30) for _ in range(500))
            for byte in hello[:3]:
                for slow in crowd:
                    with contextlib.suppress(OSError):
                        slow.send(bytes((byte,)))
                # Among them, one that means it well is let in at once.
                with Attacker(target) as honest:
                    assert honest.greet(STRANGER, Purpose.REQUEST) is None
                    assert honest.ask(_requests.encode(_requests.Who())).status is Status.OK
            # Half-open: says nothing more, and reads nothing.
            attack.wait_for("transport: unauthenticated", 500 - 64)
            inbound = [c for c in target.process.net_connections() if c.status == "ESTABLISHED"]
            assert len([c for c in inbound if c.laddr.port == target.address[1]]) <= 64 + 64 + 12
            attack.wait_for("transport: handshake-timeout", 1)
        finally:
            for slow in crowd:
                slow.close()


def test_s8_connections_that_come_and_go_leave_nothing(target: Target) -> None:
    with target.attacked("S8"):
        deadline, count = time.monotonic() + 5, 0
        while time.monotonic() < deadline:
            with socket.create_connection(target.address, 30) as come:
                if count % 3 == 0:  # with a reset, without a good-bye
                    come.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif count % 3 == 1:
                    come.send(b"R")
            count += 1
        assert count >= 500


def test_s8_a_node_without_files_to_open_goes_on(target: Target) -> None:
    pid = target.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    crowd: list[socket.socket] = []
    with target.attacked("S8, EMFILE") as attack:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (target.process.num_fds() + 10, hard))
        try:
            # The kernel takes these in; the node cannot.
            crowd += (socket.create_connection(target.address, 30) for _ in range(40))
            attack.wait_for("transport: accept", 2)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            for waiting in crowd:
                waiting.close()
        with Attacker(target) as honest:
            assert honest.greet(STRANGER, Purpose.REQUEST) is None
            assert honest.ask(_requests.encode(_requests.Who())).status is Status.OK


def test_s9_bombs_are_refused_for_little_memory(target: Target) -> None:
    size = 900_000
    bombs = [
        b"\x91" * size,
        b"\xdc\x00\x80" + (b"\xdc\x00\x80" + b"\x90" * 128) * (size // 131),
        b"\xdd\xff\xff\xff\xff" + b"\x80" * size,
        b"\xde\xff\xff" + b"\x80" * size,
        b"\xd9\x04\xff\xfe\xfd\xfc",  # a text that is no UTF-8
        msgpack.packb((1, 3, "\ud800".encode("utf-8", "surrogatepass"), b"d" * 16, "h:1", True)),
        b"",
    ]
    with target.attacked("S9") as attack, Attacker(target) as attacker:
        assert attacker.greet(STRANGER, Purpose.REQUEST) is None
        for number, bomb in enumerate(bombs):
            assert attacker.ask(bomb, number).status is Status.REFUSED
        # For a protobuf that nests without end, raft's decoder has a limit of its own.
        assert attack.counted("refused request: malformed") == len(bombs)
        with Attacker(target) as peer:
            assert peer.greet(newcomer(target), Purpose.MESSAGES) is None
            peer.send(encode_messages(0, [b"\x4a\xff\xff\xff\x7f" + b"\x4a\x7e" * 300_000]))
            attack.wait_for("dropped: undecodable", 1)


def test_s10_a_snapshot_that_is_not_wanted_or_not_whole_leaves_nothing(target: Target) -> None:
    victim = target
    far = SnapshotMeta(1 << 40, 1, ConfState((1, 2, 3)), b"state").encode()
    forged = Message(Kind.SNAPSHOT, victim.node.node_id, 99, 1).encode()
    files = sorted(path.name for path in victim.node.folder.rglob("*"))
    with target.attacked("S10"):
        for end in ("broken off", "wrong hash", "wrong size"):
            with Attacker(target) as attacker:
                assert attacker.greet(newcomer(target), Purpose.SNAPSHOT) is None
                attacker.send(encode(_framing.Kind.SNAPSHOT, 0, msgpack.packb((1, forged, far))))
                attacker.send(encode(_framing.Kind.CHUNK, 0, b"../../etc/passwd\0" * 10_000))
                if end != "broken off":
                    total = 170_000 if end == "wrong hash" else 5
                    attacker.send(_framing.encode_end(0, total, secrets.token_bytes(32)))
                    attacker.closed()
        with Attacker(target) as attacker:  # it has no end
            assert attacker.greet(newcomer(target), Purpose.SNAPSHOT) is None
            attacker.send(encode(_framing.Kind.SNAPSHOT, 0, msgpack.packb((1, forged, far))))
            for _ in range(24):
                attacker.send(encode(_framing.Kind.CHUNK, 0, bytes(1 << 18)))
            while (frame := attacker.frame()).kind == _framing.Kind.ALIVE:
                pass
            assert frame.kind == _framing.Kind.NOT_TAKEN
            assert b"max_snapshot_bytes = 4194304" in bytes(frame.body)
        for header_ in (b"", b"\xc1", msgpack.packb((9, forged, far)), msgpack.packb((1, forged, b"no meta"))):
            with Attacker(target) as attacker:
                assert attacker.greet(newcomer(target), Purpose.SNAPSHOT) is None
                attacker.send(encode(_framing.Kind.SNAPSHOT, 0, header_))
                while (frame := attacker.frame()).kind == _framing.Kind.ALIVE:
                    pass
                assert frame.kind == _framing.Kind.NOT_TAKEN
    assert sorted(path.name for path in victim.node.folder.rglob("*")) == files


def test_s13_a_flood_of_commands_is_told_to_come_back(target: Target) -> None:
    # 64 MiB of commands, eight times what may be in flight, by 8 clients that do not wait.
    command = b'["ballast?", "", "' + b"x" * (200 * 1024) + b'"]'
    seen: list[Status] = []

    def client() -> None:
        with Attacker(target) as attacker:
            assert attacker.greet(STRANGER, Purpose.REQUEST) is None
            data = _requests.encode(Propose(command, 30.0))
            flood = b"".join(encode_call(_framing.Kind.REQUEST, 0, number, data) for number in range(40))
            sending = threading.Thread(target=attacker.send, args=(flood,), daemon=True)
            sending.start()
            seen.extend(attacker.reply().status for _ in range(40))
            sending.join()

    # What is in flight stands in the queue, in the log, and on its way to two followers; and honest clients share the
    # disk with what was taken.
    with target.attacked("S13", memory=256 * 1024 * 1024, slowest=20.0):
        clients = [threading.Thread(target=client, daemon=True) for _ in range(8)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(120)
    assert len(seen) == 320
    assert set(seen) == {Status.OK, Status.RETRY}
