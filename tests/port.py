"""Ports for nodes whose address must be known before they run, or outlive them."""

from __future__ import annotations

import random
import socket
import sys

FIRST, LAST = 12_000, 32_000
"""Below the range of ephemeral ports: else a node that is down could find its port taken by a peer's own socket."""


class Port:
    """A port of the loopback interface that nobody else has or gets until it is closed, whether a node runs or not."""

    def __init__(self) -> None:
        draw = random.SystemRandom()
        while True:
            self._socket = socket.socket()
            try:
                self._socket.bind(("127.0.0.1", draw.randrange(FIRST, LAST)))
            except OSError:
                self._socket.close()
            else:
                break

        self.number: int = self._socket.getsockname()[1]
        # Bound, it keeps out who does not ask to share the port, as another `Port`. A node does ask: every server sets
        # this. Linux then lets it listen, since nobody else does; other systems would not, so there the port is free.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "linux":
            self._socket.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.number}"

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
