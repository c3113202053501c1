"""Damaged files (G15): found at the start and named, or repaired from the others; never believed."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.cluster.cluster import Cluster, Load, NodeProcess, running_cluster, until
from tests.wal import end_of_frames

PLACES = int(os.environ.get("FAULTS_PLACES", "40"))
"""How many random places are damaged."""
LAST_CHUNK = "(SELECT max(chunk.rowid) FROM chunk, head WHERE chunk.snapshot = head.snapshot)"
"""Of the live snapshot: the next one may be there too, written but not live yet, and would be thrown away unread."""


def change(folder: Path, *statements: str) -> None:
    """Damage a closed database by SQL; each statement must hit exactly one row."""
    with closing(sqlite3.connect(folder / "raft.db")) as database:
        for statement in statements:
            assert database.execute(statement).rowcount == 1, statement

        database.commit()


def a_log_row(folder: Path) -> None:
    change(folder, "UPDATE log SET data = data || x'00' WHERE first = (SELECT max(first) FROM log)")


def a_missing_log_row(folder: Path) -> None:
    change(folder, "DELETE FROM log WHERE first = (SELECT first FROM log ORDER BY first LIMIT 1 OFFSET 3)")


def a_missing_last_log_row(folder: Path) -> None:
    change(folder, "DELETE FROM log WHERE first = (SELECT max(first) FROM log)")


def the_hard_state(folder: Path) -> None:
    change(folder, "UPDATE head SET vote = vote + 1")


def a_snapshot_chunk(folder: Path) -> None:
    change(folder, f"UPDATE chunk SET data = data || x'00' WHERE rowid = {LAST_CHUNK}")  # noqa: S608 - our own text


def a_missing_snapshot_chunk(folder: Path) -> None:
    change(folder, f"DELETE FROM chunk WHERE rowid = {LAST_CHUNK}")  # noqa: S608 - our own text


def a_short_file(folder: Path) -> None:
    database = folder / "raft.db"
    os.truncate(database, database.stat().st_size // 2)


DAMAGE: dict[Callable[[Path], None], str] = {
    a_log_row: "do not match their checksum",
    a_missing_log_row: "is missing, the next one is",
    a_missing_last_log_row: "the log must end at",
    the_hard_state: "the hard state does not match its checksum",
    a_snapshot_chunk: "does not match its checksum",
    a_missing_snapshot_chunk: "is missing or does not match",
    a_short_file: "",
}


def replace_node(cluster: Cluster, node: NodeProcess) -> None:
    """Do what the error says: remove it from its cluster and let it join with an empty folder."""
    leader = cluster.leader(cluster.running)
    leader.call("remove", node_id=node.node_id)
    shutil.rmtree(node.folder)
    node.start(peers=[leader.address]).ready()
    cluster.wait_for_voters(*cluster.nodes)


def test_a_damaged_node_refuses_to_start_and_is_replaced_as_it_says(tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path, snapshot={"entries": 40, "tail": 20}) as cluster:
        with Load(cluster, seed=seed, clients=3) as load:
            for damage, named in DAMAGE.items():
                load.wait_for_progress(30)
                victim = cluster.followers()[0]
                until(lambda victim=victim: victim.status()["snapshot_index"] > 40, "a snapshot of its own")  # type: ignore[misc]
                before = len(victim.log)
                victim.terminate()
                assert victim.wait() == 0
                damage(victim.folder)
                victim.start()
                assert victim.wait() == 1, damage.__name__
                last = victim.log[before:].strip().splitlines()[-1]
                print(damage.__name__, "->", last)  # noqa: T201
                assert last.startswith(f"StorageError: {victim.folder / 'raft.db'}"), last
                assert named in last
                assert last.endswith("remove this node from its cluster and join again with an empty folder")
                load.wait_for_progress(10)  # the others go on
                replace_node(cluster, victim)
                load.wait_for_progress(10)

        load.judge()


def damage_somewhere(folder: Path, chance: random.Random) -> str:
    """Flip a byte or cut a file, anywhere in what a killed node left; return what was done."""
    database, wal = folder / "raft.db", folder / "raft.db-wal"
    sizes = {database: database.stat().st_size, wal: end_of_frames(wal)}
    path = chance.choices(list(sizes), weights=list(sizes.values()))[0]
    place = chance.randrange(sizes[path])
    kind = chance.choice(["flip", "flip", "flip", "cut", "zero"])
    with path.open("r+b") as file:
        file.seek(place)
        if kind == "cut":
            file.truncate(place)
        elif kind == "zero":
            file.write(bytes(512))  # a sector
        else:
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))

    return f"{kind} of {path.name} at {place}"


def test_g15_damage_anywhere_is_found_or_repaired_and_never_gives_a_wrong_value(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()
    with running_cluster(tmp_path, snapshot={"entries": 60, "tail": 20}) as cluster:
        for number in range(150):
            cluster[1 + number % 3].propose("append", "k", f"value {number}")

        values = [f"value {number}" for number in range(150)]
        cluster.wait_for_agreement()
        victim = cluster.followers()[0]
        victim.kill()
        pristine = tmp_path / "pristine"
        shutil.copytree(victim.folder, pristine)
        for _ in range(PLACES):
            shutil.rmtree(victim.folder)
            shutil.copytree(pristine, victim.folder)
            story = damage_somewhere(victim.folder, chance)
            before = len(victim.log)
            victim.start()
            until(lambda: victim._ready.is_set() or not victim.alive, "a start or an end")
            if victim.alive:
                answer = victim.begin("read", key="k", timeout=20)
                error = answer.exception(60)
                if error is None:
                    assert answer.result() == values, story
                    outcomes["unharmed or repaired"] += 1
                    victim.kill()
                    continue

            assert victim.wait() == 1, f"{story}: {victim.log[before:]}"
            last = victim.log[before:].strip().splitlines()[-1]
            assert last.startswith(("StorageError: ", "LostAcknowledgedData: ")), f"{story}: {last}"
            assert "empty folder" in last, f"{story}: {last}"
            outcomes[last.partition(":")[0]] += 1

        print(dict(outcomes))  # noqa: T201
        assert outcomes["StorageError"] > 0
        assert sum(outcomes.values()) == PLACES
        # It is the same cluster as before: the copy that nobody damaged serves.
        shutil.rmtree(victim.folder)
        shutil.copytree(pristine, victim.folder)
        victim.start().ready()
        cluster.leader().propose("append", "k", "at last")
        for node in cluster.nodes:
            assert node.read("k") == [*values, "at last"]
