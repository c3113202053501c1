from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from riteraft_core.protocols import Consensus
from riteraft_core.testing import ConsensusSuite
from riteraft_core.testing.engine_cluster import OpenEngine

pytest.importorskip("rraft", reason="rraft-py is not installed here: `nox -s rraft` builds and tests it")

from riteraft_consensus_rraft._engine import _guarded

from riteraft_consensus_rraft import Rraft


@_guarded
def _panic(engine: Rraft) -> None:
    """Commit what raft-rs does not hold: one of its own checks panics."""
    engine._raw.get_raft().get_raft_log().commit_to(1 << 40)


class TestRraft(ConsensusSuite):
    cannot_keep: ClassVar = {
        "test_rule_25_a_caught_panic_writes_nothing": (
            "rraft-py installs no panic hook: Rust's own writes the panic to stderr, and raft-rs's log a line before it"
        ),
    }

    @pytest.fixture
    def open_engine(self) -> OpenEngine:
        return Rraft

    @pytest.fixture
    def cause_panic(self) -> Callable[[Consensus], object]:
        return _panic  # type: ignore[return-value]
