"""Digests of the Store's state, compared among the voters: a Store that is not deterministic is found, not believed."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from .errors import StoreError

KEPT = 4
"""Comparisons under way at most: each is over within a round trip or two, or one of the voters is away."""


class Digests:
    """What this node's Store and those of the others came to, at log indices that all of them share."""

    def __init__(self, every: int, begun: int) -> None:
        """Compare at each multiple of `every` (0: never) above `begun`: what is only replayed was compared before.

        A Store that was mended, or one of a release that takes its digest another way, may come to something else.
        """
        self._every = every
        self._newest = begun
        self._own: dict[int, bytes] = {}
        self._heard: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        self.unreported: tuple[int, bytes] | None = None
        """Our newest one, index and digest, until it stands in the log."""

    def due(self, applied: int) -> bool:
        """Say whether the state at this applied index is one to compare."""
        return self._every > 0 and applied % self._every == 0 and applied > self._newest

    def next_due(self, applied: int) -> float:
        """Return the first index after this applied one whose state is to be compared."""
        return (max(applied, self._newest) // self._every + 1) * self._every if self._every else math.inf

    def skip(self, index: int) -> None:
        """Note that a snapshot brought us up to `index`."""
        self._newest = max(self._newest, index)

    def take(self, index: int, digest: bytes) -> None:
        """Take what our own Store came to."""
        self._newest = index
        self._own[index] = digest
        self.unreported = (index, digest)
        for old in sorted(self._own)[:-KEPT]:
            del self._own[old]

        for old in [index for index in self._heard if index not in self._own]:
            del self._heard[old]

    def hear(self, me: int, voters: Collection[int], node_id: int, index: int, digest: bytes) -> str | None:
        """Take a digest that stands in the log; return a note for people if the voters are split.

        :raises StoreError: most of the voters have another state than we.
        """
        if node_id == me and self.unreported is not None and index >= self.unreported[0]:
            self.unreported = None

        own = self._own.get(index)
        if own is None or node_id not in voters:
            return None

        heard = self._heard[index]
        heard[node_id] = digest
        counts = Counter(found for voter, found in heard.items() if voter in voters)
        most, count = counts.most_common(1)[0]
        if count * 2 > len(voters):
            if most == own:
                return None

            agreed = ", ".join(str(voter) for voter in sorted(heard) if heard[voter] == most)
            raise StoreError(
                f"the state at log index {index} has digest {own.hex()} here and {most.hex()} on most of the voters "
                f"(nodes {agreed}): this Store was changed by something other than the commands, or its apply depends "
                f"on more than the state and the command. The node stops; mend the cause, remove the node from its "
                f"cluster and let it join again with an empty folder"
            )

        if counts.total() < len(voters):
            return None

        return f"the voters' Stores differ at log index {index}, and no state has a majority: {_listed(heard)}"


def _listed(heard: Mapping[int, bytes]) -> str:
    return ", ".join(f"node {node_id} has {digest.hex()}" for node_id, digest in sorted(heard.items()))
