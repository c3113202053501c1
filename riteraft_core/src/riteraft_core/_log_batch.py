"""Group commit: what gathered while one save was on disk becomes one save."""

from __future__ import annotations

from collections.abc import Sequence

from .types import HardState, LogBatch, LogRow


def merge(batches: Sequence[LogBatch]) -> LogBatch:
    """Return the one batch that leaves a storage as the given ones would, saved one after the other.

    An entry at i deletes all at or after i, an install deletes all before it, the last hard state wins. Of several
    installs only the last one is kept: the snapshots staged for the others are the caller's to discard.
    """
    install: str | None = None
    hard_state: HardState | None = None
    entries: list[LogRow] = []
    for batch in batches:
        if batch.install is not None:
            install = batch.install
            entries = []

        if batch.hard_state is not None:
            hard_state = batch.hard_state

        if batch.entries:
            if entries:
                # Below the first merged row nothing is kept; a gap stays one, and the storage refuses it.
                del entries[max(0, batch.entries[0][0] - entries[0][0]) :]

            entries.extend(batch.entries)

    return LogBatch(install, hard_state, entries)
