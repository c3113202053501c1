"""Security for tests, in each mode: a CA in a folder, certificates made when first asked for, one secret.

A transport's suite runs in all modes with

    @pytest.fixture(params=["none", "secret", "tls"])
    def open_transport(self, request: pytest.FixtureRequest, securities: Securities) -> OpenTransport:
        return securities.secured(functools.partial(open_pigeon, PigeonOptions()), Mode(request.param))
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from .._certificates import Issued, issue, make_ca
from .._security_options import SecurityOptions
from ..protocols import Transport, TransportContext
from ..security import Mode, Security
from ..shared_secret import Secret
from ..types import PrincipalRole

__all__ = ["Securities"]

HOSTS = ("127.0.0.1", "::1", "localhost")
_LOGGER = logging.getLogger("riteraft.test")


class Securities:
    """What the members of one test cluster share, and what each of them shows."""

    def __init__(self, folder: Path, cluster: str = "suite") -> None:
        """Make a CA in `folder`."""
        self.folder = folder
        self.cluster = cluster
        self.secret = Secret(secrets.token_bytes(32))
        make_ca(folder, cluster)

    def of(self, mode: Mode, name: str = "n1", role: PrincipalRole = PrincipalRole.NODE) -> Security:
        """Return the security of one member or, with another role, of a program that asks."""
        if mode is Mode.TLS:
            node = role is PrincipalRole.NODE
            return Security.load(self.options(name, role), self.cluster, _LOGGER, node=node)
        return Security(self.cluster, secret=self.secret if mode is Mode.SECRET else None)

    def options(self, name: str, role: PrincipalRole = PrincipalRole.NODE) -> SecurityOptions:
        """Return `[security]` for TLS under this name."""
        files = self.files(name, role)
        return SecurityOptions(ca=self.folder / "ca.pem", certificate=files.certificate, key=files.key)

    def files(self, name: str, role: PrincipalRole = PrincipalRole.NODE) -> Issued:
        """Return the certificate and key of this name, made if they are not there yet."""
        base = self.folder / f"{role.value}-{name}"
        if not base.with_suffix(".pem").exists():
            issue(self.folder, role, name, HOSTS if role is PrincipalRole.NODE else ())
        return Issued(base.with_suffix(".pem"), base.with_suffix(".key"))

    def secured(
        self, open_transport: Callable[[TransportContext], AbstractAsyncContextManager[Transport]], mode: Mode
    ) -> Callable[[TransportContext], AbstractAsyncContextManager[Transport]]:
        """Return an `open` that gives each node the security of this mode; node 5 is called `n5`."""

        def opened(context: TransportContext) -> AbstractAsyncContextManager[Transport]:
            name = f"n{context.identity.node_id if context.identity else 0}"
            return open_transport(dataclasses.replace(context, security=self.of(mode, name)))

        return opened
