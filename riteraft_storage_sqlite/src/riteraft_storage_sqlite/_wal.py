"""A look at a WAL before SQLite opens it, for durable transactions that stand behind a damaged place.

SQLite reads a WAL up to the first frame whose checksum is wrong and silently drops the rest. After a crash that is
right: the last transaction may be torn. For a byte that flipped further up it is not: saves that were reported durable
would be gone, and the next checkpoint would remove the last trace of them.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_MAGIC = 0x377F0682  # the lowest bit says that checksums are over big-endian words
_HEADER = struct.Struct(">8I")  # magic, format, page size, checkpoint number, salt (2), checksum (2)
_FRAME = struct.Struct(">6I")  # page number, database size after a commit or 0, salt (2), checksum (2)


def damage(path: Path) -> str | None:
    """Say where the WAL at `path` is damaged if durable transactions stand behind that place; else return None."""
    try:
        with path.open("rb") as wal:
            return _damage(wal)
    except FileNotFoundError:
        return None


def _damage(wal: BinaryIO) -> str | None:
    header = wal.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None  # SQLite writes the header in one go: nothing was ever behind it

    magic, _, page_size, _, *salt, first, second = _HEADER.unpack(header)
    order = ">" if magic & 1 else "<"
    sums = _checksum(order, header[:24], (0, 0))
    if magic & ~1 != _MAGIC or sums != (first, second):
        # SQLite would take the whole file for empty; the header is synced before the first frame is written.
        return "its header does not match its checksum, and frames stand behind it" if wal.read(1) else None

    sound = True
    place = 0  # of the first frame that SQLite would drop
    committed = False  # a commit was seen at or after that place
    number = 0
    while len(frame := wal.read(_FRAME.size + page_size)) == _FRAME.size + page_size:
        number += 1
        _, size_after, salt_1, salt_2, first, second = _FRAME.unpack_from(frame)
        same_salt = [salt_1, salt_2] == salt  # else the frame is of an earlier round of this file, or damaged
        if sound:
            sums = _checksum(order, frame[_FRAME.size :], _checksum(order, frame[:8], sums))
            if same_salt and sums == (first, second):
                continue

            sound, place = False, number
            committed = size_after != 0
        elif same_salt:
            # A transaction is written only after the one before it was synced: so what SQLite would drop was durable.
            if committed:
                return f"frame {place} does not match its checksum, and later transactions stand behind it"

            committed = size_after != 0

    return None


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    for left, right in struct.iter_unpack(f"{order}2I", data):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF

    return first, second
