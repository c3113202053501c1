"""The options of the `grpc` transport: every limit by name, with its default and the reason for it."""

from __future__ import annotations

from pydantic import Field
from riteraft_core.outbox import OutboxOptions

_KIB = 1024
_MIB = 1024 * _KIB


class GrpcOptions(OutboxOptions):
    """What stands in `[transport]` beside `name = "grpc"`. Sizes are bytes, times are seconds.

    A limit that the transport `tcp` has by the same name is against the same danger, but it counts messages and calls
    of gRPC here, frames and connections there: a value that was chosen for one is to be thought over for the other.
    """

    max_frame: int = Field(default=16 * _MIB, ge=4 * _KIB, le=1024 * _MIB)
    """The longest message of gRPC, in and out. An append carries 256 KiB or one command of at most 1 MiB by default."""
    max_stranger_frame: int = Field(default=2 * _MIB, ge=4 * _KIB)
    """The same for a sender without an identity, as long as nobody has to prove anything: it asks to join, which is
    small, or brings a client's command, of at most 1 MiB by default."""
    snapshot_chunk: int = Field(default=256 * _KIB, ge=1)
    """A snapshot is sent in pieces of this size at most: small beside the memory of a node, big beside a header."""

    max_requests: int = Field(default=256, ge=1)
    """Requests under way to one address, where the next one waits, and from one node or one connection of a sender
    without an identity, where it is refused. Each is a call, which costs more than a request of `tcp`: when a thousand
    of them end at once, nobody else has a turn for a tenth of a second."""
    max_request_bytes: int = Field(default=32 * _MIB, ge=4 * _KIB)
    """Bytes of the requests of such a sender that are being read or answered; past it, no more are read."""
    read_ahead: int = Field(default=16 * _KIB, ge=_KIB, le=16 * _MIB)
    """Bytes that are read of each incoming call before it is its turn: so many times `max_requests` one connection may
    have in memory. The rest of a message comes when it is asked for, a round trip later: where that takes long and
    messages are many, more is faster."""
    max_calls: int = Field(default=8192, ge=16)
    """Calls of any kind that are served at once: 32 nodes with all their requests. Past it new ones are refused."""

    max_unauthenticated: int = Field(default=64, ge=1)
    """Calls at once whose sender has yet to prove the shared secret, and connections with calls of senders without an
    identity: past it the oldest one's calls are ended. Also health watches and reflection streams: past it new ones are
    refused."""
    max_connections: int = Field(default=1024, ge=8)
    """Connections in all: a bound for file descriptors. Past it new ones are closed."""

    connect_timeout: float = Field(default=3.0, gt=0)
    """To reach a peer and agree on HTTP/2; one on the same continent answers in a tenth of it."""
    handshake_timeout: float = Field(default=5.0, gt=0)
    """From connection to its HTTP/2 settings, and from a hello to its answer, on either side."""
    frame_timeout: float = Field(default=10.0, gt=0)
    """For each write of messages, and to read a request. An answer waits to be read as long as its call lives."""
    idle_timeout: float = Field(default=60.0, gt=0)
    """For a stream on which nothing comes, and a connection without a call; the dialling side closes at half of it.
    Also for each step of a snapshot, which waits for two disks."""
    keepalive_interval: float = Field(default=10.0, ge=1)
    """Between HTTP/2 pings on a connection with a call, by both sides: the one way to notice a peer whose process
    stands still with its sockets open."""
    unacknowledged_timeout: float = Field(default=5.0, gt=0)
    """For the answer to such a ping, and (Linux) for the kernel to give a connection up whose bytes stay
    unacknowledged: after a healed partition a new connection is there sooner than the old one would try again."""
