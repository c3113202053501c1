"""raft-rs 0.7.0's RawNode, batch-wise: bytes and plain values in, bytes and plain values out.

A `RawNode` is one raft node without clock, disk or socket. Its log lives in its own memory (the tail after the last
compaction); the caller makes durable what `ready` hands out and says so with `persisted`. The methods may be called
from any thread, one at a time.

Shapes: an entry to save is `(index, term, encoded entry)`; a committed entry is `(index, term, kind, context, data)`
with kind 0 normal, 1 conf change, 2 conf change v2; a conf state is `(voters, learners, voters_outgoing,
learners_next, auto_leave)`. Ids, terms and indexes are below 2^62; 0 stands for none.

The rules named by number are those that riteraft keeps around raft-rs; "thesis" is Ongaro's on Raft.
"""

from collections.abc import Sequence
from typing import TypeAlias, final

LogRow: TypeAlias = tuple[int, int, bytes]
CommittedEntry: TypeAlias = tuple[int, int, int, bytes, bytes]
ConfStateTuple: TypeAlias = tuple[list[int], list[int], list[int], list[int], bool]

class RaftPanic(Exception):
    """raft-rs panicked; the object is unusable from now on and every later call raises this again (rule 25).

    The text is the panic's own, with its place. Only `RawNode.take_log` still answers.
    """

class RaftRefused(Exception):
    """The call was checked and not carried out; `args[0]` is the reason's name. Nothing happened.

    After a Ready with `removed` every call but `RawNode.take_log` raises it with the reason `removed` (rule 11).
    """

class LostAcknowledgedData(Exception):
    """The leader of our term has for an election timeout claimed a commit that we acknowledged and do not hold."""

@final
class Ready:
    """Everything one `RawNode.ready` wants done; taken once.

    The order that must hold: `messages` may leave at once; `snapshot`, `entries` and `hard_state` are made durable,
    in the order of `number`; then `RawNode.persisted(number)` is called; only then `persisted_messages` leave and
    `snapshots` begin to stream. Several Readies may be saved as one, and `persisted` told of the last alone (rule 7).
    """

    @property
    def number(self) -> int:
        """Counts from 1; what `persisted` takes."""

    @property
    def term(self) -> int:
        """The node's term when this was taken."""

    @property
    def role(self) -> str:
        """`follower`, `pre-candidate`, `candidate` or `leader`."""

    @property
    def leader(self) -> int:
        """0 while none is known."""

    @property
    def messages(self) -> list[tuple[int, list[bytes]]]:
        """(peer, encoded messages in order) that need not wait for the disk.

        A leader's, and a follower's heartbeat answers (rule 20); none while a term or vote is unsaved (rule 1).
        """

    @property
    def hard_state(self) -> tuple[int, int, int] | None:
        """(term, vote, commit), if any of them changed since the last Ready."""

    @property
    def must_sync(self) -> bool:
        """False exactly if there is neither an entry nor a snapshot nor a change of term or vote.

        Then nothing but a commit index would be lost by a crash: it may wait for the next save.
        """

    @property
    def entries(self) -> list[LogRow]:
        """Dense and ascending; the first one's index cuts off every row at or after it (Raft paper §5.3)."""

    @property
    def snapshot(self) -> tuple[int, int] | None:
        """(index, term) of the snapshot to install, the one given to `step_snapshot`; the old log goes (rule 6)."""

    @property
    def persisted_messages(self) -> list[tuple[int, list[bytes]]]:
        """(peer, encoded messages in order) that leave once this Ready is durable."""

    @property
    def snapshots(self) -> list[tuple[int, int, bytes]]:
        """(to, snapshot index, encoded MsgSnapshot without data), to be streamed once this Ready is durable.

        Each ends in exactly one `report_snapshot`.
        """

    @property
    def committed(self) -> list[CommittedEntry]:
        """To apply, in order; none is handed out twice, and none before it is durable here.

        raft's own entries, a new leader's first and the leave of a joint state, have neither context nor data. Conf
        changes among them are already in force (rule 10). At most `max_committed_size_per_ready` bytes, or one entry.
        """

    @property
    def conf_states(self) -> list[tuple[int, ConfStateTuple, str | None]]:
        """(index, the conf state after it, why raft refused it or None) of each conf change in `committed`.

        A refusal reads the same on every replica.
        """

    @property
    def read_states(self) -> list[tuple[int, bytes]]:
        """(read index, context) of each ReadIndex round that got its quorum (thesis §6.4)."""

    @property
    def snapshot_wanted(self) -> bool:
        """A peer needs a snapshot that the newest durable one cannot be: make a new one (rule 12)."""

    @property
    def removed(self) -> bool:
        """The last entry of `committed` removed this node: every later call is refused (rule 11)."""

