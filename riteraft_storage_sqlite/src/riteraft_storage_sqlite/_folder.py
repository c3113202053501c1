"""The node's folder: who may look into it, and who holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from riteraft_core.errors import StorageError

DATABASE = "raft.db"
LOCK = "raft.lock"


BESIDE = (".*", "*.log", "*.pid", "*.toml", "lost+found")
"""What may stand in a folder that is to become a node's: nothing that is another program's data."""
OURS = (f"{DATABASE}*", LOCK, "join*", "left*")
"""Files of this storage, and of core beside it."""


def make_folder(folder: Path) -> None:
    """Make the folder if it is missing, for its owner only; one that exists keeps the mode its owner gave it.

    :raises StorageError: it is no folder, or it holds the files of something else.
    """
    if folder.exists():
        _refuse_foreign(folder)

    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if missing:
        folder.chmod(0o700)  # whatever the umask took away

    for made in missing:
        sync_folder(made.parent)


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder: name another data_dir")

    if (folder / DATABASE).exists():
        return

    strangers = sorted(
        path.name for path in folder.iterdir() if not any(fnmatch(path.name, known) for known in (*BESIDE, *OURS))
    )
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise StorageError(
            f"{folder} holds no node but the files of something else ({', '.join(strangers[:3])}{more}): "
            "give the node a data_dir of its own, empty or not there yet"
        )


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
