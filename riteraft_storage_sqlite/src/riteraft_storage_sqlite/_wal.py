"""The WAL as a file: its room, and a look at it before SQLite opens it.

The look is for durable transactions that stand behind a damaged place. SQLite reads a WAL up to the first frame whose
checksum is wrong and silently drops the rest. After a crash that is right: the last transaction may be torn. For a byte
that flipped further up it is not: saves that were reported durable would be gone, and the next checkpoint would remove
the last trace of them.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import BinaryIO

from ._folder import private_file

_MAGIC = 0x377F0682  # the lowest bit says that checksums are over big-endian words
_HEADER = struct.Struct(">8I")  # magic, format, page size, checkpoint number, salt (2), checksum (2)
_FRAME = struct.Struct(">6I")  # page number, database size after a commit or 0, salt (2), checksum (2)

_PIECE = bytes(256 * 1024)


def reserve(path: Path, size: int) -> None:
    """Give an empty WAL `size` bytes of zeros to be written over; any other stays as it is. Blocks.

    To sync what was appended, a file system writes its journal too, and that is a third of the time that a small save
    takes. What replaces other bytes needs none. SQLite takes zeros for the end of what is there. On a full disk the WAL
    stays empty.
    """
    handle = private_file(path)
    try:
        # Nobody reads the database yet, so that all frames were copied and none are left; if not, they must stay.
        if not os.fstat(handle).st_size:
            _fill(handle, size)
    finally:
        os.close(handle)


def _fill(handle: int, size: int) -> None:
    try:
        for start in range(0, size, len(_PIECE)):
            os.pwrite(handle, _PIECE[: size - start], start)

        os.fsync(handle)
    except OSError as exc:
        os.ftruncate(handle, 0)
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


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
        # Zeros are the room that it has from the start.
        behind = iter(lambda: wal.read(len(_PIECE)), b"")
        if any(piece != _PIECE[: len(piece)] for piece in behind):
            return "its header does not match its checksum, and frames stand behind it"

        return None

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
