"""Clusters whose members prove who they are: by certificates, or by a shared secret."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from riteraft_core._security_options import SecurityOptions
from riteraft_core.testing.securities import Securities
from riteraft_core.types import PrincipalRole

from riteraft_core import Client, CommandRejected, RequestRefused, open_client

from .cluster import PATIENCE, PLUGINS, Load, running_cluster, until

T = TypeVar("T")
CLIENT, ADMIN = PrincipalRole.CLIENT, PrincipalRole.ADMIN


class Keys:
    """What the members of a cluster, its clients and its admins show."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.mode = mode
        self.securities = Securities(folder / "certs", "tests")
        self.secret_file = folder / "secret"
        self.secret_file.touch(0o600)
        self.secret_file.write_text(secrets.token_hex(32))

    def of(self, name: str, role: PrincipalRole = PrincipalRole.NODE) -> Mapping[str, str]:
        if self.mode == "none":
            return {}
        if self.mode == "secret":
            return {"secret_file": str(self.secret_file)}
        options = self.securities.options(name, role)
        return {field: str(getattr(options, field)) for field in ("ca", "certificate", "key")}

    def ask(self, question: Callable[[Client], Awaitable[T]], role: PrincipalRole = CLIENT) -> T:
        """Ask as a client or an admin called `me`."""

        async def run() -> T:
            security = SecurityOptions.model_validate(dict(self.of("me", role)))
            async with open_client(cluster="tests", transport=PLUGINS["transport"], security=security) as client:
                return await question(client)

        return anyio.run(run)

    def riteraft(self, *arguments: object, role: PrincipalRole = CLIENT) -> subprocess.CompletedProcess[str]:
        """Run the command, told by variables what to show."""
        told = {f"RITERAFT_SECURITY__{field.upper()}": value for field, value in self.of("me", role).items()}
        return subprocess.run(
            [sys.executable, "-c", "from riteraft_core.cli import main; main()", *map(str, arguments)],
            env={**os.environ, **told, "RITERAFT_CLUSTER": "tests", "RITERAFT_TRANSPORT": PLUGINS["transport"]},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


@pytest.fixture(params=["secret", "tls"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Keys:
    return Keys(tmp_path, request.param)


@pytest.fixture
def tls(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "tls")


def test_a_cluster_serves_and_survives_its_leader(keys: Keys, tmp_path: Path, seed: int) -> None:
    with running_cluster(tmp_path / "nodes", security=keys.of) as cluster, Load(cluster, seed=seed) as load:
        leader = cluster.leader()
        leader.kill()
        load.wait_for_progress()
        leader.start().ready()
        load.wait_for_progress()
        cluster.add().start(peers=[cluster.followers()[0].address]).ready()
        cluster.wait_for_voters(*cluster.nodes)
    assert cluster.faults == {"SIGKILL": 1}


def test_who_has_no_proof_is_not_let_in(keys: Keys, tmp_path: Path) -> None:
    stranger: Mapping[str, Any]
    with running_cluster(tmp_path / "nodes", size=1, security=keys.of) as cluster:
        for stranger in ({}, Keys(tmp_path / "theirs", keys.mode).of("n9")):
            node = cluster.add().start(peers=[cluster[1].address], security=stranger)
            until(lambda node=node: "not let in yet" in node.log, "a join that was put off")  # type: ignore[misc]
            node.kill()
        assert cluster[1].status()["members"] == {"1": cluster[1].address}


def test_clients_and_admins_ask(keys: Keys, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "nodes", size=2, security=keys.of) as cluster:
        address = cluster.followers()[0].address

        async def question(client: Client) -> None:
            assert await client.propose(address, b'["append", "k", "v"]') == b"1"
            with pytest.raises(CommandRejected) as caught:
                await client.propose(address, b'["reject", "k", "no"]')
            assert (caught.value.message, caught.value.detail) == ("no", b"k")
            status = await client.status(address)
            assert (status.cluster, sorted(status.voters)) == ("tests", [1, 2])
            with pytest.raises(RequestRefused, match="limits"):
                await client.propose(address, bytes(2 * 1024 * 1024))

        keys.ask(question)
        assert cluster[1].read("k") == ["v"]

        shown = keys.riteraft("status", address)
        assert shown.returncode == 0, shown.stderr
        assert "voter, leader" in shown.stdout

        unanswered = keys.riteraft("status", "127.0.0.1:1")
        assert unanswered.returncode == 1
        assert "127.0.0.1:1: no connection" in unanswered.stderr


def test_only_an_admin_removes_a_node(tls: Keys, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "nodes", security=tls.of) as cluster:
        gone = cluster.followers()[0]
        rest = [node for node in cluster.nodes if node is not gone]
        gone.kill()
        refused = tls.riteraft("remove", rest[0].address, gone.node_id)
        assert refused.returncode == 1
        assert "that takes an admin's certificate" in refused.stderr
        until(lambda: any("refused request: Remove" in node.status()["counters"] for node in rest), "a refusal counted")

        done = tls.riteraft("remove", rest[0].address, gone.node_id, role=ADMIN)
        assert done.returncode == 0, done.stderr
        cluster.wait_for_voters(*rest)
        unknown = tls.riteraft("remove", rest[0].address, 99, role=ADMIN)
        assert "there is no node 99" in unknown.stderr

        # The name is free again, for a new disk under a new id.
        again = cluster.add(f"{gone.name}-again")
        again.start(peers=[rest[0].address], security=tls.of(gone.name)).ready()
        assert again.node_id == 4


def test_s12_files_are_their_owners_and_secrets_are_in_none_that_others_read(keys: Keys, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "nodes", size=2, security=keys.of) as cluster:
        cluster[1].propose("append", "k", "v")
        for node in cluster.nodes:
            assert node.folder.stat().st_mode & 0o777 == 0o700
            files = [path for path in node.folder.rglob("*") if path.is_file()]
            assert files
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
            secret = keys.secret_file.read_text()
            assert secret not in node.log
            assert "PRIVATE KEY" not in node.log
            assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_with_a_secret_whoever_has_it_removes(tmp_path: Path) -> None:
    keys = Keys(tmp_path, "secret")
    with running_cluster(tmp_path / "nodes", security=keys.of) as cluster:
        gone = cluster.followers()[0]
        gone.kill()
        done = keys.riteraft("remove", cluster.leader().address, gone.node_id)
        assert done.returncode == 0, done.stderr


def test_a_member_leaves_by_itself(tls: Keys, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "nodes", security=tls.of) as cluster:
        node = cluster.followers()[0]
        node.call("leave")
        assert node.wait() == 0
        cluster.wait_for_voters(*[other for other in cluster.nodes if other is not node])


def test_a_name_is_one_members(tls: Keys, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "nodes", size=2, security=tls.of) as cluster:
        # A second node with the certificate of n2, and n2 itself with another's: neither comes in.
        second = cluster.add().start(peers=[cluster[1].address], security=tls.of("n2"))
        assert second.wait() == 2
        assert "names 'n2', which is node 2 already" in second.log
        cluster[2].kill()
        cluster[2].start(security=tls.of("n9"))
        assert cluster[2].wait() == 2
        assert "node 2 is a member under the name 'n2'" in cluster[2].log


def test_an_open_cluster_gets_certificates(tls: Keys, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "nodes") as cluster:
        cluster[1].propose("append", "k", "before")
        for node in cluster.nodes:
            node.terminate()
        for node in cluster.nodes:
            assert node.wait() == 0
            node.settings["security"] = tls.of(node.name)
            node.start()
        cluster.wait_for_voters(*[node.ready() for node in cluster.nodes])
        cluster[2].propose("append", "k", "after")
        assert cluster[3].read("k") == ["before", "after"]

        # Each name got into the log: it now belongs to that member.
        def bound() -> bool:
            node = cluster.followers()[0]
            node.kill()
            node.start(security=tls.of("n9"))
            until(lambda: not node.alive or node._ready.is_set(), "it serves, or says why not")
            if node.alive:
                node.kill()
                node.start().ready()
                return False
            assert "under the name" in node.log
            node.start().ready()
            return True

        until(bound, "a name in the log")
