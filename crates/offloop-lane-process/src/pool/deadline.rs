//! Work that nobody waits for any more is not begun, and work that came too late is counted.

use std::time::{Duration, Instant};

use offloop_job::{Failure, FailureClass, Outcome};
use offloop_lane::{Ended, Work};

use super::state::Pool;

impl Pool {
    /// Why this work, here since `since`, is not worth a start: its deadline has passed, or its
    /// usual run would end after it. The sentence is the CPU lane's.
    pub(super) fn too_late(
        &mut self,
        work: &Work,
        since: Instant,
        now: Instant,
    ) -> Option<Outcome> {
        let left = work.deadline?.saturating_duration_since(now);
        let typical = self.typical;
        if !left.is_zero() && typical.is_none_or(|run| run <= left) {
            return None;
        }
        if !left.is_zero() {
            // Each one that is turned away makes the next more likely: no rare long run shuts the
            // door for ever.
            self.typical = typical.map(|run| run * 7 / 8);
        }
        let waited = now.saturating_duration_since(since);
        let typical = typical.map_or_else(|| "not known".to_owned(), |run| format!("{run:.1?}"));
        let what = if left.is_zero() {
            "its deadline passed"
        } else {
            "its deadline cannot be met"
        };
        let message = format!(
            "{what}: it waited {waited:.1?} in the lane, typical run {typical}, remaining {left:.1?}; it was not started"
        );
        let failure = Failure::new(FailureClass::Timeout, message);
        Some(Outcome::Failed(failure))
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
            let ran = ended.usage.wall;
            self.typical = Some(self.typical.map_or(ran, |usual| mean(usual, ran)));
        }
    }
}

/// Moves an eighth of the way.
fn mean(usual: Duration, ran: Duration) -> Duration {
    usual * 7 / 8 + ran / 8
}
