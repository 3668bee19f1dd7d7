//! Panics of a task stay with the task: in the call, in what it dropped, and in the panic's own
//! value. One way for every lane that runs Rust code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::TaskError;

/// Runs `code`; a panic becomes an error with its message.
///
/// A panic while another unwinds, a stack overflow and `abort` cannot be held: they take the
/// process. Code that may do so belongs on the process lane.
pub fn contained<T>(code: impl FnOnce() -> Result<T, TaskError>) -> Result<T, TaskError> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(answer) => answer,
        Err(value) => Err(panicked(value)),
    }
}

/// What a caught panic said, as an error.
pub fn panicked(value: Box<dyn Any + Send>) -> TaskError {
    let message = {
        let text = value.downcast_ref::<&str>().copied();
        let text = text.or_else(|| value.downcast_ref::<String>().map(String::as_str));
        text.map_or_else(
            || "the task panicked".into(),
            |text| format!("the task panicked: {text}"),
        )
    };
    drop_quietly(value);
    TaskError::error(message)
}

/// Drops a value whose destructor may panic.
pub fn drop_quietly<T>(value: T) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // Its destructor may panic too, and so on for ever: leak this one.
        std::mem::forget(second);
    }
}