@final
class Status:
    """The node's state at one moment."""

    @property
    def node_id(self) -> int:
        """Our own id."""

    @property
    def term(self) -> int:
        """The newest term seen."""

    @property
    def vote(self) -> int:
        """Whom this node voted for in its term."""

    @property
    def role(self) -> str:
        """`follower`, `pre-candidate`, `candidate` or `leader`."""

    @property
    def leader(self) -> int:
        """The leader of the term, as far as known."""

    @property
    def commit(self) -> int:
        """The newest index known to be committed."""

    @property
    def first_index(self) -> int:
        """The first entry after the last compaction."""

    @property
    def last_index(self) -> int:
        """The last entry, durable or not."""

    @property
    def conf_state(self) -> ConfStateTuple:
        """Who takes part, by what was handed out; each set in ascending order."""

    @property
    def transferring_to(self) -> int:
        """To whom leadership is being handed."""

    @property
    def pending_conf_change(self) -> bool:
        """Another conf change would be refused: one may be in a leader's log that was not handed out yet."""

    @property
    def progress(self) -> list[tuple[int, int, int, str, bool]]:
        """(peer, matched, next index, `probe` | `replicate` | `snapshot`, recently active), by id; a leader's only."""

@final
class RawNode:
    """One raft node without clock, disk or socket.

    Any method may raise `RaftPanic`, and once a conf change removed the node each raises `RaftRefused("removed")`;
    `take_log` alone never raises.
    """

    def __new__(
        cls,
        *,
        node_id: int,
        hard_state: tuple[int, int, int],
        anchor: tuple[int, int],
        snapshot: tuple[int, int, ConfStateTuple] | None,
        entries: Sequence[LogRow],
        seed: int,
        election_tick: int = 20,
        heartbeat_tick: int = 2,
        max_size_per_msg: int = 262144,
        max_inflight_msgs: int = 64,
        max_uncommitted_size: int = 67108864,
        max_committed_size_per_ready: int = 4194304,
        pre_vote: bool = True,
        check_quorum: bool = True,
        commit_notices: bool = True,
    ) -> RawNode:
        """Start from what a disk held: (term, vote, commit), the entry before the first row, the snapshot, the rows.

        Everything after the snapshot is handed out anew up to the saved commit, or the snapshot's index if that is
        higher (rules 4 and 5). A joiner starts from `(1, 0, 0)`, `(0, 0)`, None and no rows. `seed`, below 2^64,
        decides the election timeouts, `election_tick` up to twice that (rule 24). Without `commit_notices` a leader
        sends no message for a new commit index alone: the next append or heartbeat carries it, or `announce_commit`.

        :raises ValueError: raft-rs would panic at what is given, now or later; the text says what and where.
        """

    def tick(self) -> None:
        """Let one tick of logical time pass.

        Nothing happens while a snapshot is on its way to disk (rule 9), or to a sole voter that does not lead while
        its entries are (rule 14). A leader in a joint state with nothing pending proposes to leave it (rule 10).

        :raises LostAcknowledgedData: the leader of our term has for `election_tick` ticks repeated a commit that is
            past our log (rule 19).
        """

    def campaign(self) -> None:
        """Start an election now, with PreVote; ignored unless this node is a voter, and where `tick` is."""

    def step_many(self, sender: int, messages: Sequence[bytes]) -> list[str]:
        """Take encoded messages that the authenticated `sender` sent; return a short reason for each one dropped.

        What raft-rs would panic at, or believe wrongly, is dropped (the gate). A MsgSnapshot is too: it has its own
        way in, `step_snapshot`. Bytes that are no message are a reason, never an exception.
        """

    def step_snapshot(self, sender: int, message: bytes) -> str | None:
        """Take a MsgSnapshot whose data is staged and verified; return why it was dropped, or None.

        Only if the next `ready` carries `snapshot` is it to be installed: raft may find that its log reaches that far
        already. One at a time: while a snapshot is on its way to disk another one is dropped.
        """

    def propose_many(self, entries: Sequence[tuple[bytes, bytes]]) -> tuple[int, int]:
        """Append (context, data) pairs as the leader, all or none; return (index of the first, term).

        That they are in the leader's log says nothing about whether they will commit: an entry of another term at
        that index, once committed, proves that these did not.

        :raises RaftRefused: `not_leader`, `transferring`, or `full`: `max_uncommitted_size` bytes of data would be
            passed (rule 15).
        :raises ValueError: there are no pairs.
        """

    def propose_conf_change(self, context: bytes, changes: Sequence[tuple[str, int]]) -> tuple[int, int]:
        """Append one conf change (thesis §4); return (index, term).

        Pairs of `add_voter`, `add_learner` or `remove` and a node id: one is a simple change, several go through a
        joint state that is left by itself, none leaves the joint state.

        :raises RaftRefused: `not_leader`, `transferring`, `full`, `pending_conf_change`, `joint` (a change while
            joint, or a leave while not), `last_voter`, `removes_leader` (removed or made a learner: rule 11).
        :raises ValueError: an unknown kind, or an id that no node has.
        """

    def read_index(self, context: bytes) -> None:
        """Start a ReadIndex round (thesis §6.4); its index comes back in `Ready.read_states` under this context.

        A context must never be used twice, not by an earlier life of this node either. A round that has no quorum
        when leadership is lost is never answered.

        :raises RaftRefused: `not_leader`, or `no_commit_in_term`: raft-rs would drop it in silence (rule 17).
        :raises ValueError: the context is empty.
        """

    def transfer_leader(self, to: int) -> None:
        """Begin to hand leadership to a voter (thesis §3.10); given up after `election_tick` ticks.

        :raises RaftRefused: `not_leader`, `is_leader`, `unknown_node`, `learner`, `installing`.
        """

    def announce_commit(self) -> None:
        """Tell the followers the commit index now, as the leader; else nothing."""

    def report_unreachable(self, peer: int) -> None:
        """Tell that messages to `peer` were lost: a leader probes it again before it sends more."""

    def report_snapshot(self, peer: int, ok: bool) -> None:
        """Tell how the streaming of a snapshot to `peer` ended; exactly once for each of `Ready.snapshots`."""

    def ready(self) -> Ready | None:
        """Take what there is to do, or None. Call it again until it gives None: a conf change may make more."""

    def persisted(self, number: int) -> None:
        """Tell that everything up to and including `Ready.number` is durable; an older number is ignored.

        :raises ValueError: no such Ready was handed out.
        """

    def snapshot_made(self, index: int, term: int, conf_state: ConfStateTuple) -> None:
        """Tell that this snapshot of our own is durable: peers may get it, and the log may be cut behind it.

        One that is not newer than the newest known is ignored.

        :raises ValueError: its entries were not all handed out and durable, its term is not the log's, or its conf
            state is none that raft could restore.
        """

    def compact(self, index: int) -> None:
        """Forget the log up to and including `index`; an index forgotten already is ignored.

        :raises ValueError: `index` is past the newest durable snapshot (rule 5).
        """

    def status(self) -> Status:
        """Return the node's state now."""

    def take_log(self) -> list[tuple[str, str]]:
        """Take raft-rs's own log as (level, text), oldest first; of the unread only the newest 256 are kept.

        Works after a panic and after a removal too: that is when it is read.
        """

    def panic_on_purpose(self) -> None:
        """Panic inside the guard, as raft-rs would: for tests of what happens then."""
