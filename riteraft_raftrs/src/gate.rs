//! The gate in front of raft-rs's `step`: what a peer sent is looked at before raft believes it.
//!
//! raft-rs trusts its peers. Among what it takes without a look are messages that make it panic, acknowledge entries
//! it does not hold, count acknowledgements of entries that do not exist, or forget its term. An honest peer of the
//! same version sends none of them, so each message dropped here is worth a line in somebody's log: the reasons are
//! short and stable.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{Raft, StateRole, CAMPAIGN_TRANSFER};

use crate::conf::{self, LIMIT};
use crate::reads::ReadContexts;
use crate::tail::Tail;

pub type Verdict = Result<(), &'static str>;

/// A term further ahead than this was never reached by elections; taking it would only bring the wrap nearer.
const MAX_TERM_LEAP: u64 = 1 << 32;

/// The one reason that is also counted: rule 19's sign of a disk that lost what it had acknowledged.
pub const HEARTBEAT_PAST_LOG: &str = "heartbeat: commit past our log";

/// What the gate holds messages against.
pub struct Gate<'a> {
    pub raft: &'a Raft<Tail>,
    pub reads: &'a ReadContexts,
    /// A snapshot is on its way to disk.
    pub installing: bool,
    /// We are the only voter and our disk lags: an election would be won before it may be.
    pub sole_voter_waits: bool,
    /// Our term and vote are durable.
    pub vote_saved: bool,
}

