"""Somebody on the way between two nodes, who keeps what is said."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

LIMIT = 1 << 24


class Tap:
    """Listens where a node says it does, passes everything on, and keeps what was said to the node."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.recorded: list[bytearray] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def where(self) -> tuple[str, int]:
        """The same as host and port."""
        host, port = self._listener.getsockname()
        return host, port

    def close(self) -> None:
        """End every connection through it."""
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                inbound, _ = self._listener.accept()
            except OSError:
                return
            try:
                outbound = socket.create_connection(self.target, 10)
            except OSError:
                inbound.close()
                continue
            self._sockets += (inbound, outbound)
            record = bytearray()
            self.recorded.append(record)
            threading.Thread(target=self._pump, args=(inbound, outbound, record), daemon=True).start()
            threading.Thread(target=self._pump, args=(outbound, inbound, bytearray()), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, record: bytearray) -> None:
        try:
            while data := source.recv(1 << 16):
                if len(record) < LIMIT:
                    record += data
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
