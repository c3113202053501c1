//! What a disk gave back, checked before raft-rs starts from it (rule 5).

use std::collections::VecDeque;

use raft::eraftpb::{Entry, HardState};

use crate::conf::{self, LIMIT};
use crate::fault::Fault;
use crate::tail::{Mark, SnapshotMark};

/// Looks for what raft-rs would panic at, now or later, in what a disk gave back.
pub fn check(
    hard_state: &HardState,
    anchor: Mark,
    snapshot: Option<&SnapshotMark>,
    entries: &VecDeque<Entry>,
) -> Result<(), Fault> {
    let HardState { term, vote, commit } = *hard_state;
    if term == 0 || term >= LIMIT || vote >= LIMIT {
        return Err(Fault::invalid(format!(
            "hard_state: term {term}, vote {vote}"
        )));
    }
    if anchor.index >= LIMIT || (anchor.index == 0) != (anchor.term == 0) || anchor.term > term {
        return Err(Fault::invalid(format!(
            "anchor: index {}, term {} at hard state term {term}",
            anchor.index, anchor.term
        )));
    }
    let mut before = anchor;
    for entry in entries {
        let here = Mark {
            index: entry.index,
            term: entry.term,
        };
        if here.index != before.index + 1 {
            return Err(Fault::invalid(format!(
                "entry {}: follows {}",
                here.index, before.index
            )));
        }
        if here.term < before.term.max(1) || here.term > term {
            return Err(Fault::invalid(format!(
                "entry {}: term {} after {} at hard state term {term}",
                here.index, here.term, before.term
            )));
        }
        if let Err(why) = conf::decode(entry) {
            return Err(Fault::invalid(format!("entry {}: {why}", here.index)));
        }
        before = here;
    }
    let last = before.index;
    if commit > last {
        return Err(Fault::invalid(format!(
            "hard_state: commit {commit} is past the last entry {last}"
        )));
    }
    let Some(SnapshotMark { at, conf_state }) = snapshot else {
        return match anchor.index {
            0 => Ok(()),
            _ => Err(Fault::invalid(format!(
                "anchor: index {} without a snapshot",
                anchor.index
            ))),
        };
    };
    if at.index < anchor.index.max(1) || at.index > last {
        return Err(Fault::invalid(format!(
            "snapshot: index {} is outside {}..={last}",
            at.index, anchor.index
        )));
    }
    let own = match at.index == anchor.index {
        true => anchor.term,
        false => entries[(at.index - anchor.index - 1) as usize].term,
    };
    if at.term != own {
        return Err(Fault::invalid(format!(
            "snapshot: term {} at index {}, where the log has {own}",
            at.term, at.index
        )));
    }
    conf::check(conf_state)
        .map_err(|why| Fault::invalid(format!("snapshot: its conf state has {why}")))
}
