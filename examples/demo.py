"""Three nodes, two crashes, nothing lost: run by `nox -s demo`, or by itself where riteraft is installed.

Three memstore processes on this machine take writes over HTTP; the leader is killed under load, then all three at
once. Each time every write that was acknowledged is read back. Ends with 0, or with 1 if one is missing or a step took
too long: then the folder with the nodes' data and logs is kept, and named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from anyio.abc import TaskGroup
from rich.console import Console
from rich.live import Live
from rich.table import Table

MEMSTORE = Path(__file__).with_name("memstore") / "main.py"

WRITERS = 24
READERS = 32
"""Of one node at a time; they share its read barriers."""
LOAD_SECONDS = 1.2
"""How long the writers go on before and after a crash: some thousand writes, each read back several times."""
REQUEST_SECONDS = 5.0
LOOK_SECONDS = 0.2
"""Between two looks at each node: the table shows nothing older."""
LOOK_TIMEOUT = 1.0
END_SECONDS = 3.0
"""What a node gets to end by itself: a leader hands over first, for one election timeout at most."""
INTERRUPTED = 130

NO_ANSWER = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a request ends in when its node dies; asyncio's own timeout is another class before Python 3.11."""


class DemoFailed(Exception):
    """Something acknowledged is missing, a step took too long, or a node ended by itself."""


# --- the nodes -------------------------------------------------------------------------------------------------------


