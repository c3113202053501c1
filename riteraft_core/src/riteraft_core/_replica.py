"""The replica: everything that decides, nothing that waits.

Events go in by method call, `effects` takes out what there is to do. No clock, no socket, no file, no thread, no
`await`: the same calls in the same order give the same effects, which is what lets a simulator find a bug in the
rules from one seed. The order that must hold around the disk (etcd's four duties, raft-rs's Ready):

    ready      → messages that may leave at once, entries to save, entries to apply
    saved      → tell the engine, then release the messages that had to wait
    applied    → answer the proposers here, let readers go, cut the log
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from . import _envelope, _requests
from ._announcements import Announcements
from ._digests import Digests
from ._effects import Apply, Ask, Compact, Effects, Save, SendSnapshot, Write
from ._envelope import Kind
from ._log_batch import merge
from ._log_sizes import LogSizes
from ._membership import Membership
from ._proposals import Proposal, Proposals, Ticket
from ._reads import Reads, ReadTicket
from ._requests import Forward, Join, Moved, Read, Remove, Reply, Request, Status, Who
from ._sessions import Admission, Answer, Rejection, Sessions
from ._stewardship import Stewardship
from .errors import CommandRejected, ConsensusError, NodeStopped, OutcomeUnknown, Refused, Removed, RiteraftError
from .protocols import Consensus
from .types import (
    CommittedEntry,
    ConfState,
    EngineStatus,
    EntryKind,
    HardState,
    Hello,
    Identity,
    LogBatch,
    Member,
    NodeStatus,
    PeerMessages,
    Principal,
    Ready,
    Recovered,
    Refusal,
    Role,
    SnapshotMeta,
)

STATE_FORMAT = 2
"""Format 1 had no names of members; it is still read."""
FOUNDING = HardState(term=1, vote=0, commit=1)
"""A founder's first hard state: with term 0 raft-rs panics on the first PreVote it rejects (rule 2)."""
_GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Its multiples, but for their whole part, are spread evenly, however many of them there are."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """The replica's own bounds; ticks, entries and bytes, never seconds."""

    max_proposals_in_flight: int = 10_000
    max_bytes_in_flight: int = 64 * 1024 * 1024
    max_batch_entries: int = 4_096
    """Entries proposed, forwarded or applied in one go: enough that the cost of a batch no longer counts."""
    max_batch_bytes: int = 1024 * 1024
    snapshot_entries: int = 50_000
    snapshot_bytes: int = 64 * 1024 * 1024
    """A snapshot is made after so many entries or bytes since the last, whichever comes first."""
    tail_entries: int = 5_000
    """Entries kept behind a snapshot, so that a follower a little behind is not sent the whole state."""
    tail_bytes: int = 32 * 1024 * 1024
    """The same in bytes, whichever is less: the engine holds the log after the last compaction in memory."""
    digest_entries: int = 0
    """The Store's digest is compared at each index that is a multiple of this; 0: it has none."""
    max_pinned_bytes: int = 1024 * 1024 * 1024
    """Log that may stay only because a snapshot from before it is being sent; beyond it the peer needs another."""
    retry_ticks: int = 20
    """An unanswered entry of our own (a session, an address) is asked for again after this; an election timeout."""
    lazy_commit_ticks: int = 20
    """A commit index that nothing else made durable is written by itself after this."""
    promotion_rounds: int = 3
    """A learner becomes a voter after so many ticks in a row at the leader's last commit index (rule 21)."""


@dataclass(slots=True)
class _Unsaved:
    """One `Ready` on its way to the disk, with what has to wait for it."""

    number: int
    batch: LogBatch | None
    messages: Sequence[PeerMessages]
    snapshots: Sequence[tuple[int, int, bytes]]
    held_messages: Sequence[PeerMessages] = ()
    held_entries: Sequence[CommittedEntry] = ()
    """What need not wait for this `Ready` itself, but for that of a removal before it."""


def found(identity: Identity, address: str, name: str = "") -> SnapshotMeta:
    """Return the first snapshot of a new cluster: one voter, index 1, term 1 (rule 2)."""
    membership = Membership.founded(identity, address, name)
    return SnapshotMeta(1, 1, membership.conf_state, _encode_state(membership, Sessions()))


def _encode_state(membership: Membership, sessions: Sessions) -> bytes:
    packed: bytes = msgpack.packb((STATE_FORMAT, membership.to_plain(), sessions.to_plain()))
    return packed


def _decode_state(meta: SnapshotMeta) -> tuple[Membership, Sessions]:
    fmt, membership, sessions = msgpack.unpackb(meta.state, strict_map_key=False)
    if fmt not in (1, STATE_FORMAT):
        raise ConsensusError(
            f"snapshot {meta.index} holds members and sessions in format {fmt!r}; this release reads up to "
            f"{STATE_FORMAT}"
        )

    return Membership.from_plain(membership, meta.conf_state), Sessions.from_plain(sessions)


