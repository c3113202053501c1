from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from riteraft_core._folder import Folder
from riteraft_core.errors import StorageError


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have writes stop there, as on a disk that is full: what fits is written, and says how much that was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_did_not_fit_is_an_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    token = folder.join_token()
    folder.keep_hints({1: "127.0.0.1:7001"})
    with files_of_at_most(20), pytest.raises(StorageError, match="cannot be written"):
        folder.keep_hints({1: "127.0.0.1:7001", 2: "127.0.0.1:7002"})

    assert Folder(tmp_path).join_token() == token
    assert Folder(tmp_path).hints() == {1: "127.0.0.1:7001"}
