"""Telling each peer where we are, until it knows, and hearing where the others are.

The log alone cannot do it: who dials an old address of the leader's never gets the entry that holds the new one, and a
leader that dials an old address cannot tell that it leads. A peer that starts anew has forgotten what it was told, so
everyone is told again now and then, and all the time while the log does not hold it.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import _requests
from ._effects import Ask
from ._membership import Membership
from ._requests import Directory, Moved, Reply, Status

AGAIN = 20
"""Of so many rounds one goes to every peer, the others to those who did not answer yet."""


class Announcements:
    """What we asked each peer last, and who has answered."""

    def __init__(self, me: int, address: str) -> None:
        """Begin as if nobody had been told: `me` listens at `address`."""
        self._me = me
        self._address = address
        self._asked: dict[int, Ask] = {}
        self._told: set[int] = set()
        self._rounds = 0

    def __contains__(self, ask: Ask) -> bool:
        """Say whether this is an open announcement of the newest round."""
        return any(sent is ask for sent in self._asked.values())

    def next_round(self, membership: Membership) -> Sequence[Ask]:
        """Return what to send now; no older announcement counts any more."""
        self._rounds += 1
        member = membership.members.get(self._me)
        if self._rounds % AGAIN == 0 or (member is not None and member.address != self._address):
            self._told.clear()

        payload = _requests.encode(Moved(self._me, self._address))
        self._asked = {
            peer: Ask(address, payload)
            for peer, address in membership.addresses().items()
            if peer != self._me and peer not in self._told
        }
        return list(self._asked.values())

    def answered(self, membership: Membership, applied: int, ask: Ask, raw: bytes | None) -> bool:
        """Take a peer's reply, or None; note in `membership` what it knows better. Return whether there was one."""
        peer = next(peer for peer, sent in self._asked.items() if sent is ask)
        del self._asked[peer]
        try:
            reply = None if raw is None else _requests.decode_reply(raw)
            directory = None if reply is None or reply.status is not Status.OK else _requests.read_directory(reply)
        except ValueError:
            directory = None

        if directory is None:
            return False

        self._told.add(peer)
        # Who was away may know an old address of one that moved meanwhile.
        newer = directory.settled if directory.applied > applied else {}
        membership.moved.update({**newer, **directory.moved})
        membership.moved.pop(self._me, None)
        return True

    def heard(self, membership: Membership, applied: int, request: Moved) -> Reply:
        """Note in `membership` where a member says it is; reply with what we know of the others."""
        member = membership.members.get(request.node_id)
        if member is not None and member.address == request.address:
            membership.moved.pop(request.node_id, None)
        elif request.node_id != self._me and request.node_id in membership.addresses():
            membership.moved[request.node_id] = request.address

        return _requests.directory_reply(Directory(applied, membership.settled(), membership.moved))
