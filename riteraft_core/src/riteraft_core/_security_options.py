"""The config's table `[security]`: which files, or which secret. What they hold is read by `security.Security.load`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator


class SecurityOptions(BaseModel):
    """How the members of a cluster prove to each other who they are; the same for every transport."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path | None = None
    """PEM: who signs the certificates of this cluster's nodes, clients and admins. Use a CA for nothing else."""
    certificate: Path | None = None
    """PEM: this node's certificate, with the chain up to the CA if there is one between. It names the node in a URI
    (`riteraft://CLUSTER/node/NAME`) and the hosts it is reached at, as DNS names or IP addresses."""
    key: Path | None = None
    """PEM: its private key, readable by its owner alone. These three turn mutual TLS on."""
    secret_file: Path | None = None
    """A file with the shared secret, readable by its owner alone: at least 32 random bytes, hexadecimal or base64."""
    secret: SecretStr | None = None
    """The shared secret itself, as from `RITERAFT_SECURITY__SECRET`."""
    insecure: bool = False
    """Listen on other than loopback addresses though nothing is authenticated or encrypted: whoever reaches the port
    may speak for any node."""

    @model_validator(mode="after")
    def _one_way(self) -> SecurityOptions:
        tls = {name: getattr(self, name) is not None for name in ("ca", "certificate", "key")}
        if any(tls.values()) and not all(tls.values()):
            missing = " and ".join(name for name, given in tls.items() if not given)
            raise ValueError(f"{missing} missing: TLS needs ca, certificate and key, all three")
        secret = self.secret is not None or self.secret_file is not None
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("secret and secret_file are both given; keep one")
        if secret and any(tls.values()):
            raise ValueError("a shared secret beside TLS: keep ca, certificate and key, or the secret")
        if self.insecure and (secret or any(tls.values())):
            raise ValueError("insecure = true beside TLS or a secret, which it would not turn off: remove it")
        return self
