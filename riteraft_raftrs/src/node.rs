//! `RawNode` as Python sees it: a lock, a guard against panics, and conversions.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::sync::MutexExt;
use pyo3::types::PyBytes;
use raft::eraftpb::{Entry, HardState};

use crate::conf::{self, ConfStateTuple};
use crate::engine::{Engine, Settings};
use crate::fault::Fault;
use crate::log_ring::{LogRecord, LogRing};
use crate::panic;
use crate::ready::Ready;
use crate::status::Status;
use crate::tail::{Mark, SnapshotMark};

create_exception!(
    riteraft_raftrs._native,
    RaftPanic,
    PyException,
    "raft-rs panicked; the object is unusable from now on and every later call raises this again."
);
create_exception!(
    riteraft_raftrs._native,
    RaftRefused,
    PyException,
    "The call was checked and not carried out; `args[0]` is the reason's name. Nothing happened."
);
create_exception!(
    riteraft_raftrs._native,
    LostAcknowledgedData,
    PyException,
    "The leader of our term has for an election timeout claimed a commit that we acknowledged and do not hold."
);

/// Below this, decoding takes less time than giving the interpreter up and getting it back.
const WORTH_DETACHING: usize = 64 * 1024;

type LogRow<'py> = (u64, u64, Bound<'py, PyBytes>);

impl From<Fault> for PyErr {
    fn from(fault: Fault) -> PyErr {
        match fault {
            Fault::Refused(reason) => RaftRefused::new_err(reason),
            Fault::Invalid(text) => PyValueError::new_err(text),
            Fault::LostData(text) => LostAcknowledgedData::new_err(text),
        }
    }
}

/// An engine, or what is left of it after a panic.
struct Guarded {
    /// Kept after a panic, untouched: what its parts look like then is anybody's guess.
    engine: Option<Engine>,
    panicked: Option<String>,
}

impl Guarded {
    /// Runs `body` on the engine; the first panic is the last thing that happens to it.
    fn run<R>(&mut self, body: impl FnOnce(&mut Engine) -> Result<R, Fault>) -> PyResult<R> {
        if let Some(text) = &self.panicked {
            return Err(RaftPanic::new_err(text.clone()));
        }
        let engine = self.engine.as_mut().expect("only Drop takes the engine");
        let outcome = panic::catch(|| {
            engine.check_usable()?;
            body(engine)
        });
        match outcome {
            Ok(result) => Ok(result?),
            Err(text) => Err(self.poison(text)),
        }
    }

    fn poison(&mut self, text: String) -> PyErr {
        self.panicked = Some(text.clone());
        RaftPanic::new_err(text)
    }
}

/// One raft node without clock, disk or socket.
///
/// The methods may be called from any thread, one at a time. Any of them may raise `RaftPanic`, and once a conf change
/// removed the node each raises `RaftRefused("removed")`; `take_log` alone never raises.
#[pyclass(frozen, module = "riteraft_raftrs._native")]
pub struct RawNode {
    guarded: Mutex<Guarded>,
    log: LogRing,
}

impl RawNode {
    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Guarded> {
        // Panics are caught inside the lock; were one to get past, the poisoning would be ours to tell, not std's.
        (self.guarded.lock_py_attached(py)).unwrap_or_else(PoisonError::into_inner)
    }

    fn run<R>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut Engine) -> Result<R, Fault>,
    ) -> PyResult<R> {
        self.lock(py).run(body)
    }
}

