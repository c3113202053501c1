"""What a node starts from, and what it refuses to start from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .cluster import Cluster, ConfTuple, Disk, acknowledge, append, conf, drain, follower, give, leader, sent
from .eraftpb import CONF_CHANGE, CONF_CHANGE_V2, ConfState, Entry, Kind, Message, Snapshot, conf_change, decode

ROWS = [Entry(index, 1, b"x").row for index in range(3, 8)]
"""A log of term 1 with the entries 3..7, cut behind its snapshot at 2."""
DISK = Disk((4, 2, 5), (2, 1), (2, 1, conf([1, 2, 3])), ROWS)


def test_rule_4_raft_starts_at_its_snapshot_and_replays_the_rest() -> None:
    node = DISK.open(2)
    [ready] = drain(node)
    assert [entry[0] for entry in ready.committed] == [3, 4, 5]
    assert ready.hard_state is None
    status = node.status()
    assert (status.term, status.vote, status.commit, status.first_index, status.last_index) == (4, 2, 5, 3, 7)
    assert status.conf_state == conf([1, 2, 3])


def test_rule_4_a_restarted_cluster_elects_and_goes_on() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].propose_many([(b"", b"before")])
    cluster.pump()
    for node_id in (1, 2, 3):
        cluster.restart(node_id)
        assert cluster[node_id].status().role == "follower"
    cluster.tick_until(lambda: cluster.leader is not None)
    cluster[cluster.leader or 0].propose_many([(b"", b"after")])
    cluster.pump()
    # Each node applied the first command twice: once before the restart, once when it was replayed.
    assert [cluster.data(id) for id in (1, 2, 3)] == [[b"before", b"before", b"after"]] * 3


def test_rule_5_commit_at_load_is_at_least_the_snapshot() -> None:
    # A snapshot that is ahead of the saved commit: raft-rs's own storage panics at every start from it.
    node = replace(DISK, hard_state=(4, 2, 3), snapshot=(6, 1, conf([1, 2, 3]))).open(2)
    assert node.status().commit == 6
    assert drain(node) == []


def test_rule_5_a_commit_above_the_last_row_stops_the_node() -> None:
    with pytest.raises(ValueError, match="commit 8 is past the last entry 7"):
        replace(DISK, hard_state=(4, 2, 8)).open(2)


def test_rule_5_a_snapshot_is_of_entries_that_were_handed_out_and_are_durable() -> None:
    node = follower(5, committed=1)
    with pytest.raises(ValueError, match=r"snapshot_made\(5\): entries up to 1 were handed out"):
        node.snapshot_made(5, 2, conf([1, 2, 3]))
    with pytest.raises(ValueError, match=r"compact\(5\): the newest durable snapshot is at 1"):
        node.compact(5)
    give(node, Message(Kind.HEARTBEAT, 2, 1, 2, commit=5))
    drain(node)
    with pytest.raises(ValueError, match="its term is 1, the log's 2"):
        node.snapshot_made(5, 1, conf([1, 2, 3]))
    with pytest.raises(ValueError, match="no voters"):
        node.snapshot_made(5, 2, conf([]))
    node.snapshot_made(5, 2, conf([1, 2, 3]))
    node.compact(4)
    node.compact(3)
    assert node.status().first_index == 5


def test_rule_5_a_compacted_log_still_knows_the_term_before_its_first_entry() -> None:
    # raft-rs's own storage forgets it, and the next election panics.
    node = follower(5, committed=5)
    node.snapshot_made(5, 2, conf([1, 2, 3]))
    node.compact(5)
    assert give(node, append(2, 1, 2, index=5, log_term=2, terms=[2])) == []
    [answer] = sent(drain(node))
    assert (answer.index, answer.reject) == (6, False)
    for _ in range(100):
        node.tick()
    assert node.status().role == "pre-candidate"


def test_rule_6_an_installed_snapshot_replaces_the_log_and_survives_a_restart() -> None:
    cluster = Cluster(3, max_size_per_msg=1)
    cluster.elect(1)
    cluster.cut = {3}
    cluster[1].propose_many([(b"", b"%d" % step) for step in range(20)])
    cluster.pump()
    made = cluster.make_snapshot(1)
    cluster.cut = set()
    cluster.tick_until(lambda: cluster[3].status().last_index >= made)
    assert cluster.disks[3].snapshot == cluster.disks[1].snapshot
    cluster.restart(3)
    assert cluster[3].status().first_index == made + 1
    cluster[1].propose_many([(b"", b"after")])
    cluster.tick(5)
    assert cluster.data(3) == [b"after"]
    assert cluster.dropped == []


def test_rule_12_a_snapshot_is_given_only_to_one_it_holds() -> None:
    # A joiner ignores a snapshot without itself for ever: a new one is asked for instead.
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.make_snapshot(1)
    cluster[1].propose_conf_change(b"", [("add_learner", 4)])
    cluster.add(4)
    cluster.tick(10)
    assert cluster.wanted == {1}
    assert cluster[4].status().last_index == 0

    made = cluster.make_snapshot(1, compact=False)
    cluster.tick(10)
    status = cluster[4].status()
    assert status.conf_state == conf([1, 2, 3], [4])
    assert status.last_index >= made
    assert cluster.dropped == []


def test_rule_12_a_peer_behind_the_log_gets_the_newest_snapshot() -> None:
    node = leader()
    node.propose_many([(b"", b"x")] * 3)
    drain(node)
    acknowledge(node, 5, peers=[2])
    drain(node)
    node.snapshot_made(4, 2, conf([1, 2, 3]))
    node.compact(4)
    node.report_unreachable(3)
    give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))
    [ready] = drain(node)
    [(to, index, raw)] = ready.snapshots
    assert (to, index, decode(raw).snapshot) == (3, 4, Snapshot(4, 2))
    assert sent([ready]) == []
    assert not ready.snapshot_wanted
    # While it streams nothing else is sent; if it fails, the next heartbeat's answer starts it again.
    give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))
    assert drain(node) == []
    node.report_snapshot(3, False)
    give(node, Message(Kind.HEARTBEAT_RESPONSE, 1, 3, 2))
    assert [len(ready.snapshots) for ready in drain(node)] == [1]
    node.report_snapshot(3, True)
    assert (3, 2, 5, "probe", True) in node.status().progress


def test_a_joiner_starts_from_nothing_and_never_stands_for_election() -> None:
    node = Disk().open(4)
    for _ in range(100):
        node.tick()
    node.campaign()
    status = node.status()
    assert (status.role, status.term, status.last_index) == ("follower", 1, 0)
    assert status.conf_state == conf([])
    assert drain(node) == []


def bad_row(index: int, term: int) -> tuple[int, int, bytes]:
    return index, term, Entry(index, term, b"\xff", kind=CONF_CHANGE_V2).encode()


@pytest.mark.parametrize(
    ("disk", "why"),
    [
        (replace(DISK, hard_state=(0, 0, 0)), "hard_state: term 0"),
        (replace(DISK, hard_state=(1 << 62, 0, 5)), "hard_state: term"),
        (replace(DISK, anchor=(2, 0)), "anchor: index 2, term 0"),
        (replace(DISK, anchor=(2, 5)), "anchor: index 2, term 5"),
        (replace(DISK, rows=ROWS[1:]), "entry 4: follows 2"),
        (replace(DISK, rows=[*ROWS[:2], ROWS[3]]), "entry 6: follows 4"),
        (replace(DISK, rows=[*ROWS, Entry(8, 5).row]), "entry 8: term 5 after 1 at hard state term 4"),
        (replace(DISK, rows=[*ROWS, Entry(8, 2).row, Entry(9, 1).row]), "entry 9: term 1 after 2"),
        (replace(DISK, rows=[*ROWS, (8, 1, b"\xff")]), "entry 8: undecodable"),
        (replace(DISK, rows=[*ROWS, (8, 1, Entry(9, 1).encode())]), "entry 8: its row says term 1, its bytes index 9"),
        (replace(DISK, rows=[*ROWS, Entry(8, 1, kind=9).row]), "entry 8: unknown entry type"),
        (replace(DISK, rows=[*ROWS, bad_row(8, 1)]), "entry 8: undecodable conf change"),
        (replace(DISK, rows=[*ROWS, Entry(8, 1, conf_change(9, 4), kind=CONF_CHANGE).row]), "unknown conf change type"),
        (replace(DISK, snapshot=None), "anchor: index 2 without a snapshot"),
        (replace(DISK, snapshot=(1, 1, conf([1]))), r"snapshot: index 1 is outside 2\.\.=7"),
        (replace(DISK, snapshot=(8, 1, conf([1]))), r"snapshot: index 8 is outside 2\.\.=7"),
        (replace(DISK, snapshot=(2, 2, conf([1]))), "snapshot: term 2 at index 2, where the log has 1"),
        (replace(DISK, snapshot=(2, 1, conf([]))), "no voters"),
        (replace(DISK, snapshot=(2, 1, conf([1, 1]))), "an id twice in one set"),
        (replace(DISK, snapshot=(2, 1, conf([1], [1]))), "a voter that is a learner"),
        (replace(DISK, snapshot=(2, 1, ([1], [], [], [2], False))), "a next learner that is no outgoing voter"),
        (replace(DISK, snapshot=(2, 1, ([1], [], [], [], True))), "auto_leave without outgoing voters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_disk_that_raft_would_panic_at_is_refused_by_name(disk: Disk, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        disk.open(2)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"election_tick": 2}, "election tick must be greater than heartbeat tick"),
        ({"heartbeat_tick": 0}, "heartbeat tick"),
        ({"max_inflight_msgs": 0}, "max inflight messages"),
        ({"max_size_per_msg": 0}, "max_size_per_msg 0"),
        ({"max_uncommitted_size": 1}, "max uncommitted size"),
    ],
)
def test_settings_that_raft_cannot_work_with_are_refused(settings: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        DISK.open(2, **settings)
    with pytest.raises(ValueError, match="node_id 0"):
        DISK.open(0)


def test_a_joint_state_survives_a_restart() -> None:
    joint: ConfTuple = ([1, 2, 4], [], [1, 2, 3], [], True)
    assert replace(DISK, snapshot=(2, 1, joint)).open(2).status().conf_state == joint


def test_a_snapshot_that_the_log_reaches_already_is_not_installed() -> None:
    node = follower(5)
    snapshot = Snapshot(4, 2, ConfState([1, 2, 3]))
    assert node.step_snapshot(1, Message(Kind.SNAPSHOT, 2, 1, 2, snapshot=snapshot).encode()) is None
    [ready] = drain(node)
    assert ready.snapshot is None
    assert node.status().commit == 4
