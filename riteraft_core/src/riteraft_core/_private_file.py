"""Small files from the config: read whole, with a bound, and refused if others may read what is to be private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import ConfigError

MAX_SIZE = 1024 * 1024
"""Bytes of a certificate, key or secret file; a chain has a few KiB, a CA bundle a few hundred."""


def read_file(field: str, path: Path, *, private: bool = False) -> bytes:
    """Return a file's bytes; a private one must be readable by its owner alone. `field` is named in the error.

    :raises ConfigError: it is missing, too large, or others may read it.
    """
    try:
        with path.open("rb") as file:
            if private:
                check_private(field, path, os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_SIZE + 1)
    except OSError as exc:
        raise ConfigError(f"{field}: {path} cannot be read: {exc.strerror}") from exc
    if len(content) > MAX_SIZE:
        raise ConfigError(f"{field}: {path} has more than {MAX_SIZE} bytes: is it the right file?")
    return content


def check_private(field: str, path: Path, mode: int) -> None:
    """Check that no one but its owner may do anything with a file.

    :raises ConfigError: others may.
    """
    permissions = stat.S_IMODE(mode)
    if permissions & 0o077:
        raise ConfigError(
            f"{field}: {path} is open to others than its owner (mode {permissions:04o}): chmod 600 {path}"
        )
