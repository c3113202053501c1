//! Our own removal, while those that stay may not know of it (rule 11).

use raft::eraftpb::{ConfState, Entry};

use crate::conf;

/// What is committed from our removal on: kept back until the voters that stay know that it is committed.
///
/// A leader never proposes its own removal, but it may inherit it, and then nobody else knows at first that it is
/// committed. Were it to leave at once, voters that never hear of it would need its vote for good: the one voter that
/// is left of two could never lead again. Until then we are a member like any other.
pub struct Farewell {
    entries: Vec<Entry>,
    /// Who takes part after it.
    after: ConfState,
}

impl Farewell {
    /// Keeps back `entries`, of which the first one is our removal and leads to `after`.
    pub fn new(entries: Vec<Entry>, after: ConfState) -> Farewell {
        Farewell { entries, after }
    }

    /// Where our removal stands.
    pub fn index(&self) -> u64 {
        self.entries[0].index
    }

    /// Keeps back what was committed after it, too.
    pub fn push(&mut self, entries: Vec<Entry>) {
        self.entries.extend(entries);
    }

    /// Says whether a majority of those that stay know of it, by the commit index that each of them acknowledged.
    pub fn is_known(&self, acknowledged: impl Fn(u64) -> u64) -> bool {
        let sets = [&self.after.voters, &self.after.voters_outgoing];
        sets.iter().filter(|set| !set.is_empty()).all(|set| {
            let knowing = set.iter().filter(|id| acknowledged(**id) >= self.index());
            2 * knowing.count() > set.len()
        })
    }

    /// Says whether our removal is the leave of a joint state, of which we were an outgoing voter.
    pub fn leaves_joint(&self) -> bool {
        let change = conf::decode(&self.entries[0]).ok().flatten();
        change.is_some_and(|change| change.leave_joint())
    }

    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}
