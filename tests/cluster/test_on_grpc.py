"""Some of the tests of this folder on the transport `grpc`; all of them run on it with `--transport grpc`."""

from __future__ import annotations

import pytest

from . import cluster
from .test_kills import test_a_killed_leader_is_replaced_within_a_few_election_timeouts
from .test_membership import test_a_leader_leaves, test_a_node_joins_through_a_follower
from .test_pauses import test_g7_pauses_of_any_node_under_load
from .test_snapshots import (
    test_g17_a_huge_state_travels_beside_the_heartbeats_and_in_bounded_memory,
    test_g17_an_end_of_a_snapshot_stream_is_killed,
)

__all__ = [
    "test_a_killed_leader_is_replaced_within_a_few_election_timeouts",
    "test_a_leader_leaves",
    "test_a_node_joins_through_a_follower",
    "test_g7_pauses_of_any_node_under_load",
    "test_g17_a_huge_state_travels_beside_the_heartbeats_and_in_bounded_memory",
    "test_g17_an_end_of_a_snapshot_stream_is_killed",
]


@pytest.fixture(autouse=True)
def _on_grpc(_plugins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster.PLUGINS, "transport", "grpc")
