"""Who belongs to the cluster: addresses, disks and ids, as the log says up to the applied index.

Replicated like the sessions: it changes by log entries only and travels in snapshots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .types import ConfState, Hello, Identity, Member, PrincipalRole, Refusal, RefusalCode

FOUNDER_ID = 1


class Membership:
    """The members at the applied index, the ConfState there, and the next node id."""

    def __init__(self, next_id: int = 0) -> None:
        """Make an empty one; `next_id` stays 0 on a joiner until its first snapshot: nobody is a stranger to it."""
        self.members: dict[int, Member] = {}
        self.next_id = next_id
        self.conf_state = ConfState()
        self._hints: Mapping[int, str] = {}
        self.moved: dict[int, str] = {}
        """What members said of their own address and the log does not hold yet; this node's alone, not replicated."""

    @classmethod
    def founded(cls, identity: Identity, address: str, name: str = "") -> Membership:
        """Return the membership of a cluster of one: its founder, with the name in its certificate."""
        membership = cls(next_id=FOUNDER_ID + 1)
        membership.members[FOUNDER_ID] = Member(FOUNDER_ID, address, identity.disk_id, name=name)
        membership.conf_state = ConfState(voters=(FOUNDER_ID,))
        return membership

    def by_disk(self, disk_id: bytes) -> Member | None:
        """Return the member whose folder this is."""
        return next((member for member in self.members.values() if member.disk_id == disk_id), None)

    def by_name(self, name: str) -> Member | None:
        """Return the member whose certificate bears this name; nobody has the empty one."""
        return next((member for member in self.members.values() if name and member.name == name), None)

    def allocate(self, disk_id: bytes, address: str, wants_vote: bool, name: str = "") -> Member | None:
        """Give out the next id, or the one this disk already has; None if the name is another member's."""
        member = self.by_disk(disk_id)
        if member is None and self.by_name(name) is None:
            member = Member(self.next_id, address, disk_id, wants_vote, name)
            self.next_id += 1
            self.members[member.node_id] = member

        return member

    def bind(self, node_id: int, name: str) -> None:
        """Note the name of a member that was let in before it had a certificate; a name given once stays."""
        member = self.members.get(node_id)
        if member is not None and not member.name and self.by_name(name) is None:
            self.members[node_id] = dataclasses.replace(member, name=name)

    def set_address(self, node_id: int, address: str) -> None:
        """Note where a member listens now; an entry about a node that is gone changes nothing."""
        member = self.members.get(node_id)
        self.moved.pop(node_id, None)
        if member is not None:
            self.members[node_id] = dataclasses.replace(member, address=address)

    def change(self, conf_state: ConfState, dropped: Sequence[int]) -> list[int]:
        """Take the ConfState after a conf change that asked to drop `dropped`; return the ids that are gone."""
        candidates = (self.conf_state.everyone | set(dropped)) - conf_state.everyone
        gone = sorted(node_id for node_id in candidates if self.members.pop(node_id, None) is not None)
        self.conf_state = conf_state
        for node_id in gone:
            self.moved.pop(node_id, None)

        return gone

    def addresses(self) -> dict[int, str]:
        """Return node id → address."""
        return {**self._hints, **self.settled(), **self.moved}

    def settled(self) -> dict[int, str]:
        """Return node id → address as the log has it."""
        return {node_id: member.address for node_id, member in self.members.items()}

    def admit(self, us: Identity, hello: Hello) -> Refusal | None:
        """Say whether a peer that names itself so may come in.

        An id below `next_id` that is no member was removed. One at or above it is only newer than we know: to refuse
        it could cost the cluster its quorum for good, when we are the one that lags (rule 18).
        """
        principal = hello.principal
        if principal is not None and principal.cluster != us.cluster:
            return Refusal(
                RefusalCode.FORBIDDEN,
                f"the certificate names {principal.uri}, and this is cluster {us.cluster!r}",
            )

        if hello.node_id == 0:
            return None

        if principal is not None and principal.role is not PrincipalRole.NODE:
            return Refusal(
                RefusalCode.FORBIDDEN,
                f"the certificate names {principal.uri}, a {principal.role.value}, which may ask but not replicate",
            )

        if hello.cluster_id != us.cluster_id:
            return Refusal(
                RefusalCode.CLUSTER,
                f"node {us.node_id} belongs to cluster {us.cluster!r} ({us.cluster_id.hex()}), not to "
                f"{hello.cluster_id.hex() or 'none'}: check the address",
            )

        if hello.group != us.group:
            return Refusal(RefusalCode.GROUP, f"node {us.node_id} serves group {us.group}, not {hello.group}")

        if hello.to not in (0, us.node_id):
            return Refusal(RefusalCode.RECEIVER, f"this is node {us.node_id}, not node {hello.to}: check the address")

        if hello.node_id == us.node_id:
            return Refusal(RefusalCode.FORBIDDEN, f"node {us.node_id} is this node itself")

        member = self.members.get(hello.node_id)
        if member is None:
            if hello.node_id < self.next_id:
                return Refusal(
                    RefusalCode.REMOVED,
                    f"node {hello.node_id} was removed from cluster {us.cluster!r}: join again with an empty folder",
                )

            return None

        if principal is not None and principal.name != member.name:
            owner = self.by_name(principal.name)
            if member.name or owner is not None:
                known_as = f"is {member.name!r}" if member.name else "has shown no certificate yet"
                return Refusal(
                    RefusalCode.FORBIDDEN,
                    f"the certificate names {principal.name!r}, and node {hello.node_id} {known_as}"
                    + (f"; {principal.name!r} is node {owner.node_id}" if owner is not None else ""),
                )

        if member.disk_id != hello.disk_id:
            return Refusal(
                RefusalCode.DISK,
                f"node {hello.node_id} is known with another disk: a wiped or copied folder may not come back under "
                f"an old id; remove node {hello.node_id} and join with an empty folder",
            )

        return None

    def to_plain(self) -> list[Any]:
        """Return the members and the next id for a snapshot (the ConfState stands in its meta)."""
        return [
            self.next_id,
            [[m.node_id, m.address, m.disk_id, m.wants_vote, m.name] for _, m in sorted(self.members.items())],
        ]

    @classmethod
    def from_plain(cls, plain: Sequence[Any], conf_state: ConfState) -> Membership:
        """Take `to_plain` back; before format 2 of a snapshot's state, members had no name."""
        next_id, members = plain
        membership = cls(next_id)
        for node_id, address, disk_id, wants_vote, *name in members:
            membership.members[node_id] = Member(node_id, address, disk_id, bool(wants_vote), *name)

        membership.conf_state = conf_state
        return membership

    @classmethod
    def provisional(cls, addresses: Mapping[int, str]) -> Membership:
        """Return what a joiner was told by the member that let it in: enough to answer, replaced by a snapshot."""
        membership = cls()
        membership._hints = dict(addresses)
        return membership
