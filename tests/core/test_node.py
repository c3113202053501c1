"""A running node: what its callers meet, and how it ends."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from riteraft_core._effects import Effects
from riteraft_core._plugins import TRANSPORT, Plugins
from riteraft_core.memory import MemoryDisk
from riteraft_core.types import LogBatch

from riteraft_core import (
    Busy,
    CommandRejected,
    ConfigError,
    Node,
    NodeStopped,
    NotApplied,
    OutcomeUnknown,
    ReadError,
    Removed,
    RiteraftError,
    Role,
    StorageError,
    StoreError,
    _requests,
    open_node,
)

from .nodes import PATIENCE, Counter, Gated, World, leader_of, until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "real"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(request.param, tmp_path)


@pytest.fixture
def memory(tmp_path: Path) -> World:
    """Return a world whose network can be cut; what happens above the plugins is the same on all of them."""
    return World("memory", tmp_path)


# --- commands --------------------------------------------------------------------------------------------------------


async def test_every_node_gets_its_own_answers(world: World) -> None:
    async with world.cluster(Counter(), Counter(), Counter()) as nodes:
        for total, node in enumerate(nodes, start=1):
            assert await node.propose(b"1", timeout=PATIENCE) == str(total).encode()


async def test_a_writer_reads_its_own_write_without_a_barrier(world: World) -> None:
    stores = [Counter(), Counter()]
    async with world.cluster(*stores) as nodes:
        for node, store in zip(nodes, stores, strict=True):
            answer = await node.propose(b"1", timeout=PATIENCE)
            assert store.total == int(answer)


async def test_a_rejection_reaches_its_proposer_on_any_node_with_its_detail(world: World) -> None:
    async with world.cluster(Counter(), Counter()) as nodes:
        for node in nodes:
            with pytest.raises(CommandRejected, match="not that one") as rejected:
                await node.propose(b"reject", timeout=PATIENCE)

            assert rejected.value.detail == b"\x00detail"

        assert await nodes[0].propose(b"1", timeout=PATIENCE) == b"1", "a rejection ends nobody"


async def test_many_at_once_are_each_applied_once(world: World) -> None:
    stores = [Counter(), Counter()]
    answers: list[int] = []
    async with world.cluster(*stores) as nodes:

        async def propose(node: Node) -> None:
            answers.append(int(await node.propose(b"1", timeout=PATIENCE)))

        async with anyio.create_task_group() as tasks:
            for number in range(400):
                tasks.start_soon(propose, nodes[number % 2])

        assert sorted(answers) == list(range(1, 401))


async def test_what_is_no_command_is_refused_at_once(world: World) -> None:
    config = world.config(bootstrap=True, limits={"max_command_bytes": 10})
    async with open_node(config, Counter()) as node:
        with pytest.raises(TypeError, match="must be bytes, not str"):
            await node.propose("1")  # type: ignore[arg-type]

        with pytest.raises(ValueError, match=r"11 bytes is over limits\.max_command_bytes = 10"):
            await node.propose(b"1" * 11)

        assert await node.propose(b"0" * 9 + b"1", timeout=PATIENCE) == b"1"


async def test_a_command_of_the_largest_size_gets_through_from_a_follower(world: World) -> None:
    size = 1024 * 1024
    async with world.cluster(Counter(), Counter()) as nodes:
        for total, node in enumerate(reversed(nodes), start=1):
            assert await node.propose(b" " * (size - 1) + b"1", timeout=PATIENCE) == str(total).encode()


async def test_a_timeout_says_whether_the_command_was_handed_over(memory: World) -> None:
    async with memory.cluster(Counter(), Counter()) as nodes:
        leader = leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)
        await leader.propose(b"1", timeout=PATIENCE)
        await follower.propose(b"1", timeout=PATIENCE)
        memory.network.isolate(follower.status().address)
        with pytest.raises(OutcomeUnknown):
            await leader.propose(b"1", timeout=0.05)

        await until(lambda: follower.leader is None)
        with pytest.raises(NotApplied):
            await follower.propose(b"1", timeout=0.05)

        with pytest.raises(NotApplied):
            await follower.propose(b"1", timeout=0)

        memory.network.heal()
        # The leader's one may have been applied; the follower's never will be.
        assert await follower.propose(b"0", timeout=PATIENCE) in (b"2", b"3")
        assert await follower.propose(b"1", timeout=PATIENCE) in (b"3", b"4")


async def test_a_cancelled_proposal_harms_nobody(memory: World) -> None:
    store = Gated()
    async with open_node(memory.config(bootstrap=True), store) as node:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.propose, b"1")
            await until(lambda: node.status().last_index > 3)
            tasks.cancel_scope.cancel()

        store.gate.set()
        assert await node.propose(b"1", timeout=PATIENCE) == b"2", "it was in the log already"


async def test_a_full_node_makes_callers_wait_or_says_that_it_is_busy(memory: World) -> None:
    store = Gated()
    config = memory.config(bootstrap=True, limits={"max_proposals_in_flight": 2})
    answers: list[int] = []
    async with open_node(config, store) as node, anyio.create_task_group() as tasks:

        async def propose() -> None:
            answers.append(int(await node.propose(b"1", timeout=PATIENCE)))

        for _ in range(10):
            tasks.start_soon(propose)

        # One turn of the loop is not enough: trio runs its tasks in any order.
        await until(lambda: len(node._waiting_for_room) == 8)
        with pytest.raises(Busy):
            await node.propose(b"1", wait=False)

        with pytest.raises(NotApplied, match="in flight until the time was up"):
            await node.propose(b"1", timeout=0.02)

        store.gate.set()
        await until(lambda: sorted(answers) == list(range(1, 11)))
        assert await node.propose(b"1", wait=False, timeout=PATIENCE) == b"11"


async def test_room_given_to_a_cancelled_caller_goes_to_the_next(memory: World) -> None:
    # The waiter is woken and cancelled in one turn: the room must not be lost with it.
    config = memory.config(bootstrap=True, limits={"max_proposals_in_flight": 1})
    store = Gated()
    answers: list[bytes] = []
    async with open_node(config, store) as node, anyio.create_task_group() as tasks:
        assert node._parts is not None
        first = node._parts.replica.propose(b"1")
        assert first is not None
        node._wake.set()
        scope = anyio.CancelScope()

        async def unlucky() -> None:
            with scope:
                await node.propose(b"1")

        async def next_one() -> None:
            answers.append(await node.propose(b"1", timeout=PATIENCE))

        tasks.start_soon(unlucky)
        await until(lambda: len(node._waiting_for_room) == 1)
        tasks.start_soon(next_one)
        await until(lambda: len(node._waiting_for_room) == 2)

        class CancelAtOnce:
            def done(self) -> bool:
                return False

            def set_result(self, _: None) -> None:
                scope.cancel()

        first.waiter = CancelAtOnce()
        store.gate.set()
        await until(lambda: answers == [b"2"])


async def test_one_answer_that_makes_room_for_many_lets_many_in(memory: World) -> None:
    # One large command held the room of all the small ones; they must not go on one by one.
    config = memory.config(bootstrap=True, limits={"max_bytes_in_flight": 100, "max_command_bytes": 100})
    store = Gated()
    async with open_node(config, store) as node, anyio.create_task_group() as tasks:
        large = Gated()
        tasks.start_soon(node.propose, b"1".rjust(100))
        await until(lambda: node.status().last_index > 3)
        for _ in range(20):
            tasks.start_soon(node.propose, b"1")

        await until(lambda: len(node._waiting_for_room) == 20)
        gate, store.gate = store.gate, large.gate
        gate.set()  # the large one alone is applied
        await until(lambda: not node._waiting_for_room)
        store.gate.set()
        await until(lambda: store.counter.total == 21)


async def test_an_answer_is_part_of_its_turn_and_no_turn_in_which_nobody_proposed(memory: World) -> None:
    # Else a leader announces a commit, with two messages and two answers, that the next append would have carried.
    async with open_node(memory.config(bootstrap=True), Counter()) as node:
        assert node._parts is not None
        replica = node._parts.replica
        effects, calls = replica.effects, list[tuple[bool, bool]]()

        def recorded(*, turn: bool = True) -> Effects:
            found = effects(turn=turn)
            calls.append((turn, found.apply is not None))
            return found

        replica.effects = recorded  # type: ignore[method-assign]
        await node.propose(b"1")

    after_applying = [turn for (_, applies), (turn, _) in itertools.pairwise(calls) if applies]
    assert after_applying
    assert not any(after_applying)


# --- reads -----------------------------------------------------------------------------------------------------------


async def test_a_barrier_shows_what_was_written_elsewhere(world: World) -> None:
    stores = [Counter(), Counter(), Counter()]
    async with world.cluster(*stores) as nodes:
        for total in range(1, 31):
            await nodes[total % 3].propose(b"1", timeout=PATIENCE)
            reader = (total + 1) % 3
            await nodes[reader].read_barrier(timeout=PATIENCE)
            assert stores[reader].total == total


async def test_a_barrier_without_a_leader_gives_up_in_time(memory: World) -> None:
    async with memory.cluster(Counter(), Counter()) as nodes:
        memory.network.isolate(nodes[0].status().address)
        for node in nodes:
            with pytest.raises(ReadError):
                await node.read_barrier(timeout=0.05)

        memory.network.heal()
        for node in nodes:
            await node.read_barrier(timeout=PATIENCE)


async def test_a_barrier_waits_for_the_store(memory: World) -> None:
    store = Gated()
    async with open_node(memory.config(bootstrap=True), store) as node, anyio.create_task_group() as tasks:
        tasks.start_soon(node.propose, b"1")
        await until(lambda: node.status().commit > 3)
        with pytest.raises(ReadError):
            await node.read_barrier(timeout=0.1)

        store.gate.set()
        await node.read_barrier(timeout=PATIENCE)
        assert store.counter.total == 1


# --- Stores ----------------------------------------------------------------------------------------------------------


async def test_a_store_may_be_async(world: World) -> None:
    store = Gated()
    store.gate.set()
    config = world.config(bootstrap=True, snapshot={"entries": 5, "tail": 0})
    async with open_node(config, store) as node:
        for _ in range(12):
            await node.propose(b"1", timeout=PATIENCE)

        with pytest.raises(CommandRejected):
            await node.propose(b"reject", timeout=PATIENCE)

    again = Gated()
    again.gate.set()
    async with open_node(config, again) as node:
        await node.read_barrier(timeout=PATIENCE)
        assert again.counter.total == 12


async def test_a_threaded_store_runs_beside_the_loop(world: World) -> None:
    threads = set()

    class Threaded(Counter):
        threaded = True

        def apply(self, command: bytes) -> bytes:
            threads.add(threading.current_thread())
            return super().apply(command)

    config = world.config(bootstrap=True)
    async with open_node(config, Threaded()) as node:
        assert await node.propose(b"1", timeout=PATIENCE) == b"1"
        with pytest.raises(CommandRejected):
            await node.propose(b"reject", timeout=PATIENCE)

    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (b"crash", "Store.apply raised RuntimeError: the Store is broken"),
        (b"nonsense", "Store.apply must return bytes; it returned str"),
    ],
)
@pytest.mark.parametrize("threaded", [False, True])
async def test_a_store_that_fails_ends_its_node_as_one_exception(
    memory: World, command: bytes, message: str, threaded: bool
) -> None:
    store = Counter()
    store.threaded = threaded
    outcome: list[BaseException] = []

    async def propose(node: Node) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await node.propose(command)
            except OutcomeUnknown as exc:
                outcome.append(exc)

    async def live() -> None:
        async with open_node(memory.config(bootstrap=True), store) as node, anyio.create_task_group() as tasks:
            tasks.start_soon(propose, node)
            await anyio.sleep_forever()  # cancelled when the node dies

    with pytest.raises(StoreError, match=message), anyio.fail_after(PATIENCE):
        await live()

    assert len(outcome) == 1, "the caller was answered"


# --- how a node ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_nobody_asked_for_ends_a_node_with_a_reason(memory: World) -> None:
    # Some libraries for asyncio raise it when a time limit of theirs is up; a task group takes it for a quiet end.
    class Careless(Counter):
        async def apply(self, command: bytes) -> bytes:  # type: ignore[override]
            raise asyncio.CancelledError

    async def live() -> None:
        async with open_node(memory.config(bootstrap=True), Careless()) as node, anyio.create_task_group() as tasks:
            with anyio.CancelScope(shield=True):
                with pytest.raises(OutcomeUnknown):
                    await node.propose(b"1")

            tasks.start_soon(anyio.sleep_forever)

    with pytest.raises(RiteraftError, match="work_on_store_forever was cancelled from within"):
        with anyio.fail_after(PATIENCE):
            await live()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_out_of_a_plain_store_ends_a_node_with_a_reason(memory: World) -> None:
    # The turn may be a transport's, whose task would take it for its own end, and a batch would be lost in silence.
    class Careless(Counter):
        def apply(self, command: bytes) -> bytes:
            raise asyncio.CancelledError

    stores = [Counter(), Careless()]

    async def live() -> None:
        async with memory.cluster(*stores) as nodes:
            await nodes[0].propose(b"1", timeout=PATIENCE)
            await nodes[1].wait_stopped()
            await anyio.sleep_forever()

    with pytest.raises(RiteraftError, match="drive was cancelled from within"):
        with anyio.fail_after(PATIENCE):
            await live()


def test_nodes_run_under_asyncios_own_run(tmp_path: Path) -> None:
    # anyio.run tells every callback of the loop which library it is on; asyncio.run tells tasks only.
    async def live() -> None:
        stores = [Counter(), Counter(), Counter()]
        with anyio.fail_after(PATIENCE):
            async with World("real", tmp_path).cluster(*stores) as nodes:
                for total, node in enumerate(nodes, start=1):
                    assert await node.propose(b"1") == str(total).encode()

                await nodes[2].leave()  # the others hear of new peers in a message

    asyncio.run(live())


async def test_what_a_message_calls_for_is_done_in_the_turn_that_brings_it(memory: World) -> None:
    # Every hop through the event loop on the way of a write is paid on two nodes, one after another.
    stores = [Counter(), Counter()]
    async with memory.cluster(*stores) as nodes:
        leader = leader_of(nodes)
        turns: list[tuple[int, int]] = []
        inner = leader.messages

        def messages(peer: int, batch: Sequence[bytes]) -> None:
            before = leader.status().applied
            inner(peer, batch)
            turns.append((before, leader.status().applied))

        leader.messages = messages  # type: ignore[method-assign,assignment]
        await leader.propose(b"1", timeout=PATIENCE)

    assert any(after > before for before, after in turns), "the acknowledgement committed, and the Store has applied"


async def test_a_stopped_node_says_so(world: World) -> None:
    async with open_node(world.config(bootstrap=True), Counter()) as node:
        await node.propose(b"1", timeout=PATIENCE)

    for call in (node.propose(b"1"), node.read_barrier(), node.leave()):
        with pytest.raises(NodeStopped):
            await call

    with pytest.raises(NodeStopped):
        node.status()


async def test_whoever_waits_is_answered_when_the_node_stops(memory: World) -> None:
    store = Gated()
    ends: list[str] = []

    async def note(call: Any) -> None:
        try:
            await call
        except Exception as exc:
            ends.append(type(exc).__name__)

    async with anyio.create_task_group() as outside:
        config = memory.config(bootstrap=True, limits={"max_proposals_in_flight": 1})
        async with open_node(config, store) as node:
            outside.start_soon(note, node.propose(b"1"))
            await until(lambda: node.status().commit > 3)
            outside.start_soon(note, node.propose(b"1"))
            outside.start_soon(note, node.read_barrier())
            outside.start_soon(note, node.wait_stopped(signals=False))
            await until(lambda: len(node._waiting_for_room) == 1)
            node.stop()
            await node.wait_stopped(signals=False)

    assert sorted(ends) == ["NodeStopped", "NodeStopped", "OutcomeUnknown"]


async def test_a_node_that_is_stopped_first_gives_the_answers_that_are_still_to_come(memory: World) -> None:
    # What is in the log already is not left in doubt; what comes later is refused at once.
    store = Gated()
    answers: list[bytes] = []
    async with anyio.create_task_group() as outside, open_node(memory.config(bootstrap=True), store) as node:

        async def propose() -> None:
            answers.append(await node.propose(b"1"))

        async def go_on_once_it_is_stopping() -> None:
            await until(lambda: node._winding_down)
            with pytest.raises(NodeStopped, match="is stopping"):
                await node.propose(b"1")

            store.gate.set()

        outside.start_soon(propose)
        await until(lambda: node.status().last_index > 3)
        outside.start_soon(go_on_once_it_is_stopping)

    assert answers == [b"1"]


async def test_an_error_of_the_block_comes_out_as_it_is(world: World) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_node(world.config(bootstrap=True), Counter()):
            raise LookupError("mine")


async def test_an_error_of_the_block_is_not_hidden_by_the_end_of_the_node(world: World) -> None:
    # The node dies, the block fails while it is cancelled: the cause leaves, the block's own error stands behind it.
    async def live() -> None:
        async with open_node(world.config(bootstrap=True), Counter()) as node:
            try:
                await node.propose(b"crash")
            except OutcomeUnknown as exc:
                raise LookupError("mine") from exc

    with pytest.raises(StoreError) as caught, anyio.fail_after(PATIENCE):
        await live()

    assert isinstance(caught.value.__cause__, (LookupError, RuntimeError))


async def test_a_cancelled_block_stops_the_node(world: World) -> None:
    config = world.config(bootstrap=True)
    with anyio.CancelScope() as scope:
        async with open_node(config, Counter()) as node:
            await node.propose(b"1", timeout=PATIENCE)
            scope.cancel()
            await anyio.sleep_forever()

    async with open_node(config, Counter()) as node:  # its folder and address are free again
        assert await node.propose(b"1", timeout=PATIENCE) == b"2"


async def test_a_node_can_be_stopped_many_times_over(world: World) -> None:
    config = world.config(bootstrap=True)
    for total in range(1, 6):
        async with open_node(config, Counter()) as node:
            assert await node.propose(b"1", timeout=PATIENCE) == str(total).encode()
            node.stop()
            node.stop()
            await node.wait_stopped()


async def test_a_disk_that_fails_ends_its_node_at_once(memory: World) -> None:
    class Failing(MemoryDisk):
        saves = 0
        broken = False

        def save(self, batch: LogBatch) -> None:
            self.saves += 1
            if self.broken:
                raise StorageError("no space left")

            super().save(batch)

    disk = memory.disks["n1"] = Failing()
    before = 0

    async def live() -> None:
        nonlocal before
        async with open_node(memory.config(bootstrap=True), Counter()) as node:
            await node.propose(b"1", timeout=PATIENCE)
            disk.broken = True
            before = disk.saves
            with anyio.CancelScope(shield=True), pytest.raises(OutcomeUnknown):
                await node.propose(b"1", timeout=PATIENCE)

    with pytest.raises(StorageError, match="no space left"), anyio.fail_after(PATIENCE):
        await live()

    assert disk.saves == before + 1, "a failed save is never tried again"


async def test_a_plugin_whose_task_fails_ends_the_node_as_one_exception(memory: World) -> None:
    plugins = Plugins.load()
    provider, _ = memory.config(bootstrap=True).resolve(TRANSPORT, plugins)
    fail = anyio.Event()

    @asynccontextmanager
    async def open_frail(options: Any, context: Any) -> AsyncIterator[Any]:
        async def later() -> None:
            await fail.wait()
            raise OSError("the plugin's own")

        async with anyio.create_task_group() as tasks, provider.open(options, context) as transport:
            tasks.start_soon(later)
            yield transport
            tasks.cancel_scope.cancel()

    original = plugins.get

    def get(kind: Any, name: str) -> Any:
        found = original(kind, name)
        if kind is not TRANSPORT:
            return found

        return type(found)(found.name, found.options, open_frail, found.backends)

    object.__setattr__(plugins, "get", get)

    async def live() -> None:
        async with open_node(memory.config(bootstrap=True), Counter(), plugins=plugins):
            fail.set()
            await anyio.sleep_forever()

    with pytest.raises(OSError, match="the plugin's own"), anyio.fail_after(PATIENCE):
        await live()


async def test_leaving(world: World) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_node(world.config("n1", bootstrap=True), Counter()))
        config = world.config("n2", peers=[first.status().address])
        async with open_node(config, Counter()) as second:
            await until(lambda: second.status().voters == (1, 2))
            with anyio.fail_after(PATIENCE):
                await second.leave()
                await second.wait_stopped()

        await until(lambda: first.status().voters == (1,))
        with pytest.raises(CommandRejected, match="node 1 is the last voter of cluster 'tests'"):
            await first.leave(timeout=PATIENCE)

        assert await first.propose(b"1", timeout=PATIENCE) == b"1"


async def test_a_leader_leaves_and_the_other_one_leads(world: World) -> None:
    async with world.cluster(Counter(), Counter(), Counter()) as nodes:
        leader = leader_of(nodes)
        await leader.leave(timeout=PATIENCE)
        rest = [node for node in nodes if node is not leader]
        assert await rest[0].propose(b"1", timeout=PATIENCE) == b"1"
        for node in rest:
            await until(lambda node=node: len(node.status().voters) == 2)  # type: ignore[misc]


async def test_a_member_that_is_gone_is_removed_by_any_other(world: World) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_node(world.config("n1", bootstrap=True), Counter()))
        peers = [first.status().address]
        second = await stack.enter_async_context(open_node(world.config("n2", peers=peers), Counter()))
        async with open_node(world.config("n3", peers=peers), Counter()) as third:
            await until(lambda: len(second.status().voters) == 3)
            gone = third.status().node_id

        for node in (second, first):  # one of them does not lead; the second time there is nothing left to do
            await node.remove(gone, timeout=PATIENCE)
            await until(lambda node=node: gone not in node.status().members)  # type: ignore[misc]

        with pytest.raises(CommandRejected, match="there is no node 99"):
            await first.remove(99, timeout=PATIENCE)

        with pytest.raises(ValueError, match="use `leave`"):
            await first.remove(first.status().node_id)


async def test_a_removal_without_a_quorum_is_given_up(memory: World) -> None:
    async with memory.cluster(Counter(), Counter()) as nodes:
        memory.network.isolate(nodes[0].status().address)
        for node, other in (nodes, nodes[::-1]):
            with pytest.raises(OutcomeUnknown, match="was not confirmed within"):
                await node.remove(other.status().node_id, timeout=0.1)

        memory.network.heal()


async def test_a_removal_is_answered_when_its_node_stops(memory: World) -> None:
    async def remove(node: Node, node_id: int) -> None:
        with pytest.raises(NodeStopped):
            await node.remove(node_id)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks, memory.cluster(Counter(), Counter()) as nodes:
            memory.network.isolate(nodes[0].status().address)
            for node, other in (nodes, nodes[::-1]):
                tasks.start_soon(remove, node, other.status().node_id)

            await anyio.wait_all_tasks_blocked()


async def test_leaving_without_a_quorum_is_given_up_and_the_node_goes_on(memory: World) -> None:
    async with memory.cluster(Counter(), Counter()) as nodes:
        memory.network.isolate(nodes[0].status().address)
        for node in nodes:
            with pytest.raises(OutcomeUnknown, match="was not confirmed"):
                await node.leave(timeout=0.1)

        memory.network.heal()
        for node in nodes:
            await until(lambda node=node: node.leader)  # type: ignore[misc]


async def test_a_node_whose_leaving_nobody_waits_for_any_more_still_ends(
    memory: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its removal reaches it while `leave` waits for a leader that is silent: when that gives up, the node must not go
    # on as one that nobody drives.
    async with memory.cluster(Counter(), Counter()) as nodes:
        first = nodes[0]
        config = memory.config("n3", peers=[first.status().address])

        async def live() -> None:
            async with open_node(config, Counter()) as third:
                await until(lambda: len(third.status().voters) == 3)
                await until(lambda: first.role is Role.LEADER)
                monkeypatch.setattr(third, "_ask_leader", lambda *_: anyio.sleep_forever())
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(third.leave)
                    await anyio.lowlevel.checkpoint()
                    await first.request(2, _requests.encode(_requests.Remove(3)))
                    await until(lambda: third._removed)
                    tasks.cancel_scope.cancel()

                await anyio.sleep_forever()

        with pytest.raises(Removed), anyio.fail_after(PATIENCE):
            await live()

        with pytest.raises(ConfigError, match="belongs to a node that left"):
            async with open_node(config, Counter()):
                pass
