"""Example programs as processes: started, asked over HTTP, and always ended by pid."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 60.0
"""Seconds for what takes one or two: the machine may be busy with something else."""

_PAUSE = threading.Event()
"""Never set: to wait on between two looks at something that cannot tell by itself."""


def until(condition: Callable[[], T], what: str, within: float = PATIENCE) -> T:
    """Look again and again; return the first thing found that is true."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"in {within:g} s there was no sign of: {what}")

        _PAUSE.wait(0.02)

    return found


class Program:
    """A process and what it printed."""

    def __init__(self, command: Sequence[str | os.PathLike[str]], output: Path, **options: object) -> None:
        self._output = output
        self._began_at = output.stat().st_size if output.exists() else 0
        with output.open("ab") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, **options)  # type: ignore[call-overload]

    @property
    def output(self) -> str:
        return self._output.read_bytes()[self._began_at :].decode(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has printed this."""
        until(lambda: text in self.output or self.process.poll() is not None, f"{text!r} in its output")
        assert text in self.output, f"it ended with {self.process.returncode}:\n{self.output}"

    def ends(self, within: float = PATIENCE) -> int:
        """Wait for its end; return the exit code."""
        try:
            code: int = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {within:g} s:\n{self.output}") from None

        return code


@contextmanager
def running(
    command: Sequence[str | os.PathLike[str]],
    output: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Program]:
    """Run a program for the time of the block, if it does not end before."""
    program = Program(command, output, cwd=cwd, env={**os.environ, **(env or {})}, stdin=stdin)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait()
        if program.process.stdin is not None:
            program.process.stdin.close()


def ask(web: str, path: str, within: float = PATIENCE) -> tuple[int, str]:
    """Return HTTP status and text; status 0 if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{web}/{path}", timeout=within) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()
    except OSError:
        return 0, ""
