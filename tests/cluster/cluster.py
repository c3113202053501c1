"""Clusters of real processes for tests: started, killed, stopped, restarted by pid, and always ended."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from tests.port import Port

from .history import History, Operation, faults_in

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds for what takes well under one: the machine may be busy with something else."""
ELECTION_TIMEOUT = 0.4
"""Small, so that the tests are fast; large beside a fsync and a turn of a busy machine."""
PLUGINS = {"transport": "tcp", "storage": "sqlite", "consensus": "raft-rs"}
"""What every node here runs on; `pytest --consensus ENGINE` and `--transport NAME` put others in."""

_NODE = Path(__file__).with_name("node_process.py")
_PAUSE = threading.Event()
"""Never set: to wait on between two looks at something that cannot tell by itself."""


class Failed(Exception):
    """The node answered with an error; `name` is its class."""

    def __init__(self, name: str, text: str, detail: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text
        self.detail = detail


class Gone(Exception):
    """The process ended before it answered, or was not there to be asked."""


def until(condition: Callable[[], T], what: str, within: float = PATIENCE) -> T:
    """Look again and again; return the first thing found that is true."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"in {within:g} s there was no sign of: {what}")

        _PAUSE.wait(0.01)

    return found


class NodeProcess:
    """One node: its folder and its settings stay, its process comes and goes."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any], faults: Counter[str]) -> None:
        self.name = name
        self.folder = folder
        self.settings = dict(settings)
        self.faults = faults
        self.poisoned = False
        self.traits: set[str] = set()
        """What else its Store is, beside poisoned; see `node_process`."""
        self.wrapper: list[str] = []
        """What is put before its command, to run it under other circumstances."""
        self.environment: dict[str, str] = {}
        self._ports = [Port()]
        self.address = self._ports[0].address
        self.node_id = 0
        self._log_path = folder.parent / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._last_call = 0
        self._heard = False
        """Whether somebody reads its answers."""

    def __repr__(self) -> str:
        return self.name

    def move(self) -> None:
        """Give it another address, from its next start on."""
        self._ports.append(Port())
        self.address = self._ports[-1].address

    # --- its process ---------------------------------------------------------------------------------------------

    def start(self, **settings: Any) -> NodeProcess:
        """Start the process without waiting for it; the settings are for this start only."""
        assert not self.alive, f"{self} runs already"
        self._close_pipes()
        wanted = {"address": self.address, "data_dir": str(self.folder), **self.settings, **settings}
        self._ready.clear()
        self._heard = True
        traits = {*self.traits, *(["poisoned"] if self.poisoned else [])}
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, sys.executable, str(_NODE), json.dumps(wanted), ",".join(sorted(traits)) or "sound"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.environment},
            )

        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        return self

    def ready(self, within: float = PATIENCE) -> NodeProcess:
        """Wait until the node serves."""
        until(lambda: self._ready.is_set() or not self.alive, f"{self} serving", within)
        assert self._ready.is_set(), f"{self} ended with {self.exit_code} before it served:\n{self.log[-3000:]}"
        return self

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def serving(self) -> bool:
        """Whether it answers at once: what is asked of one that is only starting waits for it."""
        return self.alive and self._ready.is_set()

    @property
    def exit_code(self) -> int | None:
        """How its last process ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def log(self) -> str:
        """All that its processes logged."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def memory(self, what: str = "VmRSS") -> int:
        """Return its resident memory in bytes now, or with `VmHWM` the most there was since `forget_peak`."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{what}:"))

    def forget_peak(self) -> None:
        """Let `memory("VmHWM")` begin anew."""
        assert self._process is not None
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def kill(self) -> None:
        """SIGKILL, as a power cut for this process."""
        self._signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def pause(self) -> None:
        """SIGSTOP: it stands still, its sockets stay open."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._signal(signal.SIGTERM)

    def wait(self, within: float = PATIENCE) -> int:
        """Wait until the process has ended; return its exit code."""
        assert self._process is not None
        assert self._reader is not None
        code = self._process.wait(within)
        self._reader.join(within)
        return code

    def end(self) -> None:
        """Whatever it does, it is over."""
        for port in self._ports:
            port.close()

        if self._process is None:
            return

        self._process.kill()
        self.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        if self._process is None:
            return

        self.wait()
        with self._lock:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self.alive, f"{self} is not there for {number.name}"
        assert self._process is not None
        self._process.send_signal(number)
        self.faults[number.name] += 1

    # --- asking it -----------------------------------------------------------------------------------------------

    def begin(self, do: str, timeout: float = PATIENCE, **arguments: Any) -> Future[Any]:
        """Send a request; what it came to is in the future."""
        answer: Future[Any] = Future()
        process = self._process
        with self._lock:
            self._last_call += 1
            number = self._last_call
            self._calls[number] = answer

        line = json.dumps({"id": number, "do": do, "timeout": timeout, **arguments}).encode() + b"\n"
        try:
            if process is None or process.poll() is not None:
                raise BrokenPipeError

            assert process.stdin is not None
            with self._lock:
                if not self._heard:  # a dying process closes its stdout first, so a write may still succeed
                    raise BrokenPipeError

                process.stdin.write(line)
                process.stdin.flush()
        except (BrokenPipeError, ValueError):
            with self._lock:
                ours = self._calls.pop(number, None) is not None  # else whoever read its answers has told already

            if ours:
                answer.set_exception(Gone(f"{self} is not running"))

        return answer

    def call(self, do: str, timeout: float = PATIENCE, **arguments: Any) -> Any:
        """Ask and wait for the answer.

        :raises Failed: the answer is an error.
        :raises Gone: there was none.
        """
        try:
            return self.begin(do, timeout, **arguments).result(timeout + PATIENCE)
        except FutureTimeoutError:
            self._signal(signal.SIGUSR1)  # it logs what it waits for
            _PAUSE.wait(1)
            raise AssertionError(f"{self} never answered {do} {arguments}, which it was to give up by itself") from None

    def propose(self, *command: str, timeout: float = PATIENCE) -> str:
        """Have [what to do, key, value] applied; return the Store's answer."""
        answer: str = self.call("propose", timeout, command=command)
        return answer

    def read(self, key: str, timeout: float = PATIENCE) -> list[str]:
        """Return the list of a key, behind a read barrier."""
        values: list[str] = self.call("read", timeout, key=key)
        return values

    def status(self) -> dict[str, Any]:
        """Return `Node.status()`, as plain values."""
        status: dict[str, Any] = self.call("status")
        return status

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            if not line.endswith(b"\n"):
                break  # killed in the middle of an answer

            message = json.loads(line)
            if message.get("event") == "ready":
                self.address = message["address"]
                self.node_id = message["node_id"]
                self._ready.set()
                continue

            with self._lock:
                answer = self._calls.pop(message["id"])

            if "error" in message:
                answer.set_exception(Failed(message["error"], message["text"], message["detail"]))
            else:
                answer.set_result(message["ok"])

        with self._lock:
            unanswered, self._calls = self._calls, {}
            self._heard = False

        for answer in unanswered.values():
            answer.set_exception(Gone(f"{self} ended before it answered"))


