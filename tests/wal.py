"""SQLite's WAL as a file, for tests that damage it."""

from __future__ import annotations

import struct
from pathlib import Path


def end_of_frames(wal: Path) -> int:
    """Return where the frames of this round end: behind them are zeros, or frames of an earlier one."""
    data = wal.read_bytes()
    (page,), salt, end = struct.unpack_from(">I", data, 8), data[16:24], 32
    while data[end + 8 : end + 16] == salt:
        end += 24 + page

    return end
