"""`riteraft status` and `riteraft remove`: what is asked of a running cluster."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import anyio
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._config_errors import explain
from .._config_sources import Origins
from .._security_options import SecurityOptions
from ..client import Client, open_client
from ..errors import ConfigError
from ..types import NodeStatus
from ._errors import errors_as_exit_codes

T = TypeVar("T")

Ca: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", envvar="RITERAFT_SECURITY__CA", help="The cluster's CA, PEM.")
]
Certificate: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", envvar="RITERAFT_SECURITY__CERTIFICATE", help="Your client's or admin's, PEM."),
]
Key: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="FILE", envvar="RITERAFT_SECURITY__KEY", help="Its private key, PEM.")
]
SecretFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", envvar="RITERAFT_SECURITY__SECRET_FILE", help="The cluster's shared secret."),
]
ClusterName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="NAME", envvar="RITERAFT_CLUSTER", help="The cluster's name; needed beside --secret-file."
    ),
]
TransportName: TypeAlias = Annotated[
    str, typer.Option("--transport", metavar="NAME", envvar="RITERAFT_TRANSPORT", help="As in the nodes' config.")
]


def ask(
    question: Callable[[Client], Awaitable[T]],
    transport: str,
    cluster: str | None,
    **files: Path | None,
) -> T:
    """Open a client, ask, and return the answer.

    :raises RiteraftError: it went wrong.
    """
    try:
        security = SecurityOptions(**files)  # type: ignore[arg-type] # checked by the model
    except ValidationError as exc:
        raise ConfigError(explain(exc, SecurityOptions, Origins(), under=("security",))) from None

    async def run() -> T:
        async with open_client(cluster=cluster, transport=transport, security=security) as client:
            return await question(client)

    return anyio.run(run)


def status(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Any node.")],
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    secret_file: SecretFile = None,
    cluster: ClusterName = None,
    transport: TransportName = "tcp",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up after so long.")] = 5.0,
) -> None:
    """Show how a running node sees itself and its cluster.

    The members' [security] decides what to give: nothing on an open cluster, --ca, --certificate and --key with TLS,
    --secret-file and --cluster with a shared secret.
    """
    question = functools.partial(_status, address, timeout)
    with errors_as_exit_codes():
        _show(ask(question, transport, cluster, ca=ca, certificate=certificate, key=key, secret_file=secret_file))


async def _status(address: str, timeout: float, client: Client) -> NodeStatus:
    return await client.status(address, timeout=timeout)


def _show(status: NodeStatus) -> None:
    typer.echo(
        f"node {status.node_id} of cluster {_plain(status.cluster)} at {_plain(status.address)}: {status.role.value}"
    )
    typer.echo(f"term {status.term}, commit {status.commit}, applied {status.applied}, log ends at {status.last_index}")
    table = Table("node", "address", "is")
    for node_id, address in sorted(status.members.items()):
        vote = "voter" if node_id in status.voters else "learner" if node_id in status.learners else "joining"
        table.add_row(str(node_id), escape(_plain(address)), f"{vote}, leader" if node_id == status.leader else vote)
    Console().print(table)
    for reason, count in sorted(status.counters.items()):
        typer.echo(f"{count:>8}  {_plain(reason)}")


def _plain(text: str) -> str:
    """Return a text of another node without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def remove(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Any member that runs.")],
    node_id: Annotated[int, typer.Argument(metavar="NODE_ID", help="As `riteraft status` shows it.", min=1)],
    ca: Ca = None,
    certificate: Certificate = None,
    key: Key = None,
    secret_file: SecretFile = None,
    cluster: ClusterName = None,
    transport: TransportName = "tcp",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up after so long.")] = 30.0,
) -> None:
    """Take a node out of its cluster for good, running or not: its id and its folder are of no use after that.

    For a node that will not come back. One that runs can leave by itself. With TLS this takes an admin's certificate
    (`riteraft certs admin`).
    """
    question = functools.partial(_remove, address, node_id, timeout)
    with errors_as_exit_codes():
        ask(question, transport, cluster, ca=ca, certificate=certificate, key=key, secret_file=secret_file)
    typer.echo(f"node {node_id} is no member any more")


async def _remove(address: str, node_id: int, timeout: float, client: Client) -> None:
    await client.remove(address, node_id, timeout=timeout)
