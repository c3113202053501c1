//! `Ready` as Python sees it.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use raft::StateRole;

use crate::conf;
use crate::engine::{Effects, Outbox};
use crate::tail::Tail;

/// Everything one `RawNode.ready` wants done; taken once.
///
/// The order that must hold (Raft paper §5, raft-rs's asynchronous Ready): `messages` may leave at once; `snapshot`,
/// `entries` and `hard_state` are made durable, in the order of `number`; then `RawNode.persisted(number)` is called;
/// only then `persisted_messages` leave and `snapshots` begin to stream.
#[pyclass(frozen, get_all, module = "riteraft_raftrs._native")]
pub struct Ready {
    /// Counts from 1; what `persisted` takes.
    number: u64,
    term: u64,
    /// `follower`, `pre-candidate`, `candidate` or `leader`.
    role: &'static str,
    /// 0 while none is known.
    leader: u64,
    /// (peer, encoded messages in order) that need not wait for the disk.
    messages: Py<PyList>,
    /// (term, vote, commit), if any of them changed.
    hard_state: Option<(u64, u64, u64)>,
    /// False exactly if there is neither an entry nor a snapshot nor a change of term or vote: then nothing but a
    /// commit index would be lost by a crash.
    must_sync: bool,
    /// (index, term, encoded entry), dense; the first one's index cuts off every row at or after it.
    entries: Py<PyList>,
    /// (index, term) of the snapshot to install: the one last given to `step_snapshot`.
    snapshot: Option<(u64, u64)>,
    /// (peer, encoded messages in order) that leave once this Ready is durable (rules 1 and 20).
    persisted_messages: Py<PyList>,
    /// (to, snapshot index, encoded MsgSnapshot): to be streamed once this Ready is durable, each ended by exactly one
    /// `report_snapshot`.
    snapshots: Py<PyList>,
    /// (index, term, kind, context, data) to apply, in order.
    committed: Py<PyList>,
    /// (index, conf state after it, why raft refused it or None) of each conf change in `committed`.
    conf_states: Py<PyList>,
    /// (read index, context) of each ReadIndex round that got its quorum (thesis §6.4).
    read_states: Py<PyList>,
    /// A peer needs a snapshot that the newest durable one cannot be (rule 12).
    snapshot_wanted: bool,
    /// A conf change in `committed` removed this node: every later call is refused (rule 11).
    removed: bool,
}

#[pymethods]
impl Ready {
    fn __repr__(&self, py: Python<'_>) -> String {
        format!(
            "<Ready {}: {} in term {}, {} entries, {} committed>",
            self.number,
            self.role,
            self.term,
            self.entries.bind(py).len(),
            self.committed.bind(py).len()
        )
    }
}

impl Ready {
    /// Copies each entry and message once, straight into the bytes object that Python gets.
    ///
    /// Messages and committed entries go as they are copied: together they may be most of what is in flight.
    pub fn build(py: Python<'_>, effects: Effects, tail: &Tail) -> PyResult<Ready> {
        let rows = effects
            .entries
            .map(|(first, last)| tail.range(first..=last));
        let entries = rows
            .into_iter()
            .flatten()
            .map(|entry| (entry.index, entry.term, encode(py, entry)?).into_pyobject(py));
        let committed = effects.committed.into_iter().map(|entry| {
            let context = PyBytes::new(py, &entry.context);
            let data = PyBytes::new(py, &entry.data);
            (entry.index, entry.term, entry.entry_type, context, data).into_pyobject(py)
        });
        let snapshots = effects.snapshots.iter().map(|message| {
            let index = message.get_snapshot().get_metadata().index;
            (message.to, index, encode(py, message)?).into_pyobject(py)
        });
        let conf_states = effects.conf_states.iter().map(|change| {
            let conf_state = conf::to_tuple(&change.conf_state);
            (change.index, conf_state, change.refused.as_deref()).into_pyobject(py)
        });
        let read_states = effects
            .read_states
            .iter()
            .map(|(index, context)| (*index, PyBytes::new(py, context)).into_pyobject(py));
        Ok(Ready {
            number: effects.number,
            term: effects.term,
            role: role_name(effects.role),
            leader: effects.leader,
            messages: outbox(py, effects.messages)?,
            hard_state: effects.hard_state.map(|hs| (hs.term, hs.vote, hs.commit)),
            must_sync: effects.must_sync,
            entries: list(py, entries)?,
            snapshot: effects.snapshot.map(|at| (at.index, at.term)),
            persisted_messages: outbox(py, effects.persisted_messages)?,
            snapshots: list(py, snapshots)?,
            committed: list(py, committed)?,
            conf_states: list(py, conf_states)?,
            read_states: list(py, read_states)?,
            snapshot_wanted: effects.snapshot_wanted,
            removed: effects.removed,
        })
    }
}

pub fn role_name(role: StateRole) -> &'static str {
    match role {
        StateRole::Follower => "follower",
        StateRole::PreCandidate => "pre-candidate",
        StateRole::Candidate => "candidate",
        StateRole::Leader => "leader",
    }
}

fn list<'py>(
    py: Python<'py>,
    items: impl Iterator<Item = PyResult<Bound<'py, PyTuple>>>,
) -> PyResult<Py<PyList>> {
    let items: Vec<_> = items.collect::<PyResult<_>>()?;
    Ok(PyList::new(py, items)?.unbind())
}

fn outbox(py: Python<'_>, outbox: Outbox) -> PyResult<Py<PyList>> {
    let peers = outbox.0.into_iter().map(|(to, messages)| {
        let encoded: Vec<_> = (messages.into_iter())
            .map(|m| encode(py, &m))
            .collect::<PyResult<_>>()?;
        (to, PyList::new(py, encoded)?).into_pyobject(py)
    });
    list(py, peers)
}

fn encode<'py>(py: Python<'py>, message: &impl prost::Message) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, message.encoded_len(), |mut room| {
        message
            .encode(&mut room)
            .expect("the room is exactly the encoded length");
        Ok(())
    })
}
