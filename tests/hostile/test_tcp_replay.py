"""Goal S5: what was recorded on the way is played again, whole and in another order, to the node it was meant for."""

from __future__ import annotations

import random
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from riteraft_core.testing.securities import Securities
from riteraft_transport_tcp._framing import FrameDecoder, Kind, encode

from ..cluster.cluster import Cluster, Load, until

LIMIT = 1 << 24


@pytest.fixture(autouse=True)
def _over_tcp(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--transport") != "tcp":
        pytest.skip("these bytes are tcp's")


class Tap:
    """Listens where a node says it does, passes everything on, and keeps what was said to the node."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.recorded: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def close(self) -> None:
        """End every connection through it."""
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                inbound, _ = self._listener.accept()
            except OSError:
                return
            try:
                outbound = socket.create_connection(self.target, 10)
            except OSError:
                inbound.close()
                continue
            self._sockets += (inbound, outbound)
            record = bytearray()
            self.recorded.append(record)
            threading.Thread(target=self._pump, args=(inbound, outbound, record), daemon=True).start()
            threading.Thread(target=self._pump, args=(outbound, inbound, bytearray()), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, record: bytearray) -> None:
        try:
            while data := source.recv(1 << 16):
                if len(record) < LIMIT:
                    record += data
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def tapped(folder: Path, security: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[Cluster, Tap]]:
    """Run three nodes; all that is said to the second one goes through a tap."""
    folder.mkdir()
    cluster = Cluster(folder, {"timing": {"election_timeout": 4.0}}, lambda name: security.get(name, {}))
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


def played_again(record: bytes, chance: random.Random, *, plain: bool) -> list[bytes]:
    """Return a recorded connection as it was and, if its frames are plain, with its batches in another order."""
    variants = [record]
    if plain:
        frames = FrameDecoder(LIMIT).feed(record)
        batches = [encode(Kind(frame.kind), frame.group, bytes(frame.body)) for frame in frames]
        rest = batches[1:]
        chance.shuffle(rest)
        variants.append(b"".join([batches[0], *rest, *rest]))
    return variants


@pytest.mark.parametrize("mode", ["none", "secret", "tls"])
def test_s5_what_was_recorded_changes_nothing_when_it_is_played_again(
    mode: str, tmp_path: Path, chance: random.Random
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

    with tapped(tmp_path / "nodes", security) as (cluster, tap):
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
                for variant in played_again(record, chance, plain=mode == "none"):
                    with socket.create_connection(tap.target, 30) as again, suppress(OSError):
                        again.settimeout(30)
                        again.sendall(variant)
                        if mode == "none":
                            load.wait_for_progress(5)
                        else:
                            while again.recv(1 << 16):
                                pass
                    played += 1
            load.wait_for_progress(50)
            if mode != "none":
                until(lambda: refused() - before >= played, f"{played} replays refused")
        load.judge()
