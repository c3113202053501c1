"""One node as a process of its own, asked and answering a line at a time."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds for what takes well under one: the machine may be busy with something else."""
END_SECONDS = 5.0


class NodeProcess:
    """A node's arguments and log stay, its process comes and goes."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        *,
        python: Path = Path(sys.executable),
        sources: Sequence[Path] = (),
    ) -> None:
        """Start it; `module` is the one beside this file to run, `sources` come before what is installed."""
        self._command = [str(python), "-m", f"{__package__}.{module}", *arguments]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))} if sources else None
        self._log = log
        self.started_at = 0.0
        self.start()

    def start(self) -> None:
        """Start the process; the answer to the first question says that the node serves."""
        with self._log.open("ab") as stderr:
            self.started_at = time.monotonic()
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for this process, which then ends the nodes
            )

    def ask(self, do: str, within: float = PATIENCE, **arguments: Any) -> dict[str, Any]:
        """Ask and wait for the answer.

        :raises SystemExit: the node ended, or gave none in that time.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], within)[0]:
                raise SystemExit(f"a node did not answer {do!r} within {within:g} s:{self._last_words()}")

            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""

        if not line.endswith(b"\n"):
            raise SystemExit(f"a node ended:{self._last_words()}")

        answer: dict[str, Any] = json.loads(line)
        return answer

    def begin(
        self,
        in_flight: int,
        *,
        writes: int | None = None,
        profile: Path | None = None,
        profiler: str = "cpu",
    ) -> None:
        """Put a load on this node: so many writes in flight, until `end` or until there were `writes`."""
        self.ask(
            "begin",
            in_flight=in_flight,
            writes=writes,
            profile=None if profile is None else str(profile),
            profiler=profiler,
        )

    def kill(self) -> None:
        """SIGKILL, as a power cut for this process."""
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def end(self) -> None:
        """Ask the process to end, without waiting."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

        self._process.terminate()

    def reap(self) -> None:
        """Wait until the process has ended, for so long, and then end it."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _last_words(self) -> str:
        return "\n" + self._log.read_text(errors="replace")[-2000:]


def until(condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
    """Look again and again until the condition holds.

    :raises SystemExit: it did not within that time.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"in {within:g} s there was no sign of: {what}")

        time.sleep(0.02)
