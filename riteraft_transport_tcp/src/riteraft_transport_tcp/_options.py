"""The options of the `tcp` transport: every limit by name, with its default and the reason for it."""

from __future__ import annotations

from pydantic import Field
from riteraft_core.outbox import OutboxOptions

_KIB = 1024
_MIB = 1024 * _KIB


class TcpOptions(OutboxOptions):
    """What stands in `[transport]` beside `name = "tcp"`. Sizes are bytes, times are seconds.

    A limit that the transport `grpc` has by the same name is against the same danger, but it counts frames and
    connections here, messages and calls of gRPC there: a value that was chosen for one is to be thought over for the
    other.
    """

    max_frame: int = Field(default=16 * _MIB, ge=4 * _KIB, le=1024 * _MIB)
    """The longest body of a frame, in and out. An append carries 256 KiB or one command of at most 1 MiB by default."""
    max_stranger_frame: int = Field(default=2 * _MIB, ge=4 * _KIB)
    """The same for a sender without an identity, as long as nobody has to prove anything: it asks to join, which is
    small, or brings a client's command, of at most 1 MiB by default."""
    snapshot_chunk: int = Field(default=256 * _KIB, ge=1)
    """A snapshot is sent in pieces of this size at most: small beside the memory of a node, big beside a header."""

    max_requests: int = Field(default=1024, ge=1)
    """Requests under way on one connection; the next one waits, on either side."""
    max_request_bytes: int = Field(default=32 * _MIB, ge=4 * _KIB)
    """Bytes of the requests being answered for one connection; past it, no more are read from it."""

    max_unauthenticated: int = Field(default=64, ge=1)
    """Connections that have not been let in, and again as many of senders without an identity. Past it the oldest
    one is closed: an honest handshake takes milliseconds, a dishonest one as long as it may."""
    max_connections_per_peer: int = Field(default=4, ge=3)
    """Connections of one node id: messages, requests, a snapshot and one to spare while another is being replaced.
    Past it the oldest one is closed."""
    max_connections: int = Field(default=1024, ge=8)
    """Connections in all: a bound for file descriptors. Past it new ones are closed unread."""

    connect_timeout: float = Field(default=3.0, gt=0)
    """To reach a peer; one on the same continent answers in a tenth of it."""
    handshake_timeout: float = Field(default=5.0, gt=0)
    """From connection to hello and its answer, on either side."""
    frame_timeout: float = Field(default=10.0, gt=0)
    """From a frame's first byte to its last, and for each write of messages, requests and answers."""
    idle_timeout: float = Field(default=60.0, gt=0)
    """For a connection on which nothing comes; the dialling side closes at half of it. Also for each step of a
    snapshot, which waits for two disks."""
    unacknowledged_timeout: float = Field(default=5.0, gt=0)
    """For the kernel (Linux) to give a connection up whose bytes stay unacknowledged: after a healed partition a new
    connection is there sooner than the old one would try again."""
