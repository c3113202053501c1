"""The same partitions on the transport `grpc`, whose connections are HTTP/2's to keep and to give up."""

from __future__ import annotations

import pytest

from tests.cluster import cluster

from .test_partitions import test_g8_lost_packets_isolate_the_leader_or_a_follower, test_g9_packets_are_lost_one_way

__all__ = ["test_g8_lost_packets_isolate_the_leader_or_a_follower", "test_g9_packets_are_lost_one_way"]


@pytest.fixture(autouse=True)
def _on_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster.PLUGINS, "transport", "grpc")
