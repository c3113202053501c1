"""Who may reach a node: nobody is asked ("none"), a shared secret, or mutual TLS; the same for every transport.

A transport gets a `Security` in its context and carries out its `mode`:

- `NONE`: no authentication. `check_exposure` refuses other than loopback addresses, unless `insecure` accepts them.
- `SECRET`: the exchange of `shared_secret`, with `Security.secret`, then a MAC on every frame.
- `TLS`: `Security.tls.current()` before each handshake; both sides show certificates. The listening side gives
  `Hello.principal` (from `read_principal`) to `Handler.admit`, and the same to `Handler.request`; the dialling side
  checks host name or IP address, then `check_server`.
"""

from __future__ import annotations

import enum
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread

from ._address import Address
from ._private_file import read_file
from ._security_options import SecurityOptions
from .errors import AuthenticationError, ConfigError
from .shared_secret import Secret
from .types import Principal, PrincipalRole

__all__ = [
    "NOBODY",
    "RELOAD_PERIOD",
    "Mode",
    "Security",
    "Tls",
    "TlsMaterial",
    "check_exposure",
    "check_server",
    "read_principal",
    "uris_of",
]

RELOAD_PERIOD = 1.0
"""Seconds between two looks at the certificate files, made when a connection is; a new certificate is soon used, and
a thousand connections a second look once."""


_TURNS = 20
"""Turns each side gets in a handshake with ourselves, which takes two or three."""


class Mode(str, enum.Enum):
    """How a peer proves who it is."""

    NONE = "none"
    SECRET = "secret"  # noqa: S105 - the name of a mode
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """One state of the three files: used for one handshake, never kept for the next."""

    principal: Principal
    """Whom our own certificate names."""
    server: ssl.SSLContext = field(repr=False)
    """For the listening side: a client certificate of our CA is required."""
    client: ssl.SSLContext = field(repr=False)
    """For the dialling side: give it the host name or the IP address that was dialled, it is checked."""
    ca: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    """PEM, for a transport whose TLS is not Python's."""