class Replica:
    """One node's part in the cluster, as plain calls.

    Any method may raise what ends the node: `ConsensusError`, `LostAcknowledgedData`, `Removed`, `StoreError`. The
    replica must not be called again then, but for `stop`.
    """

    def __init__(
        self,
        engine: Consensus,
        identity: Identity,
        recovered: Recovered,
        *,
        address: str,
        nonce: bytes,
        name: str = "",
        hints: Mapping[int, str] | None = None,
        settings: ReplicaSettings | None = None,
    ) -> None:
        """Begin where the storage left off.

        `address` is what the others are to dial, `nonce` random bytes of this start (they name our session and our
        ReadIndex rounds), `name` the one in our certificate, `hints` the addresses a joiner was told before it has a
        snapshot.
        """
        self.identity = identity
        self.address = address
        self.name = name
        self.settings = settings or ReplicaSettings()
        self.term = recovered.hard_state.term
        self.role = Role.FOLLOWER
        self.leader = 0
        self.applied = 0
        self.counters: Counter[str] = Counter()

        self._engine = engine
        self._me = identity.node_id
        self._tick = 0
        self._nonce = nonce
        self._nonce_count = 0
        if recovered.snapshot is not None:
            self._membership, self._sessions = _decode_state(recovered.snapshot)
            self.applied = recovered.snapshot.index
            self._applied_term = recovered.snapshot.term
        else:
            self._membership, self._sessions = Membership.provisional(hints or {}), Sessions()
            self._applied_term = 0

        phase = self._me * _GOLDEN_RATIO % 1
        self._snapshot_phase = int(phase * self.settings.snapshot_entries)
        self._note_snapshot(self.applied)
        self._anchor = recovered.anchor.index
        self._peers_changed = True

        self._proposals = Proposals(self.settings.max_proposals_in_flight, self.settings.max_bytes_in_flight)
        self._reads = Reads()
        self._read_rounds = 0
        self._round_context: bytes | None = None
        self._session = 0
        self._session_asked_at: int | None = None
        self._address_asked_at: int | None = None
        self._name_asked_at: int | None = None
        self._announced_at: int | None = None
        self._announcements = Announcements(self._me, address)
        self._internal: list[tuple[bytes, bytes]] = []
        self._session_changed = False
        self._forwarding: Ask | None = None
        self._reading: Ask | None = None
        self._asks_due: list[Ask] = []
        self._leader_deaf_until = 0
        self._stewardship = Stewardship(engine, identity, self.settings.promotion_rounds, self.counters)
        self._manage_due = False
        self._kept_house_at = -1
        self._commit_to_announce = False

        self._messages: list[PeerMessages] = []
        self._unsaved: deque[_Unsaved] = deque()
        self._writing: Write | None = None
        self._held_until = 0
        """The Ready of a removal whose commit is not durable yet, or 0: nobody may hear of it before."""
        self._lazy_hard_state: HardState | None = None
        self._lazy_since = 0
        self._compaction: Compact | None = None
        self._discards: list[str] = []

        self._committed: deque[CommittedEntry] = deque()
        self._conf_states: dict[int, tuple[ConfState, str | None]] = {}
        self._applying: Apply | None = None
        self._applied_bytes = 0
        self._bytes_at_snapshot = -int(phase * self.settings.snapshot_bytes)
        """Less than none to begin with: this node's first comes sooner, and then none where a peer's is."""
        self._log_sizes = LogSizes(self._anchor, self.settings.tail_bytes)
        for index, _, data in recovered.entries:
            if index <= self.applied:  # those after it are counted when they are applied
                self._log_sizes.add(index, len(data))

        self._tail_start = 0
        self._snapshot_wanted = False
        self._snapshotting = False
        self._store_busy = False
        self._digests = Digests(self.settings.digest_entries, engine.status().commit)
        self._digest_told_at: int | None = None
        self._staged: tuple[SnapshotMeta, str] | None = None
        self._restoring: SnapshotMeta | None = None
        self._restore_due = False
        self._streams: dict[SendSnapshot, int] = {}
        """Snapshots on their way, and how many bytes had been applied when each began."""
        self._streams_due: list[SendSnapshot] = []

        self._answered: list[Ticket] = []
        self._notes: list[str] = []
        self._removed = False

    # --- events --------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let one tick pass."""
        if self._removed:  # the engine takes no more calls; `effects` says so
            return

        self._tick += 1
        self._engine.tick()
        self._stewardship.tick(self._membership, self.role is Role.LEADER)
        self._manage_due = True

    def step(self, sender: int, messages: Sequence[bytes]) -> None:
        """Take raft messages of an admitted peer."""
        if self._removed:
            return

        for reason in self._engine.step(sender, messages):
            self.counters[f"dropped: {reason}"] += 1

    def propose(self, command: bytes) -> Proposal | None:
        """Take a command of our own program, or return None if there is no room. Our own apply answers it (rule 22)."""
        proposals = self._proposals
        return proposals.add(command) if proposals.has_room(len(command)) else None

    def has_room(self, size: int) -> bool:
        """Say whether a command of `size` bytes may be proposed now."""
        return self._proposals.has_room(size)

    def abandon(self, proposal: Proposal) -> RiteraftError:
        """Give up waiting for a command; return what is known of its fate."""
        self._proposals.close(proposal.sequence)
        return proposal.failure("gave up waiting")

    def read(self) -> ReadTicket:
        """Take a reader: its ticket's outcome is True once this node has applied all that was committed by now."""
        return self._reads.add(remote=False)

    def abandon_read(self, ticket: ReadTicket) -> None:
        """Forget a reader that no longer waits."""
        self._reads.drop(ticket)

    def unreachable(self, peer: int) -> None:
        """Take the transport's word that messages for `peer` were lost."""
        if not self._removed:
            self._engine.report_unreachable(peer)

    def request(self, request: Request, peer: int | None = None, principal: Principal | None = None) -> Ticket:
        """Take a request of node `peer`, or of one without an id; the ticket's outcome is the `Reply`.

        `principal` is whom the sender's certificate names. That it may ask for this was decided before.
        """
        ticket: Ticket
        if isinstance(request, Read):
            ticket = self._reads.add(remote=True)
            if self.role is not Role.LEADER:
                self._reads.drop(ticket)
                ticket.outcome = self._not_leader()

            return ticket

        ticket = Ticket()
        if isinstance(request, Who):
            ticket.outcome = Reply(Status.OK, (self.identity.cluster, self.identity.cluster_id, self._me))
        elif isinstance(request, Moved):
            ticket.outcome = self._announcements.heard(self._membership, self.applied, request)
            self._peers_changed = True
        elif isinstance(request, Join) and request.cluster != self.identity.cluster:
            ticket.outcome = Reply.refused(
                f"this is cluster {self.identity.cluster!r}, not {request.cluster!r}: check `cluster` and `peers`"
            )
        elif self.role is not Role.LEADER:
            ticket.outcome = self._not_leader()
        elif isinstance(request, Forward):
            ticket.outcome = self._append_forwarded(request, peer, principal)
        elif isinstance(request, Join):
            name = principal.name if principal is not None else ""
            self._stewardship.join(self._membership, request, ticket, name)
        else:
            assert isinstance(request, Remove), "the node answers the others itself"
            self._stewardship.remove(self._membership, request.node_id, ticket)
            self._manage_due = True

        return ticket

    def drop_request(self, ticket: Ticket) -> None:
        """Forget a request whose sender no longer waits."""
        if isinstance(ticket, ReadTicket):
            self._reads.drop(ticket)

        self._stewardship.drop(ticket)

    def answered(self, ask: Ask, raw: bytes | None) -> None:
        """Take the leader's reply to an `Ask`, or None if there was none: it may have been carried out or not."""
        if ask is self._reading:
            self._take_read_reply(raw)
        elif ask is self._forwarding:
            self._take_forward_reply(ask, raw)
        elif ask in self._announcements and self._announcements.answered(self._membership, self.applied, ask, raw):
            self._peers_changed = True
        # else another leader was asked since, with the same ids

    def _take_read_reply(self, raw: bytes | None) -> None:
        self._reading = None
        try:
            reply = None if raw is None else _requests.decode_reply(raw)
            index = None if reply is None or reply.status is not Status.OK else _requests.read_index(reply)
        except ValueError:
            index = None

        if index is None:
            self._reads.fail_round()
            self._leader_deaf_until = self._tick + 1
            return

        self._reads.finish_round(index)
        self._release_readers()

    def _take_forward_reply(self, ask: Ask, raw: bytes | None) -> None:
        self._forwarding = None
        try:
            reply = None if raw is None else _requests.decode_reply(raw)
            position = None if reply is None or reply.status is not Status.OK else _requests.read_position(reply)
        except ValueError:
            reply = position = None

        if position is not None:
            index, term = position
            for offset, proposal in enumerate(ask.proposals, start=ask.internal):
                proposal.attempt = (index + offset, term)

            return

        if reply is not None:  # it says that nothing was carried out
            for proposal in ask.fresh:
                proposal.handed_over = False

            if reply.status is Status.REFUSED:
                for proposal in ask.proposals:
                    self._answer(proposal, proposal.failure(f"the leader refused it: {_requests.read_text(reply)}"))

                return

        self.counters["retries"] += 1
        self._leader_deaf_until = self._tick + 1
        self._proposals.put_back(list(ask.proposals))

    def saved(self, write: Write) -> None:
        """Take the storage's word that `write` is durable."""
        self._writing = None
        if isinstance(write, Compact):
            self._snapshotting = self._snapshot_wanted = False
            self._note_snapshot(write.meta.index)
            if not self._removed:
                self._engine.snapshot_made(write.meta.index, write.meta.term, write.meta.conf_state)
                if write.index > self._anchor:
                    self._anchor = write.index
                    self._engine.compact(write.index)

            return

        if write.number and not self._removed:
            self._persisted(write.number)

        if write.batch.install is not None:
            assert self._restoring is not None
            self._restore_due = True
            self._anchor = self._restoring.index
            self._note_snapshot(self._anchor)

    def applied_batch(self, work: Apply, answers: Sequence[Answer]) -> None:
        """Take the Store's answers to an `Apply`, one for each command."""
        self._applying = None
        self._finish(work, answers)

    def snapshot_taken(self) -> None:
        """Note that `Store.snapshot` returned: entries may be applied again."""
        self._store_busy = False

    def digest_taken(self, index: int, digest: bytes) -> None:
        """Take what `Store.digest` returned at the applied index `index`: entries may be applied again."""
        self._store_busy = False
        self._digests.take(index, digest)
        self._digest_told_at = None

    def snapshot_staged(self, meta: SnapshotMeta, token: str) -> None:
        """Take the token of our own snapshot: it becomes the live one and the log behind it is cut."""
        pinned = [
            stream.index
            for stream, bytes_before in self._streams.items()
            if self._applied_bytes - bytes_before <= self.settings.max_pinned_bytes
        ]
        index = max(0, min(max(meta.index - self.settings.tail_entries, self._tail_start), *pinned, meta.index))
        self._compaction = Compact(token, index, meta)

    def snapshot_sent(self, stream: SendSnapshot, ok: bool) -> None:
        """Note how a `SendSnapshot` ended."""
        del self._streams[stream]
        if not self._removed:
            self._engine.report_snapshot(stream.to, ok)

    def step_snapshot(self, sender: int, message: bytes, meta: SnapshotMeta, token: str) -> None:
        """Take a peer's snapshot that is staged and verified; it is installed or discarded, as raft decides."""
        if self._staged is not None or self._restoring is not None or self._removed:
            self._discards.append(token)
            return

        self._staged = (meta, token)
        reason = self._engine.step_snapshot(sender, message, meta.index, meta.term)
        if reason is not None:
            self.counters[f"dropped: {reason}"] += 1

        self._take_ready()
        if self._staged is not None:
            self._staged = None
            self._discards.append(token)

    def needs_snapshot(self, meta: SnapshotMeta) -> bool:
        """Say whether a snapshot that a peer offers could be of use.

        Also one that was installed already: if its sender does not know, only raft's answer to it lets it go on.
        """
        return not self._removed and self._restoring is None and meta.index >= self._engine.status().commit

    def restored(self, meta: SnapshotMeta) -> None:
        """Note that `Store.restore` took the live snapshot."""
        self._restoring = None
        self._membership, self._sessions = _decode_state(meta)
        self._digests.skip(meta.index)
        self._peers_changed = True
        self.applied, self._applied_term, self._bytes_at_snapshot = meta.index, meta.term, self._applied_bytes
        self._log_sizes.restart(meta.index)
        self._review_after_restore()
        self._release_readers()

    def admit(self, hello: Hello) -> Refusal | None:
        """Say whether a peer may come in, as of our applied index (rules 2, 18)."""
        return self._membership.admit(self.identity, hello)

    def transfer(self) -> int | None:
        """Begin to hand leadership to the voter that is furthest; return its id, or None if there is none."""
        if self.role is not Role.LEADER or self._removed:
            return None

        return self._stewardship.transfer()

    def campaign(self) -> None:
        """Start an election now: for a founder alone, that has nobody to wait for."""
        self._engine.campaign()

    def stop(self) -> list[Ticket]:
        """End: give every caller that still waits its answer, and return their tickets."""
        tickets: list[Ticket] = []
        for proposal in list(self._proposals):
            proposal.outcome = proposal.failure("the node stopped")
            self._proposals.close(proposal.sequence)
            tickets.append(proposal)

        for ticket in self._reads.take_all():
            ticket.outcome = Reply.retry("stopping") if ticket.remote else NodeStopped("the node stopped")
            tickets.append(ticket)

        tickets += self._stewardship.end(Reply.retry("stopping"))
        return [*self._answered, *tickets]

    # --- what is known -------------------------------------------------------------------------------------------

    @property
    def member(self) -> Member | None:
        """What the cluster knows of us at the applied index; None before a joiner's first snapshot."""
        return self._membership.members.get(self._me)

    @property
    def is_sole_voter(self) -> bool:
        """Whether nobody else votes: such a node need not wait for an election timeout."""
        return self._membership.conf_state.voters == (self._me,) and not self._membership.conf_state.voters_outgoing

    def address_of(self, node_id: int) -> str | None:
        """Return where a member listens, if known."""
        return self._membership.addresses().get(node_id)

    def wrong_name(self) -> str | None:
        """Return what is wrong with the name in our certificate, or None.

        Only what can never become right: a name that is another's as far as our log goes may be free by its end.
        """
        member = self.member
        if member is None or not self.name or member.name in ("", self.name):
            return None

        return f"names {self.name!r}, and this folder's node {self._me} is a member under the name {member.name!r}"

    def peers(self) -> dict[int, str]:
        """Return the other members' addresses."""
        addresses = self._membership.addresses()
        addresses.pop(self._me, None)
        return addresses

    def engine_status(self) -> EngineStatus:
        """Return the engine's own status."""
        return self._engine.status()

    def status(self) -> NodeStatus:
        """Return the node's view of itself and its cluster.

        :raises NodeStopped: it was removed from the cluster.
        """
        if self._removed:
            raise NodeStopped("the node was removed from its cluster")

        engine = self._engine.status()
        conf_state = self._membership.conf_state
        return NodeStatus(
            node_id=self._me,
            cluster=self.identity.cluster,
            address=self.address,
            role=engine.role,
            term=engine.term,
            leader=engine.leader or None,
            leader_address=self.address_of(engine.leader) if engine.leader else None,
            commit=engine.commit,
            applied=self.applied,
            last_index=engine.last_index,
            snapshot_index=self._snapshot_index,
            voters=conf_state.voters,
            learners=conf_state.learners,
            members=self._membership.addresses(),
            counters=dict(self.counters),
        )

    # --- effects -------------------------------------------------------------------------------------------------

    def effects(self, *, turn: bool = True) -> Effects:
        """Take what there is to do now.

        `turn` is False where the event loop has not come round since the last call: until it has, nobody who was
        answered can have proposed again.

        :raises Removed: a committed conf change took this node out of the cluster.
        """
        if self._removed:
            raise Removed(f"node {self._me} was removed from cluster {self.identity.cluster!r}")

        self._keep_house()
        self._hand_over()
        again = self._notice_commit(turn)
        self._read_on()
        self._take_ready()
        effects = Effects(again=again)
        self._next_apply(effects)
        if self._writing is None:
            effects.write = self._writing = self._next_write()

        # Most are empty most of the time, and this is called for every message: a new list for each would be felt.
        if self._messages:
            effects.messages, self._messages = self._messages, []

        if self._answered:
            effects.answered, self._answered = self._answered, []

        if self._asks_due:
            effects.asks, self._asks_due = self._asks_due, []

        if self._streams_due:
            effects.send_snapshots, self._streams_due = self._streams_due, []

        if self._discards:
            effects.discards, self._discards = self._discards, []

        if self._notes:
            effects.notes, self._notes = self._notes, []

        if self._peers_changed:
            self._peers_changed = False
            effects.peers = self.peers()

        return effects

    # --- the engine's Ready --------------------------------------------------------------------------------------

    def _take_ready(self) -> None:
        while True:
            if self._removed:
                return

            ready = self._engine.ready()
            if ready is not None:
                self._absorb(ready)
            elif self._writing is None and self._unsaved and not any(u.batch for u in self._unsaved):
                # Nothing in it would be missed after a crash: it need not wait for a disk.
                self._persisted(self._unsaved[-1].number)
            else:
                return

    def _absorb(self, ready: Ready) -> None:
        if ready.role is not self.role or ready.term != self.term or ready.leader != self.leader:
            self._note_leadership(ready)

        if ready.role is Role.LEADER and ready.hard_state is not None:
            self._commit_to_announce = True

        install = None
        if ready.snapshot is not None:
            if self._staged is None or ready.snapshot != (self._staged[0].index, self._staged[0].term):
                raise ConsensusError(f"raft wants snapshot {ready.snapshot} installed, which was never staged")

            self._restoring, install = self._staged
            self._staged = None
            # What was to be applied lies within the snapshot; what is being applied still ends before the restore.
            self._committed.clear()
            self._conf_states.clear()
            for earlier in self._unsaved:
                earlier.held_entries = ()

        batch = None
        hard_state = ready.hard_state or self._lazy_hard_state
        removal = hard_state is not None and any(
            _envelope.read_conf_change(context, index)
            for index, _, kind, context, _ in (ready.committed if ready.conf_states else ())
            if kind != EntryKind.NORMAL
        )
        if ready.must_sync or removal:
            self._lazy_hard_state = None
            batch = LogBatch(install, hard_state, ready.entries)
        elif ready.hard_state is not None:
            if self._lazy_hard_state is None:
                self._lazy_since = self._tick

            self._lazy_hard_state = ready.hard_state

        unsaved = _Unsaved(ready.number, batch, ready.persisted_messages, ready.snapshots)
        self._unsaved.append(unsaved)
        if removal:
            # Whoever hears of its removal is gone for good. Of two voters the one that stays must then not forget,
            # in a crash, that it needs the other's vote no more.
            self._held_until = ready.number

        if self._held_until:
            unsaved.held_messages, unsaved.held_entries = ready.messages, ready.committed
        else:
            self._messages.extend(ready.messages)
            self._committed.extend(ready.committed)

        for index, conf_state, refused in ready.conf_states:
            self._conf_states[index] = (conf_state, refused)

        for index, context in ready.read_states:
            self._take_read_state(index, context)

        self._snapshot_wanted = self._snapshot_wanted or ready.snapshot_wanted
        if ready.removed:
            self._removed = True

    def _persisted(self, number: int) -> None:
        """Report to the engine first, release second: no message of n leaves before the engine knows (rule 14)."""
        self._engine.persisted(number)
        while self._unsaved and self._unsaved[0].number <= number:
            done = self._unsaved.popleft()
            self._release(done)
            self._messages.extend(done.messages)
            for to, index, message in done.snapshots:
                stream = SendSnapshot(to, index, message)
                self._streams[stream] = self._applied_bytes
                self._streams_due.append(stream)

        if self._held_until and number >= self._held_until:
            self._held_until = 0
            for later in self._unsaved:
                self._release(later)

    def _release(self, unsaved: _Unsaved) -> None:
        self._messages.extend(unsaved.held_messages)
        self._committed.extend(unsaved.held_entries)
        unsaved.held_messages = unsaved.held_entries = ()

    def _next_write(self) -> Write | None:
        if self._compaction is not None:
            compaction, self._compaction = self._compaction, None
            if compaction.meta.index > self._snapshot_index and self._restoring is None:
                return compaction

            # A peer's newer snapshot overtook ours.
            self._discards.append(compaction.token)
            self._snapshotting = False

        if not self._unsaved and self._lazy_hard_state is None:
            return None

        batches = [unsaved.batch for unsaved in self._unsaved if unsaved.batch is not None]
        if batches:
            batch = merge(batches)
            if self._lazy_hard_state is not None:
                batch = LogBatch(batch.install, self._lazy_hard_state, batch.entries)
                self._lazy_hard_state = None

            return Save(self._unsaved[-1].number, batch)

        if self._lazy_hard_state is not None and self._tick - self._lazy_since >= self.settings.lazy_commit_ticks:
            hard_state, self._lazy_hard_state = self._lazy_hard_state, None
            return Save(0, LogBatch(hard_state=hard_state))

        return None

    def _note_leadership(self, ready: Ready) -> None:
        led = self.role is Role.LEADER
        newly_known = ready.leader != 0 and (ready.leader, ready.term) != (self.leader, self.term)
        if newly_known:
            self._notes.append(f"node {ready.leader} leads in term {ready.term}")
            self.counters["leader changes"] += 1

        self.role, self.term, self.leader = ready.role, ready.term, ready.leader
        if led and self.role is not Role.LEADER:
            self._round_context = None
            self._reads.fail_round()
            not_leader = self._not_leader()
            for reader in self._reads.take_remote():
                self._answer_ticket(reader, not_leader)

            self._answered += self._stewardship.end(not_leader)

        if newly_known:
            self._kept_house_at = -1
            # Replies to these come too late to count; the same ids go to the new leader.
            self._forwarding = None
            if self._reading is not None:
                self._reading = None
                self._reads.fail_round()

            self._asks_due = [ask for ask in self._asks_due if ask in self._announcements]
            self._leader_deaf_until = 0
            self._session_asked_at = self._address_asked_at = self._name_asked_at = self._digest_told_at = None
            self._internal.clear()
            self._proposals.requeue_before(self.term)

    # --- proposals -----------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        """Ask for what this node itself needs in the log: a session before its first command, its right address."""
        manage = self._manage_due and self.role is Role.LEADER
        if self._kept_house_at == self._tick and not manage and (self._session or not self._proposals.has_queued):
            return  # the rest is looked at once a tick: this is called for every message

        self._kept_house_at = self._tick
        if self._tick and self._is_due(self._announced_at):
            self._announce()

        if self.leader == 0:
            return

        if not self._session and self._proposals.has_queued and self._is_due(self._session_asked_at):
            self._session_asked_at = self._tick
            self._internal.append(
                (_envelope.context(Kind.OPEN_SESSION), _envelope.pack_open_session(self._me, self._session_nonce()))
            )

        member = self.member
        if member is not None and member.address != self.address and self._is_due(self._address_asked_at):
            self._address_asked_at = self._tick
            self._internal.append((_envelope.context(Kind.ADDRESS), _envelope.pack_address(self._me, self.address)))

        digest = self._digests.unreported
        voters = self._membership.conf_state.voters
        if digest is not None and self._me in voters and len(voters) > 1 and self._is_due(self._digest_told_at):
            self._digest_told_at = self._tick
            self._internal.append((_envelope.context(Kind.DIGEST), _envelope.pack_digest(self._me, *digest)))
        if member is not None and self._may_bind(member) and self._is_due(self._name_asked_at):
            self._name_asked_at = self._tick
            self._internal.append((_envelope.context(Kind.NAME), _envelope.pack_name(self._me, self.name)))

        if manage:
            self._manage_due = False
            self._answered += self._stewardship.manage(self._membership)

    def _may_bind(self, member: Member) -> bool:
        """Say whether we have a certificate now and came without one."""
        return bool(self.name) and not member.name and self._membership.by_name(self.name) is None

    def _announce(self) -> None:
        self._announced_at = self._tick
        self._asks_due += self._announcements.next_round(self._membership)

    def _is_due(self, asked_at: int | None) -> bool:
        return asked_at is None or self._tick - asked_at >= self.settings.retry_ticks

    def _session_nonce(self) -> bytes:
        return self._nonce + self._nonce_count.to_bytes(4, "big")

    def _hand_over(self) -> None:
        if not self._internal and not (self._session and self._proposals.has_queued):
            return

        if self.role is Role.LEADER:
            while self._internal or (self._session and self._proposals.has_queued):
                if not self._append_own():
                    return
        elif self.leader and self._forwarding is None and self._tick >= self._leader_deaf_until:
            self._forward_own()

    def _batch_own(self) -> tuple[list[Proposal], list[tuple[bytes, bytes]]]:
        batch = (
            self._proposals.take(self.settings.max_batch_entries, self.settings.max_batch_bytes)
            if self._session
            else []
        )
        session, low = self._session, self._proposals.low
        entries = [(_envelope.command_context(session, p.sequence, low), p.command) for p in batch]
        return batch, [*self._internal, *entries] if self._internal else entries

    def _append_own(self) -> bool:
        batch, entries = self._batch_own()
        if not entries:
            return False

        try:
            index, term = self._engine.propose(entries)
        except Refused as refused:
            self.counters[f"held: {refused.reason}"] += 1
            self._proposals.put_back(batch)
            return False

        self._commit_to_announce = False
        for offset, proposal in enumerate(batch, start=index + len(self._internal)):
            proposal.handed_over = True
            proposal.attempt = (offset, term)

        self._internal.clear()
        return True

    def _notice_commit(self, turn: bool) -> bool:
        """Tell the followers a new commit index once it is clear that no append is about to; say whether to wait.

        Whoever was just answered often proposes again at once, and that append carries the index for nothing.
        """
        if not self._commit_to_announce or self._applying is not None:
            return False

        if turn:
            self._commit_to_announce = False
            self._engine.announce_commit()

        return self._commit_to_announce

    def _forward_own(self) -> None:
        address = self.address_of(self.leader)
        if address is None:
            return

        batch, entries = self._batch_own()
        if not entries:
            return

        fresh = [proposal for proposal in batch if not proposal.handed_over]
        for proposal in batch:
            proposal.handed_over = True

        payload = _requests.encode(Forward(entries))
        self._forwarding = Ask(address, payload, batch, fresh, len(self._internal))
        self._asks_due.append(self._forwarding)
        self._internal.clear()

    def _append_forwarded(self, request: Forward, peer: int | None, principal: Principal | None) -> Reply:
        for context, data in request.entries:
            try:
                kind = _envelope.read_kind(context, 0)
            except ConsensusError:
                return Reply.refused("an entry of an unknown kind")

            if kind not in _envelope.FORWARDED_KINDS or not _envelope.is_valid(kind, context, data):
                return Reply.refused(f"a malformed entry of kind {kind.name.lower()}")

            if peer is not None and kind is not Kind.COMMAND and _envelope.read_owner(data) != peer:
                return Reply.refused("a node speaks for itself only")

            if kind is Kind.NAME and (principal is None or _envelope.read_name(data)[1] != principal.name):
                return Reply.refused("a node has the name that its certificate shows, and no other")

        try:
            position = self._engine.propose(request.entries)
        except Refused as refused:
            self.counters[f"held: {refused.reason}"] += 1
            return self._not_leader() if refused.reason == "not_leader" else Reply.retry(refused.reason)

        self._commit_to_announce = False
        return Reply(Status.OK, position)

    def _not_leader(self) -> Reply:
        leader = self.leader if self.leader != self._me else 0
        return Reply.not_leader(leader, self.address_of(leader) if leader else None)

    def _answer(self, proposal: Proposal, outcome: object) -> None:
        proposal.outcome = outcome
        self._proposals.close(proposal.sequence)
        self._answered.append(proposal)

    def _answer_ticket(self, ticket: Ticket, outcome: object) -> None:
        if ticket.outcome is None:
            ticket.outcome = outcome
            self._answered.append(ticket)

    # --- reads ---------------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        if not self._reads.wants_round or self.leader == 0:
            return

        if self.role is Role.LEADER:
            self._read_rounds += 1
            # No other node, and no earlier life of this one, gives a round the same name (rule 17).
            context = self._me.to_bytes(8, "big") + self._nonce + self._read_rounds.to_bytes(8, "big")
            try:
                self._engine.read_index(context)
            except Refused as refused:
                self.counters[f"held: {refused.reason}"] += 1
                return

            self._round_context = context
            self._reads.start_round()
            return

        address = self.address_of(self.leader)
        if address is None or self._tick < self._leader_deaf_until:
            return

        self._reads.start_round()
        self._reading = Ask(address, _requests.encode(Read()))
        self._asks_due.append(self._reading)

    def _take_read_state(self, index: int, context: bytes) -> None:
        if context != self._round_context:
            return

        self._round_context = None
        for ticket in self._reads.finish_round(index):
            self._answer_ticket(ticket, Reply(Status.OK, (index,)))

        self._release_readers()

    def _release_readers(self) -> None:
        for ticket in self._reads.take_applied(self.applied):
            self._answer_ticket(ticket, True)

    # --- applying ------------------------------------------------------------------------------------------------

    def _next_apply(self, effects: Effects) -> None:
        if self._applying is not None or self._store_busy:
            return

        if self._restore_due:
            self._restore_due = False
            effects.restore = self._restoring
            return

        if self._restoring is not None:
            return

        while self._committed and not self._wants_snapshot() and not self._digests.due(self.applied):
            work = self._plan()
            if work.commands:
                effects.apply = self._applying = work
                return

            self._finish(work, ())

        if self._digests.due(self.applied):
            self._store_busy = True
            effects.digest = self.applied
        elif self._wants_snapshot():
            self._snapshotting = self._store_busy = True
            self._snapshot_wanted = False
            self._bytes_at_snapshot = self._applied_bytes
            self._tail_start = self._log_sizes.tail_start()
            effects.snapshot = SnapshotMeta(
                self.applied,
                self._applied_term,
                self._membership.conf_state,
                _encode_state(self._membership, self._sessions),
            )

    def _plan(self) -> Apply:
        """Walk the next committed entries in order; what the log alone decides is decided here.

        The sessions run ahead of the Store by this one batch, so a snapshot is made only between two.
        """
        entries, size = self._next_entries()
        headers = None
        if len(entries) > 1:
            _, _, kinds, contexts, datas = zip(*entries, strict=True)
            headers = None if any(kinds) else _envelope.read_commands(contexts)

        if headers is not None:
            commands, ids, repeats = self._sessions.admit_all(headers, datas)
        else:
            commands, ids, repeats = [], [], []
            for index, _, kind, context, data in entries:
                if kind != EntryKind.NORMAL:
                    self._apply_conf_change(index, context)
                elif (header := _envelope.read_command(context)) is not None:
                    session, sequence, low = header
                    admission = self._sessions.admit(session, sequence, low)
                    if admission is Admission.APPLY:
                        commands.append(data)
                        ids.append((session, sequence))
                    elif admission is Admission.DUPLICATE:
                        repeats.append((session, sequence))
                elif context or data:
                    self._apply_internal(index, context, data)

        index, term, *_ = entries[-1]
        return Apply(index, term, size, commands, ids, repeats)

    def _next_entries(self) -> tuple[list[CommittedEntry], int]:
        """Take the committed entries that are applied in one go, at least one; return them and their data's bytes."""
        committed, settings = self._committed, self.settings
        room = min(settings.max_batch_entries, self._batch_end() - committed[0][0] + 1)
        entries = list(committed if len(committed) <= room else itertools.islice(committed, max(1, int(room))))
        size = sum([len(entry[4]) for entry in entries])
        while size > settings.max_batch_bytes and len(entries) > 1:
            size -= len(entries.pop()[4])

        for _ in entries:
            committed.popleft()

        return entries, size

    def _finish(self, work: Apply, answers: Sequence[Answer]) -> None:
        mine, close, answered, sessions = self._session, self._proposals.close, self._answered, self._sessions
        sessions.complete(work.ids, answers)
        if len(self._proposals):
            for (session, sequence), answer in zip(work.ids, answers, strict=True):
                if session == mine and (proposal := close(sequence)) is not None:
                    proposal.outcome = answer if type(answer) is bytes else _to_outcome(answer)
                    answered.append(proposal)

        for session, sequence in work.repeats:
            kept = sessions.answer(session, sequence) if session == mine else None
            if kept is not None and (proposal := close(sequence)) is not None:
                proposal.outcome = _to_outcome(kept)
                answered.append(proposal)

        self.applied, self._applied_term = work.index, work.term
        self._applied_bytes += work.size
        self._log_sizes.add(work.index, work.size)
        if self._session_changed:
            self._adopt_session()

        self._release_readers()

    def _apply_internal(self, index: int, context: bytes, data: bytes) -> None:
        kind = _envelope.read_kind(context, index)
        if kind is Kind.OPEN_SESSION:
            node_id, nonce = _envelope.read_open_session(data)
            if node_id in self._membership.members:
                self._sessions.open(index, node_id, nonce)

            # Not before this batch is answered: the commands before this entry were applied in the old session.
            self._session_changed = self._session_changed or node_id == self._me
        elif kind is Kind.ALLOCATE:
            disk_id, address, wants_vote, name = _envelope.read_allocate(context, data)
            known = self._membership.by_disk(disk_id) is not None
            member = self._membership.allocate(disk_id, address, wants_vote, name)
            self._peers_changed = self._manage_due = True
            if not known and member is not None:
                self._notes.append(f"node {member.node_id} at {address} joins")

            self._answered += self._stewardship.allocated(self._membership, disk_id, name, member)
        elif kind is Kind.NAME:
            node_id, name = _envelope.read_name(data)
            self._membership.bind(node_id, name)
        elif kind is Kind.ADDRESS:
            self._membership.set_address(*_envelope.read_address(data))
            self._peers_changed = True
        elif kind is Kind.DIGEST:
            self._hear_digest(*_envelope.read_digest(data))
        else:
            raise ConsensusError(f"log entry {index} has kind {kind.name} and is no such entry")

    def _hear_digest(self, node_id: int, index: int, digest: bytes) -> None:
        split = self._digests.hear(self._me, self._membership.conf_state.voters, node_id, index, digest)
        if split is not None:
            self.counters["digests without a majority"] += 1
            self._notes.append(split)

    def _adopt_session(self) -> None:
        """Take the session that our nonce opened; if a late copy of an older one closed it, open another.

        A session that was closed never applies anything again, so its commands may be sent anew under the next one.
        """
        self._session_changed = False
        found = self._sessions.find(self._me, self._session_nonce())
        if found is None and self._session:
            self._nonce_count += 1
            self._session_asked_at = None

        if (found or 0) != self._session:
            self._session = found or 0
            self._proposals.requeue_all()

    def _apply_conf_change(self, index: int, context: bytes) -> None:
        dropped = _envelope.read_conf_change(context, index)
        conf_state, refused = self._conf_states.pop(index)
        if refused is not None:
            self._answered += self._stewardship.refused(dropped, refused)
            return

        before = self._membership.conf_state
        for node_id in self._membership.change(conf_state, dropped):
            self._sessions.close_node(node_id)
            self._notes.append(f"node {node_id} left")

        for node_id in set(conf_state.voters) - set(before.voters):
            self._notes.append(f"node {node_id} is a voter now")

        self._answered += self._stewardship.changed(self._membership, dropped)
        self._peers_changed = self._manage_due = True

    def _review_after_restore(self) -> None:
        """Sort out who waits for commands that a snapshot jumped over (rule 9).

        The snapshot's sessions hold the answer of every applied command its proposer may still wait for, so one
        without an answer was not applied and may go on waiting. Only a session that is gone leaves doubt.
        """
        found = self._sessions.find(self._me, self._session_nonce())
        if self._session and found != self._session:
            for proposal in list(self._proposals):
                if proposal.handed_over:
                    self._answer(
                        proposal, OutcomeUnknown("a snapshot replaced the state while the command was in flight")
                    )

            self._nonce_count += 1
            self._session = 0
            self._session_asked_at = None
            return

        self._session = found or 0
        for proposal in list(self._proposals):
            kept = self._sessions.answer(self._session, proposal.sequence)
            if kept is not None:
                self._answer(proposal, _to_outcome(kept))

        self._proposals.requeue_all()

    # --- snapshots -----------------------------------------------------------------------------------------------

    def _wants_snapshot(self) -> bool:
        if self._snapshotting or self._restoring is not None or self.applied <= self._snapshot_index:
            return False

        return (
            self._snapshot_wanted
            or self.applied >= self._next_snapshot_index
            or self._applied_bytes - self._bytes_at_snapshot >= self.settings.snapshot_bytes
        )

    def _note_snapshot(self, index: int) -> None:
        """Note the live snapshot's index: the next is made at most `snapshot_entries` on, never where a peer's is.

        Whoever makes one is slower for a moment. If all did it at the same index, the whole cluster would be.
        """
        entries = self.settings.snapshot_entries
        self._snapshot_index = index
        self._next_snapshot_index = index + entries - (index - self._snapshot_phase) % entries

    def _batch_end(self) -> float:
        """Return the index at which the next batch ends at the latest: a snapshot or a digest is taken there."""
        snapshot = math.inf if self._snapshotting else self._next_snapshot_index
        return min(snapshot, self._digests.next_due(self.applied))


def _to_outcome(answer: Answer) -> Any:
    return CommandRejected(answer.message, answer.detail) if isinstance(answer, Rejection) else answer
