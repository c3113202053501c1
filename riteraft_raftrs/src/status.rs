//! `Status` as Python sees it.

use pyo3::prelude::*;

use crate::conf::{self, ConfStateTuple};
use crate::engine::Engine;
use crate::ready::role_name;

/// The node's state at one moment; see the stub for each field.
#[pyclass(frozen, get_all, module = "riteraft_raftrs._native")]
pub struct Status {
    node_id: u64,
    term: u64,
    /// 0 if none was given in this term.
    vote: u64,
    /// `follower`, `pre-candidate`, `candidate` or `leader`.
    role: &'static str,
    /// 0 while none is known.
    leader: u64,
    commit: u64,
    first_index: u64,
    last_index: u64,
    conf_state: ConfStateTuple,
    /// 0 while no transfer runs.
    transferring_to: u64,
    /// Another conf change would be refused: one may be in the log that was not handed out yet.
    pending_conf_change: bool,
    /// (peer, matched, next index, `probe` | `replicate` | `snapshot`, recently active), by id; a leader's only.
    progress: Vec<(u64, u64, u64, &'static str, bool)>,
}

impl Status {
    pub fn of(engine: &Engine) -> Status {
        let raft = engine.raft();
        let peers = engine.progress().into_iter();
        Status {
            node_id: raft.id,
            term: raft.term,
            vote: raft.vote,
            role: role_name(raft.state),
            leader: raft.leader_id,
            commit: raft.raft_log.committed,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            conf_state: conf::to_tuple(&raft.prs().conf().to_conf_state()),
            transferring_to: raft.lead_transferee.unwrap_or(0),
            pending_conf_change: engine.has_pending_conf(),
            progress: peers
                .map(|p| (p.id, p.matched, p.next_index, p.state, p.recent_active))
                .collect(),
        }
    }
}
