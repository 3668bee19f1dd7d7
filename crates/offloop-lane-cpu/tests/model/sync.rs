//! The model's twin of `src/sync.rs`: the same names, but `shuttle` decides who runs next, and one
//! step of the protocol may be left out.

use std::cell::Cell;
use std::time::Duration;

pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use shuttle::thread::{Builder, Thread, park};
pub(crate) use shuttle::thread_local;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    LookBeforePark,
    PassOn,
    PassOnAfterCancel,
    CallOnSubmit,
    LeaveTheSearch,
}

std::thread_local! {
    /// All threads of a model are one thread of the system.
    static LEFT_OUT: Cell<Option<Step>> = const { Cell::new(None) };
}

pub(crate) fn leave_out(step: Option<Step>) {
    LEFT_OUT.set(step);
}

pub(crate) fn takes(step: Step) -> bool {
    LEFT_OUT.get() != Some(step)
}

pub(crate) fn spin(call: &AtomicBool, _budget: Duration) -> bool {
    for _ in 0..3 {
        if call.load(Ordering::Acquire) {
            return true;
        }
        shuttle::thread::yield_now();
    }
    false
}
