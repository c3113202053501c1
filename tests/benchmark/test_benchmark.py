from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run.py")


def test_it_measures_each_level_and_leaves_nothing(tmp_path: Path) -> None:
    figures, scratch = tmp_path / "figures.json", tmp_path / "scratch"
    scratch.mkdir()
    arguments = ["--seconds", "0.2", "--in-flight", "1,8", "--loop", "asyncio", "--at", "follower"]
    subprocess.run(
        [sys.executable, str(RUN), *arguments, "--json", str(figures), "--data-dir", str(scratch)],
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )

    levels = json.loads(figures.read_text())["levels"]
    assert [level["in_flight"] for level in levels] == [1, 8]
    assert all(level["writes"] > 0 for level in levels)
    assert list(scratch.iterdir()) == []
