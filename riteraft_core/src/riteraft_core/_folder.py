"""What core itself keeps in a node's folder, beside the storage: a join under way, and the mark of a node that left.

Plain blocking calls: the node makes them in a worker thread, at its start and its end.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from .errors import ConfigError, StorageError

_JOIN = "join"
_LEFT = "left"
_FORMAT = 1


class Folder:
    """A node's folder, or none: then everything is kept for this start alone."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._in_memory: dict[str, list[Any]] = {}

    def refuse_if_left(self) -> None:
        """Check that this can be a node's folder, and that its node has not left its cluster.

        :raises ConfigError: it is a file; or the node has left: its id and its log are of no use any more.
        :raises StorageError: the folder cannot be looked into.
        """
        try:
            if self._path is not None and self._path.exists() and not self._path.is_dir():
                raise ConfigError(f"data_dir: {self._path} is a file, and a node needs a folder: name another")

            left = self._path is not None and (self._path / _LEFT).exists()
        except OSError as exc:
            raise StorageError(
                f"{self._path}: data_dir cannot be looked into: {exc}; the user that runs the node must be the owner "
                f"of the folder, or name another data_dir"
            ) from exc

        if left:
            raise ConfigError(
                f"data_dir: {self._path} belongs to a node that left its cluster: remove the folder, or name another"
            )

    def mark_left(self) -> None:
        """Note that this node left its cluster."""
        self._write(_LEFT, [_FORMAT])

    def join_token(self) -> bytes:
        """Return the disk id to join with, drawn once and durable before the return.

        The same token gets the same node id, so a join cut short by a crash leaves no stray member behind.
        """
        kept = self._read(_JOIN)
        if kept is not None and kept[1]:
            token: bytes = kept[1]
            return token

        token = secrets.token_bytes(16)
        self._write(_JOIN, [_FORMAT, token, []])
        return token

    def keep_hints(self, addresses: Mapping[int, str]) -> None:
        """Keep the members' addresses until the first snapshot brings them."""
        self._write(_JOIN, [_FORMAT, self.join_token(), list(addresses.items())])

    def spend_token(self) -> None:
        """Forget the token, once the identity it got is durable: a folder that lost its disk is another node."""
        kept = self._read(_JOIN)
        if kept is not None and kept[1]:
            self._write(_JOIN, [_FORMAT, b"", kept[2]])

    def hints(self) -> dict[int, str]:
        """Return what `keep_hints` kept, or nothing."""
        kept = self._read(_JOIN)
        return {int(node_id): str(address) for node_id, address in kept[2]} if kept is not None else {}

    def _read(self, name: str) -> list[Any] | None:
        if self._path is None:
            return self._in_memory.get(name)

        path = self._path / name
        try:
            kept = msgpack.unpackb(path.read_bytes())
            if not isinstance(kept, list) or len(kept) != 3 or kept[0] != _FORMAT:
                raise ValueError("it is of another format")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"{path}: cannot be read: {exc}") from exc
        except (ValueError, msgpack.UnpackException) as exc:
            raise StorageError(
                f"{path}: cannot be read ({exc}); if this node never took part in its cluster, remove the folder "
                f"and start again"
            ) from exc

        return kept

    def _write(self, name: str, value: list[Any]) -> None:
        if self._path is None:
            self._in_memory[name] = value
            return

        path = self._path / name
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgpack.packb(value))
                file.flush()  # all of it, or an error: a disk that fills up may take a part
                os.fsync(descriptor)

            fresh.replace(path)
            folder = os.open(self._path, os.O_RDONLY)
            try:
                os.fsync(folder)  # or the rename itself could be lost
            finally:
                os.close(folder)
        except OSError as exc:
            raise StorageError(f"{path}: cannot be written: {exc}") from exc