#[pymethods]
impl RawNode {
    #[new]
    #[pyo3(signature = (
        *, node_id, hard_state, anchor, snapshot, entries, seed,
        election_tick = 20, heartbeat_tick = 2, max_size_per_msg = 262_144, max_inflight_msgs = 64,
        max_uncommitted_size = 67_108_864, max_committed_size_per_ready = 4_194_304,
        pre_vote = true, check_quorum = true, commit_notices = true,
    ))]
    #[allow(clippy::too_many_arguments)] // keyword-only in Python
    fn new(
        node_id: u64,
        hard_state: (u64, u64, u64),
        anchor: (u64, u64),
        snapshot: Option<(u64, u64, ConfStateTuple)>,
        entries: Vec<LogRow<'_>>,
        seed: u64,
        election_tick: usize,
        heartbeat_tick: usize,
        max_size_per_msg: u64,
        max_inflight_msgs: usize,
        max_uncommitted_size: u64,
        max_committed_size_per_ready: u64,
        pre_vote: bool,
        check_quorum: bool,
        commit_notices: bool,
    ) -> PyResult<RawNode> {
        let (term, vote, commit) = hard_state;
        let settings = Settings {
            node_id,
            seed,
            election_tick,
            heartbeat_tick,
            max_size_per_msg,
            max_inflight_msgs,
            max_uncommitted_size,
            max_committed_size_per_ready,
            pre_vote,
            check_quorum,
            commit_notices,
        };
        let anchor = Mark {
            index: anchor.0,
            term: anchor.1,
        };
        let snapshot = snapshot.map(|(index, term, conf_state)| SnapshotMark {
            at: Mark { index, term },
            conf_state: conf::from_tuple(conf_state),
        });
        let entries: VecDeque<Entry> = entries.iter().map(decode_row).collect::<Result<_, _>>()?;
        let log = LogRing::default();
        let hard_state = HardState { term, vote, commit };
        let made =
            panic::catch(|| Engine::new(settings, hard_state, anchor, snapshot, entries, &log));
        let engine = made.map_err(RaftPanic::new_err)??;
        Ok(RawNode {
            guarded: Mutex::new(Guarded {
                engine: Some(engine),
                panicked: None,
            }),
            log,
        })
    }

    /// Let one tick of logical time pass.
    ///
    /// Nothing happens while a snapshot is on its way to disk (rule 9), or to a sole voter that does not lead while
    /// its entries are (rule 14). A leader in a joint state with nothing pending proposes to leave it (rule 10).
    ///
    /// :raises LostAcknowledgedData: the leader of our term has for `election_tick` ticks repeated a commit that is
    ///     past our log (rule 19).
    fn tick(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, Engine::tick)
    }

    /// Start an election now, with PreVote; ignored unless this node is a voter, and where `tick` is.
    fn campaign(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |engine| {
            engine.campaign();
            Ok(())
        })
    }

    /// Take encoded messages that the authenticated `sender` sent; return a short reason for each one dropped.
    ///
    /// What raft-rs would panic at, or believe wrongly, is dropped (the gate). A MsgSnapshot is too: it has its own
    /// way in, `step_snapshot`. Bytes that are no message are a reason, never an exception.
    fn step_many(
        &self,
        py: Python<'_>,
        sender: u64,
        messages: Vec<PyBackedBytes>,
    ) -> PyResult<Vec<&'static str>> {
        let step =
            |engine: &mut Engine| Ok(engine.step_many(sender, messages.iter().map(|m| &**m)));
        if messages.iter().map(|m| m.len()).sum::<usize>() < WORTH_DETACHING {
            return self.run(py, step);
        }
        py.detach(|| {
            let mut guarded = self.guarded.lock().unwrap_or_else(PoisonError::into_inner);
            guarded.run(step)
        })
    }

    /// Take a MsgSnapshot whose data is staged and verified; return why it was dropped, or None.
    ///
    /// Only if the next `ready` carries `snapshot` is it to be installed: raft may find that its log reaches that far
    /// already. One at a time: while a snapshot is on its way to disk another one is dropped.
    fn step_snapshot(
        &self,
        py: Python<'_>,
        sender: u64,
        message: PyBackedBytes,
    ) -> PyResult<Option<&'static str>> {
        self.run(py, |engine| Ok(engine.step_snapshot(sender, &message)))
    }

    /// Append (context, data) pairs as the leader, all or none; return (index of the first, term).
    ///
    /// That they are in the leader's log says nothing about whether they will commit: an entry of another term at that
    /// index, once committed, proves that these did not.
    ///
    /// :raises RaftRefused: `not_leader`, `transferring`, or `full`: `max_uncommitted_size` bytes of data would be
    ///     passed (rule 15).
    /// :raises ValueError: there are no pairs.
    fn propose_many(
        &self,
        py: Python<'_>,
        entries: Vec<(Bound<'_, PyBytes>, Bound<'_, PyBytes>)>,
    ) -> PyResult<(u64, u64)> {
        let entries = entries.iter().map(|(context, data)| Entry {
            context: context.as_bytes().to_vec(),
            data: data.as_bytes().to_vec(),
            ..Default::default()
        });
        let entries = entries.collect();
        self.run(py, |engine| engine.propose_many(entries))
    }

    /// Append one conf change (thesis §4); return (index, term).
    ///
    /// Pairs of `add_voter`, `add_learner` or `remove` and a node id: one is a simple change, several go through a
    /// joint state that is left by itself, none leaves the joint state.
    ///
    /// :raises RaftRefused: `not_leader`, `transferring`, `full`, `pending_conf_change`, `joint` (a change while joint,
    ///     or a leave while not), `last_voter`, `removes_leader` (removed or made a learner: rule 11).
    /// :raises ValueError: an unknown kind, or an id that no node has.
    fn propose_conf_change(
        &self,
        py: Python<'_>,
        context: PyBackedBytes,
        changes: Vec<(String, u64)>,
    ) -> PyResult<(u64, u64)> {
        self.run(py, |engine| {
            engine.propose_conf_change(context.to_vec(), &changes)
        })
    }

    /// Start a ReadIndex round (thesis §6.4); its index comes back in `Ready.read_states` under this context.
    ///
    /// A context must never be used twice, not by an earlier life of this node either. A round that has no quorum when
    /// leadership is lost is never answered.
    ///
    /// :raises RaftRefused: `not_leader`, or `no_commit_in_term`: raft-rs would drop it in silence (rule 17).
    /// :raises ValueError: the context is empty.
    fn read_index(&self, py: Python<'_>, context: PyBackedBytes) -> PyResult<()> {
        self.run(py, |engine| engine.read_index(context.to_vec()))
    }

    /// Begin to hand leadership to a voter (thesis §3.10); given up after `election_tick` ticks.
    ///
    /// :raises RaftRefused: `not_leader`, `is_leader`, `unknown_node`, `learner`, `installing`.
    fn transfer_leader(&self, py: Python<'_>, to: u64) -> PyResult<()> {
        self.run(py, |engine| engine.transfer_leader(to))
    }

    /// Tell the followers the commit index now; nothing but a leader's word, so nothing on any other node.
    ///
    /// With `commit_notices = False` they else learn it by the next append or heartbeat.
    fn announce_commit(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |engine| {
            engine.announce_commit();
            Ok(())
        })
    }

    /// Tell that messages to `peer` were lost: a leader probes it again before it sends more.
    fn report_unreachable(&self, py: Python<'_>, peer: u64) -> PyResult<()> {
        self.run(py, |engine| {
            engine.report_unreachable(peer);
            Ok(())
        })
    }

    /// Tell how the streaming of a snapshot to `peer` ended; exactly once for each of `Ready.snapshots`.
    fn report_snapshot(&self, py: Python<'_>, peer: u64, ok: bool) -> PyResult<()> {
        self.run(py, |engine| {
            engine.report_snapshot(peer, ok);
            Ok(())
        })
    }

    /// Take what there is to do, or None. Call it again until it gives None: a conf change may make more.
    fn ready(&self, py: Python<'_>) -> PyResult<Option<Ready>> {
        let mut guarded = self.lock(py);
        let Some(effects) = guarded.run(|engine| Ok(engine.ready()))? else {
            return Ok(None);
        };
        let engine = guarded.engine.as_ref().expect("only Drop takes the engine");
        match Ready::build(py, effects, engine.tail()) {
            Ok(ready) => Ok(Some(ready)),
            Err(error) => {
                // Out of memory: what was taken out of raft is lost, and the node must not go on without it.
                guarded.poison(format!("a Ready was lost: {error}"));
                Err(error)
            }
        }
    }

    /// Tell that everything up to and including `Ready.number` is durable; an older number is ignored.
    ///
    /// :raises ValueError: no such Ready was handed out.
    fn persisted(&self, py: Python<'_>, number: u64) -> PyResult<()> {
        self.run(py, |engine| engine.persisted(number))
    }

    /// Tell that this snapshot of our own is durable: peers may get it, and the log may be cut behind it.
    ///
    /// :raises ValueError: its entries were not all handed out and durable, its term is not the log's, or its conf
    ///     state is none that raft could restore.
    fn snapshot_made(
        &self,
        py: Python<'_>,
        index: u64,
        term: u64,
        conf_state: ConfStateTuple,
    ) -> PyResult<()> {
        let mark = SnapshotMark {
            at: Mark { index, term },
            conf_state: conf::from_tuple(conf_state),
        };
        self.run(py, |engine| engine.snapshot_made(mark))
    }

    /// Forget the log up to and including `index`; an index forgotten already is ignored.
    ///
    /// :raises ValueError: `index` is past the newest durable snapshot (rule 5).
    fn compact(&self, py: Python<'_>, index: u64) -> PyResult<()> {
        self.run(py, |engine| engine.compact(index))
    }

    /// Return the node's state now.
    fn status(&self, py: Python<'_>) -> PyResult<Status> {
        self.run(py, |engine| Ok(Status::of(engine)))
    }

    /// Take raft-rs's own log as (level, text), oldest first; of the unread only the newest 256 are kept.
    ///
    /// Works after a panic and after a removal too: that is when it is read.
    fn take_log(&self) -> Vec<LogRecord> {
        self.log.take()
    }

    /// Panic inside the guard, as raft-rs would: for tests of what happens then.
    fn panic_on_purpose(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |_| panic!("on purpose"))
    }
}

impl Drop for RawNode {
    fn drop(&mut self) {
        let guarded = self
            .guarded
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let engine = guarded.engine.take();
        // After a panic raft-rs's parts may panic again as they go; nobody can be told here.
        let _ = panic::catch(|| drop(engine));
    }
}

fn decode_row(row: &LogRow<'_>) -> Result<Entry, Fault> {
    let (index, term, encoded) = row;
    let entry = Entry::decode(encoded.as_bytes())
        .map_err(|error| Fault::invalid(format!("entry {index}: undecodable: {error}")))?;
    match (entry.index, entry.term) == (*index, *term) {
        true => Ok(entry),
        false => Err(Fault::invalid(format!(
            "entry {index}: its row says term {term}, its bytes index {} and term {}",
            entry.index, entry.term
        ))),
    }
}
