"""What the machine must lend to these tests: without it they are left out by name, and in CI they fail."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .disks import PowerDisk, SmallDisk, cannot_lose_power, cannot_mount
from .namespaces import Namespaces, cannot_make_namespaces
from .shim import Shims, compile_shim

IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}


def leave_out(what: str) -> None:
    """Leave the test out, and say why; in CI nothing may be left out."""
    if IN_CI:
        pytest.fail(f"in CI nothing may be left out: {what}")

    pytest.skip(f"left out: {what}")


@pytest.fixture
def seed() -> int:
    """Return a seed that is in the output of a test that fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201
    return seed


@pytest.fixture(scope="session")
def _library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sys.platform.startswith("linux"):
        leave_out("the shim is for Linux's loader")

    if shutil.which("cc") is None:
        leave_out("no C compiler (`cc`) to make the shim with: install gcc or clang")

    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def shims(_library: Path, tmp_path: Path) -> Shims:
    """Return shims for the nodes of a cluster: `prepare=shims.put_before`."""
    return Shims(_library, tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., SmallDisk]]:
    """Return what mounts a `SmallDisk` of so many bytes; all are unmounted at the end."""
    if why := cannot_mount():
        leave_out(f"mounting a small disk: {why}")

    disks: list[SmallDisk] = []

    def mount(size: int, *, small_blocks: bool = False) -> SmallDisk:
        if small_blocks and (why := cannot_lose_power()):
            leave_out(f"an ext4: {why}")

        disks.append(SmallDisk(tmp_path / f"disk-{len(disks)}", size, small_blocks=small_blocks))
        return disks[-1]

    yield mount
    for disk in disks:
        disk.unmount()


@pytest.fixture
def power_disk(tmp_path: Path) -> Iterator[Callable[[], PowerDisk]]:
    """Return what mounts a disk that can lose power; all are unmounted at the end."""
    if why := cannot_mount() or cannot_lose_power():
        leave_out(f"a disk that loses power: {why}")

    disks: list[PowerDisk] = []

    def mount() -> PowerDisk:
        disks.append(PowerDisk(tmp_path / f"power-{len(disks)}"))
        return disks[-1]

    yield mount
    for disk in disks:
        disk.unmount()


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """Return a network of its own for each node of a cluster: `prepare=namespaces.put_before`."""
    if why := cannot_make_namespaces():
        leave_out(f"network namespaces: {why}")

    with Namespaces() as made:
        yield made
