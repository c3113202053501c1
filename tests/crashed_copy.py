"""What a node's database holds, seen from outside: while the node runs nobody else can open it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def crashed_copy(folder: Path) -> Iterator[sqlite3.Connection]:
    """Copy a node's folder as a crash would leave it now, and open the copy's database; the node must not write."""
    with TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        with closing(sqlite3.connect(f"{copy}/raft.db")) as database:
            yield database
