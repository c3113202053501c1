//! Whether our disk lost entries that we had acknowledged (rule 19).

/// A leader's claim that we acknowledged more than we hold.
///
/// A heartbeat's commit is at most what its receiver acknowledged as durable, so one past our log cannot be: but a
/// single one proves nothing about the disk, a bug or a forger could have sent it. Only a leader that goes on saying
/// so for an election timeout is believed.
struct Claim {
    leader: u64,
    term: u64,
    commit: u64,
    ticks: usize,
    /// `ticks` when the leader last said so.
    repeated_at: usize,
}

#[derive(Default)]
pub struct Suspicion(Option<Claim>);

impl Suspicion {
    /// Counts a heartbeat that was dropped because its commit is past our log.
    pub fn heartbeat(&mut self, leader: u64, term: u64, commit: u64) {
        match &mut self.0 {
            Some(claim) if claim.leader == leader && claim.term == term => {
                claim.commit = claim.commit.max(commit);
                claim.repeated_at = claim.ticks;
            }
            _ => {
                self.0 = Some(Claim {
                    leader,
                    term,
                    commit,
                    ticks: 0,
                    repeated_at: 0,
                });
            }
        }
    }

    /// Notes an append that was taken: the claim is void once our log reaches it.
    pub fn append(&mut self, leader: u64, last_index: u64) {
        if (self.0.as_ref()).is_some_and(|c| c.leader == leader && last_index >= c.commit) {
            self.0 = None;
        }
    }

    /// Counts a tick; gives the leader and the commit claimed once that has lasted too long.
    pub fn tick(&mut self, term: u64, election_tick: usize) -> Option<(u64, u64)> {
        if self.0.as_ref().is_some_and(|claim| claim.term != term) {
            self.0 = None;
        }
        let claim = self.0.as_mut()?;
        claim.ticks += 1;
        (claim.repeated_at >= election_tick).then_some((claim.leader, claim.commit))
    }
}
