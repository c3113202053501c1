//! Panics inside raft-rs: caught, silent on stderr, told as text (rule 25).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::path::Path;
use std::sync::Once;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the hook, once a process. It passes on every panic that is not inside `catch`.
pub fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A thread that is ending has no thread-locals any more, and is not inside raft-rs either.
            if INSIDE.try_with(Cell::get).unwrap_or(false) {
                let _ = PLACE.try_with(|place| place.replace(describe_place(info)));
            } else {
                previous(info);
            }
        }));
    });
}

/// Runs `body`; a panic comes back as its text and place.
///
/// What `body` had its hands on may be half-changed after that: the caller must never use it again.
pub fn catch<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    let outer = INSIDE.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(outer);
    result.map_err(|payload| {
        let place = PLACE.take();
        let text = describe_payload(&*payload);
        // Dropping a payload may panic too, in principle; there is nobody left to tell.
        std::mem::forget(payload);
        match place {
            Some(place) => format!("{text} ({place})"),
            None => text,
        }
    })
}

/// File name and line: the whole path is that of the machine that built the wheel.
fn describe_place(info: &PanicHookInfo) -> Option<String> {
    let location = info.location()?;
    let file = Path::new(location.file()).file_name()?.to_string_lossy();
    Some(format!("{file}:{}", location.line()))
}

fn describe_payload(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else {
        "a panic without a text".to_owned()
    }
}
