from __future__ import annotations

import importlib.util
import io
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from .programs import EXAMPLES, Program, running, until

DEMO = EXAMPLES / "demo.py"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return the demo's temporary folder, where what it leaves behind can be seen."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def run_demo(tmp_path: Path, scratch: Path, *arguments: str) -> Any:
    return running([sys.executable, str(DEMO), *arguments], tmp_path / "output", env={"TMPDIR": str(scratch)})


def addresses(program: Program) -> list[tuple[str, int]]:
    """Return where the nodes' web servers are, from what the demo told."""
    return [(host, int(port)) for host, port in re.findall(r"http://([\d.]+):(\d+)", program.output)]


def listens(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False

    return True


@pytest.mark.parametrize("transport", ["tcp", "grpc"])
def test_it_ends_with_0_and_a_verdict_and_leaves_nothing(tmp_path: Path, scratch: Path, transport: str) -> None:
    with run_demo(tmp_path, scratch, "--transport", transport) as program:
        assert program.ends(within=150) == 0, program.output

    verdict = program.output.splitlines()[-1]
    counts = re.match(r"kept ([\d,]+) of ([\d,]+) acknowledged writes over 2 crashes", verdict)
    assert counts is not None, program.output
    assert counts[1] == counts[2] != "0"
    assert "\x1b" not in program.output  # no terminal, so no colours and no table
    assert list(scratch.iterdir()) == []
    assert not any(listens(address) for address in addresses(program))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_node(tmp_path: Path, scratch: Path, number: signal.Signals) -> None:
    with run_demo(tmp_path, scratch) as program:
        program.says("writing")
        assert len(addresses(program)) == 3
        program.process.send_signal(number)
        assert program.ends(within=20) == 130
        assert "Traceback" not in program.output
        assert not any(listens(address) for address in addresses(program))
        assert list(scratch.iterdir()) == []


def test_a_killed_demo_takes_its_nodes_along(tmp_path: Path, scratch: Path) -> None:
    with run_demo(tmp_path, scratch) as program:
        program.says("writing")
        program.process.kill()
        assert program.ends() == -signal.SIGKILL
        until(lambda: not any(listens(address) for address in addresses(program)), "the end of every node", within=20)


def test_a_step_that_takes_too_long_is_a_failure_that_names_step_and_folder(tmp_path: Path, scratch: Path) -> None:
    with run_demo(tmp_path, scratch, "--patience", "0.1") as program:
        assert program.ends() == 1, program.output

    folders = list(scratch.iterdir())
    assert len(folders) == 1
    assert re.search(r"FAILED: starting three nodes.*: not done in 0.1 s", program.output)
    assert f"data and logs are in {folders[0]}" in program.output
    assert {path.name for path in folders[0].iterdir()} >= {"node1.log", "node2.log", "node3.log"}
    assert not any(listens(address) for address in addresses(program))


def test_a_node_that_dies_by_itself_is_a_failure_that_names_it(tmp_path: Path, scratch: Path) -> None:
    with run_demo(tmp_path, scratch) as program:
        program.says("writing")
        pid = re.search(r"node 2 is process (\d+)", program.output)
        assert pid is not None
        os.kill(int(pid[1]), signal.SIGKILL)
        assert program.ends() == 1, program.output
        assert "node 2 ended with -9" in program.output
        assert not any(listens(address) for address in addresses(program))


class ForgetfulNode:
    """It lost one key, and has another name under a second one."""

    name = "node 1"

    async def ask(self, path: str) -> tuple[int, str]:
        key = int(path.removeprefix("get/"))
        return {3: (404, "there is no 3"), 4: (200, "name-40")}.get(key, (200, f"name-{key}"))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what the demo runs on
async def test_a_lost_write_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("riteraft_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)

    node = ForgetfulNode()
    demo = module.Demo([node], {}, Console(file=io.StringIO()), 10.0)
    demo.load.acknowledged = {key: f"name-{key}" for key in range(1, 200) if key not in (3, 4)}
    await demo.check([node])

    demo.load.acknowledged |= {3: "name-3", 4: "name-4"}
    with pytest.raises(
        module.DemoFailed, match="LOST 2 of 199 acknowledged writes: node 1 answers '404 there is no 3'"
    ):
        await demo.check([node])
