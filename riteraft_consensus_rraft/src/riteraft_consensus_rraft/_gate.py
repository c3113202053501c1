"""The gate in front of raft-rs's `step`: what a peer sent is looked at before raft believes it.

raft-rs trusts its peers. Among what it takes without a look are messages that make it panic, acknowledge entries it
does not hold, count acknowledgements of entries that do not exist, or forget its term. An honest peer of the same
version sends none of them. The checks and their reasons are those of the default engine.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import rraft
from riteraft_core.types import ConfState

from . import _conf, _wire
from ._conf import LIMIT
from ._wire import NORMAL, Entry, Message

MAX_TERM_LEAP = 1 << 32
"""A term further ahead than this was never reached by elections; taking it would only bring the wrap nearer."""

HEARTBEAT_PAST_LOG = "heartbeat: commit past our log"
"""The one reason that is also counted: rule 19's sign of a disk that lost what it had acknowledged."""

_FROM_THE_NETWORK = {
    _wire.APPEND,
    _wire.APPEND_RESPONSE,
    _wire.VOTE,
    _wire.VOTE_RESPONSE,
    _wire.SNAPSHOT,
    _wire.HEARTBEAT,
    _wire.HEARTBEAT_RESPONSE,
    _wire.TIMEOUT_NOW,
    _wire.PRE_VOTE,
    _wire.PRE_VOTE_RESPONSE,
}
_RESPONSES = {_wire.APPEND_RESPONSE, _wire.VOTE_RESPONSE, _wire.HEARTBEAT_RESPONSE, _wire.PRE_VOTE_RESPONSE}
_CAMPAIGN_TRANSFER = bytes(rraft.CAMPAIGN_TRANSFER)


class Dropped(Exception):
    """A message is not to be stepped; the text is a short, stable reason."""


