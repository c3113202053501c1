from __future__ import annotations

import functools

import pytest
from riteraft_core.security import Mode
from riteraft_core.testing.securities import Securities
from riteraft_core.testing.security_suite import ExposureSuite, SecretSuite, TlsSuite
from riteraft_core.testing.transport_suite import OpenTransport, TransportSuite

from riteraft_transport_tcp import TcpOptions, open_tcp


class TestTcp(TransportSuite):
    too_large = TcpOptions().max_frame

    @pytest.fixture(params=["asyncio", "uvloop", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        if request.param == "uvloop":
            pytest.importorskip("uvloop")
            return ("asyncio", {"use_uvloop": True})
        return request.param

    @pytest.fixture(params=["none", "secret", "tls"])
    def open_transport(self, request: pytest.FixtureRequest, securities: Securities) -> OpenTransport:
        return securities.secured(functools.partial(open_tcp, TcpOptions()), Mode(request.param))


class TestTcpOnIpv6(TransportSuite):
    too_large = TcpOptions().max_frame
    listen = "[::1]:0"

    @pytest.fixture
    def open_transport(self, securities: Securities) -> OpenTransport:
        return securities.secured(functools.partial(open_tcp, TcpOptions()), Mode.TLS)


class TestTcpOnAHostName(TransportSuite):
    too_large = TcpOptions().max_frame
    listen = "localhost:0"

    @pytest.fixture
    def open_transport(self, securities: Securities) -> OpenTransport:
        return securities.secured(functools.partial(open_tcp, TcpOptions()), Mode.TLS)


class OnTcp:
    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return functools.partial(open_tcp, TcpOptions())


class TestTcpInTheOpen(OnTcp, ExposureSuite):
    pass


class TestTcpWithASecret(OnTcp, SecretSuite):
    pass


class TestTcpWithTls(OnTcp, TlsSuite):
    pass
