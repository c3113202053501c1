"""The commands of `riteraft`."""

from __future__ import annotations

import enum
import importlib.util
import logging
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Column, Table

from .._plugins import KINDS, TRANSPORT, Plugins, require_security
from .._store import load_store
from ..config import Config
from ..errors import ConfigError
from ..security import Security
from . import _ask, _certs
from ._errors import errors_as_exit_codes
from ._serve import serve

# A paragraph that begins with a backspace is left as it is by click.
HELP = """Run a replicated Store from a config file.

A first node, in n1.toml:

\b
    cluster   = "orders"
    address   = "127.0.0.1:7001"
    data_dir  = "data/n1"
    bootstrap = true                  # on the first node only
    store     = "orders:OrderStore"   # module:attribute

Every further one has an address and a data_dir of its own and, in place of bootstrap,

\b
    peers     = ["127.0.0.1:7001"]    # any member

\b
    riteraft check n1.toml            # is it right?
    riteraft run n1.toml

Each field can also be set by a variable, that wins over the file: RITERAFT_ADDRESS,
RITERAFT_TIMING__ELECTION_TIMEOUT.
"""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # Plain help keeps the example's lines apart, and a plain traceback is what a bug report needs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Loop(str, enum.Enum):
    """The event loops a node can run on."""

    ASYNCIO = "asyncio"
    TRIO = "trio"
    UVLOOP = "uvloop"


ConfigFile = Annotated[Path, typer.Argument(metavar="FILE", help="The node's config, a TOML file.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"riteraft-core {metadata.version('riteraft-core')}")
        raise typer.Exit


@app.callback(help=HELP)
def riteraft(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def run(
    file: ConfigFile,
    bootstrap: Annotated[
        bool | None, typer.Option("--bootstrap/--no-bootstrap", help="Form a new cluster of this node alone.")
    ] = None,
    address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = None,
    advertise: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where others reach it.")] = None,
    data_dir: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The node's folder.")] = None,
    peer: Annotated[list[str] | None, typer.Option(metavar="HOST:PORT", help="Any member; repeatable.")] = None,
    store: Annotated[str | None, typer.Option(metavar="MODULE:ATTRIBUTE", help="The Store.")] = None,
    loop: Annotated[Loop, typer.Option(help="The event loop.")] = Loop.ASYNCIO,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log at DEBUG.")] = False,
) -> None:
    """Run a node until SIGTERM or Ctrl-C. An option wins over the environment, that over the file.

    Exits with 0 when told to stop, 1 when an error ended the node, 2 when the config is wrong.
    """
    options = {
        "bootstrap": bootstrap,
        "address": address,
        "advertise": advertise,
        "data_dir": data_dir,
        "peers": peer or None,
        "store": store,
    }
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("riteraft").setLevel(logging.DEBUG if verbose else logging.INFO)
    with errors_as_exit_codes():
        config = Config.load(file, **{name: value for name, value in options.items() if value is not None})
        backend, backend_options = _backend(loop)
        anyio.run(serve, config, load_store(config), backend=backend, backend_options=backend_options)


@app.command()
def check(file: ConfigFile) -> None:
    """Check a config, its plugins' options, its certificates and its Store, without starting anything."""
    with errors_as_exit_codes():
        config = Config.load(file)
        plugins = Plugins.load()
        for kind in KINDS:
            config.resolve(kind, plugins)
        require_security(
            config.resolve(TRANSPORT, plugins)[0],
            Security.load(config.security, config.cluster, logging.getLogger("riteraft")),
        )
        if config.store is not None:  # a program may pass its Store in code
            load_store(config)
        folder = config.data_dir
        if not (config.bootstrap or config.peers or (folder is not None and folder.exists())):
            raise config.neither_bootstrap_nor_peers()
    chosen = ", ".join(f"{kind.noun} {getattr(config, kind.field).name}" for kind in KINDS)
    typer.echo(f"{file} is right: cluster {config.cluster}, address {config.address}, {chosen}")


@app.command()
def plugins() -> None:
    """List the plugins that are installed, and those that are broken."""
    rows = Plugins.load().rows()
    table = Table("kind", "name", Column("from", overflow="fold"), "runs on", "status")
    for row in rows:
        table.add_row(
            row.kind or "?",
            row.name,
            str(row.origin),
            ", ".join(row.backends),
            "broken" if row.problem else "ok",
        )
    Console().print(table)
    # Below the table, whole: in a column they would be cut into pieces.
    for problem in dict.fromkeys(row.problem for row in rows if row.problem):
        typer.echo(problem)


def _backend(loop: Loop) -> tuple[str, dict[str, Any]]:
    """Return what `anyio.run` calls this loop.

    :raises ConfigError: it is not installed.
    """
    if loop is not Loop.ASYNCIO and importlib.util.find_spec(loop.value) is None:
        raise ConfigError(f"--loop {loop.value}: it is not installed; pip install {loop.value}")
    if loop is Loop.UVLOOP:
        return "asyncio", {"use_uvloop": True}
    return loop.value, {}


app.command()(_ask.status)
app.command()(_ask.remove)
app.add_typer(_certs.app, name="certs")
