"""What gRPC itself is told: the options of this transport as channel arguments."""

from __future__ import annotations

from typing import TypeAlias

from ._options import GrpcOptions

Arguments: TypeAlias = list[tuple[str, "int | str"]]

_MAX_METADATA = 8 * 1024
"""Bytes of a call's metadata: a hello takes a hundred. gRPC refuses some above it, and all above twice as much."""


def server_arguments(options: GrpcOptions) -> Arguments:
    """Return the arguments of the listening side."""
    return [
        *_common(options),
        ("grpc.so_reuseport", 0),  # else two nodes on one port would share its connections, without an error
        ("grpc.max_allowed_incoming_connections", options.max_connections),
        ("grpc.max_concurrent_streams", options.max_requests + 2),
        # Else gRPC takes the loopback for a long link, and reads megabytes of every call that nobody reads yet.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", options.read_ahead),
        ("grpc.server_handshake_timeout_ms", _milliseconds(options.handshake_timeout)),
        ("grpc.max_connection_idle_ms", _milliseconds(options.idle_timeout)),
        # Somewhat more often than a peer of the same settings pings: who pings more is sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(options.keepalive_interval / 2)),
    ]


def client_arguments(options: GrpcOptions) -> Arguments:
    """Return the arguments of the dialling side."""
    return [
        *_common(options),
        # Each channel makes a connection of its own, so that nothing holds a heartbeat up and each can be given up.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),  # it would be taken from the environment
        ("grpc.service_config_disable_resolution", 1),  # what a peer is does not come from DNS
        ("grpc.enable_retries", 0),
        ("grpc.min_reconnect_backoff_ms", _milliseconds(options.connect_timeout)),  # how long an attempt may take
        ("grpc.initial_reconnect_backoff_ms", _milliseconds(options.reconnect_min)),
        ("grpc.max_reconnect_backoff_ms", _milliseconds(options.reconnect_max)),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
        ("grpc.primary_user_agent", "riteraft"),
    ]


def _common(options: GrpcOptions) -> Arguments:
    return [
        ("grpc.max_receive_message_length", options.max_frame),
        ("grpc.max_send_message_length", options.max_frame),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),
        ("grpc.compression_enabled_algorithms_bitset", 1),  # none: small bytes must not become large ones
        ("grpc.keepalive_time_ms", _milliseconds(options.keepalive_interval)),
        ("grpc.keepalive_timeout_ms", _milliseconds(options.unacknowledged_timeout)),  # becomes TCP_USER_TIMEOUT
        ("grpc.http2.ping_timeout_ms", _milliseconds(options.unacknowledged_timeout)),  # else a minute
        ("grpc.http2.max_pings_without_data", 0),  # no limit: a stream without messages is watched too
        ("grpc.enable_channelz", 0),
    ]


def _milliseconds(seconds: float) -> int:
    return max(1, min(round(1000 * seconds), 2**31 - 1))
