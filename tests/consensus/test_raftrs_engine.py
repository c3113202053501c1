from __future__ import annotations

from collections.abc import Callable

import pytest
from riteraft_core.consensus.raftrs import RaftRs, _translated
from riteraft_core.protocols import Consensus
from riteraft_core.testing import ConsensusSuite
from riteraft_core.testing.engine_cluster import OpenEngine


def _panic(engine: Consensus) -> object:
    assert isinstance(engine, RaftRs)
    return _translated(engine._node.panic_on_purpose)()


class TestRaftRs(ConsensusSuite):
    @pytest.fixture
    def open_engine(self) -> OpenEngine:
        return RaftRs

    @pytest.fixture
    def cause_panic(self) -> Callable[[Consensus], object]:
        return _panic
