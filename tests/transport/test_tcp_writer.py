"""What is written straight to a socket: all of it, in order, however little the kernel takes at once."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream
from riteraft_transport_tcp._sealed import Records, SealedStream
from riteraft_transport_tcp._writer import SocketWriter

from tests.transport.streams import connected, met

pytestmark = pytest.mark.anyio
PIECES = [bytes([number]) * 300_001 for number in range(40)]


async def read(stream: SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive(65536)

    return data


async def test_what_the_kernel_does_not_take_at_once_follows_in_order() -> None:
    ours, theirs = await connected()
    full = 0
    async with ours, theirs:
        writer = SocketWriter.over(ours)
        assert writer is not None
        with writer:
            received: list[bytes] = []
            async with anyio.create_task_group() as tasks:

                async def receive() -> None:
                    received.append(await read(theirs, sum(map(len, PIECES))))

                for number, piece in enumerate(PIECES):
                    writer.write(piece)
                    if writer.is_full:
                        full += 1
                        if full == 1:
                            tasks.start_soon(receive)  # nobody read until now

                        await writer.drain()
                        assert not writer.is_full

                    assert number < len(PIECES) - 1 or full, "the kernel took everything at once"

    assert received == [b"".join(PIECES)]


async def test_the_records_of_a_shared_secret_stay_in_their_order() -> None:
    dialling, listening = met()
    records = Records(listening)
    ours, theirs = await connected()
    async with ours, theirs:
        writer = SocketWriter.over(SealedStream(ours, dialling))
        assert writer is not None
        with writer:
            genuine = b""
            for piece in (b"first", b"second", b"third"):
                writer.write(piece)
                genuine += records.feed(await theirs.receive())

    assert genuine == b"firstsecondthird"


async def test_the_connection_ends_with_the_stream_and_is_noticed() -> None:
    ours, theirs = await connected()
    writer = SocketWriter.over(ours)
    assert writer is not None
    async with ours:
        with writer:
            await theirs.aclose()

            async def write_on() -> None:
                while True:
                    writer.write(b"x" * 1000)
                    await writer.drain()
                    await anyio.lowlevel.checkpoint()

            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                await write_on()


def test_tls_writes_for_itself() -> None:
    assert SocketWriter.over(TLSStream.__new__(TLSStream)) is None
