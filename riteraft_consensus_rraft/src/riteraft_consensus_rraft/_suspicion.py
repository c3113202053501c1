"""Whether our disk lost entries that we had acknowledged (rule 19)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Claim:
    """A leader's claim that we acknowledged more than we hold."""

    leader: int
    term: int
    commit: int
    ticks: int = 0
    repeated_at: int = 0
    """`ticks` when the leader last said so."""


class Suspicion:
    """Counts how long the leader of our term has gone on claiming it.

    A heartbeat's commit is at most what its receiver acknowledged as durable, so one past our log cannot be: but a
    single one proves nothing about the disk, a bug or a forger could have sent it.
    """

    def __init__(self) -> None:
        self._claim: _Claim | None = None

    def heartbeat(self, leader: int, term: int, commit: int) -> None:
        """Count a heartbeat that was dropped because its commit is past our log."""
        claim = self._claim
        if claim is not None and (claim.leader, claim.term) == (leader, term):
            claim.commit = max(claim.commit, commit)
            claim.repeated_at = claim.ticks
        else:
            self._claim = _Claim(leader, term, commit)

    def append(self, leader: int, last_index: int) -> None:
        """Note an append that was taken: the claim is void once our log reaches it."""
        if self._claim is not None and self._claim.leader == leader and last_index >= self._claim.commit:
            self._claim = None

    def tick(self, term: int, election_tick: int) -> tuple[int, int] | None:
        """Count a tick; return the leader and the commit claimed once that has lasted too long."""
        claim = self._claim
        if claim is None or claim.term != term:
            self._claim = None
            return None

        claim.ticks += 1
        return (claim.leader, claim.commit) if claim.repeated_at >= election_tick else None
