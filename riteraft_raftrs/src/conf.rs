//! Who takes part: conf states and conf changes, checked before raft-rs sees them.
//!
//! prost's getters panic on an enum value they do not know, and a conf change that panics when it is applied kills
//! every replica at the same entry: nothing here calls a getter before the raw number was looked at.

use std::collections::HashSet;

use prost::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Entry, EntryType,
};

/// `(voters, learners, voters_outgoing, learners_next, auto_leave)`: a conf state as Python gives and gets it.
pub type ConfStateTuple = (Vec<u64>, Vec<u64>, Vec<u64>, Vec<u64>, bool);

/// Numbers from outside stay below this, so that no sum in raft-rs can wrap.
pub const LIMIT: u64 = 1 << 62;

/// Says whether `id` takes part in any way.
pub fn holds(conf: &ConfState, id: u64) -> bool {
    [&conf.voters, &conf.learners, &conf.voters_outgoing]
        .iter()
        .any(|set| set.contains(&id))
}

/// The conf state as plain values, each set in ascending order: raft-rs keeps them in hash order.
pub fn to_tuple(conf: &ConfState) -> ConfStateTuple {
    let sorted = |set: &[u64]| {
        let mut ids = set.to_vec();
        ids.sort_unstable();
        ids
    };
    (
        sorted(&conf.voters),
        sorted(&conf.learners),
        sorted(&conf.voters_outgoing),
        sorted(&conf.learners_next),
        conf.auto_leave,
    )
}

pub fn from_tuple(plain: ConfStateTuple) -> ConfState {
    let (voters, learners, voters_outgoing, learners_next, auto_leave) = plain;
    ConfState {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave,
    }
}

/// Says what is wrong with a conf state, if anything.
///
/// Each of these made raft-rs panic when it restored the state, but for doubled voters, which it let through.
pub fn check(conf: &ConfState) -> Result<(), &'static str> {
    let set = |ids: &[u64]| -> Result<HashSet<u64>, &'static str> {
        let set: HashSet<u64> = ids.iter().copied().collect();
        match () {
            () if set.contains(&0) => Err("node id 0"),
            () if ids.iter().any(|id| *id >= LIMIT) => Err("a node id out of range"),
            () if set.len() != ids.len() => Err("an id twice in one set"),
            () => Ok(set),
        }
    };
    let voters = set(&conf.voters)?;
    let learners = set(&conf.learners)?;
    let outgoing = set(&conf.voters_outgoing)?;
    let next = set(&conf.learners_next)?;
    if voters.is_empty() {
        return Err("no voters");
    }
    if !learners.is_disjoint(&voters) || !learners.is_disjoint(&outgoing) {
        return Err("a voter that is a learner");
    }
    if !next.is_subset(&outgoing) || !next.is_disjoint(&voters) {
        return Err("a next learner that is no outgoing voter");
    }
    if outgoing.is_empty() && conf.auto_leave {
        return Err("auto_leave without outgoing voters");
    }
    Ok(())
}

/// Decodes the conf change of an entry, or says why it is none. Normal entries give `None`.
pub fn decode(entry: &Entry) -> Result<Option<ConfChangeV2>, &'static str> {
    let change = match EntryType::from_i32(entry.entry_type) {
        None => return Err("unknown entry type"),
        Some(EntryType::EntryNormal) => return Ok(None),
        Some(EntryType::EntryConfChange) => {
            let one = ConfChange::decode(&*entry.data).map_err(|_| "undecodable conf change")?;
            ConfChangeV2 {
                changes: vec![ConfChangeSingle {
                    change_type: one.change_type,
                    node_id: one.node_id,
                }],
                ..Default::default()
            }
        }
        Some(EntryType::EntryConfChangeV2) => {
            ConfChangeV2::decode(&*entry.data).map_err(|_| "undecodable conf change")?
        }
    };
    if ConfChangeTransition::from_i32(change.transition).is_none() {
        return Err("unknown conf change transition");
    }
    for single in &change.changes {
        if ConfChangeType::from_i32(single.change_type).is_none() {
            return Err("unknown conf change type");
        }
        if single.node_id == 0 || single.node_id >= LIMIT {
            return Err("conf change of no node");
        }
    }
    Ok(Some(change))
}

/// Builds one conf change out of pairs of `add_voter`, `add_learner` or `remove` and a node id.
///
/// One pair is a simple change, several go through a joint state that is left by itself, none leaves the joint state.
pub fn change(pairs: &[(String, u64)]) -> Result<ConfChangeV2, String> {
    let mut change = ConfChangeV2::default();
    for (kind, node_id) in pairs {
        let change_type = match kind.as_str() {
            "add_voter" => ConfChangeType::AddNode,
            "add_learner" => ConfChangeType::AddLearnerNode,
            "remove" => ConfChangeType::RemoveNode,
            _ => {
                return Err(format!(
                    "conf change {kind:?}: not add_voter, add_learner or remove"
                ))
            }
        };
        if *node_id == 0 || *node_id >= LIMIT {
            return Err(format!("conf change {kind} {node_id}: no node has this id"));
        }
        change.changes.push(ConfChangeSingle {
            change_type: change_type as i32,
            node_id: *node_id,
        });
    }
    Ok(change)
}
