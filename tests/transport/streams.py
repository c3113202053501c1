"""Both ends of one connection over loopback."""

from __future__ import annotations

import socket
import struct

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream
from riteraft_core.shared_secret import Dialler, Listener, Meeting, Seals, Secret
from riteraft_core.types import Hello


async def connected() -> tuple[SocketStream, SocketStream]:
    accepted: list[SocketStream] = []
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listeners:
        listener = listeners.listeners[0]
        assert isinstance(listener, SocketListener)
        async with anyio.create_task_group() as tasks:

            async def accept() -> None:
                accepted.append(await listener.accept())

            tasks.start_soon(accept)
            ours = await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))  # noqa: S610 - not Django's

    return ours, accepted[0]


async def reset(stream: SocketStream) -> None:
    """End a connection by a reset in place of an end."""
    raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await anyio.aclose_forcefully(stream)


def met() -> tuple[Seals, Seals]:
    """Return the seals of who dialled and of who listened, after they proved a shared secret to each other."""
    secret = Secret(bytes(range(32)))
    meeting = Meeting("tests", "tcp messages", Hello(b"c" * 16, 0, 1, b"d" * 16, 2))
    dialler = Dialler(secret, meeting)
    listener = Listener(secret, meeting, dialler.nonce, 2)
    proof, seals = dialler.prove(listener.challenge)
    return seals, listener.check(proof)
