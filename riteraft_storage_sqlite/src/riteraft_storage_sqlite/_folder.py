"""The node's folder: who may look into it, and who holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from riteraft_core.errors import StorageError

DATABASE = "raft.db"
LOCK = "raft.lock"


def make_folder(folder: Path) -> None:
    """Make the folder if it is missing, for its owner only; one that exists keeps the mode its owner gave it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if missing:
        folder.chmod(0o700)  # whatever the umask took away

    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable: without it a power loss may take a new file away again."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_file(path: Path) -> int:
    """Open or make a file that only its owner may read, whatever the umask; return its descriptor."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, 0o600)
    except BaseException:
        os.close(handle)
        raise

    return handle


def make_private(path: Path) -> None:
    """Make the file if it is missing, and readable for its owner only."""
    os.close(private_file(path))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against every other opening, here and in other processes; the kernel frees it at a crash.

    :raises StorageError: another holds it.
    """
    path = folder / LOCK
    handle = private_file(path)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StorageError(
                f"{folder} is in use by another node (pid {holder}, which holds {path.name}): "
                "stop that one, or give this one a data_dir of its own"
            ) from exc

        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(handle)