class Cluster:
    """Some nodes, by number from 1; what was done to them is counted in `faults`."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], security: Callable[[str], Mapping[str, Any]] | None = None
    ) -> None:
        """`security` gives each node, by name, its `[security]`."""
        self.folder = folder
        self.security = security or (lambda _: {})
        self.settings = {
            "cluster": "tests",
            "timing": {"election_timeout": ELECTION_TIMEOUT},
            **PLUGINS,
            **settings,
        }
        self.faults: Counter[str] = Counter()
        self.nodes: list[NodeProcess] = []
        self.prepare: Callable[[NodeProcess], None] = lambda node: None
        """Called for each node before its first start."""
        self._all: list[NodeProcess] = []

    def __getitem__(self, number: int) -> NodeProcess:
        return self.nodes[number - 1]

    def add(self, name: str | None = None) -> NodeProcess:
        """Add a node, not started yet."""
        name = name or f"n{len(self._all) + 1}"
        settings = {"security": self.security(name), **self.settings}
        node = NodeProcess(name, self.folder / name, settings, self.faults)
        self.prepare(node)
        self.nodes.append(node)
        self._all.append(node)
        return node

    def forget(self, *nodes: NodeProcess) -> None:
        """Go on without these: they left."""
        self.nodes = [node for node in self.nodes if node not in nodes]

    def form(self, size: int) -> None:
        """Start a founder and let the others join; return once all of them vote."""
        founder = self.add()
        founder.start(bootstrap=True).ready()
        joiners = [self.add().start(peers=[founder.address]) for _ in range(size - 1)]
        for node in joiners:
            node.ready()

        self.wait_for_voters(*self.nodes)

    def restart(self, *nodes: NodeProcess) -> None:
        """Start nodes that ended, all before the first is ready; return once each of them serves."""
        for node in nodes:
            node.start()

        for node in nodes:
            node.ready()

    def wait_for_voters(self, *nodes: NodeProcess) -> None:
        """Wait until these and no others vote, as each of them sees it."""
        wanted = sorted(node.node_id for node in nodes)
        for node in nodes:
            until(
                lambda node=node: sorted(node.status()["voters"]) == wanted and node.status()["leader"],  # type: ignore[misc]
                f"{node} seeing the voters {wanted}",
            )

    @property
    def running(self) -> list[NodeProcess]:
        """Those whose process runs."""
        return [node for node in self.nodes if node.alive]

    def leader(self, among: Sequence[NodeProcess] | None = None, within: float = PATIENCE) -> NodeProcess:
        """Return the leader, once most of the nodes agree on who it is."""
        asked = self.running if among is None else among

        def agreed() -> NodeProcess | None:
            found = [node.begin("status") for node in asked]
            views: Counter[tuple[int, int]] = Counter()
            for answer in found:
                try:
                    view = answer.result(PATIENCE)
                except (Failed, Gone):
                    continue

                if view["leader"]:
                    views[view["term"], view["leader"]] += 1

            for (_, leader), count in views.items():
                if count * 2 > len(asked):
                    return next((node for node in asked if node.node_id == leader), None)

            return None

        found = until(agreed, "a leader", within)
        assert found is not None
        return found

    def followers(self) -> list[NodeProcess]:
        """Return the running nodes that do not lead."""
        leader = self.leader()
        return [node for node in self.running if node is not leader]

    def wait_for_agreement(self) -> None:
        """Wait until every running node has applied the same commands: same index, same state."""
        until(
            lambda: len({tuple(node.call("digest")) for node in self.running}) == 1,
            "the same applied index and state on every node",
        )

    def end(self) -> None:
        """End every process."""
        for node in self._all:
            node.end()


@contextmanager
def running_cluster(
    folder: Path,
    size: int = 3,
    *,
    prepare: Callable[[NodeProcess], None] | None = None,
    security: Callable[[str], Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Iterator[Cluster]:
    """Run a cluster for the time of the block; `prepare` is called for each node before its first start."""
    folder.mkdir(exist_ok=True)
    cluster = Cluster(folder, settings, security)
    cluster.prepare = prepare or cluster.prepare
    try:
        cluster.form(size)
        yield cluster
    except BaseException:
        for node in cluster._all:
            if node._log_path.exists():
                state = "running" if node.alive else f"ended with {node._process and node.exit_code}"
                sys.stderr.write(f"--- {node}, {state} ---\n{node.log[-4000:]}\n")  # pytest shows it

        raise
    finally:
        cluster.end()

    shutil.rmtree(folder, ignore_errors=True)


class Load:
    """Clients that append and read while a test does its worst; every one of them is judged at the end."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        seed: int,
        clients: int = 6,
        keys: int = 3,
        reads: float = 0.3,
        choose: Callable[[], Sequence[NodeProcess]] | None = None,
        retry: bool = False,
    ) -> None:
        """`choose` says which nodes may be asked; by default those that run.

        With `retry`, an append that failed is tried once more, at once and on another node.
        """
        self.history = History()
        self.failed_twice = 0
        self._retry = retry
        self._cluster = cluster
        self._keys = [f"key{number}" for number in range(keys)]
        self._reads = reads
        self._choose = choose or (lambda: cluster.nodes)
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._asked: Counter[NodeProcess] = Counter()
        """How many clients are with each node now."""
        self._clients = [
            threading.Thread(target=self._run, args=(name, random.Random(f"{seed}/{name}")), daemon=True)
            for name in range(clients)
        ]

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()

        self.wait_for_progress()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join(3 * PATIENCE)
            assert not client.is_alive(), "a client was never answered"

        if self._failure is not None:
            raise self._failure

    def wait_for_progress(self, appends: int = 10) -> float:
        """Wait until so many more appends were acknowledged; return the seconds it took."""
        began = time.monotonic()
        goal = self.history.count() + appends
        until(lambda: self.history.count() >= goal or self._failure is not None, f"{appends} more acknowledged appends")
        return time.monotonic() - began

    def judge(self) -> None:
        """Check the whole history against what every running node holds now."""
        final: dict[str, list[str]] = {}
        for key in self._keys:
            lists = {tuple(node.read(key)) for node in self._cluster.running}
            assert len(lists) == 1, f"{key} differs between nodes"
            final[key] = list(lists.pop())

        assert faults_in(self.history.operations, final) == []
        self._cluster.wait_for_agreement()

    def _run(self, name: int, chance: random.Random) -> None:
        count = 0
        try:
            while not self._over.is_set():
                count += 1
                key = chance.choice(self._keys)
                with self._at_a_node(chance) as node:
                    if chance.random() < self._reads:
                        self._read(node, key)
                        continue

                    done = self._append(node, key, f"{name}.{count}")

                if not done and self._retry:
                    other = chance.choice([other for other in self._choose() if other is not node])
                    self.failed_twice += not self._append(other, key, f"{name}.{count} again")
        except BaseException as exc:
            self._failure = exc
            self._over.set()

    @contextmanager
    def _at_a_node(self, chance: random.Random) -> Iterator[NodeProcess]:
        """Choose one that at most half of the clients are with: were it paused now, all of them would wait for it."""
        with self._lock:
            nodes = self._choose()
            node = chance.choice([node for node in nodes if 2 * self._asked[node] < len(self._clients)] or nodes)
            self._asked[node] += 1

        try:
            yield node
        finally:
            with self._lock:
                self._asked[node] -= 1

    def _append(self, node: NodeProcess, key: str, value: str) -> bool:
        if not node.alive:
            self._over.wait(0.01)
            return False

        operation = self.history.begin(Operation(key, time.monotonic(), value=value))
        try:
            operation.length = int(node.propose("append", key, value, timeout=10))
            operation.ended = time.monotonic()
            operation.acked = True
        except Failed as exc:
            if exc.name not in ("NotApplied", "OutcomeUnknown", "NodeStopped"):
                raise

            operation.refused = exc.name != "OutcomeUnknown"
            operation.doubted = not operation.refused
        except Gone:
            pass

        return operation.acked

    def _read(self, node: NodeProcess, key: str) -> None:
        if not node.alive:
            return

        operation = self.history.begin(Operation(key, time.monotonic()))
        try:
            operation.seen = node.read(key, timeout=10)
            operation.ended = time.monotonic()
            operation.acked = True
        except Failed as exc:
            if exc.name not in ("ReadError", "NodeStopped"):
                raise
        except Gone:
            pass
