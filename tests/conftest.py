from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--consensus", default="raft-rs", metavar="ENGINE", help="what the clusters of processes run on")
    parser.addoption("--transport", default="tcp", metavar="NAME", help="what they speak to one another by")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend
