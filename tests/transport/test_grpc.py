from __future__ import annotations

import functools

import pytest
from riteraft_core.security import Mode
from riteraft_core.testing.securities import Securities
from riteraft_core.testing.security_suite import ExposureSuite, SecretSuite, TlsSuite
from riteraft_core.testing.transport_suite import OpenTransport, TransportSuite

from riteraft_transport_grpc import GrpcOptions, open_grpc


class OnGrpc(TransportSuite):
    too_large = GrpcOptions().max_frame
    mode = Mode.NONE

    @pytest.fixture
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        return "asyncio"

    @pytest.fixture
    def open_transport(self, securities: Securities) -> OpenTransport:
        return securities.secured(functools.partial(open_grpc, GrpcOptions()), self.mode)


class TestGrpc(OnGrpc):
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        if request.param == "uvloop":
            pytest.importorskip("uvloop")
            return ("asyncio", {"use_uvloop": True})
        return request.param


class TestGrpcOnIpv6(OnGrpc):
    listen = "[::1]:0"


class TestGrpcOnAHostName(OnGrpc):
    listen = "localhost:0"


class TestGrpcWithASecret(OnGrpc):
    mode = Mode.SECRET


class TestGrpcWithTls(OnGrpc):
    mode = Mode.TLS


class TestGrpcWithTlsOnIpv6(OnGrpc):
    listen = "[::1]:0"
    mode = Mode.TLS


class TestGrpcWithTlsOnAHostName(OnGrpc):
    listen = "localhost:0"
    mode = Mode.TLS


class OpenedAsIs:
    @pytest.fixture
    def anyio_backend(self) -> object:
        return "asyncio"

    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return functools.partial(open_grpc, GrpcOptions())


class TestGrpcInTheOpen(OpenedAsIs, ExposureSuite):
    pass


class TestGrpcsSecret(OpenedAsIs, SecretSuite):
    pass


class TestGrpcsTls(OpenedAsIs, TlsSuite):
    alpn = ("h2",)
