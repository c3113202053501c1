//! Why a call did nothing.

/// Each kind becomes an exception of its own; raft-rs was not touched.
#[derive(Debug, PartialEq)]
pub enum Fault {
    /// Raft's rules do not allow it now; the name is part of the contract.
    Refused(&'static str),
    /// The caller broke the contract; says what and where.
    Invalid(String),
    /// Our disk lost what we had acknowledged.
    LostData(String),
}

impl Fault {
    pub fn invalid(text: impl Into<String>) -> Fault {
        Fault::Invalid(text.into())
    }
}
