from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from riteraft_core import CommandRejected
from tests.port import Port

from .programs import EXAMPLES, Program, running

CONFIG = EXAMPLES / "config"
RITERAFT = Path(sys.executable).with_name("riteraft")


def test_a_node_runs_from_its_config_alone(tmp_path: Path) -> None:
    command = [str(RITERAFT), "run", str(CONFIG / "n1.toml"), "--address", "127.0.0.1:0"]
    command += ["--data-dir", str(tmp_path / "n1")]
    for start in ("forming cluster 'orders'", "which restarts"):
        with running(command, tmp_path / "log", cwd=CONFIG) as program:
            program.says(start)
            program.says("node 1 leads")
            program.process.terminate()
            assert program.ends() == 0, program.output
            assert "Traceback" not in program.output


def test_three_nodes_run_by_the_commands_in_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    shutil.copytree(CONFIG, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    file = folder / "n1.toml"
    text = file.read_text()
    with ExitStack() as stack:
        # On other ports than those in it, which may be taken here.
        for port in ("7001", "7002", "7003"):
            text = text.replace(f"127.0.0.1:{port}", stack.enter_context(Port()).address)

        file.write_text(text)
        commands = [line[1:].split() for line in text.splitlines() if line.startswith("#   riteraft run ")]
        assert len(commands) == 3

        def start(number: int) -> Program:
            command = [str(RITERAFT), *commands[number - 1][1:]]
            return stack.enter_context(running(command, tmp_path / f"n{number}.log", cwd=folder))

        first = start(1)
        first.says("node 1 leads")
        rest = [start(2), start(3)]
        for node_id in (2, 3):
            first.says(f"node {node_id} is a voter now")

        for program in (first, *rest):
            program.process.terminate()
            assert program.ends() == 0, program.output

        # The same commands again.
        programs = [start(number) for number in (1, 2, 3)]
        for program in programs:
            program.says("which restarts")
            program.says("leads in term")


@pytest.fixture
def store() -> Any:
    spec = importlib.util.spec_from_file_location("orders_example", CONFIG / "orders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OrderStore()


def test_orders_are_taken_while_there_is_stock(store: Any) -> None:
    assert store.apply(b'["stock", "pear", 5]') == b"5"
    assert store.apply(b'["order", "pear", 3]') == b"2"
    with pytest.raises(CommandRejected, match="there are 2 of pear left, not 3"):
        store.apply(b'["order", "pear", 3]')

    assert json.loads(store.snapshot()) == {"pear": 2}
    other = type(store)()
    other.restore(store.snapshot())
    assert other.apply(b'["order", "pear", 2]') == b"0"


@pytest.mark.parametrize("command", [b"", b"\xff", b"[]", b"5", b'["steal", "pear", 1]', b'["order", "pear", -1]'])
def test_what_is_no_command_is_refused_and_changes_nothing(store: Any, command: bytes) -> None:
    with pytest.raises(CommandRejected):
        store.apply(command)

    assert json.loads(store.snapshot()) == {}
