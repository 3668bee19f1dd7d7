//! What this process knows of its children. One per process, because children, adoption and
//! reaping are facts of a process and not of a host.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Family {
    /// Children that a spawner started, until they are reaped.
    pub(super) known: HashSet<i32>,
    /// Markers of the trees that are not yet buried.
    pub(super) live: HashSet<String>,
}

static FAMILY: LazyLock<Mutex<Family>> = LazyLock::new(Mutex::default);

/// Held while a child is started, so that nobody takes it for an adopted one.
pub(super) fn lock() -> MutexGuard<'static, Family> {
    FAMILY.lock().unwrap_or_else(PoisonError::into_inner)
}
