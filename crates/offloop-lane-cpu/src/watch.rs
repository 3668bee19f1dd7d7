//! The watch: one thread that stops what is over a limit, says who does not listen, and puts a
//! thread in its place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::shared::Shared;

/// Between attempts to start a replacement, when the system refuses one.
const RETRY_START: Duration = Duration::from_secs(1);

pub(crate) fn run(shared: &Arc<Shared>) {
    let mut state = shared.lock();
    while !(state.ending && state.alive == 0) {
        let now = Instant::now();
        let round = state.inspect(now, shared.grace);
        let mut due = round.next;
        let deaf = state.deaf().filter(|_| !state.ending);
        if deaf.is_some() || !round.newly_stuck.is_empty() {
            drop(state);
            for job in &round.newly_stuck {
                tracing::warn!(lane = %shared.name, task = %job.task, lease = job.lease.0, "{job}");
            }
            let refused = deaf.is_some_and(|seat| !shared.replace(seat));
            state = shared.lock();
            if !refused {
                continue;
            }
            due = due.min(now + RETRY_START);
        }
        if due > now {
            state = shared.wait_watch(state, due - now);
        }
    }
}
