//! The contexts of ReadIndex rounds that we began (rule 17).

use std::collections::{HashSet, VecDeque};

/// Heartbeat answers to older rounds than these come too late to be missed.
const MAX_REMEMBERED: usize = 1024;

/// The newest contexts, also of rounds that are over: a late answer to one of those still says that its sender lives.
#[derive(Default)]
pub struct ReadContexts {
    order: VecDeque<Vec<u8>>,
    known: HashSet<Vec<u8>>,
}

impl ReadContexts {
    pub fn remember(&mut self, context: &[u8]) {
        if !self.known.insert(context.to_vec()) {
            return;
        }
        self.order.push_back(context.to_vec());
        if self.order.len() > MAX_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }

    pub fn are_ours(&self, context: &[u8]) -> bool {
        self.known.contains(context)
    }
}
