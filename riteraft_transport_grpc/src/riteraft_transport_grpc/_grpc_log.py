"""What gRPC logs by itself of calls that go wrong: bytes of the call and a traceback, for each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.message import DecodeError
from riteraft_core._complaints import Complaints

_SOURCE = "grpc._cython.cygrpc"
"""The logger of gRPC for Python that such lines come from."""


class GrpcLog(logging.Filter):
    """Turns such a line into a complaint, so that a flood of them fills no disk and no bytes of others get there."""

    def __init__(self, complaints: Complaints) -> None:
        """Complain there."""
        super().__init__()
        self._complaints = complaints

    @contextmanager
    def filtered(self) -> Iterator[None]:
        """Look at what gRPC logs for the time of the block."""
        source = logging.getLogger(_SOURCE)
        source.addFilter(self)
        try:
            yield
        finally:
            source.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether gRPC's own line is to be kept."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (UnicodeDecodeError, DecodeError)):
            self._complaints.add("encoding", "a call whose path or metadata is no text, or whose message is none")
            return False
        if isinstance(error, grpc.aio.BaseError):
            self._complaints.add("gone", "a call was over before gRPC could refuse it")
            return False
        return True
