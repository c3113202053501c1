//! The log behind the last compaction, in memory: raft-rs's `Storage`.
//!
//! raft-rs's own `MemStorage` will not do: it offers snapshots that were never made, takes everything committed for
//! applied, and forgets the term of the entry before its first one. The disk is not our business: entries come in here
//! when a Ready is taken, and raft is told separately when they are durable.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

use prost::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, Storage, StorageError, NO_LIMIT};

use crate::conf;

/// Index and term of one place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub index: u64,
    pub term: u64,
}

/// What a durable snapshot stands for; its bytes are somebody else's.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotMark {
    pub at: Mark,
    pub conf_state: ConfState,
}

/// Entries `anchor.index + 1 ..= last`, without a gap.
pub struct Tail {
    /// What raft starts from; read once, by `RawNode::new`.
    start: RaftState,
    /// The entry before the first one held: raft matches the first append against its term.
    anchor: Mark,
    entries: VecDeque<Entry>,
    /// The newest snapshot that is durable.
    snapshot: Option<SnapshotMark>,
    /// Raft asked for a snapshot that we could not give.
    wanted: Cell<bool>,
}

impl Tail {
    /// Takes what the disk held. The caller has checked it: dense entries, the snapshot not before the anchor.
    pub fn new(
        mut hard_state: HardState,
        anchor: Mark,
        snapshot: Option<SnapshotMark>,
        entries: VecDeque<Entry>,
    ) -> Tail {
        let mut start = RaftState::default();
        if let Some(mark) = &snapshot {
            // A snapshot may be durable before the commit index that allowed it is (rule 5): raft panics at every
            // start from such a disk unless it is told the truth here.
            hard_state.commit = hard_state.commit.max(mark.at.index);
            start.conf_state = mark.conf_state.clone();
        }
        start.hard_state = hard_state;
        Tail {
            start,
            anchor,
            entries,
            snapshot,
            wanted: Cell::new(false),
        }
    }

    pub fn last(&self) -> u64 {
        self.anchor.index + self.entries.len() as u64
    }

    /// The newest durable snapshot's index, 0 without one.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |mark| mark.at.index)
    }

    /// The term at `index`, if it is the anchor's or an entry's.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.anchor.index {
            return Some(self.anchor.term);
        }
        let offset = index.checked_sub(self.anchor.index + 1)?;
        self.entries
            .get(usize::try_from(offset).ok()?)
            .map(|e| e.term)
    }

    /// Adds entries; the first one's index cuts off everything at or after it (Raft paper §5.3).
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.anchor.index < first.index && first.index <= self.last() + 1,
            "append at {} to a tail that holds {}..={}",
            first.index,
            self.anchor.index + 1,
            self.last()
        );
        self.entries
            .truncate((first.index - self.anchor.index - 1) as usize);
        self.entries.extend(entries);
    }

    /// Forgets everything: the log goes on after a snapshot that is on its way to disk.
    pub fn restart_after(&mut self, at: Mark) {
        self.anchor = at;
        self.entries.clear();
    }

    /// Notes a snapshot that is durable now; an older one than the newest known is of no use.
    pub fn offer(&mut self, mark: SnapshotMark) {
        if mark.at.index > self.snapshot_index() {
            self.snapshot = Some(mark);
            self.wanted.set(false);
        }
    }

    /// Forgets the entries up to and including `index`, which must be held.
    pub fn compact(&mut self, index: u64) {
        if index <= self.anchor.index {
            return;
        }
        let term = self
            .term_at(index)
            .expect("compacted up to an entry that is held");
        self.entries.drain(..(index - self.anchor.index) as usize);
        self.anchor = Mark { index, term };
    }

    /// The entries of a range that is held.
    pub fn range(&self, indexes: RangeInclusive<u64>) -> impl ExactSizeIterator<Item = &Entry> {
        let at = |index: u64| (index - self.anchor.index - 1) as usize;
        self.entries
            .range(at(*indexes.start())..=at(*indexes.end()))
    }

    /// Says once whether a snapshot was asked for that we could not give.
    pub fn take_wanted(&self) -> bool {
        self.wanted.take()
    }

    pub fn is_wanted(&self) -> bool {
        self.wanted.get()
    }
}

impl Storage for Tail {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.anchor.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if low >= high {
            return Ok(Vec::new());
        }
        let max_size = max_size.into().unwrap_or(NO_LIMIT);
        if max_size == NO_LIMIT {
            return Ok(self.range(low..=high - 1).cloned().collect());
        }
        // Stop at the limit before copying, not after it: a far-behind peer would else cost a copy of the whole log
        // for each message. At least one entry is always given.
        let mut size = 0;
        let fitting = self.range(low..=high - 1).take_while(|entry| {
            let first = size == 0;
            size += entry.encoded_len() as u64;
            first || size <= max_size
        });
        Ok(fitting.cloned().collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        match self.term_at(index) {
            Some(term) => Ok(term),
            None if index < self.anchor.index => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.anchor.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// Gives the newest durable snapshot, without data, if `to` can use it (rule 12).
    ///
    /// A snapshot that leaves `to` out would be ignored by it for ever, and one before our first entry leaves a gap:
    /// then a new one is asked for. No other error and no snapshot at index 0: raft takes both for fatal.
    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        match &self.snapshot {
            Some(mark)
                if conf::holds(&mark.conf_state, to)
                    && mark.at.index >= request_index.max(1)
                    && mark.at.index >= self.anchor.index =>
            {
                let mut snapshot = Snapshot::default();
                let meta = snapshot.mut_metadata();
                meta.index = mark.at.index;
                meta.term = mark.at.term;
                meta.set_conf_state(mark.conf_state.clone());
                Ok(snapshot)
            }
            _ => {
                self.wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}
