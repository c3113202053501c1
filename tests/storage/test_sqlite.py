from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
from riteraft_core.protocols import StorageContext
from riteraft_core.testing import LogStorageSuite
from riteraft_core.testing.log_storage_suite import OpenLog

from riteraft_storage_sqlite import SqliteOptions, open_sqlite


class TestSqlite(LogStorageSuite):
    @pytest.fixture
    def open_log(self, tmp_path: Path) -> OpenLog:
        return partial(
            open_sqlite, SqliteOptions(), StorageContext(tmp_path / "node", 0, logging.getLogger("riteraft"))
        )


class TestSqliteWithSmallChunksAndManyCheckpoints(LogStorageSuite):
    @pytest.fixture
    def open_log(self, tmp_path: Path) -> OpenLog:
        options = SqliteOptions(checkpoint_bytes=64 * 1024, snapshot_chunk_bytes=4096)
        return partial(open_sqlite, options, StorageContext(tmp_path / "node", 0, logging.getLogger("riteraft")))
