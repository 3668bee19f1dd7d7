//! The lane without its fence: the reliability campaigns must notice.
//!
//! Built only with the feature `sabotage`, which the program has under `sabotage-lanes`; never for
//! use. It acts where `SABOTAGED_PART` says `fence`.

use std::collections::HashMap;
use std::sync::OnceLock;

use offloop_job::{JobId, Lease};

use crate::entry::Entry;

fn is_chosen() -> bool {
    static CHOSEN: OnceLock<bool> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "a broken build, and the lane has no configuration for it"
    )]
    *CHOSEN.get_or_init(|| std::env::var("SABOTAGED_PART").is_ok_and(|part| part == "fence"))
}

/// Whoever names a job is taken for the one who holds it, whatever its lease.
pub(crate) fn lease_of(jobs: &HashMap<Lease, Entry>, job: JobId, named: Lease) -> Lease {
    let held = jobs.iter().find(|(_, entry)| entry.work.job == job);
    held.filter(|_| is_chosen())
        .map_or(named, |(lease, _)| *lease)
}
