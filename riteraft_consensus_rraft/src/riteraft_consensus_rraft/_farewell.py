"""Our own removal, while those that stay may not know of it (rule 11)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from riteraft_core.types import CommittedEntry


@dataclass(slots=True)
class Farewell:
    """What is committed from our removal on: kept back until the voters that stay know that it is committed.

    A leader never proposes its own removal, but it may inherit it, and then nobody else knows at first that it is
    committed. Were it to leave at once, voters that never hear of it would need its vote for good: the one voter that
    is left of two could never lead again. Until then we are a member like any other.
    """

    entries: list[CommittedEntry]
    """The first one is our removal."""
    voters: Sequence[Collection[int]]
    """Who votes after it, in each half."""
    leaves_joint: bool
    """It is the leave of a joint state, of which we were an outgoing voter."""

    @property
    def index(self) -> int:
        """Where our removal stands."""
        return self.entries[0][0]

    def is_known(self, acknowledged: Callable[[int], int]) -> bool:
        """Say whether a majority of those that stay know of it, by the commit index that each acknowledged."""
        return all(
            2 * sum(acknowledged(node_id) >= self.index for node_id in voters) > len(voters) for voters in self.voters
        )