class Node:
    """One memstore: its folder and its ports stay, its process comes and goes."""

    def __init__(self, number: int, folder: Path, session: aiohttp.ClientSession, ports: AsyncExitStack) -> None:
        self.name = f"node {number}"
        self.raft = f"127.0.0.1:{keep_port(ports)}"
        self.web = f"127.0.0.1:{keep_port(ports)}"
        self.log = folder / f"node{number}.log"
        self.status: dict[str, Any] | None = None
        """What it last said of itself; None while it says nothing."""
        self._data = folder / f"node{number}"
        self._session = session
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str], peer: Node | None = None) -> None:
        command = [sys.executable, str(MEMSTORE), "--raft-addr", self.raft, "--web-server", self.web]
        command += ["--data-dir", str(self._data), "--end-with-stdin"]
        if peer is not None:
            command += ["--peer-addr", peer.raft]

        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own file
                command,
                stdin=subprocess.PIPE,  # closes when this process dies, in whatever way; then the node ends too
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for this process, which then ends the nodes
            )

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """How it ended by itself; None if it runs, or was not meant to."""
        return self._process.poll() if self._process is not None else None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def serves(self) -> bool:
        return self.status is not None

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def reap(self, seconds: float) -> None:
        """Wait for the end of its process, and see to it when it does not come."""
        if self._process is None:
            return

        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None
        self.status = None

    async def ask(self, path: str, seconds: float = REQUEST_SECONDS) -> tuple[int, str]:
        """Return HTTP status and text; raises one of `NO_ANSWER`."""
        limit = aiohttp.ClientTimeout(total=seconds)
        async with self._session.get(f"http://{self.web}/{path}", timeout=limit) as response:
            return response.status, await response.text()

    async def look(self) -> None:
        """Bring `status` up to date."""
        process, status = self._process, None
        try:
            code, text = await self.ask("status", LOOK_TIMEOUT)
        except NO_ANSWER:
            code = 0

        if code == 200 and process is self._process:  # else it was killed meanwhile, and this is old
            status = json.loads(text)

        self.status = status


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is told by requests or by another task."""
    while not condition():  # noqa: ASYNC110 - several tasks change what the conditions look at
        await anyio.sleep(0.02)


def keep_port(ports: AsyncExitStack) -> int:
    """Return a port that is kept for a node, even while it is down, until `ports` is closed."""
    while True:
        keeper = ports.enter_context(socket.socket())
        try:
            # Below the ephemeral ports: who connects, or asks for any port, gets one of those.
            keeper.bind(("127.0.0.1", random.SystemRandom().randrange(12_000, 32_000)))
        except OSError:
            continue

        port: int = keeper.getsockname()[1]
        # From here on it keeps out whoever does not share ports, as the next keeper. A node does, as every server, and
        # Linux lets it listen where nobody else listens. Other systems would not, so there the port is merely free.
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform != "linux":
            keeper.close()

        return port


def end(nodes: Sequence[Node]) -> None:
    """End every process that is left: a request first, then by force. Blocks, so that no cancellation cuts it short."""
    for node in nodes:
        node.signal(signal.SIGTERM)

    deadline = time.monotonic() + END_SECONDS
    for node in nodes:
        node.reap(max(0.0, deadline - time.monotonic()))


# --- the load --------------------------------------------------------------------------------------------------------


class Load:
    """Writers with unique keys, and what became of each write."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.acknowledged: dict[int, str] = {}
        self.unanswered = 0
        """Writes that were sent when the load ended, without an answer: each may be there or not."""
        self.repeated = 0
        """Writes that were answered, but not at the first attempt."""
        self._nodes = nodes
        self._last_key = 0
        self._on = False
        self._writing = 0

    @asynccontextmanager
    async def writing(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Write for the time of the block, and until what was sent then has its answer or cannot get one."""
        self._on = True
        for writer in range(WRITERS):
            tasks.start_soon(self._write_on, writer % len(self._nodes))

        try:
            yield
        finally:
            self._on = False

        await until(lambda: not self._writing)

    async def _write_on(self, favourite: int) -> None:
        self._writing += 1
        while self._on:
            self._last_key += 1
            favourite = await self._write(self._last_key, favourite)

        self._writing -= 1

    async def _write(self, key: int, favourite: int) -> int:
        """Write one key, and return where to write the next one: a writer stays with its node until that fails.

        What failed goes to the next node again. It may have taken effect already; the same name under the same key
        does no harm.
        """
        attempts = 0
        while self._on:
            attempts += 1
            node = self._nodes[favourite]
            try:
                code, _ = await node.ask(f"put/{key}/{name_of(key)}")
            except NO_ANSWER:
                code = 0

            if code == 200:
                self.acknowledged[key] = name_of(key)
                self.repeated += attempts > 1
                return favourite

            favourite = (favourite + 1) % len(self._nodes)
            await anyio.sleep(0.05)

        self.unanswered += attempts > 0
        return favourite


def name_of(key: int) -> str:
    return f"name-{key}"


async def read_back(node: Node, expected: Mapping[int, str]) -> dict[int, str]:
    """Read every key from this node; return the answers that are not as expected, by key."""
    keys = deque(expected)
    wrong: dict[int, str] = {}

    async def read_on() -> None:
        while keys:
            key = keys.popleft()
            try:
                code, text = await node.ask(f"get/{key}")
            except NO_ANSWER:
                code, text = 503, ""

            if code == 503:  # no proof that the answer would be fresh: ask again, for as long as the step may take
                keys.append(key)
                await anyio.sleep(0.05)
            elif code != 200 or text != expected[key]:
                wrong[key] = f"{code} {text}"

    async with anyio.create_task_group() as readers:
        for _ in range(READERS):
            readers.start_soon(read_on)

    return wrong


# --- the story -------------------------------------------------------------------------------------------------------


class Demo:
    """The steps, in `story`; beside it `watch`, which looks at the nodes."""

    def __init__(
        self, nodes: Sequence[Node], environment: Mapping[str, str], console: Console, patience: float
    ) -> None:
        self.nodes = nodes
        self.load = Load(nodes)
        self._environment = environment
        self._console = console
        self._patience = patience
        self._began = time.monotonic()
        self._step = "starting"

    async def story(self, tasks: TaskGroup) -> str:
        """Run the demo; return the verdict."""
        first, second, third = self.nodes

        with self.step("starting three nodes: the first forms a cluster, the others join it"):
            first.start(self._environment)
            second.start(self._environment, peer=first)
            third.start(self._environment, peer=first)
            for node in self.nodes:
                self.tell(f"  {node.name} is process {node.pid}, http://{node.web}")

            leader = await self.leader_of(self.nodes)
            self.tell(f"  {leader.name} leads in {term_of(leader)}")
            self.tell_of_nodes()

        with self.step(f"writing: {WRITERS} writers with unique keys, over all nodes, at once"):
            async with self.load.writing(tasks):
                await anyio.sleep(LOAD_SECONDS)
                leader = await self.leader_of(self.nodes)
                writes = len(self.load.acknowledged)

                with self.step(f"kill -9 {leader.name}, the leader, after {writes:,} acknowledged writes"):
                    self.kill([leader])
                    killed = time.monotonic()
                    survivors = [node for node in self.nodes if node is not leader]
                    successor = await self.leader_of(survivors)
                    took = time.monotonic() - killed
                    self.tell(
                        f"  {successor.name} leads in {term_of(successor)}, {took:.1f} s later; the writers go on"
                    )
                    self.tell_of_nodes()
                    await anyio.sleep(LOAD_SECONDS)

        await self.check(survivors)

        with self.step(f"restarting {leader.name}: it missed what came after its death"):
            leader.start(self._environment)
            await until(lambda: leader.serves)
            await until(lambda: applied_by(leader) >= max(applied_by(node) for node in survivors))
            self.tell(f"  {leader.name} caught up: it applied all {applied_by(leader):,} entries")
            self.tell_of_nodes()

        await self.check([leader])

        with self.step("writing again, over all nodes"):
            async with self.load.writing(tasks):
                await anyio.sleep(LOAD_SECONDS)
                writes = len(self.load.acknowledged)
                self.tell(f"kill -9 all three at once, after {writes:,} acknowledged writes")
                self.kill(self.nodes)

        with self.step("restarting all three"):
            for node in self.nodes:
                node.start(self._environment)

            leader = await self.leader_of(self.nodes)
            self.tell(f"  {leader.name} leads in {term_of(leader)}")
            self.tell_of_nodes()

        await self.check(self.nodes)
        return self.verdict()

    async def check(self, nodes: Sequence[Node]) -> None:
        """Read every acknowledged write from each of these nodes."""
        expected = dict(self.load.acknowledged)
        with self.step(f"reading {len(expected):,} acknowledged writes, each from {named(nodes)}"):
            for node in nodes:
                wrong = await read_back(node, expected)
                self.tell(f"  {node.name} has {len(expected) - len(wrong):,} of {len(expected):,}")
                if wrong:
                    key, answer = next(iter(wrong.items()))
                    raise DemoFailed(
                        f"LOST {len(wrong):,} of {len(expected):,} acknowledged writes: {node.name} answers "
                        f"{answer!r} for {key}, and {expected[key]!r} was acknowledged"
                    )

    def verdict(self) -> str:
        count = len(self.load.acknowledged)
        seconds = time.monotonic() - self._began
        return (
            f"kept {count:,} of {count:,} acknowledged writes over 2 crashes, one of the leader and one of all three "
            f"nodes, in {seconds:.0f} s; {self.load.repeated:,} of them were sent more than once, "
            f"{self.load.unanswered:,} more never got an answer"
        )

    def kill(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            node.signal(signal.SIGKILL)

        for node in nodes:
            node.reap(END_SECONDS)

    async def leader_of(self, nodes: Sequence[Node]) -> Node:
        """Wait until these nodes serve and agree that one of them leads a cluster of three voters."""

        def agreed() -> Node | None:
            views = [node.status for node in nodes if node.status is not None]
            if len(views) < len(nodes) or any(len(view["voters"]) < len(self.nodes) for view in views):
                return None

            if len({(view["term"], view["leader"]) for view in views}) > 1:
                return None

            return next((node for node, view in zip(nodes, views, strict=True) if view["role"] == "leader"), None)

        await until(lambda: agreed() is not None)
        leader = agreed()
        assert leader is not None
        return leader

    async def watch(self) -> None:
        """Look at each node again and again.

        :raises DemoFailed: one ended that was not killed.
        """
        while True:
            await asyncio.gather(*[node.look() for node in self.nodes])
            for node in self.nodes:
                if node.exit_code is not None:
                    last = node.log.read_text(errors="replace").strip().rpartition("\n")[2]
                    raise DemoFailed(f"{self._step}: {node.name} ended with {node.exit_code}; its last words: {last}")

            await anyio.sleep(LOOK_SECONDS)

    # --- telling it --------------------------------------------------------------------------------------------------

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Tell of a step and bound its time.

        :raises DemoFailed: it took too long.
        """
        before, self._step = self._step, what
        self.tell(what)
        with anyio.move_on_after(self._patience) as scope:
            yield

        if scope.cancelled_caught:
            raise DemoFailed(f"{what}: not done in {self._patience:g} s")

        self._step = before

    def tell(self, text: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:5.1f} s  {text}", highlight=False, soft_wrap=True)

    def tell_of_nodes(self) -> None:
        """Print, where there is no terminal, what the table would show."""
        if not self._console.is_terminal:
            for node in self.nodes:
                role, term, commit, applied = row_of(node)
                numbers = f", term {term}, commit {commit}, applied {applied}" if term else ""
                self.tell(f"    {node.name}: {role}{numbers}")

    def table(self) -> Table:
        """Return what the terminal shows below the story."""
        table = Table("", "role", "term", "commit", "applied", min_width=60)
        for node in self.nodes:
            style = "bold green" if node.status and node.status["role"] == "leader" else "" if node.serves else "dim"
            table.add_row(node.name, *row_of(node), style=style)

        table.caption = f"{len(self.load.acknowledged):,} writes acknowledged"
        return table


def row_of(node: Node) -> tuple[str, str, str, str]:
    if node.status is None:
        return "starting" if node.runs else "down", "", "", ""

    view = node.status
    return view["role"], str(view["term"]), f"{view['commit']:,}", f"{view['applied']:,}"


def term_of(node: Node) -> str:
    return f"term {node.status['term']}" if node.status is not None else "an unknown term"


def applied_by(node: Node) -> int:
    return int(node.status["applied"]) if node.status is not None else 0


def named(nodes: Sequence[Node]) -> str:
    return " and ".join(node.name for node in nodes)


# --- running it ------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


async def run(folder: Path, options: argparse.Namespace, console: Console) -> str:
    """Return the verdict.

    :raises DemoFailed: see there.
    :raises Interrupted: see there.
    """
    # Variables of riteraft in this shell are not meant for these nodes.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RITERAFT_")}
    environment["RITERAFT_CONSENSUS"] = options.consensus
    environment["RITERAFT_TRANSPORT"] = options.transport
    ended_by: Exception | None = None
    verdict = ""

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, AsyncExitStack() as ports:
        nodes = [Node(number, folder, session, ports) for number in (1, 2, 3)]
        demo = Demo(nodes, environment, console, options.patience)

        async def guarded(part: Callable[[], Any]) -> None:
            # What ends the demo is kept and raised below: a task group would wrap it.
            nonlocal ended_by
            try:
                await part()
            except (DemoFailed, Interrupted) as exc:
                ended_by = ended_by or exc

            tasks.cancel_scope.cancel()

        async def story() -> None:
            nonlocal verdict
            verdict = await demo.story(tasks)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(guarded, interruption)
                tasks.start_soon(guarded, demo.watch)
                if console.is_terminal:
                    with Live(get_renderable=demo.table, console=console, refresh_per_second=8):
                        await guarded(story)
                else:
                    await guarded(story)
        finally:
            end(nodes)

    if ended_by is not None:
        raise ended_by

    return verdict


async def interruption() -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for number in received:
            raise Interrupted(number.name)


def main() -> int:
    parser = argparse.ArgumentParser(description="Three nodes, two crashes, nothing lost.")
    parser.add_argument("--patience", type=float, default=60.0, metavar="SECONDS", help="how long a step may take")
    parser.add_argument("--consensus", default="raft-rs", metavar="ENGINE", help="the nodes' consensus engine")
    parser.add_argument("--transport", default="tcp", metavar="NAME", help="what the nodes speak to one another by")
    options = parser.parse_args()
    console = Console(markup=False)  # brackets in an error are brackets
    folder = Path(tempfile.mkdtemp(prefix="riteraft-demo-"))
    try:
        verdict = anyio.run(run, folder, options, console)
    except DemoFailed as exc:
        console.print(f"FAILED: {exc}\nThe nodes' data and logs are in {folder}", highlight=False, soft_wrap=True)
        return 1
    except Interrupted as exc:
        shutil.rmtree(folder)
        console.print(f"ended by {exc}; no node is left", highlight=False, soft_wrap=True)
        return INTERRUPTED
    except BaseException:
        console.print(f"The nodes' data and logs are in {folder}", highlight=False, soft_wrap=True)
        raise

    shutil.rmtree(folder)
    console.print(verdict, style="bold green", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
