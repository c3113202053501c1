from __future__ import annotations

import socket
import sys

import pytest

from .port import Port


def bind(port: Port, *, shared: bool) -> socket.socket:
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared))
    try:
        other.bind(("127.0.0.1", port.number))
    except OSError:
        other.close()
        raise

    return other


def test_a_server_can_listen_at_it_again_and_again_and_only_one_at_a_time() -> None:
    with Port() as port:
        for _ in range(3):
            with bind(port, shared=True) as server:
                server.listen()
                with socket.create_connection(("127.0.0.1", port.number)), pytest.raises(OSError, match="in use"):
                    bind(port, shared=True).listen()

                assert port.address.endswith(f":{server.getsockname()[1]}")


def test_nobody_answers_while_no_server_is_there() -> None:
    with Port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port.number))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port cannot be kept and used at once")
def test_who_looks_for_a_free_port_does_not_get_it() -> None:
    with Port() as port, pytest.raises(OSError, match="in use"):
        bind(port, shared=False)


def test_it_is_free_once_it_is_closed() -> None:
    with Port() as port:
        pass

    bind(port, shared=False).close()
