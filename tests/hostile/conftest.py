from __future__ import annotations

import random
import secrets
from collections.abc import Iterator

import pytest

from ..cluster import cluster
from .target import Target, attacked_cluster


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Return the leader of an open cluster under load, for all tests of one module."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("consensus", "transport"):
            patch.setitem(cluster.PLUGINS, kind, request.config.getoption(f"--{kind}"))
        mib = 1024 * 1024
        limits = {"max_bytes_in_flight": 8 * mib, "max_command_bytes": mib // 4, "max_snapshot_bytes": 4 * mib}
        with attacked_cluster(tmp_path_factory.mktemp("target"), limits=limits) as target:
            yield target


@pytest.fixture
def chance() -> random.Random:
    """Return chance whose seed is in the output of a test that fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201
    return random.Random(seed)
