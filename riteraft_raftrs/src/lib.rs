//! raft-rs 0.7.0's `RawNode` for Python, batch-wise: bytes and plain values in, bytes and plain values out.
//!
//! From the inside out: `tail` holds the log, `gate` looks at what peers send, `engine` drives raft-rs by the rules,
//! `node` and `ready` are the Python face, `panic` keeps a panic inside.

mod conf;
mod engine;
mod farewell;
mod fault;
mod gate;
mod log_ring;
mod node;
mod panic;
mod reads;
mod ready;
mod recovered;
mod status;
mod suspicion;
mod tail;
mod timeouts;

use pyo3::prelude::*;

/// raft-rs 0.7.0's RawNode, batch-wise: bytes and plain values in, bytes and plain values out.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::node::{LostAcknowledgedData, RaftPanic, RaftRefused, RawNode};
    #[pymodule_export]
    use crate::ready::Ready;
    #[pymodule_export]
    use crate::status::Status;

    use super::*;

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::panic::install_hook();
        Ok(())
    }
}
