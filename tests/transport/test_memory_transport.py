from __future__ import annotations

import functools

import pytest
from pydantic import ValidationError
from riteraft_core._memory_transport import MemoryNetwork, MemoryTransportOptions, open_memory_transport
from riteraft_core.errors import PeerUnreachable
from riteraft_core.testing.transport_suite import OpenTransport, TransportSuite


def open_on(network: MemoryNetwork) -> OpenTransport:
    return functools.partial(open_memory_transport, MemoryTransportOptions(network=network))


class TestMemoryTransport(TransportSuite):
    @pytest.fixture
    def open_transport(self) -> OpenTransport:
        return open_on(MemoryNetwork())

    async def test_a_cut_is_one_way(self) -> None:
        network = MemoryNetwork()
        async with self.open_pair(open_on(network)) as (one, two):
            network.cut(one.address, two.address)
            one.transport.send(2, [b"lost"])
            await one.handler.until(lambda: one.handler.unreached == [2])
            await two.send_until(1, b"the other way", one)
            with pytest.raises(PeerUnreachable):
                await two.transport.request(one.address, b"its answer is lost")
            network.heal()
            await one.send_until(2, b"healed", two)
            assert (1, b"lost") not in two.handler.received

    async def test_an_isolated_node_is_alone(self) -> None:
        network = MemoryNetwork()
        async with self.open_pair(open_on(network)) as (one, two):
            network.isolate(two.address)
            one.transport.send(2, [b"lost"])
            two.transport.send(1, [b"lost"])
            await one.handler.until(lambda: one.handler.unreached == [2])
            await two.handler.until(lambda: two.handler.unreached == [1])
            assert one.handler.received == two.handler.received == []


def test_a_network_out_of_a_file_is_refused() -> None:
    with pytest.raises(ValidationError, match="for tests in one process; use tcp"):
        MemoryTransportOptions.model_validate({"network": "lan"})
    with pytest.raises(ValidationError):
        MemoryTransportOptions.model_validate({"network": MemoryNetwork(), "colour": "red"})
