//! The watch: one thread that stops what is over a limit and replaces threads that do not listen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lane::Shared;
use crate::meter::cpu_time_of;

/// Between attempts to start a replacement, when the system refuses one.
const RETRY_START: Duration = Duration::from_secs(1);

pub(crate) fn run(shared: &Arc<Shared>) {
    let mut state = shared.lock();
    while !(state.ending && state.alive == 0) {
        let now = Instant::now();
        let mut due = state.inspect(now, shared.grace, cpu_time_of);
        let deaf = state
            .seats
            .iter()
            .position(|seat| !seat.replaced && seat.running.as_ref().is_some_and(|job| job.stuck));
        if let Some(seat) = deaf
            && !state.ending
            && state.replacements < usize::from(shared.threads)
        {
            drop(state);
            let started = shared.replace(seat);
            state = shared.lock();
            if started {
                continue;
            }
            due = due.min(now + RETRY_START);
        }
        if due > now {
            state = shared.wait_watch(state, due - now);
        }
    }
}
