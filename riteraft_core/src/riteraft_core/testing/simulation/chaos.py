"""A mixed schedule of everything that may go wrong, beside clients that write and read all the time."""

from __future__ import annotations

from random import Random

from ..._replica import ReplicaSettings
from ...protocols import EngineLimits
from .links import Weather
from .simulation import Simulation

LARGEST = 5
"""Members at most: enough for majorities of different shapes, few enough to run many seeds."""


def prepare(seed: int) -> Simulation:
    """Return a cluster whose size and bounds are drawn from the seed."""
    return Simulation(seed, _draw_size(seed), settings=_draw_settings(seed), limits=_draw_limits(seed))


def rage(net: Simulation, seconds: float = 20.0) -> None:
    """Let one random schedule go over a cluster.

    :raises Violation: a rule was broken.
    """
    _Schedule(net).run(seconds)


def _draw_size(seed: int) -> int:
    return Random(seed).choice((1, 2, 3, 3, 3, 4, 5))


def _draw_settings(seed: int) -> ReplicaSettings:
    """Draw bounds so small that what is rare in a real cluster happens all the time."""
    random = Random(seed)
    return ReplicaSettings(
        max_proposals_in_flight=random.choice((4, 16, 64)),
        max_batch_entries=random.choice((1, 3, 32)),
        max_batch_bytes=random.choice((16, 1024)),
        snapshot_entries=random.choice((5, 20, 100)),
        snapshot_bytes=random.choice((200, 10_000)),
        tail_entries=random.choice((0, 5, 50)),
        lazy_commit_ticks=random.choice((1, 20)),
        tail_bytes=random.choice((0, 100, 10_000)),
        digest_entries=random.choice((0, 20, 50)),
    )


def _draw_limits(seed: int) -> EngineLimits:
    random = Random(seed)
    return EngineLimits(
        max_size_per_msg=random.choice((64, 256, 4096)),
        max_inflight_msgs=random.choice((1, 4, 64)),
        max_uncommitted_size=random.choice((4096, 1 << 20)),
        max_committed_size_per_ready=random.choice((64, 4096)),
    )


