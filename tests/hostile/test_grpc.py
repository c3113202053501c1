"""Goals S1 to S9 in bytes that only the transport `grpc` can be sent, against a node that serves.

The connections belong to gRPC's core. What its settings hold is asserted here; what they do not, with figures, stands
in `docs/grpc-limits.md`, and where a bound here is wider than the goal, it is the one that page gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
from collections.abc import Callable

import grpc
import pytest
import riteraft_transport_grpc._wire as wire
from riteraft_core._requests import Who
from riteraft_core.types import RefusalCode

from riteraft_core import _requests
from riteraft_transport_grpc import transport_pb2 as pb

from ..cluster.cluster import until
from . import http2
from .attacker import STRANGER, Errand, mutated
from .grpc_attacker import GrpcAttacker
from .http2 import Http2Line, Kind
from .tap import Tap
from .target import SECONDS, Target

FRAME, CLOSED_WITHIN = "transport: frame", 10.0
"""A second is the goal; more is allowed to a machine that does something else besides."""
MIB = 1024 * 1024
HANDSHAKE_TIMEOUT, FRAME_TIMEOUT, MAX_CONNECTIONS, MAX_REQUESTS, MAX_REQUEST_BYTES = 5.0, 10.0, 1024, 256, 32 * MIB
"""What the options of the transport are by default."""

CONNECTIONS = 500
"""New ones a second, each with calls in it: of more at once the node would hold more than it answers."""
FRAMES = 20_000
"""Frames a second, in a flood of them."""

over_grpc = pytest.mark.parametrize("target", ["grpc"], indirect=True)


@over_grpc
def test_s1_a_length_over_the_limit_is_refused_from_the_header(target: Target) -> None:
    hello = target.newcomer()
    for attempt in target.attempts("S1"):
        with attempt as attack:
            for _ in attack.rounds():
                for length in (16 * MIB + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1):  # of a message of gRPC
                    with Http2Line(target.address) as line:
                        line.send(http2.call(1, wire.MESSAGES, hello))
                        line.send(http2.frame(Kind.DATA, 0, 1, b"\0" + struct.pack("!I", length) + bytes(100)))
                        assert line.ended(1) < CLOSED_WITHIN
                for kind in (Kind.DATA, Kind.HEADERS, Kind.SETTINGS, 77):  # of a frame of HTTP/2
                    with Http2Line(target.address) as line:
                        line.send(http2.frame(kind, 0, 1, bytes(100), length=(1 << 24) - 1))
                        assert line.closed() < CLOSED_WITHIN
                for size in (40_000, 400_000):  # of what a call says before it is let in: 16 KiB
                    with Http2Line(target.address) as line:
                        line.send(long_call(("riteraft-hello-bin", "A" * size)))
                        assert line.ended(1) < CLOSED_WITHIN
            attack.wait_for(FRAME, 2 * attack.round)  # the last two, which were left without a hello


def long_call(*fields: tuple[str, str]) -> bytes:
    """Return a call whose header fields need more than one frame."""
    begun = http2.frames(http2.call(1, wire.REQUEST, None))[0][3] + http2.block(fields)
    pieces = [begun[start : start + http2.LARGEST] for start in range(0, len(begun), http2.LARGEST)]
    return b"".join(
        http2.frame(
            Kind.CONTINUATION if number else Kind.HEADERS,
            http2.END_HEADERS if number == len(pieces) - 1 else 0,
            1,
            piece,
        )
        for number, piece in enumerate(pieces)
    )


@over_grpc
def test_s1_a_strangers_large_requests_are_held_to_one_senders_room(target: Target) -> None:
    # gRPC knows one limit for all, so what is over max_stranger_frame is refused only once it is there: two of 15 MiB
    # at a time, by max_request_bytes. Beside the room for them gRPC holds what it has read of the next ones, and to
    # copy so much takes time.
    payload = wire.encode_payload(0, bytes(15 * MIB))
    for attempt in target.attempts("S1, stranger", memory=6 * MAX_REQUEST_BYTES, floor=0.3):
        with attempt as attack, GrpcAttacker(target.address, max_send_message_length=-1) as attacker:
            calls = [attacker.call(wire.REQUEST, payload, wire.encode_hello(STRANGER)) for _ in range(8)]
            for call in calls:
                assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert attack.counted(FRAME) == len(calls)


@over_grpc
def test_s2_mutations_of_a_good_conversation_over_the_wire(target: Target, chance: random.Random) -> None:
    tap = Tap(target.address)
    try:
        with GrpcAttacker(tap.where) as attacker:
            assert attacker.greet(target.newcomer(), Errand.MESSAGES) is None
            attacker.send_messages([b"not raft", b"", b"x" * 100])
            attacker.ask(_requests.encode(Who()))
        recorded = bytes(tap.recorded[0])
    finally:
        tap.close()
    assert b"not raft" in recorded
    beginning = len(http2.PREFACE + http2.SETTINGS)
    for attempt in target.attempts("S2"):
        with attempt as attack:
            for count in attack.rounds():
                data = mutated(recorded, chance)
                if count % 2:  # with a beginning that gets it further
                    data = recorded[:beginning] + mutated(recorded[beginning:], chance)
                with target.line() as line:
                    line.send(data)
                    line.finish()
                    assert line.closed() < CLOSED_WITHIN
                attack.keep_to(count, CONNECTIONS)
            assert count >= 50
            assert attack.counted(FRAME) >= 1


def test_s2_a_hundred_thousand_mutations_of_good_messages(chance: random.Random) -> None:
    # Only "rejected" or the same message, by each of those who read.
    kinds: list[tuple[bytes, Callable[[bytes, int], object]]] = [
        (wire.encode_batch(7, [b"first", b"", b"x" * 100]), wire.decode_batch),
        (wire.encode_payload(7, b"payload" * 9), wire.decode_payload),
        (wire.encode_header(7, b"header" * 9), wire.decode_header),
        (wire.encode_chunk(7, b"chunk" * 9), wire.decode_part),
    ]
    for _ in range(25_000):
        for encoded, decode in kinds:
            data = mutated(encoded, chance, [encoded])
            with contextlib.suppress(wire.WireError):
                found = decode(data, 7)
                # A snapshot's end has no checksum: it is one, of everything before.
                assert found == decode(encoded, 7) or (decode is wire.decode_part and isinstance(found, tuple))
    ((key, hello),) = wire.encode_hello(STRANGER, bytes(32))
    for _ in range(10_000):
        with contextlib.suppress(wire.WireError):
            wire.decode_hello([(key, mutated(hello, chance))])
        with contextlib.suppress(wire.WireError):
            wire.decode_proof(mutated(wire.encode_proof(bytes(32)), chance))


@over_grpc
def test_s3_what_speaks_another_protocol_is_turned_away(target: Target) -> None:
    others = (b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n", bytes(300), b"RTRT" + bytes(20))
    later = pb.Hello(protocol=9, node_id=2).SerializeToString()
    for attempt in target.attempts("S3, protocol"):
        with attempt as attack:
            for _ in attack.rounds():
                for data in others:
                    with target.line() as line:
                        line.send(data)
                        assert line.closed() < CLOSED_WITHIN
                with GrpcAttacker(target.address) as attacker:
                    for method, metadata, code in (
                        (wire.MESSAGES, ((wire.HELLO_KEY, later),), grpc.StatusCode.PERMISSION_DENIED),
                        (wire.MESSAGES, ((wire.HELLO_KEY, b"\xff"),), grpc.StatusCode.INVALID_ARGUMENT),
                        (wire.MESSAGES, (), grpc.StatusCode.INVALID_ARGUMENT),
                        (wire.SNAPSHOT, wire.encode_hello(STRANGER) * 2, grpc.StatusCode.INVALID_ARGUMENT),
                        (f"/{wire.SERVICE}/Shutdown", (), grpc.StatusCode.UNIMPLEMENTED),
                    ):
                        assert attacker.call(method, b"", metadata).code() is code
            assert attack.counted(f"transport: refused {RefusalCode.VERSION.value}") >= attack.round
            assert attack.counted(FRAME) >= 3 * attack.round


@over_grpc
def test_s3_a_name_that_is_no_text_ends_nothing(target: Target) -> None:
    # With grpcio 1.84 and 1.85 one such path ended the node's server, for anybody who could reach the port; and each
    # such field was logged with its bytes and a traceback.
    mark = "payload-in-no-log"
    for attempt in target.attempts("S3, no text"):
        with attempt as attack:
            for _ in attack.rounds():
                with Http2Line(target.address) as line:
                    for stream, (path, value) in enumerate(((b"\xf3", b"x"), (wire.MESSAGES.encode(), b"\xf3")), 1):
                        fields = [(b"x-name", mark.encode() + value), (b"x-\xf3", mark.encode())]
                        begun = http2.frames(http2.call(1, "/", None))[0][3].replace(
                            b"\x01/", bytes((len(path),)) + path
                        )
                        line.send(http2.frame(Kind.HEADERS, 5, 2 * stream - 1, begun + http2.raw_block(fields)))
                        line.ended(2 * stream - 1)
                with GrpcAttacker(target.address) as attacker:  # where gRPC itself reads the message
                    call = attacker.call("/grpc.health.v1.Health/Check", b"\xff" + mark.encode(), ())
                    assert call.code() is grpc.StatusCode.UNKNOWN
                target.serves_strangers()
            assert attack.counted("transport: encoding") >= 2 * attack.round
        assert mark not in target.node.log


@over_grpc
def test_s7_slow_connections_keep_nobody_out(target: Target) -> None:
    # Of those who have not been let in gRPC has no bound but `max_connections`; what holds is how long each may stay.
    for attempt in target.attempts("S7"):
        crowd: list[socket.socket] = []
        with attempt, Http2Line(target.address) as half:
            try:
                half.send(http2.call(1, wire.REQUEST, STRANGER))  # and never its request
                crowd += (socket.create_connection(target.address, 30) for _ in range(500))
                for byte in http2.PREFACE[:3]:
                    for slow in crowd[250:]:
                        with contextlib.suppress(OSError):
                            slow.send(bytes((byte,)))
                    target.serves_strangers()
                until(lambda: target.connections >= 500, "all of them taken in")
                assert target.connections <= MAX_CONNECTIONS
                until(lambda: target.connections < 100, "all of them sent away", HANDSHAKE_TIMEOUT + CLOSED_WITHIN)
                assert half.ended(1) < FRAME_TIMEOUT + CLOSED_WITHIN
            finally:
                for slow in crowd:
                    slow.close()


@over_grpc
def test_s7_who_never_reads_its_answers_holds_up_itself_alone(target: Target) -> None:
    # Nothing in gRPC ends its calls. Each keeps its place, so that there are never more than `max_requests` of it.
    question = wire.encode_payload(0, _requests.encode(Who()))
    for attempt in target.attempts("S7, unread"):
        with attempt as attack, Http2Line(target.address, http2.READS_NOTHING) as line:
            for number in range(8 * MAX_REQUESTS):
                stream = 2 * number + 1
                line.send(http2.call(stream, wire.REQUEST, STRANGER) + http2.message(stream, question, end=True))
                attack.keep_to(number, 1000)
            target.serves_strangers()


@over_grpc
@pytest.mark.parametrize("flood", ["resets", "continuations", "pings", "settings", "empty data", "priorities"])
def test_s7_frames_without_end_hold_up_themselves_alone(target: Target, flood: str) -> None:
    # At a rate: as many pings as a core can send cost gRPC more than another core, which docs/grpc-limits.md tells.
    hello = target.newcomer()
    for attempt in target.attempts(f"S7, {flood}"):
        with attempt as attack:
            sent = connections = 0
            while sent < FRAMES * SECONDS:
                connections += 1
                with Http2Line(target.address) as line:
                    if flood == "continuations":
                        line.send(http2.frame(Kind.HEADERS, 0, 1, http2.block([("a", "b")])))
                    elif flood == "empty data":
                        line.send(http2.call(1, wire.MESSAGES, hello))
                    for number in range(100):
                        line.send(b"".join(one_of(flood, 100 * number + each) for each in range(100)))
                        sent += 100
                        attack.keep_to(sent, FRAMES)
            assert connections > 1
            # Calls that were reset stand in line all the same, and gRPC turns new ones away for as long as it is full.
            until(lambda: served(target), "strangers served again", CLOSED_WITHIN)


def served(target: Target) -> bool:
    try:
        target.serves_strangers()
    except grpc.RpcError:
        return False
    return True


def one_of(flood: str, number: int) -> bytes:
    match flood:
        case "resets":
            return http2.call(2 * number + 1, wire.REQUEST, STRANGER) + http2.frame(
                Kind.RST_STREAM, 0, 2 * number + 1, bytes(4)
            )
        case "continuations":
            return http2.frame(Kind.CONTINUATION, 0, 1, http2.block([("a", "b")]))
        case "pings":
            return http2.frame(Kind.PING, 0, 0, struct.pack("!Q", number))
        case "settings":
            return http2.frame(Kind.SETTINGS, 0, 0, struct.pack("!HI", 4, number))
        case "empty data":
            return http2.frame(Kind.DATA, 0, 1)
        case _:
            return http2.frame(Kind.PRIORITY, 0, 2 * number + 1, bytes(5))


@over_grpc
def test_s9_what_is_small_and_would_become_large_is_not_opened(target: Target) -> None:
    zeros = wire.encode_payload(0, bytes(15 * MIB))
    entry = b"\x40" + b"\x01a" + b"\x7f\x81\x1e" + b"x" * 3968  # a header field for the dynamic table: 4000 bytes
    many = entry + b"\xbe" * 12_000  # and 12,000 times that one: 48 MB
    for attempt in target.attempts("S9, compressed"):
        with attempt as attack, GrpcAttacker(target.address, default_compression_algorithm=2) as attacker:
            for _ in attack.rounds():
                call = attacker.call(wire.REQUEST, zeros, wire.encode_hello(STRANGER))
                assert call.code() is grpc.StatusCode.UNIMPLEMENTED
                with Http2Line(target.address) as line:
                    line.send(http2.frame(Kind.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, many))
                    assert line.ended(1) < CLOSED_WITHIN


@over_grpc
def test_s10_a_snapshot_with_its_parts_in_another_order_is_not_taken(target: Target) -> None:
    chunk = wire.encode_chunk(0, b"chunk")
    end = wire.encode_end(0, 5, hashlib.sha256(b"chunk").digest())
    header = wire.encode_header(0, b"\x93\x01\xc4\x00\xc4\x00")
    for attempt in target.attempts("S10, order"):
        with attempt as attack:
            for _ in attack.rounds():
                for parts in ([chunk], [end], [header, header], [header, chunk, chunk, end], [header, b"\xff"], [b""]):
                    with GrpcAttacker(target.address) as attacker:
                        assert attacker.greet(target.newcomer(), Errand.SNAPSHOT) is None
                        for part in parts:
                            attacker.send(part)
                        if parts[0] is header:
                            assert attacker.verdict()
                        else:
                            assert attacker.ended() is grpc.StatusCode.INVALID_ARGUMENT
