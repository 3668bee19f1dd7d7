//! The lane with one of its guards taken out on purpose: the reliability campaigns must notice.
//!
//! Built only with the feature `sabotage`, which the program has under `sabotage-lanes`; never for
//! use. Which guard, `SABOTAGED_PART` says: `hunt`, `leftovers`, `memory`, `deaths`, `kill` or
//! `log`.

use std::sync::OnceLock;

use offloop_job::{FailureClass, Outcome};
use offloop_lane::{Ended, Work};

/// Of a log without a bound; the machine's memory is spared.
pub(crate) const LOG_BYTES: usize = 2 << 20;

pub(crate) fn is(part: &str) -> bool {
    static CHOSEN: OnceLock<String> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "a broken build, and the lane has no configuration for it"
    )]
    let chosen = CHOSEN.get_or_init(|| std::env::var("SABOTAGED_PART").unwrap_or_default());
    chosen == part
}

/// `memory`: nobody looks.
pub(crate) fn taken(mut work: Vec<Work>) -> Vec<Work> {
    if is("memory") {
        for one in &mut work {
            one.limits.memory_bytes = None;
        }
    }
    work
}

/// `deaths`: a child that took its job along counts as any error.
pub(crate) fn ended(mut ended: Ended) -> Ended {
    if let Outcome::Failed(failure) = &mut ended.outcome
        && failure.class.is_crash_like()
        && is("deaths")
    {
        failure.class = FailureClass::Error;
    }
    ended
}