class _Schedule:
    """What goes wrong when, drawn as the run goes."""

    def __init__(self, net: Simulation) -> None:
        self._net = net
        self._random = net.random
        # Only one node may move: if all of a majority came back elsewhere at once, nobody could tell anybody.
        self._mover = net.random.choice(list(net.nodes))
        self._faults = (
            (self._weather, 4),
            (self._cut, 3),
            (self._cut_one_way, 3),
            (self._isolate_leader, 2),
            (self._split, 2),
            (self._heal, 4),
            (self._crash, 4),
            (self._crash_leader, 2),
            (self._crash_all, 1),
            (self._stop, 1),
            (self._restart, 6),
            (self._pause, 3),
            (self._slow_disk, 2),
            (self._slow_store, 2),
            (self._transfer, 2),
            (self._add, 2),
            (self._leave, 1),
            (self._remove, 1),
        )

    def run(self, seconds: float) -> None:
        """Let it rain."""
        end = self._net.clock.now + seconds
        next_fault = self._net.clock.now
        busy = self._random.choice((0.02, 0.1, 0.3))
        calm = self._random.choice((0.2, 0.7, 2.0))
        faults, weights = zip(*self._faults, strict=True)
        while self._net.clock.now < end:
            if self._net.clock.now >= next_fault:
                next_fault = self._net.clock.now + self._random.expovariate(1 / calm)
                self._random.choices(faults, weights)[0]()

            self._use()
            self._net.run(self._random.expovariate(1 / busy))

    def _use(self) -> None:
        serving = [node.number for node in self._net.nodes.values() if node.serves and not node.paused]
        if not serving:
            return

        number = self._random.choice(serving)
        timeout = self._random.choice((0.05, 0.5, 2.0, 10.0, None))
        if self._random.random() < 0.3:
            self._net.read(number, timeout)
        else:
            for _ in range(self._random.choice((1, 1, 1, 5))):
                self._net.write(number, rejected=self._random.random() < 0.1, timeout=timeout)

    def _running(self) -> list[int]:
        return [node.number for node in self._net.nodes.values() if node.running]

    def _pick(self) -> int | None:
        running = self._running()
        return self._random.choice(running) if running else None

    def _weather(self) -> None:
        random = self._random
        self._net.links.weather = Weather(
            loss=random.choice((0.0, 0.01, 0.1, 0.3)),
            duplicates=random.choice((0.0, 0.05, 0.3)),
            slowest=random.choice((0.003, 0.05, 0.4)),
            late=random.choice((0.0, 0.02)),
        )
        self._net.note(f"weather: {self._net.links.weather}")

    def _cut(self) -> None:
        if len(self._net.nodes) > 1:
            one, other = self._random.sample(list(self._net.nodes), 2)
            self._net.note(f"cut {one} {other}")
            self._net.cut(one, other)

    def _cut_one_way(self) -> None:
        if len(self._net.nodes) > 1:
            one, other = self._random.sample(list(self._net.nodes), 2)
            self._net.note(f"cut {one} to {other}")
            self._net.cut_one_way(one, other)

    def _isolate_leader(self) -> None:
        leader = self._net.leader
        if leader is not None:
            self._net.note(f"isolate {leader}")
            self._net.isolate(leader)

    def _split(self) -> None:
        everyone = list(self._net.nodes)
        self._random.shuffle(everyone)
        at = self._random.randint(0, len(everyone))
        self._net.note(f"split {everyone[:at]} {everyone[at:]}")
        self._net.split(everyone[:at], everyone[at:])

    def _heal(self) -> None:
        self._net.note("heal")
        self._net.heal()

    def _crash(self) -> None:
        number = self._pick()
        if number is not None:
            self._net.crash(number)

    def _crash_leader(self) -> None:
        leader = self._net.leader
        if leader is not None:
            self._net.crash(leader)

    def _crash_all(self) -> None:
        self._net.crash(*self._running())

    def _stop(self) -> None:
        number = self._pick()
        if number is not None:
            self._net[number].stop()

    def _restart(self) -> None:
        for node in self._net.nodes.values():
            if not node.running and not node.disk.left and self._random.random() < 0.7:
                if node.number == self._mover and self._random.random() < 0.3:
                    node.address = self._net.new_address()

                node.start()

    def _pause(self) -> None:
        number = self._pick()
        if number is not None:
            node = self._net[number]
            self._net.note(f"{node} stands still")
            node.pause()
            self._net.clock.call_in(self._random.uniform(0.1, 5.0), lambda: node.resume() if node.paused else None)

    def _slow_disk(self) -> None:
        number = self._pick()
        if number is not None:
            self._net[number].slow_disk = self._random.choice((0.0, 0.05, 0.5, 2.0))
            self._net.note(f"disk of {number}: {self._net[number].slow_disk}")

    def _slow_store(self) -> None:
        number = self._pick()
        if number is not None:
            self._net[number].slow_store = self._random.choice((0.0, 0.05, 0.5, 3.0))
            self._net.note(f"Store of {number}: {self._net[number].slow_store}")

    def _transfer(self) -> None:
        self._net.note(f"transfer to {self._net.transfer()}")

    def _members(self) -> int:
        return sum(not node.disk.left for node in self._net.nodes.values())

    def _add(self) -> None:
        if self._members() < LARGEST:
            self._net.note(f"{self._net.add(wait=False)} is new")

    def _leave(self) -> None:
        number = self._pick()
        if number is not None and self._members() > 1 and self._net[number].serves:
            self._net.note(f"{number} leaves")
            self._net[number].leave()

    def _remove(self) -> None:
        number = self._pick()
        leader = self._net.leader
        # A joiner without a snapshot knows only whom it asked; if those move away nobody can tell it that it is out.
        if number is not None and self._members() > 1 and self._net[number].has_snapshot and leader is not None:
            self._net.note(f"{number} is to be removed by {leader}")
            self._net.remove(number)
