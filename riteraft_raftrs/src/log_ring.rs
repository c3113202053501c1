//! raft-rs's own log, kept in a bounded ring until Python reads it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slog::{Drain, Key, Level, Logger, OwnedKVList, Record, Serializer, KV};

/// More than an election or a conf change writes; the oldest records give way.
const MAX_RECORDS: usize = 256;
/// Some of raft-rs's records print whole messages.
const MAX_TEXT: usize = 512;

/// `(level, text)`; levels are named as Python's logging names them.
pub type LogRecord = (&'static str, String);

#[derive(Default)]
struct Ring {
    records: VecDeque<LogRecord>,
    dropped: u64,
}

/// A handle: the clone inside raft-rs's logger writes, ours reads.
#[derive(Clone, Default)]
pub struct LogRing(Arc<Mutex<Ring>>);

impl LogRing {
    pub fn logger(&self) -> Logger {
        Logger::root(self.clone(), slog::o!())
    }

    /// Takes all records, oldest first; a first one tells of those that were lost.
    pub fn take(&self) -> Vec<LogRecord> {
        let mut ring = self.lock();
        let dropped = std::mem::take(&mut ring.dropped);
        let lost = (dropped > 0).then(|| ("warning", format!("{dropped} log records were lost")));
        lost.into_iter().chain(ring.records.drain(..)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic while a record was formatted leaves a whole ring behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain for LogRing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record, _: &OwnedKVList) -> Result<(), slog::Never> {
        let level = match record.level() {
            Level::Critical => "critical",
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
            // Written for each message: of no use at the price.
            Level::Debug | Level::Trace => return Ok(()),
        };
        let mut text = Text(record.msg().to_string());
        let _ = record.kv().serialize(record, &mut text);
        let mut text = text.0;
        if let Some((cut, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(cut);
            text.push('…');
        }
        let mut ring = self.lock();
        if ring.records.len() == MAX_RECORDS {
            ring.records.pop_front();
            ring.dropped += 1;
        }
        ring.records.push_back((level, text));
        Ok(())
    }
}

/// `message, key: value, …`
struct Text(String);

impl Serializer for Text {
    fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments) -> slog::Result {
        let _ = write!(self.0, ", {key}: {value}");
        Ok(())
    }
}
