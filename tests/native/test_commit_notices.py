"""How followers hear of a commit: by a message of its own, or when the caller says so."""

from __future__ import annotations

from .cluster import Cluster


def test_without_notices_a_commit_waits_for_the_next_append_or_the_announcement() -> None:
    cluster = Cluster(3, commit_notices=False)
    cluster.elect(1)
    cluster[1].announce_commit()
    cluster.pump()
    known = [cluster[node_id].status().commit for node_id in (1, 2, 3)]
    assert known == [known[0]] * 3

    cluster[1].propose_many([(b"", b"x")])
    cluster.pump()
    assert cluster[1].status().commit == known[0] + 1
    assert cluster[2].status().commit == cluster[3].status().commit == known[0]

    cluster[1].propose_many([(b"", b"y")])
    cluster.pump()
    assert cluster[2].status().commit == cluster[3].status().commit == known[0] + 1

    cluster[1].announce_commit()
    cluster.pump()
    assert cluster[2].status().commit == cluster[3].status().commit == known[0] + 2


def test_a_follower_announces_nothing() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[2].announce_commit()
    assert cluster[2].ready() is None