class Gate:
    """What messages are held against; lives no longer than the call that steps them."""

    def __init__(
        self,
        raft: Any,
        conf_state: ConfState,
        rounds: Container[bytes],
        *,
        installing: bool,
        sole_voter_waits: bool,
        vote_saved: bool,
    ) -> None:
        """Take raft as it is now.

        `rounds` holds the contexts of our own ReadIndex rounds; `installing`: a snapshot is on its way to disk;
        `sole_voter_waits`: we are the only voter and our disk lags; `vote_saved`: our term and vote are durable.
        """
        self._raft = raft
        self._log = raft.get_raft_log()
        self._conf_state = conf_state
        self._rounds = rounds
        self._installing = installing
        self._sole_voter_waits = sole_voter_waits
        self._vote_saved = vote_saved
        self._me: int = raft.get_id()
        self._term: int = raft.get_term()
        self._leader: int = raft.get_leader_id()

    def check(self, message: Message, sender: int) -> None:
        """Judge a message that came with the others, by the table of rules for its type.

        :raises Dropped: it must not reach raft.
        """
        if message.kind > _wire.GREATEST_KIND:
            raise Dropped("unknown message type")
        if message.kind == _wire.SNAPSHOT:
            raise Dropped("snapshot out of band")

        self._check_kind(message, sender)

    def check_snapshot(self, message: Message, sender: int) -> None:
        """Judge a MsgSnapshot that came by its own way, its data already staged.

        :raises Dropped: it must not reach raft.
        """
        if message.kind > _wire.GREATEST_KIND:
            raise Dropped("unknown message type")
        if message.kind != _wire.SNAPSHOT:
            raise Dropped("snapshot: another type")
        if self._installing:
            raise Dropped("snapshot: another one is being installed")

        self._check_kind(message, sender)
        if message.term < self._term:
            raise Dropped("snapshot: of an earlier term")

    def _check_kind(self, message: Message, sender: int) -> None:
        kind = message.kind
        if kind not in _FROM_THE_NETWORK:
            raise Dropped("never from the network")

        self._any(message, sender)
        if kind != _wire.APPEND and message.entries:
            raise Dropped("entries in a message that has none")
        if kind in _RESPONSES and sender not in self._conf_state:
            raise Dropped("response of no member")
        # raft-rs looks at no more than the term of a message from an earlier one: an honest peer that slept may have
        # sent it, and the answer brings that peer up to date. A pre-vote response speaks of a later term.
        if message.term < self._term:
            return

        if kind == _wire.APPEND:
            self._append(message)
        elif kind == _wire.HEARTBEAT:
            self._heartbeat(message)
        elif kind == _wire.SNAPSHOT:
            self._snapshot(message)
        elif kind == _wire.APPEND_RESPONSE:
            self._append_response(message)
        elif kind == _wire.HEARTBEAT_RESPONSE:
            self._heartbeat_response(message)
        elif kind == _wire.TIMEOUT_NOW:
            self._timeout_now(message)
        else:
            self._vote(message)

    def _any(self, message: Message, sender: int) -> None:
        """Check what holds for each type: term 0 skips raft's term check, 2^64 - 1 wraps at an election."""
        if message.sender != sender or sender == self._me:
            raise Dropped("not from its sender")
        if message.to != self._me:
            raise Dropped("not for us")
        if message.term == 0:
            raise Dropped("term 0")
        if message.term >= LIMIT or message.term > self._term + MAX_TERM_LEAP:
            raise Dropped("term out of range")

        numbers = (message.index, message.commit, message.log_term, message.commit_term, message.reject_hint)
        if max(numbers) >= LIMIT:
            raise Dropped("number out of range")

    def _check_leader(self, message: Message, reason: str) -> None:
        """Only the leader of a term sends appends, heartbeats, snapshots and TimeoutNow, and a term has one."""
        if message.term == self._term and self._leader not in (0, message.sender):
            raise Dropped(reason)

    def _append(self, message: Message) -> None:
        self._check_leader(message, "append: not from the leader of its term")
        if (message.log_term == 0) != (message.index == 0):
            # Past the end of our log raft reads term 0, and "matches" what is not there.
            raise Dropped("append: term and index disagree on the start")
        if message.log_term > message.term:
            raise Dropped("append: log term above its term")

        committed = self._log.get_committed()
        term = max(message.log_term, 1)
        for index, entry in enumerate(message.entries, start=message.index + 1):
            if entry.index != index:
                raise Dropped("append: gap in entries")
            if not term <= entry.term <= message.term:
                raise Dropped("append: entry terms out of order")

            term = entry.term
            if entry.kind != NORMAL:
                _check_conf_change(entry)
            if index <= committed and self._own_term(index) not in (None, entry.term):
                raise Dropped("append: conflicts with a committed entry")

    def _own_term(self, index: int) -> int | None:
        """Our term at an index that we still hold."""
        if not self._log.first_index() <= index + 1 <= self._log.last_index() + 1:
            return None

        term: int = self._log.term(index)
        return term

    def _heartbeat(self, message: Message) -> None:
        self._check_leader(message, "heartbeat: not from the leader of its term")
        if message.commit > self._log.last_index():
            raise Dropped(HEARTBEAT_PAST_LOG)

    def _snapshot(self, message: Message) -> None:
        self._check_leader(message, "snapshot: not from the leader of its term")
        metadata = message.snapshot
        if metadata is None:
            raise Dropped("snapshot: no metadata")
        if not 0 < metadata.index < LIMIT:
            raise Dropped("snapshot: index out of range")
        if not 0 < metadata.term <= message.term:
            raise Dropped("snapshot: term out of range")
        if metadata.conf_state is None:
            raise Dropped("snapshot: no conf state")
        if _conf.problem(metadata.conf_state) is not None:
            raise Dropped("snapshot: bad conf state")
        if self._me not in metadata.conf_state:
            raise Dropped("snapshot: we are not in it")

        committed = self._log.get_committed()
        if metadata.index < committed:
            raise Dropped("snapshot: before our commit")
        if metadata.index == committed and self._own_term(committed) not in (None, metadata.term):
            raise Dropped("snapshot: conflicts with a committed entry")

    def _append_response(self, message: Message) -> None:
        """Drop an index past our log: it would count in the quorum of entries that are not there yet.

        By a leader only: one that crashed before its own save was done gets, as a follower of the same term, honest
        answers about entries that it has lost, and raft passes over them.
        """
        if message.term > self._term or self._raft.get_state() != rraft.StateRole.Leader:
            return

        last = self._log.last_index()
        if message.index > last or message.reject_hint > last:
            raise Dropped("append response: past our log")
        if message.request_snapshot:
            raise Dropped("append response: asks for a snapshot")

    def _heartbeat_response(self, message: Message) -> None:
        if message.context and message.context not in self._rounds:
            raise Dropped("heartbeat response: context is not ours")

    def _timeout_now(self, message: Message) -> None:
        """Take it from our leader only, and only if we may win: it starts an election without asking first."""
        if message.term != self._term or message.sender != self._leader:
            raise Dropped("timeout now: not from our leader")
        if not self._raft.promotable():
            raise Dropped("timeout now: we are no voter")
        if self._installing:
            raise Dropped("timeout now: a snapshot is being installed")
        if self._sole_voter_waits:
            raise Dropped("timeout now: our log is not durable")

    def _vote(self, message: Message) -> None:
        """Judge a vote or a pre-vote, asked for or answered."""
        if message.context not in (b"", _CAMPAIGN_TRANSFER):
            raise Dropped("vote: unknown context")

        # Requests leave once our vote is durable, and so is our log then: an earlier answer answers nothing, and raft
        # panics if it wins by it.
        asked = self._vote_saved and self._log.get_persisted() == self._log.last_index()
        would_count = (
            message.kind == _wire.VOTE_RESPONSE
            and message.term == self._term
            and self._raft.get_state() == rraft.StateRole.Candidate
        )
        if would_count and not asked:
            raise Dropped("vote response: to a request never sent")


def _check_conf_change(entry: Entry) -> None:
    """Drop a bad one: once it is in the log, it kills every replica that applies it."""
    try:
        _conf.decode(entry)
    except ValueError as exc:
        raise Dropped("append: bad conf change or entry type") from exc
