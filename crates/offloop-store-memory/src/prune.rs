//! Forgetting finished jobs and old idempotency keys.

use std::time::Duration;

use offloop_job::limits::{IDEMPOTENCY_KEEP, KEEP_MIN};
use offloop_job::{GroupState, JobId, JobState, Timestamp};
use offloop_store::{PruneReport, PruneRule};

use crate::state::State;

impl State {
    pub(crate) fn prune(&mut self, rule: PruneRule) -> PruneReport {
        self.idempotency
            .retain(|_, seen| rule.now.since(seen.at) < IDEMPOTENCY_KEEP);
        self.batch_requests
            .retain(|_, seen| rule.now.since(seen.at) < IDEMPOTENCY_KEEP);
        self.group_requests
            .retain(|_, seen| rule.now.since(seen.at) < IDEMPOTENCY_KEEP);
        self.forget_usage(rule.now);
        self.forget_buckets(rule.now);
        self.forget_periods(rule.now);
        self.forget_groups(&rule);
        let doomed = self.too_many(rule);
        let piece = doomed.len().min(rule.rows_per_call as usize);
        for id in &doomed[..piece] {
            self.jobs.remove(id);
            self.unheard.remove(id);
        }
        PruneReport {
            deleted: piece as u64,
            more: piece < doomed.len(),
        }
    }

    /// A decided group goes by the age of its decision, once its last member has ended.
    fn forget_groups(&mut self, rule: &PruneRule) {
        self.groups.retain(|_, kept| {
            let kept_for = match kept.group.state {
                GroupState::Completed => rule.completed_for,
                _ => rule.others_for,
            };
            let old = |at: Timestamp| at.plus(kept_for) <= rule.now;
            kept.group.tally.left() > 0 || !kept.group.decided_at.is_some_and(old)
        });
    }

    /// Too old first, then the oldest of those that are over the count.
    fn too_many(&self, rule: PruneRule) -> Vec<JobId> {
        let rows = self.jobs.values();
        let mut finished: Vec<(Timestamp, JobId, JobState, Option<Duration>)> = rows
            .filter_map(|row| Some((row.finished_at?, row.id, row.state, row.options.keep)))
            .collect();
        finished.sort_by_key(|row| (row.0, row.1));
        let (mut doomed, kept): (Vec<_>, Vec<_>) = finished.into_iter().partition(|row| {
            let kept_for = match (row.3, row.2) {
                (Some(keep), _) => keep.max(KEEP_MIN),
                (None, JobState::Completed) => rule.completed_for,
                (None, _) => rule.others_for,
            };
            row.0.plus(kept_for) <= rule.now
        });
        let rows_max = usize::try_from(rule.rows_max).unwrap_or(usize::MAX);
        let over = kept.len().saturating_sub(rows_max);
        doomed.extend_from_slice(&kept[..over]);
        doomed.into_iter().map(|row| row.1).collect()
    }
}
