"""A certificate authority in a folder, for one cluster: what `riteraft certs` and the tests make certificates with.

Needs the extra `certs` (cryptography). Keys are P-256: every TLS library takes them, and a handshake stays cheap.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ._address import Address
from .errors import ConfigError
from .types import Principal, PrincipalRole

CA_DAYS = 3650
"""A development CA outlives the cluster: renewing it means touching every node at once."""
LEAF_DAYS = 365
"""A lost key is of no use after a year; renewal needs no restart."""
BACKDATED = datetime.timedelta(hours=1)
"""Valid since so long ago: the clocks of hosts differ."""


@dataclass(frozen=True, slots=True)
class Issued:
    """Where a certificate and its key were written."""

    certificate: Path
    key: Path


def make_ca(folder: Path, cluster: str, days: int = CA_DAYS) -> Issued:
    """Write `ca.pem` and `ca.key`.

    :raises ConfigError: one of them is there already, or cannot be written.
    """
    files = Issued(folder / "ca.pem", folder / "ca.key")
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"riteraft CA of {cluster}")
    builder = (
        _builder(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        # Says whose CA it is, so that it need not be said again for each certificate.
        .add_extension(x509.SubjectAlternativeName([_uri(_ca_uri(cluster))]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    _write(files, key, builder.sign(key, hashes.SHA256()))
    return files


def issue(folder: Path, role: PrincipalRole, name: str, hosts: Sequence[str] = (), days: int = LEAF_DAYS) -> Issued:
    """Write `ROLE-NAME.pem` and `ROLE-NAME.key`, signed by the CA in the same folder.

    `hosts` are the DNS names and IP addresses that others dial; a node needs at least one.

    :raises ConfigError: there is no CA, a file is there already, or the name or a host is malformed.
    """
    ca, ca_key, cluster = _read_ca(folder)
    principal = Principal(role, cluster, name)
    try:
        Principal.parse(principal.uri)
    except ValueError as exc:
        raise ConfigError(f"{name!r} is no name for a certificate: {exc}") from exc
    if "/" in name or name.startswith("."):
        raise ConfigError(f"{name!r} is no name for a file: leave out slashes, and begin with another character")
    if (role is PrincipalRole.NODE) != bool(hosts):
        raise ConfigError("a node's certificate names the hosts it is dialled at, any other one none")
    files = Issued(folder / f"{role.value}-{name}.pem", folder / f"{role.value}-{name}.key")
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role is PrincipalRole.NODE:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)  # without it, a client can never pass for a node
    builder = (
        _builder(_name(f"{role.value} {name}"), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_uri(principal.uri), *(_host(host) for host in hosts)]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    _write(files, key, builder.sign(ca_key, hashes.SHA256()))
    return files


def _read_ca(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, str]:
    try:
        ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        names = ca.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is not one of an elliptic curve")
        return ca, key, Principal.parse(f"{uri}/node/any").cluster
    except OSError as exc:
        raise ConfigError(f"{folder} holds no CA ({exc.strerror}): make one with `riteraft certs ca`") from exc
    except (ValueError, TypeError, x509.ExtensionNotFound) as exc:
        raise ConfigError(f"{folder}: ca.pem and ca.key are none of `riteraft certs ca`: {exc}") from exc


def _ca_uri(cluster: str) -> str:
    return Principal(PrincipalRole.NODE, cluster, "any").uri.removesuffix("/node/any")


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # X.520's limit; nobody reads it


def _uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(Address.parse(f"{host}:1").host.rstrip("."))
    except ValueError as exc:
        raise ConfigError(f"{host!r} is no DNS name and no IP address") from exc


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now - BACKDATED, now + datetime.timedelta(days=days - 1)))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _write(files: Issued, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for path in (files.key, files.certificate):
        if path.exists():
            raise ConfigError(f"{path} is there already: remove it first, or name another folder")
    try:
        files.key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(files.key, pem, 0o600)
        _write_new(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as exc:
        raise ConfigError(f"{exc.filename or files.key}: cannot be written: {exc.strerror}") from exc


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
