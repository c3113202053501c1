"""How far a long run is, on one line of the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Advance(Protocol):
    """Says how much is done, and in a few words what was seen last."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Advance]:
    """Show how much of `total` is done, for the time of the block."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            bar.update(task, completed=min(done, total), note=note)

        yield advance
