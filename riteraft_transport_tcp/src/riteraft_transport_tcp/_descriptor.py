"""A second descriptor of a stream's socket: an event loop lets nobody wait for one that it has a transport on."""

from __future__ import annotations

import socket

from anyio.abc import SocketAttribute, SocketStream


def duplicate(stream: SocketStream) -> socket.socket:
    """Return a socket that does not block and is to be closed before the stream: it would keep the connection open.

    :raises OSError: the connection is gone.
    """
    try:
        raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
        ours = socket.fromfd(raw.fileno(), raw.family, raw.type)
    except AttributeError as exc:  # uvloop's, of a connection that is closed
        raise ConnectionAbortedError("it is closed") from exc

    ours.setblocking(False)
    return ours
