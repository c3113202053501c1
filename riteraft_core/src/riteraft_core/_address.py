"""`host:port` as users write it: parsed once, the same way for every transport and every config field."""

from __future__ import annotations

import errno
import ipaddress
import re
from dataclasses import dataclass

from .errors import ConfigError

# Letters, digits, dots, dashes (and the underscores of container networks); no label over 63, as DNS has it.
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")

_CURES = {
    errno.EADDRINUSE: "another program listens there: stop it, or choose another port (0 takes a free one)",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose one of its own, or 0.0.0.0 for all of them",
    errno.EACCES: "this user may not use that port: choose one from 1024 up",
}


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name, an IPv4 or an IPv6 address, without brackets) and a port; `str` gives back what `parse` takes."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Build from `host:port`, IPv6 in brackets.

        :raises ValueError: it is no such thing; the text shows what was meant to stand there.
        """
        host, colon, port = text.rpartition(":")
        if "://" in text:
            raise ValueError(f'{text!r} is a URL; write only host and port: "{text.partition("://")[2]}"')
        if not colon or text.endswith("]"):
            raise ValueError(f'{text!r} has no port; write "{text or "127.0.0.1"}:7001"')
        if not host:
            raise ValueError(f'{text!r} has no host; write "127.0.0.1{text}", or "0.0.0.0{text}" for every interface')
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            raise ValueError(f'{text!r}: the port must be a number from 0 to 65535, as in "{host}:7001"')
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            try:
                ipaddress.IPv6Address(host)
            except ValueError as exc:
                raise ValueError(
                    f'{text!r}: between brackets stands an IPv6 address, as in "[::1]:{port}" ({exc})'
                ) from exc
        elif ":" in host:
            raise ValueError(f'{text!r}: write IPv6 in brackets, as in "[{host}]:{port}"')
        elif not _NAME.match(host):
            raise ValueError(f'{text!r}: {host!r} is no host name or address; write for example "127.0.0.1:{port}"')
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def not_listening(self, why: OSError) -> ConfigError:
        """Return what to tell a user whose transport cannot listen here."""
        cure = _CURES.get(why.errno or 0, "choose another address")
        return ConfigError(f"address: cannot listen on {self}: {why.strerror or why}; {cure}")
