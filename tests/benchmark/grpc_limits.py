"""What the settings of gRPC hold and what they do not: attacks on one node of this machine, and what they cost it.

Prints a line of Markdown each; `docs/grpc-limits.md` has them. Run it in an environment of `nox -s tests`:

    python tests/benchmark/grpc_limits.py
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import anyio
import grpc
import riteraft_transport_grpc._wire as wire
from riteraft_core.protocols import Transport, TransportContext
from riteraft_core.security import Security
from riteraft_core.testing.transport_suite import RecordingHandler, identity_of
from riteraft_core.types import Hello

from riteraft_transport_grpc import GrpcOptions, open_grpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"
Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

PEER = Hello.of(identity_of(2), 1)
JOINER = Hello.of(None, 0)


def mebibytes() -> float:
    """Return what this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Node:
    """One node, and who comes to it."""

    def __init__(self, transport: Transport, handler: RecordingHandler) -> None:
        self.transport = transport
        self.handler = handler
        self.address = transport.address

    async def connect(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        return sock

    async def speak_http2(self) -> socket.socket:
        sock = await self.connect()
        await asyncio.get_running_loop().sock_sendall(sock, PREFACE + SETTINGS)
        return sock

    async def honest(self) -> float:
        """Return how long an honest peer needs to connect and have a request answered."""
        async with running(2, GrpcOptions()) as other:
            began = time.monotonic()
            await asyncio.wait_for(other.transport.request(self.address, b"abc"), 20)
            return time.monotonic() - began


@asynccontextmanager
async def running(node_id: int, options: GrpcOptions) -> AsyncIterator[Node]:
    handler = RecordingHandler()
    logger = logging.getLogger("limits")
    logger.disabled = True
    context = TransportContext(identity_of(node_id), "127.0.0.1:0", handler, logger, Security("suite"))
    async with open_grpc(options, context) as transport:
        yield Node(transport, handler)


async def closed_after(sock: socket.socket, limit: float) -> float | None:
    """Return after how many seconds the other side closed, or None if it did not within the limit."""
    began = time.monotonic()
    loop = asyncio.get_running_loop()
    try:
        while True:
            data = await asyncio.wait_for(loop.sock_recv(sock, 65536), limit - (time.monotonic() - began))
            if not data:
                return time.monotonic() - began
    except (asyncio.TimeoutError, ValueError):
        return None
    except OSError:
        return time.monotonic() - began


def say(subject: str, *figures: str) -> None:
    sys.stdout.write("| " + " | ".join((subject, *figures)) + " |\n")
    sys.stdout.flush()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


async def silent_connections(count: int) -> None:
    async with running(1, GrpcOptions(handshake_timeout=5.0)) as node:
        before = descriptors()
        socks = [await node.connect() for _ in range(count)]
        await asyncio.sleep(0.5)
        held = (descriptors() - before) - count
        took = await node.honest()
        gone = await closed_after(socks[0], 20)
        for sock in socks:
            sock.close()
        say(
            f"{count} connections that say nothing",
            f"{held} held at once; the first closed after {gone and round(gone, 1)} s; "
            f"an honest peer served in {took:.2f} s",
        )


async def idle_connections(count: int) -> None:
    async with running(1, GrpcOptions(handshake_timeout=2.0, idle_timeout=6.0)) as node:
        before = descriptors()
        socks = [await node.speak_http2() for _ in range(count)]
        await asyncio.sleep(0.5)
        held = descriptors() - before - count
        took = await node.honest()
        gone = await closed_after(socks[0], 30)
        for sock in socks:
            sock.close()
        say(
            f"{count} connections that agree on HTTP/2 and then say nothing (idle_timeout 6 s)",
            f"{held} held at once, of one host; the first closed after {gone and round(gone, 1)} s; "
            f"an honest peer served in {took:.2f} s",
        )


async def dripping() -> None:
    async with running(1, GrpcOptions(handshake_timeout=2.0, frame_timeout=3.0, idle_timeout=6.0)) as node:
        sock = await node.speak_http2()
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        # HEADERS of 16,000 bytes, of which the first nine say so.
        await loop.sock_sendall(sock, frame(1, 4, 1, bytes(16000))[:9])
        ended: float | None = None
        while time.monotonic() - began < 30:
            try:
                await loop.sock_sendall(sock, b"\0")
            except OSError:
                ended = time.monotonic() - began
                break
            await asyncio.sleep(0.2)
        sock.close()
        say(
            "a header that comes a byte every 0.2 s (handshake_timeout 2 s, idle_timeout 6 s)",
            f"closed after {ended:.1f} s" if ended else "not closed within 30 s",
        )


async def connection_limit() -> None:
    async with running(1, GrpcOptions(max_connections=8)) as node:
        socks = [await node.speak_http2() for _ in range(16)]
        results = await asyncio.gather(*(closed_after(sock, 2) for sock in socks))
        for sock in socks:
            sock.close()
        say("16 connections with max_connections = 8", f"{sum(r is not None for r in results)} closed at once")


async def connections_of_one_peer(count: int) -> None:
    async with running(1, GrpcOptions()) as node:
        before = descriptors()
        channels = []
        for _ in range(count):
            channel = grpc.aio.insecure_channel(node.address, options=[("grpc.use_local_subchannel_pool", 1)])
            ask: Unary = channel.unary_unary(wire.REQUEST)
            await ask(wire.encode_payload(7, b"abc"), metadata=wire.encode_hello(PEER))
            channels.append(channel)
        held = (descriptors() - before) // 2
        for channel in channels:
            await channel.close()
        say(f"one node that opens {count} connections and makes a request on each", f"{held} held at once")


async def large_stranger(count: int) -> None:
    """Senders without an identity that send as much as gRPC lets them."""
    async with running(1, GrpcOptions()) as node:
        before = mebibytes()
        payload = wire.encode_payload(0, bytes(15 * 1024 * 1024))
        most = before

        async def send() -> None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(node.address, options=options) as channel:
                ask: Unary = channel.unary_unary(wire.REQUEST)
                with suppress(grpc.aio.AioRpcError):
                    await ask(payload, metadata=wire.encode_hello(JOINER))

        async def watch() -> None:
            nonlocal most
            while True:
                await asyncio.sleep(0.02)
                most = max(most, mebibytes())

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(send() for _ in range(count)))
        watching.cancel()
        say(
            f"{count} senders without an identity with 15 MiB each (max_stranger_frame is 2 MiB)",
            f"all refused, after they were received; this process, both sides in it, grew by "
            f"{(most - before):.0f} MiB at most",
        )


