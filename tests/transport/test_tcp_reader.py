"""What is read straight from a socket: all of it, in order, and no faster than it is received."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream
from riteraft_transport_tcp._reader import SocketReader
from riteraft_transport_tcp._sealed import Records, SealedStream
from riteraft_transport_tcp._writer import SocketWriter

from tests.transport.streams import connected, met, reset

pytestmark = pytest.mark.anyio
PIECES = [bytes([number]) * 300_001 for number in range(40)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def over(stream: SocketStream | SealedStream) -> SocketReader:
    """Return a reader: with an anyio whose streams cannot be stopped any more, every message would be slower."""
    reader = SocketReader.over(stream)
    assert reader is not None, "anyio's stream has no transport that can be told to stop reading"
    return reader


async def read_all(reader: SocketReader) -> bytes:
    data = bytearray()
    try:
        while True:
            data += await reader.receive()
    except anyio.EndOfStream:
        return bytes(data)
    finally:
        reader.close()


async def test_everything_arrives_in_order_until_the_other_side_closes() -> None:
    ours, theirs = await connected()
    received: list[bytes] = []
    async with ours, anyio.create_task_group() as tasks:

        async def read() -> None:
            received.append(await read_all(over(ours)))

        tasks.start_soon(read)
        async with theirs:
            for piece in PIECES:
                await theirs.send(piece)

    assert received == [b"".join(PIECES)]


async def test_a_stream_that_was_reading_ahead_reads_no_more() -> None:
    # As after a handshake whose first bytes were there before anybody asked for them.
    ours, theirs = await connected()
    async with ours, theirs:
        await theirs.send(b"hello")
        assert await ours.receive() == b"hello"
        reader = over(ours)
        await ours.send(b"welcome")
        assert await theirs.receive() == b"welcome"
        await theirs.send(b"message")
        await theirs.send_eof()
        assert await read_all(reader) == b"message"


async def test_what_nobody_receives_stays_in_the_kernel() -> None:
    # And so slows the sender down, who may be faster than whoever applies.
    ours, theirs = await connected()
    async with ours, anyio.create_task_group() as tasks:
        reader = over(ours)

        async def send() -> None:
            async with theirs:
                await theirs.send(b"".join(PIECES))

        tasks.start_soon(send)
        first = await reader.receive()
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
            assert len(reader._piece or b"") <= 256 * 1024

        assert first + await read_all(reader) == b"".join(PIECES)


async def test_a_broken_connection_says_so() -> None:
    ours, theirs = await connected()
    async with ours:
        reader = over(ours)
        await reset(theirs)
        with pytest.raises(ConnectionResetError):
            await reader.receive()

        reader.close()


@pytest.mark.parametrize("uvloop", [False, True])
@pytest.mark.parametrize("direct", [SocketReader, SocketWriter])
def test_of_a_connection_that_broke_before_there_is_none(
    direct: type[SocketReader] | type[SocketWriter], uvloop: bool
) -> None:
    # A peer may be gone as soon as it has been let in; what the loop raises then must not end a node.
    async def break_and_open() -> None:
        ours, theirs = await connected()
        async with ours:
            await reset(theirs)
            with pytest.raises(anyio.BrokenResourceError):
                await ours.receive()

            with pytest.raises(OSError, match=r"Bad file descriptor|closed"):
                direct.over(ours)

    anyio.run(break_and_open, backend_options={"use_uvloop": uvloop})


async def test_a_cancelled_receive_loses_nothing() -> None:
    ours, theirs = await connected()
    async with ours, theirs:
        reader = over(ours)
        with anyio.move_on_after(0):
            await reader.receive()

        await theirs.send(b"later")
        assert await reader.receive() == b"later"
        reader.close()


async def test_the_records_of_a_shared_secret_are_checked() -> None:
    dialling, listening = met()
    ours, theirs = await connected()
    async with ours:
        reader = over(SealedStream(ours, listening))
        records = Records(dialling)
        async with theirs:
            for piece in (b"first", b"second", b"third"):
                await theirs.send(records.seal(piece))

        assert await read_all(reader) == b"firstsecondthird"


def test_tls_reads_for_itself() -> None:
    assert SocketReader.over(TLSStream.__new__(TLSStream)) is None


def test_trio_reads_in_tasks() -> None:
    async def read() -> None:
        ours, theirs = await connected()
        async with ours, theirs:
            assert SocketReader.over(ours) is None

    anyio.run(read, backend="trio")
