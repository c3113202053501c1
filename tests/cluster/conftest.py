from __future__ import annotations

import secrets

import pytest

from . import cluster


@pytest.fixture(autouse=True)
def _plugins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cluster.PLUGINS, "consensus", request.config.getoption("--consensus"))
    monkeypatch.setitem(cluster.PLUGINS, "transport", request.config.getoption("--transport"))


@pytest.fixture
def seed() -> int:
    """Return a seed that is in the output of a test that fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201
    return seed