async def snapshot_window() -> None:
    """How much of a stream gRPC takes in before anybody reads it."""
    async with running(1, GrpcOptions()) as node:
        node.handler.snapshot_gate = anyio.Event()
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(node.address, options=options) as channel:
            call: Call = channel.stream_stream(wire.SNAPSHOT)(metadata=wire.encode_hello(PEER))
            await call.read()
            await call.write(wire.encode_header(7, b""))
            sent = 0
            chunk = wire.encode_chunk(7, bytes(64 * 1024))
            with anyio.move_on_after(3):
                while True:
                    await call.write(chunk)
                    sent += 64
            call.cancel()
        say("a snapshot whose receiver stands still", f"{sent} KiB were let go by its sender")


async def pings(count: int) -> None:
    async with running(1, GrpcOptions()) as node:
        sock = await node.speak_http2()
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        sent = 0
        try:
            for number in range(count):
                await loop.sock_sendall(sock, frame(6, 0, 0, struct.pack("!Q", number)))
                sent += 1
                await asyncio.sleep(0.001)
        except OSError:
            pass
        gone = await closed_after(sock, 2)
        sock.close()
        end = f"sent away after {time.monotonic() - began:.1f} s" if sent < count or gone is not None else "served"
        say(f"{count} HTTP/2 pings, one a millisecond", f"{sent} taken, {end}")


async def churn(count: int) -> None:
    async with running(1, GrpcOptions()) as node:
        before = descriptors()
        rss = mebibytes()
        began = time.monotonic()
        for _ in range(count):
            sock = await node.connect()
            sock.close()
        took = time.monotonic() - began
        await asyncio.sleep(1)
        honest = await node.honest()
        say(
            f"{count} connections opened and closed, {count / took:.0f} a second",
            f"{descriptors() - before} descriptors left, {(mebibytes() - rss):.1f} MiB more; "
            f"an honest peer served in {honest:.2f} s",
        )


async def main() -> None:
    say("attack", "seen")
    say("---", "---")
    await silent_connections(500)
    await idle_connections(500)
    await dripping()
    await connection_limit()
    await connections_of_one_peer(20)
    await large_stranger(16)
    await snapshot_window()
    await pings(2000)
    await churn(2000)


if __name__ == "__main__":
    asyncio.run(main())
