"""Goal S14: whatever the project's own commands download is compared with a hash that is kept here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "locks").iterdir())
PIN = re.compile(r"[a-z0-9.-]+==[\w.+!]+( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_s14_a_lock_holds_versions_with_hashes_and_nothing_else(lock: Path) -> None:
    heading, _, pins = lock.read_text("utf-8").partition("\n\n")
    assert all(line.startswith("#") for line in heading.splitlines())
    assert re.fullmatch(f"({PIN.pattern})+", pins), f"left over: {PIN.sub('', pins)[:200]!r}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_s14_nox_itself_is_installed_from_its_lock(page: str) -> None:
    commands = re.findall(r"\.venv/bin/pip install (.*?)(?: &&|\n)", (ROOT / page).read_text("utf-8"))
    assert commands
    assert set(commands) == {"-q -r locks/nox.txt"}
