"""How long a start takes, and how much memory, with a long log behind the snapshot (`START_ENTRIES=1000000`)."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import psutil
from riteraft_core._applier import in_chunks
from riteraft_core._envelope import Kind
from riteraft_core._replica import FOUNDING, found
from riteraft_core.protocols import StorageContext
from riteraft_core.types import HardState, Identity, LogBatch, LogRow

from riteraft_core import _envelope
from riteraft_storage_sqlite import SqliteOptions, open_sqlite
from tests.cluster.cluster import Cluster
from tests.cluster.node_process import Lists

ENTRIES = int(os.environ.get("START_ENTRIES", "100000"))
SECONDS = 3.0 if ENTRIES <= 100_000 else 15 * ENTRIES / 1_000_000
"""What a start may take; judged by the processor's time, for the machine may have other work."""
SAVED_AT_ONCE = 1000


def encoded(index: int, context: bytes, data: bytes) -> LogRow:
    """Return a row of the log, with an eraftpb entry of term 1."""
    return (
        index,
        1,
        b"\x10\x01\x18" + varint(index) + b"\x22" + varint(len(data)) + data + b"\x32" + varint(len(context)) + context,
    )


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7

    return bytes([*out, number])


def log_rows() -> Iterator[LogRow]:
    """Yield a session's opening and its commands: small ones, for bytes alone would call for a snapshot too."""
    session = 2
    yield encoded(session, _envelope.context(Kind.OPEN_SESSION), _envelope.pack_open_session(1, b"nonce"))
    for number in range(ENTRIES):
        command = json.dumps(["append", f"key{number % 1000}", "x"]).encode()
        yield encoded(session + 1 + number, _envelope.command_context(session, number, number), command)


async def fill(folder: Path, address: str) -> None:
    identity = Identity("tests", secrets.token_bytes(16), 0, 1, secrets.token_bytes(16))
    context = StorageContext(folder, 0, logging.getLogger("riteraft"))
    async with open_sqlite(SqliteOptions(), context) as storage:
        await storage.create(identity)
        empty = Lists(()).snapshot()
        token = await storage.stage_snapshot(found(identity, address), in_chunks(empty))
        await storage.save(LogBatch(token, FOUNDING))
        batch: list[LogRow] = []
        for row in log_rows():
            batch.append(row)
            if len(batch) == SAVED_AT_ONCE:
                await storage.save(LogBatch(None, None, batch))
                batch = []

        await storage.save(LogBatch(None, HardState(1, 0, ENTRIES + 2), batch))


def peak_megabytes(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024

    raise AssertionError("the kernel does not tell")


def test_a_start_with_a_long_log_is_fast(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, {"snapshot": {"entries": 10 * ENTRIES, "bytes": 1000 * ENTRIES}})
    node = cluster.add()
    try:
        anyio.run(fill, node.folder, node.address)
        began = time.monotonic()
        node.start().ready()
        node.propose("append", "k", "served")
        took = time.monotonic() - began
        assert node._process is not None
        process = psutil.Process(node._process.pid)
        busy = sum(process.cpu_times()[:2])
        peak = peak_megabytes(process.pid)
        size = sum(path.stat().st_size for path in node.folder.iterdir()) / 1e6
        print(  # noqa: T201
            f"{ENTRIES} entries, {size:.0f} MB: serves {took:.1f} s after its start, {busy:.1f} s of them at work, "
            f"{peak:.0f} MB at most"
        )
        assert len(node.read("key7")) == ENTRIES // 1000
        assert node.status()["applied"] > ENTRIES
        assert busy < SECONDS
        assert peak < 150 + ENTRIES / 1000, "MB: about 1 kB an entry, the Store's own included"
    finally:
        cluster.end()
