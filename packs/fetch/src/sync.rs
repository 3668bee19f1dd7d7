//! The one door to locks, so that the model check (`tests/model.rs`) can compile the breaker against
//! `shuttle` in its place.
//!
//! Must never: hold a rule of the breaker. What is here has a twin in the model.

pub(crate) use std::sync::{Mutex, MutexGuard};

/// Steps of the protocol that the model leaves out, one at a time, to show that it would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A probe that was dropped gives its place back.
    GiveBack,
    /// What began before the breaker changed does not count after.
    Generation,
}

/// True outside the model: no code is left of it.
pub(crate) const fn takes(_: Step) -> bool {
    true
}
