"""The framing and the handshake without a socket: whatever the bytes, they are rejected or mean what was sent."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from zlib import crc32

import pytest
from riteraft_core.types import Hello, Refusal, RefusalCode
from riteraft_transport_tcp._framing import (
    HEADER_SIZE,
    MAGIC,
    PROTOCOL,
    Frame,
    FrameDecoder,
    FrameError,
    Kind,
    VersionError,
    decode_call,
    decode_end,
    decode_messages,
    encode,
    encode_call,
    encode_end,
    encode_messages,
    expect,
)
from riteraft_transport_tcp._handshake import (
    MAX_HELLO,
    MAX_REFUSAL_TEXT,
    Purpose,
    decode_answer,
    decode_hello,
    encode_hello,
    encode_refusal,
    encode_welcome,
)

LIMIT = 1 << 20
HELLO = Hello(cluster_id=bytes(range(16)), group=3, node_id=2, disk_id=bytes(16), to=1)


def frames_of(data: bytes, limit: int = LIMIT) -> list[Frame]:
    return FrameDecoder(limit).feed(data)


def plain(frames: list[Frame]) -> list[tuple[int, int, bytes]]:
    return [(frame.kind, frame.group, bytes(frame.body)) for frame in frames]


def one_frame(data: bytes) -> Frame:
    (frame,) = frames_of(data)
    return frame


# One of each kind that has a body of its own.
GOOD = {
    "messages": encode_messages(7, [b"first", b"", b"x" * 100]),
    "no messages": encode_messages(7, []),
    "hello": encode_hello(HELLO, Purpose.SNAPSHOT),
    "welcome": encode_welcome(7),
    "refusal": encode_refusal(7, Refusal(RefusalCode.DISK, "not your disk")),
    "request": encode_call(Kind.REQUEST, 7, 12, b"payload"),
    "chunk": encode(Kind.CHUNK, 7, b"chunk"),
    "end": encode_end(7, 1 << 40, bytes(32)),
}


@pytest.fixture(params=list(GOOD.values()), ids=list(GOOD))
def good(request: pytest.FixtureRequest) -> bytes:
    data: bytes = request.param
    return data


def test_every_prefix_of_a_good_frame_waits_for_the_rest(good: bytes) -> None:
    whole = plain(frames_of(good))
    for cut in range(len(good)):
        decoder = FrameDecoder(LIMIT)
        assert decoder.feed(good[:cut]) == []
        assert decoder.partial == (cut > 0)
        assert plain(decoder.feed(good[cut:])) == whole
        assert not decoder.partial


def test_every_single_flipped_bit_is_found(good: bytes) -> None:
    # Rejected, or, where the length grew, still waiting for bytes that do not come: never another frame.
    for bit in range(8 * len(good)):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(FrameError):
            assert frames_of(bytes(flipped)) == [], f"bit {bit}"


def test_frames_survive_any_cutting_of_the_stream() -> None:
    chance = random.Random(3)
    stream = b"".join(GOOD.values()) * 20
    whole = plain(frames_of(stream))
    assert len(whole) == 20 * len(GOOD)
    for _ in range(100):
        decoder = FrameDecoder(LIMIT)
        frames = []
        rest = stream
        while rest:
            size = chance.choice((1, 5, HEADER_SIZE, 100, 5000))
            piece, rest = rest[:size], rest[size:]
            frames += decoder.feed(piece)
        assert plain(frames) == whole
        assert not decoder.partial


def test_random_bytes_are_rejected_by_nothing_but_a_frame_error() -> None:
    chance = random.Random(20)
    for _ in range(80_000):
        data = chance.randbytes(chance.randrange(1, 80))
        with contextlib.suppress(FrameError):
            assert frames_of(data) == []


def test_random_bytes_behind_a_right_checksum_are_rejected_or_read() -> None:
    # What an attacker sends who knows the format: no body makes a decoder raise anything but FrameError.
    chance = random.Random(21)
    for _ in range(20_000):
        kind = chance.choice(list(Kind))
        body = chance.randbytes(chance.choice((0, 1, 3, 4, 8, 22, 23, 40, chance.randrange(200))))
        if chance.random() < 0.5 and len(body) >= 4:
            body = struct.pack("!I", chance.randrange(6)) + body[4:]
        frame = one_frame(encode(kind, 7, body))
        for decode in (decode_messages, decode_call, decode_end):
            with contextlib.suppress(FrameError):
                decode(frame.body)
        for handshake in (decode_hello, decode_answer):
            with contextlib.suppress(FrameError):
                handshake(frame)


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_over_the_limit_is_refused_from_the_header(length: int) -> None:
    header = struct.pack("!4sBBHQII", MAGIC, PROTOCOL, Kind.MESSAGES, 0, 7, length, 0)
    with pytest.raises(FrameError, match="over the limit"):
        frames_of(header)


def test_a_claimed_length_takes_no_memory() -> None:
    header = struct.pack("!4sBBHQII", MAGIC, PROTOCOL, Kind.MESSAGES, 0, 7, 1 << 30, 0)
    decoder = FrameDecoder(1 << 30)
    tracemalloc.start()
    try:
        for byte in header + bytes(1000):
            decoder.feed(bytes((byte,)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.partial
    assert peak < 64 * 1024


def test_a_frame_at_the_limit_is_taken() -> None:
    assert len(one_frame(encode(Kind.CHUNK, 7, bytes(LIMIT))).body) == LIMIT


def test_wrong_magic_is_refused_before_anything_else() -> None:
    with pytest.raises(FrameError, match="magic"):
        frames_of(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")


def test_another_version_is_told_apart() -> None:
    data = bytearray(encode_hello(HELLO, Purpose.MESSAGES))
    data[4] = 9
    with pytest.raises(VersionError) as caught:
        frames_of(bytes(data))
    assert caught.value.theirs == 9


def test_a_refusal_of_another_version_is_understood() -> None:
    # So that two versions can tell each other that they are two.
    data = bytearray(encode_refusal(7, Refusal(RefusalCode.VERSION, "too old")))
    data[4] = 9
    data[20:24] = struct.pack("!I", crc32(data[24:], crc32(data[:20])))
    assert decode_answer(one_frame(bytes(data))) == Refusal(RefusalCode.VERSION, "too old")


def test_flags_of_a_later_version_are_refused() -> None:
    data = bytearray(encode_welcome(7))
    data[7] = 1
    with pytest.raises(FrameError, match="flags"):
        frames_of(bytes(data))


def test_views_stay_valid_when_more_bytes_come() -> None:
    decoder = FrameDecoder(LIMIT)
    data = encode(Kind.CHUNK, 7, b"first") + encode(Kind.CHUNK, 7, b"second")
    assert decoder.feed(data[:3]) == []
    (first,) = decoder.feed(data[3:40])
    (second,) = decoder.feed(data[40:])
    assert (bytes(first.body), bytes(second.body)) == (b"first", b"second")


def test_messages_come_back() -> None:
    messages = [b"", b"a", bytes(70_000)]
    assert decode_messages(one_frame(encode_messages(7, messages)).body) == messages


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        struct.pack("!I", 1),
        struct.pack("!I", 0xFFFFFFFF),
        struct.pack("!2I", 1, 5) + b"four",
        struct.pack("!2I", 1, 5) + b"sixsix",
        struct.pack("!3I", 2, 0xFFFFFFFF, 1),
    ],
)
def test_a_batch_that_does_not_add_up_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        decode_messages(memoryview(body))


def test_frames_of_a_wrong_kind_or_group_are_refused() -> None:
    frame = one_frame(encode(Kind.CHUNK, 7, b""))
    expect([frame], 7, Kind.CHUNK)
    with pytest.raises(FrameError, match="CHUNK"):
        expect([frame], 7, Kind.MESSAGES)
    with pytest.raises(FrameError, match="group"):
        expect([frame], 8, Kind.CHUNK)


@pytest.mark.parametrize("hello", [HELLO, Hello(b"", 0, 0, b"", 0), Hello(b"c" * 255, 1 << 63, 1, b"d" * 255, 2)])
@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_hello_comes_back(hello: Hello, purpose: Purpose) -> None:
    data = encode_hello(hello, purpose)
    assert len(data) <= MAX_HELLO
    assert decode_hello(one_frame(data)) == (hello, purpose, b"")
    nonce = bytes(range(32))
    assert decode_hello(one_frame(encode_hello(hello, purpose, nonce))) == (hello, purpose, nonce)


@pytest.mark.parametrize("offset", [0, 1], ids=["purpose", "authentication"])
def test_a_hello_that_asks_for_what_is_not_known_is_refused(offset: int) -> None:
    body = bytearray(one_frame(encode_hello(HELLO, Purpose.MESSAGES)).body)
    body[offset] = 200
    with pytest.raises(FrameError, match="200"):
        decode_hello(one_frame(encode(Kind.HELLO, 3, bytes(body))))


@pytest.mark.parametrize("code", list(RefusalCode))
def test_a_refusal_comes_back(code: RefusalCode) -> None:
    refusal = Refusal(code, "não")
    assert decode_answer(one_frame(encode_refusal(7, refusal))) == refusal
    assert decode_answer(one_frame(encode_welcome(7))) is None


def test_a_long_refusal_is_cut_so_that_it_can_be_read() -> None:
    data = encode_refusal(7, Refusal(RefusalCode.DISK, "é" * 10_000))
    assert len(data) < MAX_HELLO
    answer = decode_answer(one_frame(data))
    assert answer is not None
    assert answer.text.startswith("é" * (MAX_REFUSAL_TEXT // 2 - 1))


def test_a_refusal_with_a_code_of_a_later_version_is_a_refusal() -> None:
    frame = one_frame(encode(Kind.REFUSED, 7, b"\x05later", b"come back"))
    assert decode_answer(frame) == Refusal(RefusalCode.FORBIDDEN, "come back")
