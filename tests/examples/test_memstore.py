from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.port import Port

from .programs import EXAMPLES, PATIENCE, Program, ask, running, until

MEMSTORE = EXAMPLES / "memstore" / "main.py"
FAST = {"RITERAFT_TIMING__ELECTION_TIMEOUT": "0.4"}


class Memstore:
    """One node: its addresses and folder stay, its process comes and goes."""

    def __init__(self, folder: Path, name: str, raft: Port, web: Port) -> None:
        self.raft = raft.address
        self.web = web.address
        self._data = folder / name
        self._output = folder / f"{name}.log"

    def run(
        self, peer: str | None = None, *more: str, stdin: int = subprocess.DEVNULL
    ) -> AbstractContextManager[Program]:
        command = [sys.executable, str(MEMSTORE), "--raft-addr", self.raft, "--web-server", self.web]
        command += ["--data-dir", str(self._data), *more]
        if peer is not None:
            command += ["--peer-addr", peer]

        return running(command, self._output, env=FAST, stdin=stdin)

    def listens(self) -> None:
        """Wait until its web server does; its node may be on its way still."""
        until(lambda: ask(self.web, "get/none")[0] == 400, "the web server")

    def ask(self, path: str) -> tuple[int, str]:
        return ask(self.web, path)


@pytest.fixture
def memstore(tmp_path: Path) -> Iterator[Callable[[str], Memstore]]:
    with ExitStack() as ports:
        yield lambda name: Memstore(tmp_path, name, *(ports.enter_context(Port()) for _ in range(2)))


@pytest.fixture
def alone(memstore: Callable[[str], Memstore]) -> Iterator[tuple[Memstore, Program]]:
    node = memstore("n1")
    with node.run() as program:
        node.listens()
        yield node, program


def test_what_was_put_is_got(alone: tuple[Memstore, Program]) -> None:
    node, _ = alone
    assert node.ask("put/1/sun") == (200, "sun")
    assert node.ask("put/1/S%C3%B6l%20and%20more") == (200, "Söl and more")
    assert node.ask("get/1") == (200, "Söl and more")
    assert node.ask("get/2") == (404, "there is no 2")


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "9223372036854775808", "%D9%A3", "1" * 5000])
def test_an_id_that_is_no_number_is_a_bad_request(alone: tuple[Memstore, Program], bad: str) -> None:
    node, _ = alone
    assert node.ask(f"get/{bad}")[0] == 400
    assert node.ask(f"put/{bad}/name")[0] == 400
    assert node.ask("put/9223372036854775807/last")[0] == 200


def test_the_last_voter_cannot_leave_and_goes_on(alone: tuple[Memstore, Program]) -> None:
    node, _ = alone
    code, text = node.ask("leave")
    assert code == 409
    assert "last voter" in text
    assert node.ask("put/1/sun") == (200, "sun")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_with_0_and_it_comes_back_with_its_data(
    memstore: Callable[[str], Memstore], number: signal.Signals
) -> None:
    node = memstore("n1")
    with node.run() as program:
        node.listens()
        assert node.ask("put/7/moon")[0] == 200
        program.process.send_signal(number)
        assert program.ends() == 0, program.output
        assert "Traceback" not in program.output

    with node.run():
        node.listens()
        assert node.ask("get/7") == (200, "moon")


def test_two_join_one_leaves_and_all_have_the_data(memstore: Callable[[str], Memstore]) -> None:
    first, second, third = memstore("n1"), memstore("n2"), memstore("n3")
    with ExitStack() as stack:
        stack.enter_context(first.run())
        leaver = stack.enter_context(second.run(first.raft))
        # Through any member, and before that is one: it asks again.
        stack.enter_context(third.run(second.raft))
        for node in (first, second, third):
            node.listens()

        assert first.ask("put/1/sun")[0] == 200
        assert second.ask("get/1") == (200, "sun")
        assert third.ask("put/1/moon") == (200, "moon")
        assert first.ask("get/1") == (200, "moon")
        until(lambda: len(json.loads(first.ask("status")[1])["voters"]) == 3, "three voters")

        assert second.ask("leave") == (200, "left the cluster")
        assert leaver.ends() == 0, leaver.output
        until(lambda: len(json.loads(first.ask("status")[1])["voters"]) == 2, "two voters")
        assert third.ask("put/2/star")[0] == 200
        assert first.ask("get/2") == (200, "star")

        # Its folder is of no use any more, and it says so.
        back = stack.enter_context(second.run(first.raft))
        assert back.ends() == 1
        assert "left its cluster" in back.output


def test_without_a_majority_a_read_is_503_and_a_sent_write_504(memstore: Callable[[str], Memstore]) -> None:
    first, second = memstore("n1"), memstore("n2")
    with first.run(None, "--timeout", "1"), second.run(first.raft) as other:
        first.listens()
        until(lambda: len(json.loads(first.ask("status")[1])["voters"]) == 2, "two voters")
        other.process.kill()
        assert first.ask("get/1")[0] == 503
        assert first.ask("put/1/sun")[0] in (503, 504)  # 503 if the leader had stepped down by then


def test_a_request_before_the_node_serves_waits_for_it(memstore: Callable[[str], Memstore]) -> None:
    first, second = memstore("n1"), memstore("n2")
    with second.run(first.raft) as joiner:
        second.listens()
        joiner.says("not let in yet")
        host, port = second.web.split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as early:
            # It has nobody to join yet; this request must not fail for that.
            early.sendall(b"GET /put/5/early HTTP/1.1\r\nHost: memstore\r\nConnection: close\r\n\r\n")
            with first.run():
                assert early.recv(4096).startswith(b"HTTP/1.1 200 ")
                assert first.ask("get/5") == (200, "early")


def test_a_signal_ends_a_node_that_is_still_joining(memstore: Callable[[str], Memstore]) -> None:
    node, nobody = memstore("n2"), memstore("n1").raft
    with node.run(nobody) as program:
        program.says("not let in yet")
        program.process.terminate()
        assert program.ends() == 0, program.output
        assert "Traceback" not in program.output


def test_a_node_ends_with_its_stdin_if_asked_to(memstore: Callable[[str], Memstore]) -> None:
    node = memstore("n1")
    with node.run(None, "--end-with-stdin", stdin=subprocess.PIPE) as program:
        node.listens()
        assert node.ask("put/1/sun")[0] == 200
        assert program.process.stdin is not None
        program.process.stdin.close()
        assert program.ends() == 1


def test_a_wrong_address_is_one_clear_line(tmp_path: Path) -> None:
    with running([sys.executable, str(MEMSTORE), "--raft-addr", "nonsense"], tmp_path / "log", cwd=tmp_path) as program:
        assert program.ends() == 1
        assert program.output.startswith("ConfigError: ")
        assert "Traceback" not in program.output
