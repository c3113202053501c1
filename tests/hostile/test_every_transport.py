"""Goals S3 to S13 as far as they are the same whatever carries the bytes, against a node that serves.

What only one transport can be sent stands in `test_tcp.py` and `test_grpc.py`.
"""

from __future__ import annotations

import random
import resource
import secrets
import socket
import struct
import threading

import msgpack
import pytest
from riteraft_core._requests import Propose, Status
from riteraft_core.testing.eraftpb import Entry, Kind, Message, Snapshot
from riteraft_core.types import ConfState, Hello, RefusalCode, SnapshotMeta

from riteraft_core import _requests

from ..cluster.cluster import until
from .attacker import STRANGER, Errand
from .target import MEMORY, Attack, Target

CLOSED_WITHIN = 10.0
"""A second is the goal; more is allowed to a machine that does something else besides."""
RATE = 1000
"""Connections a second."""
BEHIND = {"tcp": 0.1, "grpc": 0.2}
"""Seconds that an honest write may take at the 99th percentile in a flood of commands: twice what is allowed elsewhere,
for machines that are half as fast. Those commands that are taken are written too, on three disks that are one here."""

pytestmark = pytest.mark.parametrize("target", ["tcp", "grpc"], indirect=True)


def test_s3_who_is_not_what_it_says_is_refused_before_raft_sees_it(target: Target) -> None:
    ours = target.newcomer()
    me, follower = target.node.node_id, next(node for node in target.cluster.nodes if node is not target.node)
    refused = [
        (Hello(b"another cluster!", 0, 99, ours.disk_id, me), RefusalCode.CLUSTER),
        (Hello(ours.cluster_id, 7, 99, ours.disk_id, me), RefusalCode.GROUP),
        (Hello(ours.cluster_id, 0, 99, ours.disk_id, me + 1), RefusalCode.RECEIVER),
        (Hello(ours.cluster_id, 0, me, ours.disk_id, me), RefusalCode.FORBIDDEN),
        (Hello(ours.cluster_id, 0, follower.node_id, ours.disk_id, me), RefusalCode.DISK),
        (Hello(ours.cluster_id, 0, target.removed, ours.disk_id, me), RefusalCode.REMOVED),
        (Hello(ours.cluster_id, 0, 0, b"", me), RefusalCode.FORBIDDEN),
    ]
    for attempt in target.attempts("S3"):
        with attempt as attack:
            for _ in attack.rounds():
                for errand in (Errand.MESSAGES, Errand.SNAPSHOT):
                    for hello, code in refused:
                        with target.attacker() as attacker:
                            refusal = attacker.greet(hello, errand)
                            assert refusal is not None
                            assert refusal.code is code
            for _, code in refused:
                assert attack.counted(f"transport: refused {code.value}") >= 2 * attack.round
            with target.attacker() as attacker:  # of another group than its hello
                assert attacker.greet(ours, Errand.MESSAGES) is None
                attacker.send_messages([b"x"], group=7)
                assert attacker.closed() < CLOSED_WITHIN
            attack.wait_for("transport: frame", 1)
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

    def dropped(attack: Attack) -> int:
        return sum(attack.counted(why) for why in target.counters() if why.startswith("dropped: "))

    for attempt in target.attempts("S4"):
        with attempt as attack, target.attacker() as attacker:
            assert attacker.greet(target.newcomer(), Errand.MESSAGES) is None
            for _ in attack.rounds():
                for _ in range(100):
                    storm = [chance.choice(forged).encode() for _ in range(90)]
                    storm += [chance.choice(ignored).encode() for _ in range(5)]
                    storm += [chance.randbytes(chance.randrange(60)) for _ in range(5)]
                    attacker.send_messages(storm)
                until(lambda: dropped(attack) >= 9_000 * attack.round, "the forged messages dropped")


def test_s8_connections_that_come_and_go_leave_nothing(target: Target) -> None:
    for attempt in target.attempts("S8"):
        with attempt as attack:
            for count in attack.rounds(seconds=5):
                with socket.create_connection(target.address, 30) as come:
                    if count % 3 == 0:  # with a reset, without a good-bye
                        come.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    elif count % 3 == 1:
                        come.send(b"R")
                attack.keep_to(count, RATE)
            if count < 0.8 * RATE * 5:
                attack.excess.append(f"only {count} connections")


