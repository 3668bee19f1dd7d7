//! Starts that fail: the next one waits longer each time, and after some in a row the lane stops
//! trying for a while, says so, and then tries a single child.
//!
//! A job that needs a child meanwhile fails with the reason at once: whoever waits learns what is
//! wrong while it is wrong, and the job's own retries come later. A job that is here while the
//! single child is tried waits for that.

use std::time::{Duration, Instant};

use offloop_job::{Failure, FailureClass, Outcome};

use super::Shared;
use super::child::{Child, Rung};
use super::state::{Pool, STUCK_AFTER};

impl Pool {
    /// A start failed: the next one waits.
    pub(super) fn start_failed(&mut self, before: u32, why: &str, now: Instant) {
        self.failures = self.failures.max(before).saturating_add(1);
        why.clone_into(&mut self.last_words);
        let pacing = &self.pacing;
        let wait = if self.is_broken() {
            pacing.pause
        } else {
            let doubled = 2_u32.saturating_pow(self.failures.saturating_sub(1).min(16));
            pacing
                .backoff_first
                .saturating_mul(doubled)
                .min(pacing.backoff_max)
        };
        self.no_start_before = now.checked_add(wait);
    }

    /// Too many starts failed in a row.
    pub(super) const fn is_broken(&self) -> bool {
        self.failures >= self.pacing.failed_starts
    }

    /// Starts that may be under way, as the table of children has it.
    pub(super) fn starts_allowed(&self, now: Instant) -> usize {
        if self.no_start_before.is_some_and(|at| now < at) {
            return 0;
        }
        if self.is_broken() {
            let starting = |child: &&Child| child.is_starting() || child.is_undecided(now);
            let starting = self.children.values().filter(starting).count();
            return 1_usize.saturating_sub(starting);
        }
        usize::MAX
    }

    /// No child serves, none is being started, and none will be for a while.
    fn is_hopeless(&self, now: Instant) -> bool {
        let any = |child: &Child| child.is_ready() || child.is_starting();
        self.is_broken()
            && self.no_start_before.is_some_and(|at| now < at)
            && !self.children.values().any(any)
    }
}

impl Child {
    /// It goes and never served: until it is buried nobody knows what to make of its start, so it
    /// keeps its place. One that cannot be killed does not keep it for ever.
    pub(super) fn is_undecided(&self, now: Instant) -> bool {
        let stuck = match self.rung {
            Rung::Killed { at } => now.saturating_duration_since(at) > STUCK_AFTER,
            _ => false,
        };
        let unserved = self.served == 0 && self.flight.is_none() && self.retired.is_none();
        self.is_leaving() && unserved && !stuck
    }
}

impl Shared {
    /// When no child gets as far as being ready, a job that waits for one learns why; all of them
    /// when no other child is tried.
    pub(super) fn fail_waiting(&self, pool: &mut Pool, why: &str, now: Instant) {
        if pool.has_proven_child() {
            return;
        }
        Self::fail_next(pool, why, now);
        self.fail_hopeless(pool, now);
    }

    /// Ends the jobs that would wait for nothing.
    pub(super) fn fail_hopeless(&self, pool: &mut Pool, now: Instant) {
        if pool.waiting.is_empty() || !pool.is_hopeless(now) {
            return;
        }
        let why = self.trouble_of(pool, now).unwrap_or_default();
        while !pool.waiting.is_empty() {
            Self::fail_next(pool, &why, now);
        }
    }

    fn fail_next(pool: &mut Pool, why: &str, now: Instant) {
        if let Some(waiting) = pool.waiting.pop_front() {
            let queued = now.saturating_duration_since(waiting.since);
            let failed = Outcome::Failed(Failure::new(FailureClass::Error, why));
            pool.tell_never_started(&waiting.work, queued, failed);
        }
    }

    /// The sentence for an operator, while too many starts failed.
    pub(super) fn trouble_of(&self, pool: &Pool, now: Instant) -> Option<String> {
        if !pool.is_broken() || pool.closed {
            return None;
        }
        let (task, count, last) = (&self.spec.task.name, pool.failures, &pool.last_words);
        let left = pool
            .no_start_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let next = if left.is_zero() {
            "one child is being tried now".to_owned()
        } else {
            format!("one child is tried again in {left:.0?}")
        };
        Some(format!(
            "task `{task}`: {count} starts in a row failed, so no more are made for now; {next}; \
             the last: {last}"
        ))
    }
}
