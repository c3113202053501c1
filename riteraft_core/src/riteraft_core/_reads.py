"""Readers on their way through ReadIndex (Raft thesis §6.4): many share one round, one round at a time.

A reader that comes while a round is under way waits for the next: a round proves only what was committed before it
was started.
"""

from __future__ import annotations

from ._proposals import Ticket


class ReadTicket(Ticket):
    """One reader: a local one is answered once applied ≥ index, one of another node as soon as the index is known."""

    __slots__ = ("remote",)

    def __init__(self, remote: bool) -> None:
        super().__init__()
        self.remote = remote


class Reads:
    """All readers of one node, by how far they are."""

    def __init__(self) -> None:
        self._waiting: list[ReadTicket] = []
        self._round: list[ReadTicket] = []
        self._parked: list[tuple[int, list[ReadTicket]]] = []

    @property
    def wants_round(self) -> bool:
        """Whether readers wait for a round and none is under way."""
        return bool(self._waiting) and not self._round

    def add(self, remote: bool) -> ReadTicket:
        """Take a new reader."""
        ticket = ReadTicket(remote)
        self._waiting.append(ticket)
        return ticket

    def start_round(self) -> None:
        """Put everyone who waits into the round that starts now."""
        self._round, self._waiting = self._waiting, []

    def fail_round(self) -> None:
        """Let the readers of the round wait for another."""
        self._waiting[:0] = self._round
        self._round = []

    def finish_round(self, index: int) -> list[ReadTicket]:
        """Take the round's index; return the readers of other nodes, who are done with that."""
        remote = [ticket for ticket in self._round if ticket.remote]
        local = [ticket for ticket in self._round if not ticket.remote]
        if local:
            self._parked.append((index, local))

        self._round = []
        return remote

    def take_remote(self) -> list[ReadTicket]:
        """Take out the readers of other nodes: they ask whoever leads now."""
        remote = [ticket for ticket in (*self._round, *self._waiting) if ticket.remote]
        self._round = [ticket for ticket in self._round if not ticket.remote]
        self._waiting = [ticket for ticket in self._waiting if not ticket.remote]
        return remote

    def take_applied(self, applied: int) -> list[ReadTicket]:
        """Take out the local readers whose index has been applied."""
        if not self._parked:
            return []

        done = [ticket for index, tickets in self._parked if index <= applied for ticket in tickets]
        self._parked = [(index, tickets) for index, tickets in self._parked if index > applied]
        return done

    def take_all(self) -> list[ReadTicket]:
        """Take out everyone: the node ends."""
        everyone = [*self._waiting, *self._round, *(ticket for _, tickets in self._parked for ticket in tickets)]
        self._waiting, self._round, self._parked = [], [], []
        return everyone

    def drop(self, ticket: ReadTicket) -> None:
        """Forget a reader that no longer waits."""
        for group in (self._waiting, self._round, *(tickets for _, tickets in self._parked)):
            if ticket in group:
                group.remove(ticket)
