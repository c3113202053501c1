"""What the network between the nodes does to what is sent: the faults of one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from random import Random


@dataclass(slots=True)
class Weather:
    """How bad the network is. Chances are between 0 and 1, times are seconds."""

    loss: float = 0.0
    duplicates: float = 0.0
    fastest: float = 0.0005
    slowest: float = 0.003
    late: float = 0.0
    """The chance that something is held up for up to `very_late`, long after its sender stopped waiting."""
    very_late: float = 5.0


class Links:
    """Which nodes reach which, each direction by itself, and how long it takes."""

    def __init__(self, random: Random) -> None:
        self.weather = Weather()
        self._random = random
        self._cuts: set[tuple[int, int]] = set()

    def open(self, source: int, target: int) -> bool:
        """Say whether anything gets from one to the other now."""
        return (source, target) not in self._cuts

    def cut_one_way(self, source: int, target: int) -> None:
        """Lose everything from one to the other; the way back stays."""
        self._cuts.add((source, target))

    def cut(self, one: int, other: int) -> None:
        """Lose everything between two nodes."""
        self._cuts |= {(one, other), (other, one)}

    def split(self, *groups: Iterable[int]) -> None:
        """Let only the nodes within each group reach one another."""
        of = {node: number for number, group in enumerate(groups) for node in group}
        self._cuts |= {(one, other) for one, other in permutations(of, 2) if of[one] != of[other]}

    def heal(self) -> None:
        """Let everything through again."""
        self._cuts.clear()
        self.weather = Weather()

    def copies(self) -> int:
        """Draw how often one thing that is sent arrives."""
        weather = self.weather
        if weather.loss and self._random.random() < weather.loss:
            return 0

        return 2 if weather.duplicates and self._random.random() < weather.duplicates else 1

    def delay(self) -> float:
        """Draw how long it takes: what was sent first need not arrive first."""
        weather = self.weather
        if weather.late and self._random.random() < weather.late:
            return self._random.uniform(weather.slowest, weather.very_late)

        return self._random.uniform(weather.fastest, weather.slowest)
