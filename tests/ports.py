"""Ports for nodes whose address must be known before they run, or outlive them."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 12_000, 32_000
"""Below the range of ephemeral ports: else a node that is down could find its port taken by a peer's own socket."""


def free_port() -> int:
    """Return a port of the loopback interface where nobody listens."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(FIRST, LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue

            return port
