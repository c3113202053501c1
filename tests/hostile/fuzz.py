"""Bytes at random into everything that reads bytes of others, for as long as is wished: `nox -s fuzz -- 600`.

No socket and no clock: each reader is called as it is. Only its own exception may come of it. The first other one ends
the run; what was read, and the seed, are printed.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import riteraft_transport_grpc._wire as wire
from riteraft_core._requests import AskStatus, Forward, Join, Moved, Propose, Read, Remove, Reply, Status, Who
from riteraft_core.errors import AuthenticationError
from riteraft_core.security import read_principal
from riteraft_core.shared_secret import Dialler, Listener, Meeting, Secret
from riteraft_core.types import ConfState, Hello, Principal, PrincipalRole, Refusal, RefusalCode, SnapshotMeta
from riteraft_transport_grpc.transport_pb2 import Progress
from riteraft_transport_tcp._framing import (
    FrameDecoder,
    FrameError,
    Kind,
    decode_call,
    decode_end,
    decode_messages,
    encode,
    encode_call,
    encode_end,
    encode_messages,
)
from riteraft_transport_tcp._handshake import (
    Purpose,
    decode_answer,
    decode_hello,
    encode_hello,
    encode_refusal,
    encode_welcome,
)
from riteraft_transport_tcp._sealed import Records

from riteraft_core import _requests

SECONDS = 60.0
HELLO = Hello(b"c" * 16, 7, 2, b"d" * 16, 1)
SECRET = Secret(bytes(range(32)))
MEETING = Meeting("fuzz", "tcp messages", HELLO)


@dataclass(frozen=True)
class Reader:
    """One thing that reads: what it may raise, and good inputs to begin from."""

    read: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    good: Sequence[bytes]


def frames(data: bytes) -> None:
    """Read frames, and each body by everything that reads bodies."""
    for frame in FrameDecoder(1 << 16).feed(data):
        for body in (decode_messages, decode_call, decode_end):
            with contextlib.suppress(FrameError):
                body(frame.body)
        for handshake in (decode_hello, decode_answer):
            with contextlib.suppress(FrameError):
                handshake(frame)


def records(data: bytes) -> None:
    """Read records with seals that fit nothing."""
    dialler = Dialler(SECRET, MEETING)
    _, seals = dialler.prove(Listener(SECRET, MEETING, dialler.nonce, 1).challenge)
    assert Records(seals).feed(data) == b"", "a record that nobody sealed"


def exchange(data: bytes) -> None:
    """Take a challenge, a nonce and a proof."""
    for attempt in (
        lambda: Dialler(SECRET, MEETING).prove(data),
        lambda: Listener(SECRET, MEETING, data, 1),
        lambda: Listener(SECRET, MEETING, bytes(32), 1).check(data),
    ):
        with contextlib.suppress(AuthenticationError):
            attempt()


def grpc_messages(data: bytes) -> None:
    """Read a message of gRPC by everything that reads one, and a hello."""
    for decode in (wire.decode_batch, wire.decode_payload, wire.decode_header, wire.decode_part, wire.decode_progress):
        with contextlib.suppress(wire.WireError):
            decode(data, 7)
    for attempt in (
        lambda: wire.decode_hello([(wire.HELLO_KEY, data)]),
        lambda: wire.decode_refusal([(wire.REFUSAL_KEY, data)]),
        lambda: wire.decode_proof(data),
    ):
        with contextlib.suppress(wire.WireError):
            attempt()


READERS = {
    "frames": Reader(
        frames,
        (FrameError,),
        [
            encode_messages(7, [b"one", b"", b"x" * 50]),
            encode_hello(HELLO, Purpose.MESSAGES),
            encode_hello(HELLO, Purpose.REQUEST, bytes(32)),
            encode_welcome(7),
            encode_refusal(7, Refusal(RefusalCode.DISK, "why")),
            encode_call(Kind.REQUEST, 7, 1, b"payload"),
            encode_end(7, 5, bytes(32)),
            encode(Kind.CHALLENGE, 7, bytes(40)),
        ],
    ),
    "grpc messages": Reader(
        grpc_messages,
        (),
        [
            wire.encode_batch(7, [b"one", b"", b"x" * 50]),
            wire.encode_payload(7, b"payload"),
            wire.encode_header(7, b"header"),
            wire.encode_chunk(7, b"chunk"),
            wire.encode_end(7, 5, bytes(32)),
            wire.encode_progress(7, Progress.REFUSED, "why", code="disk"),
            wire.encode_proof(bytes(32)),
            wire.encode_hello(HELLO, bytes(32))[0][1],
        ],
    ),
    "records": Reader(records, (AuthenticationError,), [b"\0\0\0\4" + bytes(36)]),
    "exchange": Reader(exchange, (AuthenticationError,), [bytes(32), bytes(40)]),
    "requests": Reader(
        _requests.decode,
        (ValueError,),
        [
            _requests.encode(request)
            for request in (
                Forward([(b"c", b"d")] * 3),
                Read(),
                Join("fuzz", b"d" * 16, "h:1"),
                Remove(3),
                Who(),
                Moved(2, "h:1"),
                AskStatus(),
                Propose(b"command", 1.0),
            )
        ],
    ),
    "replies": Reader(
        lambda data: _requests.read_text(_requests.decode_reply(data)),
        (ValueError,),
        [_requests.encode_reply(Reply.retry("why")), _requests.encode_reply(Reply(Status.OK, (1, 2)))],
    ),
    "snapshot meta": Reader(
        SnapshotMeta.decode, (ValueError,), [SnapshotMeta(9, 2, ConfState((1, 2, 3)), b"state").encode()]
    ),
    "names": Reader(
        lambda data: read_principal([data.decode("latin-1")]),
        (AuthenticationError,),
        [Principal(PrincipalRole.NODE, "fuzz zoë", "n1").uri.encode()],
    ),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with a few changes, or nothing of it."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0:
                del changed[at:]
            case 1 if changed:
                changed[at % len(changed)] ^= 1 << chance.randrange(8)
            case 2:
                changed[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3 if changed:
                changed[at % len(changed)] = chance.choice((0, 0x7F, 0x80, 0x90, 0xC1, 0xDD, 0xFF))
            case 4:
                changed += data
            case _:
                changed[:] = chance.randbytes(chance.randrange(80))
    return bytes(changed)


def main(seconds: float, seed: int) -> None:
    """Read until the time is up."""
    chance = random.Random(seed)
    counts = dict.fromkeys(READERS, 0)
    print(f"seed {seed}, {seconds:g} s")  # noqa: T201
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, reader in READERS.items():
            for _ in range(200):
                data = mutated(chance.choice(reader.good), chance)
                counts[name] += 1
                try:
                    reader.read(data)
                except reader.raises:
                    pass
                except BaseException:
                    print(f"{name} raised for {data.hex()} (seed {seed})")  # noqa: T201
                    raise
    for name, count in counts.items():
        print(f"{count:>10} cases  {name}")  # noqa: T201


if __name__ == "__main__":
    given = sys.argv[1:]
    main(float(given[0]) if given else SECONDS, int(given[1]) if len(given) > 1 else secrets.randbits(32))
