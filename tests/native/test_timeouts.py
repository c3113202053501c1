"""Elections that a seed decides (rule 24)."""

from __future__ import annotations

from .cluster import Cluster, Disk, drain


def campaigns(seed: int, node_id: int, ticks: int = 300) -> list[int]:
    """The ticks at which a node that hears nothing starts an election."""
    node = Disk.founded([1, 2, 3]).open(node_id, seed)
    started = []
    for tick in range(ticks):
        node.tick()
        if any(ready.messages or ready.persisted_messages for ready in drain(node)):
            started.append(tick)
    return started


def test_rule_24_the_same_seed_gives_the_same_elections() -> None:
    runs = [campaigns(seed=42, node_id=1) for _ in range(5)]
    assert runs[0]
    assert all(run == runs[0] for run in runs)
    assert campaigns(seed=43, node_id=1) != runs[0]


def test_rule_24_timeouts_lie_between_one_and_two_election_timeouts() -> None:
    for seed in range(20):
        started = campaigns(seed, node_id=1)
        waits = [after - before for before, after in zip([-1, *started], started, strict=False)]
        assert all(20 <= wait < 40 for wait in waits), waits


def test_rule_24_nodes_that_tie_once_part_later() -> None:
    # The term does not change while PreVotes fail: without the count of own campaigns the same two nodes would draw
    # the same timeouts again and again.
    waits = [campaigns(seed=5, node_id=id, ticks=3000) for id in (1, 2)]
    assert all(len(set(map(int.__sub__, started[1:], started))) > 5 for started in waits)


def test_rule_24_a_whole_cluster_repeats_itself() -> None:
    def leaders(seed: int) -> list[int | None]:
        cluster = Cluster(3, seed=seed)
        history = []
        for tick in range(300):
            cluster.tick()
            history.append(cluster.leader)
            if tick % 100 == 99 and cluster.leader is not None:
                cluster.cut = {cluster.leader}
        return history

    assert leaders(1) == leaders(1)
    assert len({tuple(leaders(seed)) for seed in range(5)}) > 1