class Tls:
    """The certificate files of a node, read again when they change; a broken new one leaves the old ones in force."""

    def __init__(
        self, options: SecurityOptions, cluster: str | None, logger: logging.Logger, *, node: bool = True
    ) -> None:
        """Read the files; `node` is False for a program that only asks, and may have a client's certificate.

        `cluster` must be the certificate's; None takes what that says. Blocks for the files.

        :raises ConfigError: a file is missing, readable by others, or of no use; the text names field and cure.
        """
        assert options.ca is not None
        assert options.certificate is not None
        assert options.key is not None
        self._paths = {"ca": options.ca, "certificate": options.certificate, "key": options.key}
        self._cluster = cluster
        self._logger = logger
        self._node = node
        self._lock = threading.Lock()
        self._complaint: str | None = None
        self._stamp = self._look()
        self._material = self._read()
        self._next_look = time.monotonic() + RELOAD_PERIOD
        self._looking = False

    @property
    def principal(self) -> Principal:
        """Whom our own certificate names; the same as long as the process runs."""
        return self._material.principal

    async def current(self) -> TlsMaterial:
        """Return what to make the next handshake with; looks at the files if the last look is a while ago."""
        if not self._looking and time.monotonic() >= self._next_look:
            self._looking = True
            try:
                await anyio.to_thread.run_sync(self.refresh)
            finally:
                self._looking = False
        return self._material

    def refresh(self) -> TlsMaterial:
        """Do what `current` does in the calling thread; blocks for the files."""
        with self._lock:
            if time.monotonic() < self._next_look:
                return self._material
            self._next_look = time.monotonic() + RELOAD_PERIOD
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    return self._material
                material = self._read()
                if self._look() != stamp:
                    return self._material  # being replaced right now: the next look sees all of it
                if material.principal != self._material.principal:
                    raise ConfigError(
                        f"security.certificate: {self._paths['certificate']} names {material.principal.uri}, and this "
                        f"node runs as {self._material.principal.uri}: a name is for a member's whole life"
                    )
            except ConfigError as exc:
                if str(exc) != self._complaint:
                    self._complaint = str(exc)
                    self._logger.error("new certificate files are not used, the old ones stay in force: %s", exc)
                return self._material
            self._stamp, self._material, self._complaint = stamp, material, None
            self._logger.info("new certificate files are in use")
            return material

    def _look(self) -> tuple[tuple[int, ...], ...]:
        stamps = []
        for name, path in self._paths.items():
            try:
                found = path.stat()
            except OSError as exc:
                raise ConfigError(f"security.{name}: {path} cannot be read: {exc.strerror}") from exc
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _read(self) -> TlsMaterial:
        ca = read_file("security.ca", self._paths["ca"])
        certificate = read_file("security.certificate", self._paths["certificate"])
        key = read_file("security.key", self._paths["key"], private=True)
        server = self._context(ssl.PROTOCOL_TLS_SERVER)
        client = self._context(ssl.PROTOCOL_TLS_CLIENT)
        principal = self._prove(server)
        return TlsMaterial(principal, server, client, ca, certificate, key)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # connections are few and long: nothing is ever resumed
        try:
            context.load_verify_locations(self._paths["ca"])
        except (ssl.SSLError, OSError) as exc:
            raise ConfigError(f"security.ca: {self._paths['ca']} holds no certificate ({_reason(exc)})") from exc
        try:
            context.load_cert_chain(self._paths["certificate"], self._paths["key"], password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as exc:
            raise ConfigError(
                f"security.certificate: {self._paths['certificate']} and security.key: {self._paths['key']} do not go "
                f"together ({_reason(exc)})"
            ) from exc
        return context

    def _prove(self, server: ssl.SSLContext) -> Principal:
        """Shake hands with ourselves, in memory: what our peers would refuse is found before they do."""
        dialling = self._context(ssl.PROTOCOL_TLS_CLIENT)
        dialling.check_hostname = False
        if not self._node:
            dialling.verify_mode = ssl.CERT_NONE  # a client's certificate is none for a server
        path = self._paths["certificate"]
        try:
            shown = _shake_hands(server, dialling)
        except ssl.SSLError as exc:
            raise ConfigError(
                f"security.certificate: {path} would be refused by every peer that has security.ca: "
                f"{self._paths['ca']} ({_reason(exc)})"
            ) from exc
        try:
            principal = read_principal(uris_of(shown))
        except AuthenticationError as exc:
            raise ConfigError(f"security.certificate: {path}: {exc}") from exc
        if self._cluster is not None and principal.cluster != self._cluster:
            raise ConfigError(
                f"security.certificate: {path} is for cluster {principal.cluster!r}, and `cluster` is {self._cluster!r}"
            )
        if self._node and principal.role is not PrincipalRole.NODE:
            raise ConfigError(
                f"security.certificate: {path} is for a {principal.role.value} ({principal.uri}); a node needs one "
                f"that names riteraft://{principal.cluster}/node/NAME"
            )
        return principal


@dataclass(frozen=True, slots=True)
class Security:
    """What a transport is told of whom to trust; exactly one mode is in force."""

    cluster: str
    """The cluster's human name, from the config."""
    insecure: bool = False
    secret: Secret | None = None
    tls: Tls | None = None

    @property
    def mode(self) -> Mode:
        """How a peer proves who it is."""
        if self.tls is not None:
            return Mode.TLS
        return Mode.SECRET if self.secret is not None else Mode.NONE

    @property
    def principal(self) -> Principal | None:
        """Whom our own certificate names; None but with TLS."""
        return self.tls.principal if self.tls is not None else None

    @classmethod
    def load(
        cls, options: SecurityOptions, cluster: str | None, logger: logging.Logger, *, node: bool = True
    ) -> Security:
        """Read the files that a config names; `cluster` and `node` as for `Tls`. Blocks for them.

        :raises ConfigError: one is missing, readable by others, or of no use.
        """
        if options.ca is not None:
            tls = Tls(options, cluster, logger, node=node)
            return cls(tls.principal.cluster, tls=tls)
        text, field_name = None, "secret"
        if options.secret_file is not None:
            field_name = "secret_file"
            text = read_file(f"security.{field_name}", options.secret_file, private=True).decode(
                "ascii", errors="replace"
            )
        elif options.secret is not None:
            text = options.secret.get_secret_value()
        if text is None:
            return cls(cluster or "", options.insecure)
        if cluster is None:
            raise ConfigError("cluster: is needed with a shared secret, which is proved for one cluster's name")
        try:
            return cls(cluster, secret=Secret.parse(text))
        except ValueError as exc:
            where = f"{options.secret_file}: " if options.secret_file is not None else ""
            raise ConfigError(f"security.{field_name}: {where}the secret {exc}") from None


NOBODY = Security("")
"""No authentication, and no cluster's name: for a transport opened by itself."""


def read_principal(uris: Iterable[str]) -> Principal:
    """Return whom a certificate names, from the URIs among its subject alternative names; other URIs are passed over.

    :raises AuthenticationError: there is none of ours, or more than one.
    """
    ours = [uri for uri in uris if uri.startswith(Principal.SCHEME)]
    if len(ours) != 1:
        raise AuthenticationError(
            f"a certificate with {len(ours) or 'no'} names of riteraft's; exactly one is needed, a subject "
            f"alternative name such as URI:riteraft://CLUSTER/node/NAME"
        )
    try:
        return Principal.parse(ours[0])
    except ValueError as exc:
        raise AuthenticationError(f"a certificate with a malformed name: {exc}") from exc


def uris_of(certificate: Any) -> Sequence[str]:
    """Return the URIs of a certificate as `ssl.SSLObject.getpeercert()` gives it, or None."""
    names = certificate.get("subjectAltName", ()) if certificate else ()
    return [value for kind, value in names if kind == "URI"]


def check_server(uris: Iterable[str], security: Security) -> Principal:
    """Return whom the certificate of a node that we dialled names.

    :raises AuthenticationError: it is not one of a node of our cluster.
    """
    principal = read_principal(uris)
    if principal.role is not PrincipalRole.NODE or principal.cluster != security.cluster:
        raise AuthenticationError(f"{principal.uri} answers, where a node of cluster {security.cluster!r} is expected")
    return principal


async def check_exposure(address: Address, security: Security, logger: logging.Logger) -> None:
    """Refuse to be reached from other machines while nobody who comes has to prove anything.

    :raises ConfigError: the address cannot be resolved, or is not loopback in mode `NONE` without `insecure`.
    """
    try:
        resolved = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise ConfigError(
            f"address: {address.host} cannot be resolved ({exc.strerror or exc}); write an IP address, or mend the name"
        ) from exc
    open_to = sorted({str(entry[4][0]) for entry in resolved if not _is_loopback(str(entry[4][0]))})
    if not open_to or security.mode is Mode.TLS:
        return
    if security.mode is Mode.SECRET:
        logger.warning(
            "listening on %s with a shared secret: authenticated, but whoever is on the way reads it all", address
        )
        return
    if not security.insecure:
        raise ConfigError(
            f"address: {address} can be reached from other machines ({', '.join(open_to)}), and whoever reaches it may "
            "act as any node: listen on 127.0.0.1 or [::1]; or give ca, certificate and key, or secret_file, under "
            "[security]; or accept it with insecure = true there"
        )
    logger.warning(
        "listening on %s without authentication or encryption (insecure = true): "
        "whoever reaches it may act as any node of this cluster",
        address,
    )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _no_password() -> str:
    raise ValueError("the key is encrypted; a node starts without anyone to ask, so store it without a password")


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or str(exc)).lower().replace("_", " ")
    return str(exc)


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> Any:
    """Return the client's certificate as a server with these contexts sees it.

    :raises ssl.SSLError: one of the two refuses the other.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    listening = server.wrap_bio(to_server, to_client, server_side=True)
    dialling = client.wrap_bio(to_client, to_server, server_side=False)
    waiting = [dialling, listening]
    for _ in range(_TURNS):
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            return listening.getpeercert()
    raise ssl.SSLError("the handshake does not end")
