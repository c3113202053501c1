from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from tests.port import Port

from .programs import EXAMPLES, Program, running

MINIMAL = EXAMPLES / "minimal.py"


def test_it_is_minimal() -> None:
    assert len(MINIMAL.read_text().splitlines()) < 40


def test_three_nodes_count_their_starts(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, *others = [stack.enter_context(Port()).address for _ in range(3)]

        def start(address: str) -> Program:
            command = [sys.executable, str(MINIMAL), address] + ([] if address == first else [first])
            return stack.enter_context(running(command, tmp_path / f"{address}.log", cwd=tmp_path))

        nodes = {}
        for number, address in enumerate([first, *others], start=1):
            nodes[address] = start(address)
            nodes[address].says(f"start number {number}\n")

        # The founder too comes back as what it was: its command says nothing of peers.
        nodes[others[0]].process.kill()
        nodes[others[0]].ends()
        nodes[first].process.terminate()
        assert nodes[first].ends() == 0
        nodes[first] = start(first)
        nodes[others[0]] = start(others[0])
        for address in (first, others[0]):
            nodes[address].says("start number ")

        logs = "".join(file.read_text() for file in tmp_path.glob("*.log"))  # with warnings that a peer is away
        starts = sorted(line for line in logs.splitlines() if line.startswith("start"))
        assert starts == [f"start number {number}" for number in range(1, 6)]
        assert "Traceback" not in logs