def test_s8_a_node_without_files_to_open_goes_on(target: Target) -> None:
    pid = target.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    for attempt in target.attempts("S8, EMFILE"):
        crowd: list[socket.socket] = []
        with attempt as attack:
            few = target.process.num_fds() + 10
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, hard))
            try:
                # The kernel takes these in; the node cannot.
                crowd += (socket.create_connection(target.address, 30) for _ in range(40))
                until(lambda few=few: target.process.num_fds() >= few, "no descriptor left")  # type: ignore[misc]
                if target.transport == "tcp":  # gRPC counts nothing
                    attack.wait_for("transport: accept", 2)
                attack.last()
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
                for waiting in crowd:
                    waiting.close()
            target.serves_strangers()


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
    for attempt in target.attempts("S9"):
        with attempt as attack, target.attacker() as attacker:
            assert attacker.greet(STRANGER, Errand.REQUEST) is None
            for _ in attack.rounds():
                for bomb in bombs:
                    assert attacker.ask(bomb).status is Status.REFUSED
            assert attack.counted("refused request: malformed") == attack.round * len(bombs)
            # For a protobuf that nests without end, raft's decoder has a limit of its own.
            with target.attacker() as peer:
                assert peer.greet(target.newcomer(), Errand.MESSAGES) is None
                peer.send_messages([b"\x4a\xff\xff\xff\x7f" + b"\x4a\x7e" * 300_000])
                attack.wait_for("dropped: undecodable", 1)


def test_s10_a_snapshot_that_is_not_wanted_or_not_whole_leaves_nothing(target: Target) -> None:
    far = SnapshotMeta(1 << 40, 1, ConfState((1, 2, 3)), b"state").encode()
    forged = Message(Kind.SNAPSHOT, target.node.node_id, 99, 1).encode()
    header, path = msgpack.packb((1, forged, far)), b"../../etc/passwd\0" * 10_000
    files = sorted(path.name for path in target.node.folder.rglob("*"))
    for attempt in target.attempts("S10"):
        with attempt as attack:
            for _ in attack.rounds():
                with target.attacker() as attacker:
                    assert attacker.greet(target.newcomer(), Errand.SNAPSHOT) is None
                    attacker.send_header(header)
                    attacker.send_chunk(path)  # and no more
                for size in (len(path), 5):
                    with target.attacker() as attacker:
                        assert attacker.greet(target.newcomer(), Errand.SNAPSHOT) is None
                        attacker.send_header(header)
                        attacker.send_chunk(path)
                        attacker.send_end(size, secrets.token_bytes(32))
                        assert "does not match its size or its SHA-256" in attacker.verdict()
                with target.attacker() as attacker:  # it has no end
                    assert attacker.greet(target.newcomer(), Errand.SNAPSHOT) is None
                    attacker.send_header(header)
                    for _ in range(24):
                        attacker.send_chunk(bytes(1 << 18))
                    assert "max_snapshot_bytes = 4194304" in attacker.verdict()
                for malformed in (
                    b"",
                    b"\xc1",
                    msgpack.packb((9, forged, far)),
                    msgpack.packb((1, forged, b"no meta")),
                ):
                    with target.attacker() as attacker:
                        assert attacker.greet(target.newcomer(), Errand.SNAPSHOT) is None
                        attacker.send_header(malformed)
                        assert attacker.verdict()
    until(lambda: sorted(path.name for path in target.node.folder.rglob("*")) == files, "no file left of it")


def test_s13_a_flood_of_commands_is_told_to_come_back(target: Target) -> None:
    # 64 MiB of commands, eight times what may be in flight, by 8 clients that do not wait. What was taken stays in the
    # log, in memory too, until the next snapshot. gRPC has threads and so heaps of its own, and reads the beginning of
    # every request, whether the node has room for it or not. (With more cores its heaps are more.)
    command = b'["ballast?", "", "' + b"x" * (200 * 1024) + b'"]'
    memory = MEMORY if target.transport == "tcp" else MEMORY * 3 // 2
    taken = 0
    for attempt in target.attempts("S13", memory=memory, floor=BEHIND[target.transport]):
        seen: list[Status] = []

        def client(seen: list[Status] = seen) -> None:
            with target.attacker() as attacker:
                assert attacker.greet(STRANGER, Errand.REQUEST) is None
                replies = attacker.ask_all([_requests.encode(Propose(command, 30.0))] * 40)
                seen.extend(reply.status for reply in replies)

        with attempt as attack:
            clients = [threading.Thread(target=client, daemon=True) for _ in range(8)]
            for thread in clients:
                thread.start()
            for thread in clients:
                thread.join(120)
            assert len(seen) == 320
            assert set(seen) == {Status.OK, Status.RETRY}
            taken += len(command) * seen.count(Status.OK)
            attack.by_right = taken
