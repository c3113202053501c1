"""A data_dir that cannot be used: the node says which, why and what to do, and touches nothing."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, NodeProcess, running_cluster

from .circumstances import under
from .disks import SmallDisk


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def assert_refused(node: NodeProcess, *said: str) -> str:
    """It ends with an error that is one of ours and says these things, without a traceback."""
    before = len(node.log)
    node.start(bootstrap=True)
    code = node.wait()
    story = node.log[before:]
    assert code in (1, 2), story
    assert "Traceback" not in story, story
    last = story.strip().splitlines()[-1]
    assert last.startswith("StorageError: " if code == 1 else "ConfigError: "), story
    for text in (str(node.folder), *said):
        assert text in last, last

    return last


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[NodeProcess]:
    """Return a node that never ran."""
    cluster = Cluster(tmp_path, {})
    yield cluster.add()
    cluster.end()


@pytest.fixture
def node(fresh: NodeProcess) -> NodeProcess:
    """Return a node that was stopped in peace."""
    fresh.start(bootstrap=True).ready()
    fresh.propose("append", "k", "1")
    fresh.terminate()
    assert fresh.wait() == 0
    return fresh


def test_a_folder_that_may_not_be_entered(fresh: NodeProcess) -> None:
    fresh.folder.mkdir(mode=0o000)
    fresh.wrapper = under("--no-privileges")
    try:
        assert_refused(fresh, "Permission denied", "owner")
    finally:
        fresh.folder.chmod(0o700)

    fresh.start(bootstrap=True).ready()


def test_a_folder_that_may_not_be_written_to(node: NodeProcess) -> None:
    before = contents(node.folder)
    node.folder.chmod(0o500)
    for path in node.folder.iterdir():
        path.chmod(0o400)

    node.wrapper = under("--no-privileges")
    try:
        assert_refused(node, "Permission denied", "owner")
    finally:
        node.folder.chmod(0o700)
        for path in node.folder.iterdir():
            path.chmod(0o600)

    assert contents(node.folder) == before
    node.start().ready()
    assert node.read("k") == ["1"]


def test_a_folder_whose_parent_may_not_be_written_to(fresh: NodeProcess) -> None:
    parent = fresh.folder.parent / "parent"
    parent.mkdir(mode=0o500)
    fresh.folder = parent / "n1"
    fresh.wrapper = under("--no-privileges")
    assert_refused(fresh, "Permission denied")


def test_a_folder_on_a_disk_that_is_read_only(fresh: NodeProcess, small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(1024 * 1024)
    subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
    fresh.folder = disk.folder / "n1"
    assert_refused(fresh, "Read-only file system")


def test_a_file_in_the_place_of_the_folder(fresh: NodeProcess) -> None:
    fresh.folder.write_text("a note")
    assert_refused(fresh, "is a file, and a node needs a folder")
    assert fresh.folder.read_text() == "a note"


def test_a_folder_with_the_files_of_something_else(fresh: NodeProcess) -> None:
    fresh.folder.mkdir()
    (fresh.folder / "PG_VERSION").write_text("17\n")
    (fresh.folder / "base").mkdir()
    before = contents(fresh.folder)
    assert_refused(fresh, "PG_VERSION", "empty")
    assert contents(fresh.folder) == before


@pytest.mark.parametrize("beside", [".gitkeep", "lost+found", "n1.toml", "n1.log"])
def test_what_may_stand_in_a_new_folder(fresh: NodeProcess, beside: str) -> None:
    fresh.folder.mkdir()
    (fresh.folder / beside).write_text("")
    fresh.start(bootstrap=True).ready()


def test_a_database_of_something_else(fresh: NodeProcess) -> None:
    fresh.folder.mkdir()
    with closing(sqlite3.connect(fresh.folder / "raft.db")) as foreign:
        foreign.execute("CREATE TABLE bookmarks (url TEXT)")
        foreign.commit()

    before = contents(fresh.folder)
    assert_refused(fresh, "is not a riteraft database", "data_dir of its own")
    assert {name: raw for name, raw in contents(fresh.folder).items() if name in before} == before


def test_a_newer_format(node: NodeProcess) -> None:
    with closing(sqlite3.connect(node.folder / "raft.db")) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + 1}")

    assert_refused(node, f"has format {version + 1}", "install the version that wrote it")
    with closing(sqlite3.connect(node.folder / "raft.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")

    node.start().ready()
    assert node.read("k") == ["1"]


def test_a_folder_of_another_cluster(node: NodeProcess) -> None:
    node.settings["cluster"] = "another"
    assert_refused(node, "not of 'another'", "use another data_dir")


def test_a_folder_whose_node_left(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        left = cluster.followers()[0]
        left.call("leave")
        assert left.wait() == 0
        assert_refused(left, "left its cluster", "remove the folder, or name another")
        cluster.forget(left)


def test_a_folder_opened_twice(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        held = cluster.followers()[0]
        second = cluster.add("second")
        second.folder = held.folder
        assert held._process is not None
        assert_refused(second, "is in use by another node", f"pid {held._process.pid}", "stop that one")
        cluster.forget(second)
        held.propose("append", "k", "unharmed")
        # The lock dies with its holder.
        held.kill()
        second.address = held.address
        second.start().ready()
        assert second.read("k") == ["unharmed"]
