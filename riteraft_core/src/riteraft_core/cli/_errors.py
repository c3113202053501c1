"""Our errors as a command shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ..errors import ConfigError, PluginError, RiteraftError
from . import WRONG_CONFIG

FATAL = 1


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn our errors into a text on stderr and an exit code; any other one is a bug and keeps its traceback."""
    try:
        yield
    except (ConfigError, PluginError) as exc:
        typer.echo(f"riteraft: {exc}", err=True)
        raise typer.Exit(WRONG_CONFIG) from exc
    except RiteraftError as exc:
        typer.echo(f"riteraft: {type(exc).__name__}: {exc}", err=True)
        raise typer.Exit(FATAL) from exc
