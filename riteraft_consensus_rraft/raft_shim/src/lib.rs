//! TiKV's `raft` 0.7.0 as published, with the one module that rraft-py expects of its fork beside it.
//!
//! rraft-py takes `raft` from a fork on GitHub that differs by `derializer` alone: text for `repr()`, in which a
//! Python program may say how its own bytes read.

pub use published::*;

pub mod derializer {
    //! How messages and entries read as text; the misspelt name is the fork's.

    use std::sync::OnceLock;

    use published::eraftpb::{ConfChange, ConfChangeV2, Entry, Message, Snapshot};

    /// Bytes of a program; which codec they came through is of no interest to whoever prints them.
    pub enum Bytes {
        Prost(Vec<u8>),
        Protobuf(Vec<u8>),
    }

    /// Turns a program's own bytes into text.
    pub trait CustomDeserializer {
        fn entry_context_deserialize(&self, v: &Bytes) -> String;
        fn entry_data_deserialize(&self, v: &Bytes) -> String;
        fn confchangev2_context_deserialize(&self, v: &Bytes) -> String;
        fn confchange_context_deserialize(&self, v: &Bytes) -> String;
        fn message_context_deserializer(&self, v: &Bytes) -> String;
        fn snapshot_data_deserializer(&self, v: &Bytes) -> String;
    }

    type Chosen = Box<dyn CustomDeserializer + Send + Sync>;

    static CHOSEN: OnceLock<Chosen> = OnceLock::new();

    /// Chooses who turns bytes into text; the first one stays.
    pub fn set_custom_deserializer(chosen: impl CustomDeserializer + Send + Sync + 'static) {
        let _ = CHOSEN.set(Box::new(chosen));
    }

    fn text(bytes: &[u8], by: fn(&Chosen, &Bytes) -> String) -> String {
        match CHOSEN.get() {
            Some(chosen) => by(chosen, &Bytes::Prost(bytes.to_vec())),
            None => format!("{bytes:?}"),
        }
    }

    pub fn format_entry(entry: &Entry) -> String {
        format!(
            "Entry {{ context: {}, data: {}, entry_type: {}, index: {}, sync_log: {}, term: {} }}",
            text(&entry.context, |c, v| c.entry_context_deserialize(v)),
            text(&entry.data, |c, v| c.entry_data_deserialize(v)),
            entry.entry_type,
            entry.index,
            entry.sync_log,
            entry.term,
        )
    }

    pub fn format_confchange(change: &ConfChange) -> String {
        format!(
            "ConfChange {{ id: {}, change_type: {}, node_id: {}, context: {} }}",
            change.id,
            change.change_type,
            change.node_id,
            text(&change.context, |c, v| c.confchange_context_deserialize(v)),
        )
    }

    pub fn format_confchangev2(change: &ConfChangeV2) -> String {
        format!(
            "ConfChangeV2 {{ transition: {}, changes: {:?}, context: {} }}",
            change.transition,
            change.changes,
            text(&change.context, |c, v| c
                .confchangev2_context_deserialize(v)),
        )
    }

    pub fn format_snapshot(snapshot: &Snapshot) -> String {
        format!(
            "Snapshot {{ data: {}, metadata: {:?} }}",
            text(&snapshot.data, |c, v| c.snapshot_data_deserializer(v)),
            snapshot.metadata,
        )
    }

    pub fn format_message(message: &Message) -> String {
        let entries: Vec<_> = message.entries.iter().map(format_entry).collect();
        format!(
            "Message {{ msg_type: {}, to: {}, from: {}, term: {}, log_term: {}, index: {}, entries: [{}], \
             commit: {}, commit_term: {}, snapshot: {}, request_snapshot: {}, reject: {}, reject_hint: {}, \
             context: {}, priority: {} }}",
            message.msg_type,
            message.to,
            message.from,
            message.term,
            message.log_term,
            message.index,
            entries.join(", "),
            message.commit,
            message.commit_term,
            message.snapshot.as_ref().map_or("None".to_owned(), format_snapshot),
            message.request_snapshot,
            message.reject,
            message.reject_hint,
            text(&message.context, |c, v| c.message_context_deserializer(v)),
            message.priority,
        )
    }
}
