//! The model's twin of `src/sync.rs`: the same names, but `shuttle` decides who runs next, and one
//! step of the protocol may be left out.

use std::cell::Cell;

pub(crate) use shuttle::sync::{Mutex, MutexGuard};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    GiveBack,
    Generation,
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
