"""TLS around a connection, both ways: certificates are shown by both sides, and each names its owner."""

from __future__ import annotations

import ssl

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream
from riteraft_core.errors import AuthenticationError
from riteraft_core.security import Security, Tls, check_server, read_principal, uris_of
from riteraft_core.types import Principal, Refusal, RefusalCode

from ._connection import ConnectionLostError
from ._framing import TlsError


async def dial_tls(stream: ByteStream, host: str, security: Security, tls: Tls) -> ByteStream:
    """Return the stream to a node of our cluster that is to be found at `host`.

    :raises ConnectionLostError: it is none, or shows no certificate that we can trust.
    """
    material = await tls.current()
    try:
        secured = await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=host.rstrip("."),  # as certificates write it
            ssl_context=material.client,
            standard_compatible=False,  # a frame says itself where it ends
        )
        check_server(_uris(secured), security)
    except (ssl.SSLError, AuthenticationError) as exc:
        raise ConnectionLostError(f"TLS: {_reason(exc)}") from exc
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as exc:
        raise ConnectionLostError("TLS: the other side ended the handshake") from exc
    return secured


async def accept_tls(stream: ByteStream, tls: Tls) -> tuple[ByteStream, Principal | Refusal]:
    """Return the stream to whoever connected, and whom its certificate names, or why it may not come in.

    :raises TlsError: there was no handshake, or no certificate of our CA.
    """
    material = await tls.current()
    try:
        secured = await TLSStream.wrap(stream, server_side=True, ssl_context=material.server, standard_compatible=False)
    except ssl.SSLError as exc:
        raise TlsError(f"TLS: {_reason(exc)}") from exc
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as exc:
        raise TlsError("TLS: the other side ended the handshake") from exc
    try:
        return secured, read_principal(_uris(secured))
    except AuthenticationError as exc:
        return secured, Refusal(RefusalCode.FORBIDDEN, str(exc))


def _uris(stream: TLSStream) -> list[str]:
    return list(uris_of(stream.extra(TLSAttribute.peer_certificate)))  # noqa: S610 - not Django's


def _reason(exc: Exception) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "handshake failed").lower().replace("_", " ")
    return str(exc)
