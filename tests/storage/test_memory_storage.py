from __future__ import annotations

import logging
from functools import partial

import pytest
from pydantic import ValidationError
from riteraft_core._memory_storage import MemoryDisk, MemoryStorageOptions, open_memory_storage
from riteraft_core.protocols import StorageContext
from riteraft_core.testing import LogStorageSuite
from riteraft_core.testing.log_storage_suite import IDENTITY, OpenLog, rows
from riteraft_core.types import LogBatch, Recovered

CONTEXT = StorageContext(None, 0, logging.getLogger("riteraft"))


class TestMemory(LogStorageSuite):
    @pytest.fixture
    def open_log(self) -> OpenLog:
        return partial(open_memory_storage, MemoryStorageOptions(disk=MemoryDisk()), CONTEXT)


@pytest.mark.anyio
async def test_without_a_disk_nothing_is_kept() -> None:
    async with open_memory_storage(MemoryStorageOptions(), CONTEXT) as log:
        await log.create(IDENTITY)

    async with open_memory_storage(MemoryStorageOptions(), CONTEXT) as log:
        assert (await log.load()).identity is None


def test_a_copy_of_a_disk_changes_apart_from_it() -> None:
    # The simulator's crash: the node goes on from what its disk was, not from what it became.
    disk = MemoryDisk()
    disk.create(IDENTITY)
    disk.save(LogBatch(entries=rows(1, 3)))
    before = disk.copy()
    disk.save(LogBatch(entries=rows(2, 2, term=2)))
    assert before.load() == Recovered(IDENTITY, entries=tuple(rows(1, 3)))
    assert disk.load() == Recovered(IDENTITY, entries=tuple(rows(1, 1) + rows(2, 2, term=2)))


@pytest.mark.parametrize("options", [{"disk": "a file's text"}, {"dsik": None}])
def test_a_wrong_option_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MemoryStorageOptions.model_validate(options)
