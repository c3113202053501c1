"""Goal S5: what was recorded on the way is played again, whole and in another order, to the node it was meant for."""

from __future__ import annotations

import random
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from riteraft_core.testing.securities import Securities
from riteraft_transport_tcp._framing import FrameDecoder, Kind, encode

from ..cluster.cluster import Cluster, Load, until
from . import http2
from .tap import LIMIT, Tap


@contextmanager
def tapped(folder: Path, transport: str, security: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[Cluster, Tap]]:
    """Run three nodes; all that is said to the second one goes through a tap."""
    folder.mkdir()
    cluster = Cluster(
        folder, {"transport": transport, "timing": {"election_timeout": 4.0}}, lambda name: security.get(name, {})
    )
    tap: Tap | None = None
    try:
        founder = cluster.add().start(bootstrap=True).ready()
        second = cluster.add()
        host, _, port = second.address.rpartition(":")
        tap = Tap((host, int(port)))
        second.start(peers=[founder.address], advertise=tap.address).ready()
        cluster.add().start(peers=[founder.address]).ready()
        cluster.wait_for_voters(*cluster.nodes)
        yield cluster, tap
    finally:
        if tap is not None:
            tap.close()
        cluster.end()


def played_again(record: bytes, chance: random.Random, transport: str) -> list[bytes]:
    """Return a recorded connection as it was, and twice with what it said in another order."""
    reorder = reordered_frames if transport == "tcp" else reordered_calls
    return [record, *(reorder(record, chance) for _ in range(2))]


def reordered_frames(record: bytes, chance: random.Random) -> bytes:
    frames = FrameDecoder(LIMIT).feed(record)
    hello, *rest = [encode(Kind(frame.kind), frame.group, bytes(frame.body)) for frame in frames]
    chance.shuffle(rest)
    return b"".join([hello, *rest, *rest])


def reordered_calls(record: bytes, chance: random.Random) -> bytes:
    """Return every call with its own headers, in order since they build on each other, and its messages shuffled."""
    calls, said = [], dict[int, bytearray]()
    for kind, flags, stream, payload in http2.frames(record.removeprefix(http2.PREFACE)):
        if kind == http2.Kind.HEADERS:
            calls.append(http2.frame(kind, flags & ~http2.END_STREAM, stream, payload))
        elif kind == http2.Kind.DATA:
            said.setdefault(stream, bytearray()).extend(payload)
    messages = [
        http2.message(stream, message) for stream, data in said.items() for message in http2.messages(bytes(data))
    ]
    chance.shuffle(messages)
    return b"".join([http2.PREFACE, http2.SETTINGS, *calls, *messages, *messages])


@pytest.mark.parametrize("mode", ["none", "secret", "tls"])
@pytest.mark.parametrize("transport", ["tcp", "grpc"])
def test_s5_what_was_recorded_changes_nothing_when_it_is_played_again(
    transport: str, mode: str, tmp_path: Path, chance: random.Random
) -> None:
    security: dict[str, dict[str, str]] = {}
    securities = Securities(tmp_path / "securities", "tests")
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(32))
    for name in ("n1", "n2", "n3"):
        if mode == "secret":
            security[name] = {"secret_file": str(secret)}
        elif mode == "tls":
            found = securities.options(name).model_dump(exclude_none=True)
            security[name] = {field: str(path) for field, path in found.items()}

    with tapped(tmp_path / "nodes", transport, security) as (cluster, tap):
        second = cluster[2]

        def refused() -> int:
            found = Counter(second.status()["counters"])
            return sum(found[f"transport: {why}"] for why in ("forgery", "frame", "tls"))

        with Load(cluster, seed=chance.randrange(1 << 30)) as load:
            load.wait_for_progress(100)
            records = [bytes(record) for record in tap.recorded if len(record) > 1000]
            assert records, "nothing was recorded"
            before, played = refused(), 0
            for record in records:
                for variant in played_again(record, chance, transport) if mode == "none" else [record]:
                    with socket.create_connection(tap.target, 30) as again, suppress(OSError):
                        again.settimeout(30)
                        again.sendall(variant)
                        if mode == "none":
                            load.wait_for_progress(5)
                        elif transport == "grpc" and mode == "secret":
                            until(lambda: refused() - before > played, "a replay refused")  # noqa: B023
                        else:
                            while again.recv(1 << 16):
                                pass
                    played += 1
            load.wait_for_progress(50)
            if mode != "none" and (transport, mode) != ("grpc", "tls"):  # gRPC does not count failed handshakes
                until(lambda: refused() - before >= played, f"{played} replays refused")
        load.judge()
