//! One raft node: raft-rs's `RawNode` with the rules around it, and no Python.
//!
//! Each method checks first and touches raft-rs only if the call cannot go wrong: what raft-rs answers is either
//! silence or a panic.

use std::collections::VecDeque;

use prost::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, HardState, Message, MessageType};
use raft::{Changer, Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::conf::{self, LIMIT};
use crate::farewell::Farewell;
use crate::fault::Fault;
use crate::gate::{Gate, HEARTBEAT_PAST_LOG};
use crate::log_ring::LogRing;
use crate::reads::ReadContexts;
use crate::recovered;
use crate::suspicion::Suspicion;
use crate::tail::{Mark, SnapshotMark, Tail};
use crate::timeouts;

/// Raft's own clock and bounds.
pub struct Settings {
    pub node_id: u64,
    pub seed: u64,
    pub election_tick: usize,
    pub heartbeat_tick: usize,
    pub max_size_per_msg: u64,
    pub max_inflight_msgs: usize,
    pub max_uncommitted_size: u64,
    pub max_committed_size_per_ready: u64,
    pub pre_vote: bool,
    pub check_quorum: bool,
    pub commit_notices: bool,
}

/// Everything that one `ready` wants done. The entries to save are in the tail, at `entries`.
pub struct Effects {
    pub number: u64,
    pub term: u64,
    pub role: StateRole,
    pub leader: u64,
    pub messages: Outbox,
    pub hard_state: Option<HardState>,
    pub must_sync: bool,
    /// First and last index of the entries to save.
    pub entries: Option<(u64, u64)>,
    pub snapshot: Option<Mark>,
    pub persisted_messages: Outbox,
    pub snapshots: Vec<Message>,
    pub committed: Vec<Entry>,
    pub conf_states: Vec<AppliedConfChange>,
    pub read_states: Vec<(u64, Vec<u8>)>,
    pub snapshot_wanted: bool,
    pub removed: bool,
}

/// A committed conf change that raft was told of: where, who takes part now, why it was refused.
pub struct AppliedConfChange {
    pub index: u64,
    pub conf_state: ConfState,
    pub refused: Option<String>,
}

/// Messages by peer, each peer's in order.
#[derive(Default)]
pub struct Outbox(pub Vec<(u64, Vec<Message>)>);

impl Outbox {
    fn push(&mut self, message: Message) {
        // A handful of peers: looking along the list beats a hash.
        match self.0.iter_mut().find(|(to, _)| *to == message.to) {
            Some((_, messages)) => messages.push(message),
            None => self.0.push((message.to, vec![message])),
        }
    }
}

/// What a leader knows of one peer.
pub struct PeerProgress {
    pub id: u64,
    pub matched: u64,
    pub next_index: u64,
    pub state: &'static str,
    pub recent_active: bool,
}

pub struct Engine {
    raw: RawNode<Tail>,
    settings: Settings,
    reads: ReadContexts,
    suspicion: Suspicion,
    /// How many elections we began: part of the draw of the next timeout.
    campaigns: u64,
    /// The newest Ready that was handed out, and the newest that is durable.
    handed_out: u64,
    durable: u64,
    /// (number, term, vote) of Readies that changed term or vote and are not durable yet.
    unsaved_votes: VecDeque<(u64, u64, u64)>,
    /// Term and vote of the newest Ready.
    vote: (u64, u64),
    /// The Ready that carried a snapshot, and that snapshot, until it is durable.
    installing: Option<(u64, SnapshotMark)>,
    /// The highest commit index that a leader other than us told us since the start.
    told: u64,
    farewell: Option<Farewell>,
    removed: bool,
}

impl Engine {
    /// Starts at `applied = snapshot.index` (rule 4) with what the disk held, all of it checked.
    pub fn new(
        settings: Settings,
        hard_state: HardState,
        anchor: Mark,
        snapshot: Option<SnapshotMark>,
        entries: VecDeque<Entry>,
        log: &LogRing,
    ) -> Result<Engine, Fault> {
        recovered::check(&hard_state, anchor, snapshot.as_ref(), &entries)?;
        if settings.node_id == 0 || settings.node_id >= LIMIT {
            return Err(Fault::invalid(format!(
                "node_id {}: not a node's id",
                settings.node_id
            )));
        }
        if settings.max_size_per_msg == 0 {
            return Err(Fault::invalid(
                "max_size_per_msg 0: raft-rs takes it for one entry a message",
            ));
        }
        let config = Config {
            id: settings.node_id,
            election_tick: settings.election_tick,
            heartbeat_tick: settings.heartbeat_tick,
            min_election_tick: settings.election_tick,
            max_election_tick: settings.election_tick.saturating_mul(2),
            applied: snapshot.as_ref().map_or(0, |mark| mark.at.index),
            max_size_per_msg: settings.max_size_per_msg,
            max_inflight_msgs: settings.max_inflight_msgs,
            max_uncommitted_size: settings.max_uncommitted_size,
            max_committed_size_per_ready: settings.max_committed_size_per_ready,
            pre_vote: settings.pre_vote,
            check_quorum: settings.check_quorum,
            skip_bcast_commit: !settings.commit_notices,
            // Leases are not raft-rs's business: its own serve stale reads (rule 8).
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        config
            .validate()
            .map_err(|error| Fault::invalid(error.to_string()))?;
        let vote = (hard_state.term, hard_state.vote);
        let tail = Tail::new(hard_state, anchor, snapshot, entries);
        let raw = RawNode::new(&config, tail, &log.logger())
            .map_err(|error| Fault::invalid(error.to_string()))?;
        let mut engine = Engine {
            raw,
            settings,
            reads: ReadContexts::default(),
            suspicion: Suspicion::default(),
            campaigns: 0,
            handed_out: 0,
            durable: 0,
            unsaved_votes: VecDeque::new(),
            vote,
            installing: None,
            told: 0,
            farewell: None,
            removed: false,
        };
        engine.draw_timeout();
        Ok(engine)
    }

    /// After its own removal raft-rs panics at the next save or answer: no call may reach it (rule 11).
    pub fn check_usable(&self) -> Result<(), Fault> {
        match self.removed {
            true => Err(Fault::Refused("removed")),
            false => Ok(()),
        }
    }

    pub fn tail(&self) -> &Tail {
        self.raw.store()
    }

    // --- time -------------------------------------------------------------------------------------------------------

    pub fn tick(&mut self) -> Result<(), Fault> {
        if self.is_installing() || self.sole_voter_waits() {
            return Ok(());
        }
        let (term, election_tick) = (self.raw.raft.term, self.settings.election_tick);
        if let Some((leader, commit)) = self.suspicion.tick(term, election_tick) {
            return Err(Fault::LostData(format!(
                "leader {leader} of term {term} holds an acknowledgement of ours up to index {commit}, \
                 our log ends at {}",
                self.raw.raft.raft_log.last_index()
            )));
        }
        let led = self.leads();
        if self.raw.tick() && !led {
            self.campaigns += 1;
        }
        self.leave_joint_state();
        self.draw_timeout();
        Ok(())
    }

    pub fn campaign(&mut self) {
        // raft-rs asks nothing here: a learner would stand for election, a joiner without voters would win.
        if !self.raw.raft.promotable() || self.is_installing() || self.sole_voter_waits() {
            return;
        }
        self.campaigns += 1;
        // The only error is "local message over the network", which this is not.
        let _ = self.raw.campaign();
        self.draw_timeout();
    }

    /// raft-rs leaves a joint state by itself only if it led when that state was entered (rule 10).
    fn leave_joint_state(&mut self) {
        let raft = &self.raw.raft;
        let joint = !raft.prs().conf().to_conf_state().voters_outgoing.is_empty();
        if joint && self.leads() && !self.has_pending_conf() && raft.lead_transferee.is_none() {
            // Were it refused, the next tick would ask again.
            let _ = self.append_conf_change(Vec::new(), Vec::new());
        }
    }

    fn draw_timeout(&mut self) {
        let (min, max) = (self.settings.election_tick, self.settings.election_tick * 2);
        let Settings { seed, node_id, .. } = self.settings;
        let timeout = timeouts::draw(seed, node_id, self.raw.raft.term, self.campaigns, min, max);
        self.raw.raft.set_randomized_election_timeout(timeout);
    }

    // --- messages ---------------------------------------------------------------------------------------------------

    /// Takes what a peer sent; gives a reason for each message dropped.
    pub fn step_many<'a>(
        &mut self,
        sender: u64,
        messages: impl Iterator<Item = &'a [u8]>,
    ) -> Vec<&'static str> {
        let dropped = messages
            .filter_map(|bytes| match Message::decode(bytes) {
                Ok(message) => self.step(sender, message).err(),
                Err(_) => Some("undecodable"),
            })
            .collect();
        self.draw_timeout();
        dropped
    }

    fn step(&mut self, sender: u64, message: Message) -> Result<(), &'static str> {
        if let Err(reason) = self.gate().check(&message, sender) {
            if reason == HEARTBEAT_PAST_LOG && message.term == self.raw.raft.term {
                self.suspicion
                    .heartbeat(sender, message.term, message.commit);
            }
            return Err(reason);
        }
        let (kind, commit) = (message.msg_type, message.commit);
        if kind == MessageType::MsgTimeoutNow as i32 {
            self.campaigns += 1;
        }
        self.raw.step(message).map_err(|_| "refused by raft")?;
        if kind == MessageType::MsgAppend as i32 {
            self.suspicion
                .append(sender, self.raw.raft.raft_log.last_index());
        }
        if kind == MessageType::MsgAppend as i32 || kind == MessageType::MsgHeartbeat as i32 {
            self.told = self.told.max(commit);
        }
        Ok(())
    }

    /// Takes a MsgSnapshot whose data is staged; whether raft wants it installed is in the next Ready.
    pub fn step_snapshot(&mut self, sender: u64, bytes: &[u8]) -> Option<&'static str> {
        let Ok(mut message) = Message::decode(bytes) else {
            return Some("undecodable");
        };
        if let Err(reason) = self.gate().check_snapshot(&message, sender) {
            return Some(reason);
        }
        if let Some(snapshot) = &mut message.snapshot {
            // The data is staged elsewhere; raft would carry it along for nothing.
            snapshot.data = Vec::new();
        }
        let stepped = self.raw.step(message);
        self.draw_timeout();
        stepped.err().map(|_| "refused by raft")
    }

    fn gate(&self) -> Gate<'_> {
        Gate {
            raft: &self.raw.raft,
            reads: &self.reads,
            installing: self.is_installing(),
            sole_voter_waits: self.sole_voter_waits(),
            vote_saved: self.unsaved_votes.is_empty()
                && self.vote == (self.raw.raft.term, self.raw.raft.vote),
        }
    }

    /// By an append and not by a heartbeat: that one says no more than a follower is known to match, and the one whose
    /// acknowledgement came last would not hear of it.
    pub fn announce_commit(&mut self) {
        if self.leads() {
            self.raw.raft.bcast_append();
        }
    }

    pub fn report_unreachable(&mut self, peer: u64) {
        self.raw.report_unreachable(peer);
    }

    pub fn report_snapshot(&mut self, peer: u64, ok: bool) {
        let status = match ok {
            true => SnapshotStatus::Finish,
            false => SnapshotStatus::Failure,
        };
        self.raw.report_snapshot(peer, status);
    }

    // --- proposals and questions ------------------------------------------------------------------------------------

    /// Appends normal entries as one message to ourselves; gives the first one's index and term (rule 15).
    pub fn propose_many(&mut self, entries: Vec<Entry>) -> Result<(u64, u64), Fault> {
        if entries.is_empty() {
            return Err(Fault::invalid("propose_many: no entries"));
        }
        self.check_may_propose()?;
        let size: usize = entries.iter().map(|entry| entry.data.len()).sum();
        self.check_room(size)?;
        self.append(entries)
    }

    /// Appends one conf change; what raft-rs would turn into an empty entry is refused by name instead.
    pub fn propose_conf_change(
        &mut self,
        context: Vec<u8>,
        pairs: &[(String, u64)],
    ) -> Result<(u64, u64), Fault> {
        let change = conf::change(pairs).map_err(Fault::invalid)?;
        self.check_may_propose()?;
        if self.has_pending_conf() {
            return Err(Fault::Refused("pending_conf_change"));
        }
        let raft = &self.raw.raft;
        let joint = !raft.prs().conf().to_conf_state().voters_outgoing.is_empty();
        if joint != change.changes.is_empty() {
            return Err(Fault::Refused("joint"));
        }
        if !joint {
            // Tried on a copy, as every replica will do when it is committed: the only thing that can fail is that
            // nobody is left to vote.
            let mut changer = Changer::new(raft.prs());
            let outcome = match change.enter_joint() {
                Some(auto_leave) => changer.enter_joint(auto_leave, &change.changes),
                None => changer.simple(&change.changes),
            };
            let Ok((after, _)) = outcome else {
                return Err(Fault::Refused("last_voter"));
            };
            if !after.to_conf_state().voters.contains(&raft.id) {
                return Err(Fault::Refused("removes_leader"));
            }
        }
        let data = change.encode_to_vec();
        self.check_room(data.len())?;
        self.append_conf_change(context, data)
    }

    fn check_may_propose(&self) -> Result<(), Fault> {
        if !self.leads() {
            return Err(Fault::Refused("not_leader"));
        }
        match self.raw.raft.lead_transferee {
            Some(_) => Err(Fault::Refused("transferring")),
            None => Ok(()),
        }
    }

    /// raft-rs bounds the data of uncommitted entries, and takes anything while there are none.
    fn check_room(&self, size: usize) -> Result<(), Fault> {
        let held = self.raw.raft.uncommitted_size();
        let room = (self.settings.max_uncommitted_size as usize).saturating_sub(held);
        match size == 0 || held == 0 || size <= room {
            true => Ok(()),
            false => Err(Fault::Refused("full")),
        }
    }

    fn append_conf_change(&mut self, context: Vec<u8>, data: Vec<u8>) -> Result<(u64, u64), Fault> {
        let mut entry = Entry {
            data,
            context,
            ..Default::default()
        };
        entry.set_entry_type(raft::eraftpb::EntryType::EntryConfChangeV2);
        self.append(vec![entry])
    }

    fn append(&mut self, entries: Vec<Entry>) -> Result<(u64, u64), Fault> {
        let place = (self.raw.raft.raft_log.last_index() + 1, self.raw.raft.term);
        let mut message = Message {
            from: self.raw.raft.id,
            entries,
            ..Default::default()
        };
        message.set_msg_type(MessageType::MsgPropose);
        // Every reason to drop it was asked for above but the size, which raft-rs knows best.
        self.raw.step(message).map_err(|_| Fault::Refused("full"))?;
        Ok(place)
    }

    /// Begins a ReadIndex round; never on behalf of a peer, never as a follower (rule 17).
    pub fn read_index(&mut self, context: Vec<u8>) -> Result<(), Fault> {
        if context.is_empty() {
            return Err(Fault::invalid(
                "read_index: an empty context is never answered",
            ));
        }
        if !self.leads() {
            return Err(Fault::Refused("not_leader"));
        }
        if !self.raw.raft.commit_to_current_term() {
            return Err(Fault::Refused("no_commit_in_term"));
        }
        self.reads.remember(&context);
        self.raw.read_index(context);
        Ok(())
    }

    pub fn transfer_leader(&mut self, to: u64) -> Result<(), Fault> {
        if self.is_installing() {
            return Err(Fault::Refused("installing"));
        }
        if !self.leads() {
            return Err(Fault::Refused("not_leader"));
        }
        let raft = &self.raw.raft;
        if to == raft.id {
            return Err(Fault::Refused("is_leader"));
        }
        if raft.prs().get(to).is_none() {
            return Err(Fault::Refused("unknown_node"));
        }
        if !raft.prs().conf().to_conf_state().voters.contains(&to) {
            return Err(Fault::Refused("learner"));
        }
        self.raw.transfer_leader(to);
        Ok(())
    }

    // --- effects ----------------------------------------------------------------------------------------------------

    /// Takes what there is to do: entries go into the tail, conf changes into force, in this order.
    pub fn ready(&mut self) -> Option<Effects> {
        let may_leave = self.may_leave();
        if !self.raw.has_ready() && !self.tail().is_wanted() && !may_leave {
            return None;
        }
        let mut ready = self.raw.ready();
        let number = ready.number();
        self.handed_out = number;
        let hard_state = ready.hs().cloned();
        if let Some(state) = &hard_state {
            if self.vote != (state.term, state.vote) {
                self.vote = (state.term, state.vote);
                self.unsaved_votes
                    .push_back((number, state.term, state.vote));
            }
        }
        let must_sync = ready.must_sync();
        let messages = match self.leads() {
            true => ready.take_messages(),
            false => ready.take_persisted_messages(),
        };
        let read_states = ready.take_read_states();
        let mut committed = ready.take_committed_entries();
        let last_committed = committed.last().map(|entry| entry.index);
        if let Some(farewell) = &mut self.farewell {
            farewell.push(std::mem::take(&mut committed));
        }
        if may_leave {
            let farewell = self.farewell.take();
            committed = farewell.map_or_else(Vec::new, Farewell::into_entries);
        }
        let snapshot = ready.snapshot().metadata.clone().map(|meta| SnapshotMark {
            at: Mark {
                index: meta.index,
                term: meta.term,
            },
            conf_state: meta.conf_state.unwrap_or_default(),
        });
        let entries = ready.take_entries();
        let range = entries
            .first()
            .map(|e| e.index)
            .zip(entries.last().map(|e| e.index));

        let tail = self.raw.mut_store();
        if let Some(mark) = &snapshot {
            tail.restart_after(mark.at);
        }
        tail.append(entries);
        // Before any conf change: applying one may append to what raft still holds, and it compares that with `ready`.
        self.raw.advance_append_async(ready);
        let installed = snapshot.as_ref().map(|mark| mark.at);
        if let Some(mark) = snapshot {
            self.installing = Some((number, mark));
            self.farewell = None;
        }
        let mut effects = Effects {
            number,
            term: self.raw.raft.term,
            role: self.raw.raft.state,
            leader: self.raw.raft.leader_id,
            messages: Outbox::default(),
            hard_state,
            must_sync,
            entries: range,
            snapshot: installed,
            persisted_messages: Outbox::default(),
            snapshots: Vec::new(),
            committed,
            conf_states: Vec::new(),
            read_states: (read_states.into_iter())
                .map(|r| (r.index, r.request_ctx))
                .collect(),
            snapshot_wanted: false,
            removed: false,
        };
        self.sort_messages(messages, &mut effects);
        self.apply_conf_changes(&mut effects, may_leave);
        let applied = match &self.farewell {
            // Told that it is applied, raft-rs would find itself joint still, and append another leave.
            Some(farewell) if farewell.leaves_joint() => effects.committed.last().map(|e| e.index),
            _ => last_committed,
        };
        if let Some(last) = applied.filter(|_| !self.removed) {
            let before = self.raw.raft.raft_log.last_index();
            self.raw.advance_apply_to(last);
            if self.raw.raft.raft_log.last_index() > before {
                // The leave of a joint state: raft-rs appends it, but tells nobody before the next heartbeat.
                self.raw.raft.bcast_append();
            }
        }
        effects.snapshot_wanted = self.tail().take_wanted();
        Some(effects)
    }

    /// Says of each message whether it may leave before this Ready is durable (rules 1 and 20).
    fn sort_messages(&self, messages: Vec<Message>, effects: &mut Effects) {
        let vote_saved = self.unsaved_votes.is_empty();
        let leads = self.leads();
        for message in messages {
            let beside = match message.get_msg_type() {
                MessageType::MsgSnapshot => {
                    effects.snapshots.push(message);
                    continue;
                }
                // Said to ourselves, or never said by us at all: no peer would take them.
                MessageType::MsgPropose
                | MessageType::MsgReadIndex
                | MessageType::MsgReadIndexResp
                | MessageType::MsgTransferLeader => continue,
                // It promises nothing but our term: were it to wait, a slow disk would depose a live leader.
                MessageType::MsgHeartbeatResponse => true,
                _ => leads,
            };
            match beside && vote_saved {
                true => effects.messages.push(message),
                false => effects.persisted_messages.push(message),
            }
        }
    }

    /// Says whether our removal, which was kept back, may take effect (rule 11).
    fn may_leave(&self) -> bool {
        let prs = self.raw.raft.prs();
        self.farewell.as_ref().is_some_and(|farewell| {
            self.told >= farewell.index()
                || (self.leads()
                    && farewell.is_known(|id| prs.get(id).map_or(0, |peer| peer.committed_index)))
        })
    }

    /// Who takes part after a change, if that is not us any more.
    fn without_us(&self, change: &ConfChangeV2) -> Option<ConfState> {
        let raft = &self.raw.raft;
        let mut changer = Changer::new(raft.prs());
        let outcome = match (change.leave_joint(), change.enter_joint()) {
            (true, _) => changer.leave_joint(),
            (false, Some(auto_leave)) => changer.enter_joint(auto_leave, &change.changes),
            (false, None) => changer.simple(&change.changes),
        };
        let after = outcome.ok()?.0.to_conf_state();
        (raft.prs().get(raft.id).is_some() && !conf::holds(&after, raft.id)).then_some(after)
    }

    /// Puts each committed conf change in force, before raft is told that all is applied (rule 10).
    ///
    /// Our own removal, and all after it, is kept back unless we `may_leave` or were told that it is committed (rule
    /// 11). To raft that is applied, too: as long as it has one that is not, it does not stand for election.
    fn apply_conf_changes(&mut self, effects: &mut Effects, may_leave: bool) {
        let mut end = effects.committed.len();
        let mut farewell = None;
        for (place, entry) in effects.committed.iter().enumerate() {
            let outcome = match conf::decode(entry) {
                Ok(None) => continue,
                Ok(Some(change)) => {
                    if !may_leave && entry.index > self.told {
                        if let Some(after) = self.without_us(&change) {
                            farewell = Some((place, after));
                            break;
                        }
                    }
                    let was_in = self.raw.raft.prs().get(self.raw.raft.id).is_some();
                    let outcome = self
                        .raw
                        .apply_conf_change(&change)
                        .map_err(|e| e.to_string());
                    let is_in = self.raw.raft.prs().get(self.raw.raft.id).is_some();
                    self.removed = was_in && !is_in;
                    outcome
                }
                Err(reason) => Err(reason.to_owned()),
            };
            let (conf_state, refused) = match outcome {
                Ok(conf_state) => (conf_state, None),
                Err(text) => (self.raw.raft.prs().conf().to_conf_state(), Some(text)),
            };
            effects.conf_states.push(AppliedConfChange {
                index: entry.index,
                conf_state,
                refused,
            });
            if self.removed {
                end = place + 1;
                break;
            }
        }
        if self.removed {
            // What comes after our removal is not ours to apply, and raft must not be touched any more.
            effects.committed.truncate(end);
            effects.removed = true;
        } else if let Some((place, after)) = farewell {
            self.farewell = Some(Farewell::new(effects.committed.split_off(place), after));
            self.announce_commit();
        }
    }

    /// Takes the news that every Ready up to `number` is durable.
    pub fn persisted(&mut self, number: u64) -> Result<(), Fault> {
        if number > self.handed_out {
            return Err(Fault::invalid(format!(
                "persisted({number}): the newest Ready is {}",
                self.handed_out
            )));
        }
        if number <= self.durable {
            return Ok(());
        }
        self.durable = number;
        while self
            .unsaved_votes
            .front()
            .is_some_and(|vote| vote.0 <= number)
        {
            self.unsaved_votes.pop_front();
        }
        self.raw.on_persist_ready(number);
        if let Some((_, mark)) = self.installing.take_if(|(at, _)| *at <= number) {
            // One step with the line above: an election between the two would panic (rule 9).
            self.raw.advance_apply_to(mark.at.index);
            self.raw.mut_store().offer(mark);
        }
        Ok(())
    }

    // --- snapshots and the log --------------------------------------------------------------------------------------

    /// Takes the news that a snapshot of our own is durable: from now on it may be sent, and the log cut behind it.
    pub fn snapshot_made(&mut self, mark: SnapshotMark) -> Result<(), Fault> {
        let Mark { index, term } = mark.at;
        let log = &self.raw.raft.raft_log;
        let fail = |why: String| Err(Fault::invalid(format!("snapshot_made({index}): {why}")));
        if index == 0 || index > log.applied {
            return fail(format!("entries up to {} were handed out", log.applied));
        }
        if index > log.persisted {
            return fail(format!("rows up to {} are durable", log.persisted));
        }
        if let Err(why) = conf::check(&mark.conf_state) {
            return fail(format!("its conf state has {why}"));
        }
        if let Some(own) = self.tail().term_at(index).filter(|own| *own != term) {
            return fail(format!("its term is {term}, the log's {own}"));
        }
        self.raw.mut_store().offer(mark);
        Ok(())
    }

    /// Forgets the log up to `index`, at most the newest durable snapshot's.
    pub fn compact(&mut self, index: u64) -> Result<(), Fault> {
        let newest = self.tail().snapshot_index();
        if index > newest {
            return Err(Fault::invalid(format!(
                "compact({index}): the newest durable snapshot is at {newest}"
            )));
        }
        self.raw.mut_store().compact(index);
        Ok(())
    }

    // --- what there is to see ---------------------------------------------------------------------------------------

    pub fn raft(&self) -> &raft::Raft<Tail> {
        &self.raw.raft
    }

    /// How far a leader knows its peers to be, by id; empty on others.
    pub fn progress(&self) -> Vec<PeerProgress> {
        if !self.leads() {
            return Vec::new();
        }
        let raft = &self.raw.raft;
        let peers = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        let mut progress: Vec<_> = peers
            .map(|(id, progress)| PeerProgress {
                id: *id,
                matched: progress.matched,
                next_index: progress.next_idx,
                state: match progress.state {
                    ProgressState::Probe => "probe",
                    ProgressState::Replicate => "replicate",
                    ProgressState::Snapshot => "snapshot",
                },
                recent_active: progress.recent_active,
            })
            .collect();
        progress.sort_unstable_by_key(|peer| peer.id);
        progress
    }

    /// A conf change may be in the log that is not in force yet.
    pub fn has_pending_conf(&self) -> bool {
        self.raw.raft.has_pending_conf() || self.farewell.is_some()
    }

    fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// A snapshot was taken from a peer and is not durable yet (rule 9).
    fn is_installing(&self) -> bool {
        self.installing.is_some() || self.raw.raft.snap().is_some()
    }

    /// A sole voter wins at once, and raft panics if it then holds entries that are not durable (rule 14).
    ///
    /// Both halves of a joint state may hold nobody but us: raft's own `is_singleton` does not count that.
    fn sole_voter_waits(&self) -> bool {
        let raft = &self.raw.raft;
        !self.leads()
            && raft.promotable()
            && raft.raft_log.persisted < raft.raft_log.last_index()
            && raft
                .prs()
                .conf()
                .voters()
                .ids()
                .iter()
                .all(|id| id == raft.id)
    }
}
