from __future__ import annotations

import functools
import random
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from riteraft_core.testing.securities import Securities

from ..cluster import cluster
from .target import Target, attacked_cluster

MIB = 1024 * 1024
LIMITS = {"max_bytes_in_flight": 8 * MIB, "max_command_bytes": MIB // 4, "max_snapshot_bytes": 4 * MIB}


@pytest.fixture(scope="package")
def securities(tmp_path_factory: pytest.TempPathFactory) -> Securities:
    return Securities(tmp_path_factory.mktemp("securities"), "tests")


@pytest.fixture(scope="package")
def target(
    request: pytest.FixtureRequest, securities: Securities, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Return the leader of a cluster under load, for all tests of this folder that ask for the same kind.

    The kind is the transport and how it is secured: "tcp", "grpc tls", "grpc secret". There is one cluster at a time.
    """
    transport, _, mode = request.param.partition(" ")
    options: dict[str, Callable[[str], Mapping[str, str]]] = {
        "": lambda _: {},
        "tls": functools.partial(_certificate, securities),
        "secret": functools.partial(_secret, tmp_path_factory.mktemp("secret")),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cluster.PLUGINS, "consensus", request.config.getoption("--consensus"))
        folder = tmp_path_factory.mktemp("nodes")
        with attacked_cluster(
            folder, transport, remove_one=not mode, security=options[mode], limits=LIMITS
        ) as attacked:
            yield attacked


def _certificate(securities: Securities, name: str) -> Mapping[str, str]:
    found = securities.options(name).model_dump(exclude_none=True)
    return {field: str(path) for field, path in found.items()}


def _secret(folder: Path, _: str) -> Mapping[str, str]:
    path = folder / "secret"
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_hex(32))
    return {"secret_file": str(path)}


@pytest.fixture
def chance() -> random.Random:
    """Return chance whose seed is in the output of a test that fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201
    return random.Random(seed)
