"""`riteraft certs`: a certificate authority for one cluster, in a folder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeAlias

import typer

from ..errors import PluginError
from ..types import PrincipalRole
from ._errors import errors_as_exit_codes

HELP = """Make a certificate authority and certificates for mutual TLS.

\b
    riteraft certs ca --cluster orders
    riteraft certs node n1 --host 10.0.0.1 --host n1.example.org
    riteraft certs node n2 --host 10.0.0.2
    riteraft certs admin ops
    riteraft certs client app

Each node gets ca.pem and its own two files, and in its config

\b
    [security]
    ca          = "ca.pem"
    certificate = "node-n1.pem"
    key         = "node-n1.key"

A certificate says who its owner is: riteraft://orders/node/n1. A member keeps the name that it joined with. A client
may propose and ask for status, an admin may also remove nodes. Whoever has ca.key can make any of them: keep it off
the nodes. Files are never overwritten; to renew a certificate, remove the old one here, make it again under the same
name, and copy it over the one in use: nodes see that within seconds.
"""

app = typer.Typer(no_args_is_help=True, help=HELP, rich_markup_mode=None)

Folder: TypeAlias = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files are.")]
Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="What it is called in its cluster.")]
Days: TypeAlias = Annotated[int, typer.Option(metavar="DAYS", min=1, max=36500, help="How long it is valid.")]


@app.command()
def ca(
    cluster: Annotated[str, typer.Option(metavar="NAME", help="The cluster's name, as `cluster` in its config.")],
    folder: Folder = Path("certs"),
    days: Days = 3650,
) -> None:
    """Make the authority of a cluster: ca.pem for everyone, ca.key for nobody."""
    with errors_as_exit_codes():
        made = _certificates().make_ca(folder, cluster, days)
        typer.echo(f"{made.certificate}: give it to every node, client and admin")
        typer.echo(f"{made.key}: makes new members; keep it where no node runs")


@app.command()
def node(
    name: Name,
    host: Annotated[list[str], typer.Option(metavar="HOST", help="Name or IP address it is dialled at; repeatable.")],
    folder: Folder = Path("certs"),
    days: Days = 365,
) -> None:
    """Make the certificate of a node, for the hosts of its `address` or `advertise`."""
    _issue(folder, PrincipalRole.NODE, name, host, days)


@app.command()
def client(name: Name, folder: Folder = Path("certs"), days: Days = 365) -> None:
    """Make the certificate of a client, which may propose and ask for status."""
    _issue(folder, PrincipalRole.CLIENT, name, [], days)


@app.command()
def admin(name: Name, folder: Folder = Path("certs"), days: Days = 90) -> None:
    """Make the certificate of an admin, who may also remove nodes; a short life suits it."""
    _issue(folder, PrincipalRole.ADMIN, name, [], days)


def _issue(folder: Path, role: PrincipalRole, name: str, hosts: list[str], days: int) -> None:
    with errors_as_exit_codes():
        made = _certificates().issue(folder, role, name, hosts, days)
        typer.echo(f"{made.certificate} and {made.key}: valid for {days} days")


def _certificates() -> ModuleType:
    try:
        from .. import _certificates
    except ImportError as exc:
        raise PluginError(
            'making certificates takes the package cryptography: pip install "riteraft-core[certs]"'
        ) from exc
    return _certificates