impl Gate<'_> {
    /// Judges a message that came with the others, by the table of rules for its type.
    pub fn check(&self, message: &Message, sender: u64) -> Verdict {
        let Some(kind) = MessageType::from_i32(message.msg_type) else {
            return Err("unknown message type");
        };
        if kind == MessageType::MsgSnapshot {
            return Err("snapshot out of band");
        }
        self.check_kind(kind, message, sender)
    }

    /// Judges a MsgSnapshot that came by its own way, its data already staged.
    pub fn check_snapshot(&self, message: &Message, sender: u64) -> Verdict {
        let Some(kind) = MessageType::from_i32(message.msg_type) else {
            return Err("unknown message type");
        };
        if kind != MessageType::MsgSnapshot {
            return Err("snapshot: another type");
        }
        if self.installing {
            return Err("snapshot: another one is being installed");
        }
        self.check_kind(kind, message, sender)?;
        match message.term < self.raft.term {
            true => Err("snapshot: of an earlier term"),
            false => Ok(()),
        }
    }

    fn check_kind(&self, kind: MessageType, message: &Message, sender: u64) -> Verdict {
        use MessageType::*;
        if !comes_from_the_network(kind) {
            return Err("never from the network");
        }
        self.any(message, sender)?;
        if kind != MsgAppend && !message.entries.is_empty() {
            return Err("entries in a message that has none");
        }
        if is_response(kind) && self.raft.prs().get(sender).is_none() {
            return Err("response of no member");
        }
        // raft-rs looks at no more than the term of a message from an earlier one: an honest peer that slept may
        // have sent it, and the answer brings that peer up to date. A pre-vote response speaks of a later term.
        if message.term < self.raft.term {
            return Ok(());
        }
        match kind {
            MsgAppend => self.append(message),
            MsgHeartbeat => self.heartbeat(message),
            MsgSnapshot => self.snapshot(message),
            MsgAppendResponse => self.append_response(message),
            MsgHeartbeatResponse => self.heartbeat_response(message),
            MsgTimeoutNow => self.timeout_now(message),
            MsgRequestVote | MsgRequestPreVote => vote_context(message),
            MsgRequestVoteResponse | MsgRequestPreVoteResponse => self.vote_response(kind, message),
            _ => Err("never from the network"),
        }
    }

    /// What holds for each type: a term of 0 skips raft's term check, one of 2^64 - 1 wraps at the next election.
    fn any(&self, message: &Message, sender: u64) -> Verdict {
        if message.from != sender || sender == self.raft.id {
            return Err("not from its sender");
        }
        if message.to != self.raft.id {
            return Err("not for us");
        }
        if message.term == 0 {
            return Err("term 0");
        }
        if message.term >= LIMIT || message.term > self.raft.term.saturating_add(MAX_TERM_LEAP) {
            return Err("term out of range");
        }
        let numbers = [
            message.index,
            message.commit,
            message.log_term,
            message.commit_term,
            message.reject_hint,
        ];
        match numbers.iter().any(|number| *number >= LIMIT) {
            true => Err("number out of range"),
            false => Ok(()),
        }
    }

    /// Only the leader of a term sends appends, heartbeats, snapshots and TimeoutNow, and a term has one.
    fn check_leader(&self, message: &Message, reason: &'static str) -> Verdict {
        let leader = self.raft.leader_id;
        match message.term == self.raft.term && leader != 0 && leader != message.from {
            true => Err(reason),
            false => Ok(()),
        }
    }

    fn append(&self, message: &Message) -> Verdict {
        self.check_leader(message, "append: not from the leader of its term")?;
        if (message.log_term == 0) != (message.index == 0) {
            // Past the end of our log raft reads term 0, and "matches" what is not there.
            return Err("append: term and index disagree on the start");
        }
        if message.log_term > message.term {
            return Err("append: log term above its term");
        }
        let committed = self.raft.raft_log.committed;
        let mut index = message.index;
        let mut term = message.log_term.max(1);
        for entry in &message.entries {
            index += 1;
            if entry.index != index {
                return Err("append: gap in entries");
            }
            if entry.term < term || entry.term > message.term {
                return Err("append: entry terms out of order");
            }
            term = entry.term;
            check_entry(entry)?;
            if index <= committed && self.own_term(index).is_some_and(|own| own != entry.term) {
                return Err("append: conflicts with a committed entry");
            }
        }
        Ok(())
    }

    /// Our term at an index that we still hold.
    fn own_term(&self, index: u64) -> Option<u64> {
        let log = &self.raft.raft_log;
        if index + 1 < log.first_index() || index > log.last_index() {
            return None;
        }
        log.term(index).ok()
    }

    fn heartbeat(&self, message: &Message) -> Verdict {
        self.check_leader(message, "heartbeat: not from the leader of its term")?;
        match message.commit > self.raft.raft_log.last_index() {
            true => Err(HEARTBEAT_PAST_LOG),
            false => Ok(()),
        }
    }

    fn snapshot(&self, message: &Message) -> Verdict {
        self.check_leader(message, "snapshot: not from the leader of its term")?;
        let Some(meta) = message.snapshot.as_ref().and_then(|s| s.metadata.as_ref()) else {
            return Err("snapshot: no metadata");
        };
        if meta.index == 0 || meta.index >= LIMIT {
            return Err("snapshot: index out of range");
        }
        if meta.term == 0 || meta.term > message.term {
            return Err("snapshot: term out of range");
        }
        let Some(conf_state) = &meta.conf_state else {
            return Err("snapshot: no conf state");
        };
        conf::check(conf_state).map_err(|_| "snapshot: bad conf state")?;
        if !conf::holds(conf_state, self.raft.id) {
            return Err("snapshot: we are not in it");
        }
        let committed = self.raft.raft_log.committed;
        if meta.index < committed {
            return Err("snapshot: before our commit");
        }
        if meta.index == committed && self.own_term(committed).is_some_and(|own| own != meta.term) {
            return Err("snapshot: conflicts with a committed entry");
        }
        Ok(())
    }

    /// An index past our log would be counted in the quorum of entries that are not there yet.
    ///
    /// By a leader only: one that crashed before its own save was done gets, as a follower of the same term, honest
    /// answers about entries that it has lost, and raft passes over them.
    fn append_response(&self, message: &Message) -> Verdict {
        if message.term > self.raft.term || self.raft.state != StateRole::Leader {
            return Ok(());
        }
        let last = self.raft.raft_log.last_index();
        if message.index > last || message.reject_hint > last {
            return Err("append response: past our log");
        }
        match message.request_snapshot {
            0 => Ok(()),
            _ => Err("append response: asks for a snapshot"),
        }
    }

    fn heartbeat_response(&self, message: &Message) -> Verdict {
        match message.context.is_empty() || self.reads.are_ours(&message.context) {
            true => Ok(()),
            false => Err("heartbeat response: context is not ours"),
        }
    }

    /// It starts an election without asking first: from our leader only, and only if we may win one now.
    fn timeout_now(&self, message: &Message) -> Verdict {
        if message.term != self.raft.term || message.from != self.raft.leader_id {
            return Err("timeout now: not from our leader");
        }
        if !self.raft.promotable() {
            return Err("timeout now: we are no voter");
        }
        if self.installing {
            return Err("timeout now: a snapshot is being installed");
        }
        match self.sole_voter_waits {
            true => Err("timeout now: our log is not durable"),
            false => Ok(()),
        }
    }

    fn vote_response(&self, kind: MessageType, message: &Message) -> Verdict {
        vote_context(message)?;
        // Requests leave once our vote is durable, and so is our log then: an earlier answer answers nothing, and
        // raft panics if it wins by it.
        let log = &self.raft.raft_log;
        let asked = self.vote_saved && log.persisted == log.last_index();
        let would_count = kind == MessageType::MsgRequestVoteResponse
            && self.raft.state == StateRole::Candidate
            && message.term == self.raft.term;
        match would_count && !asked {
            true => Err("vote response: to a request never sent"),
            false => Ok(()),
        }
    }
}

fn comes_from_the_network(kind: MessageType) -> bool {
    use MessageType::*;
    matches!(
        kind,
        MsgAppend
            | MsgAppendResponse
            | MsgRequestVote
            | MsgRequestVoteResponse
            | MsgSnapshot
            | MsgHeartbeat
            | MsgHeartbeatResponse
            | MsgTimeoutNow
            | MsgRequestPreVote
            | MsgRequestPreVoteResponse
    )
}

fn is_response(kind: MessageType) -> bool {
    use MessageType::*;
    matches!(
        kind,
        MsgAppendResponse
            | MsgRequestVoteResponse
            | MsgHeartbeatResponse
            | MsgRequestPreVoteResponse
    )
}

fn vote_context(message: &Message) -> Verdict {
    match message.context.is_empty() || message.context == CAMPAIGN_TRANSFER {
        true => Ok(()),
        false => Err("vote: unknown context"),
    }
}

/// A bad entry that gets into the log kills every replica when it is applied.
fn check_entry(entry: &Entry) -> Verdict {
    if entry.entry_type == EntryType::EntryNormal as i32 {
        return Ok(());
    }
    match conf::decode(entry) {
        Ok(_) => Ok(()),
        Err(_) => Err("append: bad conf change or entry type"),
    }
}
