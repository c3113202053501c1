"""Runs: what is one row of the log table, up to so many consecutive entries as one blob, and back."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from riteraft_core.types import LogRow

# Bounds of one run, so that cutting one is cheap: it is read and written whole. An entry above them is a run by itself.
RUN_ENTRIES = 1024
RUN_BYTES = 256 * 1024

_ENTRY = struct.Struct("<QI")  # term and length, before the entry's bytes


class Run(NamedTuple):
    """The entries `first..last`, one after the other in `data`."""

    first: int
    last: int
    data: bytes


def pack(rows: Sequence[LogRow]) -> Iterator[Run]:
    """Yield the runs that hold `rows`.

    :raises ValueError: they are not dense.
    """
    entry = _ENTRY.pack  # this loop is what a save costs: it holds the interpreter's lock
    first = index = rows[0][0]
    size = 0
    parts: list[bytes] = []
    for expected, (index, term, data) in enumerate(rows, first):
        if index != expected:
            raise ValueError(f"an entry at {index} follows one at {expected - 1} in one save")

        size += len(data)
        if parts and (size > RUN_BYTES or index - first == RUN_ENTRIES):
            yield Run(first, index - 1, b"".join(parts))
            first, size, parts = index, len(data), []

        parts += (entry(term, len(data)), data)

    yield Run(first, index, b"".join(parts))


def unpack(run: Run) -> list[LogRow]:
    """Return the rows of a run.

    :raises ValueError: its data does not hold what the run says.
    """
    rows: list[LogRow] = []
    end = 0
    try:
        for index in range(run.first, run.last + 1):
            term, length = _ENTRY.unpack_from(run.data, end)
            start = end + _ENTRY.size
            end = start + length
            rows.append((index, term, run.data[start:end]))
    except struct.error:  # the data ended
        end = len(run.data) + 1

    if not rows or end != len(run.data):
        raise ValueError(f"{len(run.data)} bytes are not the entries {run.first}..{run.last}")

    return rows
