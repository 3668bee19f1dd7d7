//! Work that nobody waits for any more is not begun, and work that came too late is counted.

use std::time::Instant;

use offloop_job::Outcome;
use offloop_lane::{Ended, Work, cannot_be_done, not_begun};

use super::state::Pool;

impl Pool {
    /// Why this work, here since `since`, is not worth a start.
    pub(super) fn too_late(&self, work: &Work, since: Instant, now: Instant) -> Option<Outcome> {
        let waited = now.saturating_duration_since(since);
        cannot_be_done(work, Some(&self.typical), now)
            .then(|| not_begun(work, waited, self.typical.get(), now))
    }

    /// Drops waiting work whose deadline has passed.
    pub(super) fn drop_late(&mut self, now: Instant) {
        let late = |work: &Work| work.deadline.is_some_and(|deadline| deadline <= now);
        while let Some(at) = self.waiting.iter().position(|waiting| late(&waiting.work)) {
            let Some(waiting) = self.waiting.remove(at) else {
                return;
            };
            if let Some(outcome) = self.too_late(&waiting.work, waiting.since, now) {
                let queued = now.saturating_duration_since(waiting.since);
                self.tell_never_started(&waiting.work, queued, outcome);
            }
        }
    }

    /// Learns from the end of an attempt.
    pub(super) fn note_end(&mut self, work: &Work, ended: &Ended, now: Instant) {
        self.late += u64::from(work.deadline.is_some_and(|deadline| deadline < now));
        if matches!(ended.outcome, Outcome::Completed { .. }) {
            self.typical.ran(ended.usage.wall);
        }
    }
}
