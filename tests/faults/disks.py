"""Small disks that a test fills and frees, and one that loses power; mounting them needs root."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = 4096


@functools.cache
def cannot_mount() -> str | None:
    """Say why nothing can be mounted here, or None."""
    if not sys.platform.startswith("linux"):
        return "that is done for Linux only"

    if os.geteuid() != 0:
        return "that needs root"

    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True, check=False
        )
        if tried.returncode:
            return tried.stderr.strip()

        subprocess.run(["umount", folder], check=True)
        return None


def _mkfs() -> str | None:
    return shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _ext4(image: Path, size: int, *options: str) -> Path:
    with image.open("wb") as file:
        file.truncate(size)

    subprocess.run([_mkfs() or "mkfs.ext4", "-q", "-F", *options, image], check=True)
    return image


@functools.cache
def cannot_lose_power() -> str | None:
    """Say why no ext4 can be made, mounted from a file and cut off here, or None; call `cannot_mount` first."""
    if _mkfs() is None:
        return "there is no mkfs.ext4: install e2fsprogs"

    with tempfile.TemporaryDirectory() as folder:
        disk = None
        try:
            disk = PowerDisk(Path(folder) / "disk", 4 * 1024 * 1024)
            disk.cut_power()
            disk.restore_power()
        except (OSError, subprocess.CalledProcessError) as exc:
            return str(exc)
        finally:
            if disk is not None:
                disk.unmount()

        return None


class SmallDisk:
    """A tmpfs of so many bytes, or an ext4 whose blocks are a quarter of a page; one file of ballast fills it."""

    def __init__(self, folder: Path, size: int, *, small_blocks: bool = False) -> None:
        self.folder = folder
        self.folder.mkdir()
        if small_blocks:
            image = _ext4(folder.with_suffix(".img"), size, "-b", "1024", "-m", "0")
            subprocess.run(["mount", "-o", "loop", image, folder], check=True)
        else:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    @property
    def free(self) -> int:
        """Bytes that are left."""
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Fill it up but for `leave` bytes."""
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            try:
                while self.free > leave:
                    ballast.write(b"\xff" * min(BLOCK, self.free - leave))
            except OSError:
                pass  # full now

    def clear(self) -> None:
        """Take the ballast away."""
        (self.folder / "ballast").unlink()

    def resize(self, size: int) -> None:
        """Give it another size."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def unmount(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", self.folder], check=False)


# _IOR('X', 125, __u32): the file system is dead from then on, and what its log did not hold yet is gone.
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class PowerDisk:
    """An ext4 in a file: after a power loss it holds what was synced, and nothing that was not."""

    def __init__(self, folder: Path, size: int = 32 * 1024 * 1024) -> None:
        self.folder = folder
        self._image = _ext4(folder.with_suffix(".img"), size)
        self._canary = folder / "never-synced"
        self.folder.mkdir()
        self._mount()

    def cut_power(self) -> None:
        """Lose all that is not on the disk; whoever uses it meets an EIO."""
        self._canary.write_bytes(bytes(BLOCK))
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(handle)

    def restore_power(self) -> None:
        """Mount it again: nobody may use it by now."""
        subprocess.run(["umount", self.folder], check=True)
        self._mount()
        # The file's name may be there: a node's own sync takes along what ext4 has in its log. Its bytes may not.
        lost = not self._canary.exists() or not self._canary.stat().st_size
        assert lost, "nothing was lost: this was no power loss"

    def unmount(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-l", self.folder], check=False)

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.folder], check=True)
