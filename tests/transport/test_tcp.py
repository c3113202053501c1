from __future__ import annotations

import functools

import pytest
from riteraft_core.testing.transport_suite import OpenTransport, TransportSuite

from riteraft_transport_tcp import TcpOptions, open_tcp


class TestTcp(TransportSuite):
    @pytest.fixture(params=["asyncio", "uvloop", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        if request.param == "uvloop":
            pytest.importorskip("uvloop")
            return ("asyncio", {"use_uvloop": True})
        return request.param

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return functools.partial(open_tcp, TcpOptions())


class TestTcpOnIpv6(TransportSuite):
    listen = "[::1]:0"

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return functools.partial(open_tcp, TcpOptions())


class TestTcpOnAHostName(TransportSuite):
    listen = "localhost:0"

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return functools.partial(open_tcp, TcpOptions())
