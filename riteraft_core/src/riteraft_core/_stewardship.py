"""What a leader does for the members: lets new ones in, makes learners voters, takes out who is to go (rule 21).

Only who waits for an answer is kept here. What is wanted is read off the membership at the applied index, so that a
new leader goes on where the old one stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from . import _envelope
from ._membership import Membership
from ._proposals import Ticket
from ._requests import Join, Reply, Status
from .errors import Refused
from .protocols import Consensus
from .types import Identity, Member


class Stewardship:
    """The joins and removals under way on this node, and how far its learners are.

    Each method that answers tickets returns those it answered: whoever calls wakes their callers.
    """

    def __init__(self, engine: Consensus, identity: Identity, promotion_rounds: int, counters: Counter[str]) -> None:
        """Begin with nobody waiting; what the engine refuses is counted in `counters`."""
        self._engine = engine
        self._identity = identity
        self._promotion_rounds = promotion_rounds
        self._counters = counters
        self._joins: dict[bytes, list[Ticket]] = {}
        """By disk."""
        self._removals: dict[int, list[Ticket]] = {}
        """By node id."""
        self._learner_rounds: dict[int, int] = {}
        """Ticks in a row that a learner was at the commit index of the tick before."""
        self._commit_at_last_tick = 0

    # --- who asks ------------------------------------------------------------------------------------------------

    def join(self, membership: Membership, request: Join, ticket: Ticket, name: str) -> None:
        """Take a join of one whose certificate bears `name`; answer it now, or once its id is in the log."""
        member = membership.by_disk(request.disk_id)
        if member is not None:
            same = not (member.name and name) or member.name == name
            ticket.outcome = (
                self._admitted(membership, member) if same else Reply.refused(f"this disk is {member.name!r}'s")
            )
            return

        # Whether the name is free is for the log to say: its owner may have been removed by an entry not applied yet.
        entry = _envelope.allocate_entry(request.disk_id, request.address, request.wants_vote, name)
        try:
            self._engine.propose([entry])
        except Refused as refused:
            ticket.outcome = Reply.retry(refused.reason)
            return

        self._joins.setdefault(request.disk_id, []).append(ticket)

    def remove(self, membership: Membership, node_id: int, ticket: Ticket) -> None:
        """Take a removal; answer it now, or once its conf change is applied."""
        if node_id not in membership.members:
            known = node_id < membership.next_id
            ticket.outcome = Reply(Status.OK) if known else Reply.refused(f"there is no node {node_id}")
        elif set(membership.conf_state.voters) == {node_id}:
            ticket.outcome = Reply.refused(
                f"node {node_id} is the last voter of cluster {self._identity.cluster!r}: it cannot leave; "
                f"stop it instead"
            )
        elif node_id == self._identity.node_id:
            # A leader never removes itself (rule 11): whoever leads next does.
            self.transfer()
            ticket.outcome = Reply.retry("the leader hands over first")
        else:
            self._removals.setdefault(node_id, []).append(ticket)

    def drop(self, ticket: Ticket) -> None:
        """Forget a ticket whose caller no longer waits."""
        for waiting in (*self._joins.values(), *self._removals.values()):
            if ticket in waiting:
                waiting.remove(ticket)

    def end(self, reply: Reply) -> Sequence[Ticket]:
        """Give everyone who waits this reply: this node leads no more."""
        waiting = [ticket for tickets in (*self._joins.values(), *self._removals.values()) for ticket in tickets]
        self._joins.clear()
        self._removals.clear()
        self._learner_rounds.clear()
        return _answer(waiting, reply)

    # --- what the log says ---------------------------------------------------------------------------------------

    def allocated(self, membership: Membership, disk_id: bytes, name: str, member: Member | None) -> Sequence[Ticket]:
        """Note what an entry that asked for an id came to: `member`, or None if its name is another's."""
        waiting = self._joins.pop(disk_id, ())
        return _answer(waiting, _taken_name(membership, name) if member is None else self._admitted(membership, member))

    def changed(self, membership: Membership, dropped: Iterable[int]) -> Sequence[Ticket]:
        """Note that a conf change that was to drop `dropped` has led to this membership."""
        self._learner_rounds.clear()
        gone = [node_id for node_id in dropped if node_id not in membership.conf_state.everyone]
        return _answer([ticket for node_id in gone for ticket in self._removals.pop(node_id, ())], Reply(Status.OK))

    def refused(self, dropped: Iterable[int], why: str) -> Sequence[Ticket]:
        """Note that raft refused the conf change that was to drop `dropped`."""
        return [
            ticket
            for node_id in dropped
            for ticket in _answer(
                self._removals.pop(node_id, ()), Reply.refused(f"raft refused to remove node {node_id}: {why}")
            )
        ]

    # --- what is due ---------------------------------------------------------------------------------------------

    def tick(self, membership: Membership, leads: bool) -> None:
        """Let one tick pass: count the rounds in which each learner kept up."""
        learners = membership.conf_state.learners
        if not leads or not learners:
            self._learner_rounds.clear()
            return

        status = self._engine.status()
        rounds = {}
        for peer in status.progress:
            member = membership.members.get(peer.node_id)
            if peer.node_id in learners and member is not None and member.wants_vote:
                caught_up = peer.recent_active and peer.matched >= self._commit_at_last_tick > 0
                rounds[peer.node_id] = self._learner_rounds.get(peer.node_id, 0) + 1 if caught_up else 0

        self._learner_rounds = rounds
        self._commit_at_last_tick = status.commit

    def manage(self, membership: Membership) -> Sequence[Ticket]:
        """Propose the one conf change that is due, if none is under way; only a leader may call this."""
        removals = bool(self._removals)
        absent = [m for m in membership.members if m not in membership.conf_state.everyone]
        ready_learners = [n for n, rounds in self._learner_rounds.items() if rounds >= self._promotion_rounds]
        if not (removals or absent or ready_learners):
            return ()

        status = self._engine.status()
        if status.pending_conf_change or status.transferring_to or status.conf_state != membership.conf_state:
            return ()

        if removals:
            change = ("remove", next(iter(self._removals)))
        elif absent:
            change = ("add_learner", absent[0])
        else:
            change = ("add_voter", ready_learners[0])

        try:
            self._engine.propose_conf_change(_envelope.conf_change_context([change]), [change])
        except Refused as refused:
            self._counters[f"held: {refused.reason}"] += 1
            if refused.reason == "last_voter":
                why = f"node {change[1]} is the last voter: it cannot leave"
                return _answer(self._removals.pop(change[1], ()), Reply.refused(why))

        return ()

    def transfer(self) -> int | None:
        """Begin to hand leadership to the voter that is furthest; return its id, or None if there is none."""
        try:
            status = self._engine.status()
            candidates = [
                peer
                for peer in status.progress
                if peer.node_id != self._identity.node_id
                and peer.node_id in status.conf_state.voters
                and peer.recent_active
            ]
            if not candidates:
                return None

            best = max(candidates, key=lambda peer: (peer.matched, -peer.node_id)).node_id
            self._engine.transfer_leader(best)
        except Refused:
            return None

        return best

    def _admitted(self, membership: Membership, member: Member) -> Reply:
        rows = [[node_id, address] for node_id, address in membership.addresses().items()]
        return Reply(Status.OK, (self._identity.cluster_id, member.node_id, rows))


def _taken_name(membership: Membership, name: str) -> Reply:
    member = membership.by_name(name)
    return Reply.refused(
        f"the certificate names {name!r}, which is node {member.node_id if member else 0} already: remove that "
        f"node first if its disk is lost, or use a certificate of another name"
    )


def _answer(tickets: Sequence[Ticket], reply: Reply) -> Sequence[Ticket]:
    for ticket in tickets:
        ticket.outcome = reply

    return tickets
