//! Handing jobs out, and finding those whose holder is dead.

use offloop_job::{JobId, JobState, Lease, NodeId, Step, Timestamp, UniqueScope};
use offloop_store::{ClaimRequest, Claimed, Promoted, Want};

use crate::state::{Row, State};

impl State {
    pub(crate) fn promote(&mut self, now: Timestamp) -> Promoted {
        let mut promoted = Promoted::default();
        for row in self.jobs.values_mut() {
            if row.state != JobState::Scheduled {
                continue;
            }
            if row.due_at <= now {
                row.state = JobState::Ready;
                promoted.jobs += 1;
            } else {
                let earliest = promoted.next_due.unwrap_or(row.due_at);
                promoted.next_due = Some(earliest.min(row.due_at));
            }
        }
        self.wake |= promoted.jobs > 0;
        promoted
    }

    pub(crate) fn claim(&mut self, ask: &ClaimRequest) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        for want in &ask.wants {
            for id in self.best(want, ask.now) {
                claimed.extend(self.claim_one(id, ask));
            }
        }
        claimed
    }

    /// Ready means that its time has come: a clock that steps back does not take that away.
    fn best(&self, want: &Want, now: Timestamp) -> Vec<JobId> {
        let fits = |row: &&Row| {
            row.state == JobState::Ready
                && want.tasks.contains(&row.task)
                && !self.is_paused(&row.options.queue)
                && !row.is_too_late(now)
        };
        let mut found: Vec<&Row> = self.jobs.values().filter(fits).collect();
        found.sort_by_key(|row| row.rank());
        found.truncate(usize::from(want.limit));
        found.into_iter().map(|row| row.id).collect()
    }

    fn claim_one(&mut self, id: JobId, ask: &ClaimRequest) -> Option<Claimed> {
        let row = self.jobs.get_mut(&id)?;
        row.state = row.state.after(Step::Claim).ok()?;
        self.last_lease += 1;
        row.lease = Some(Lease(self.last_lease));
        row.node = Some(ask.node.clone());
        row.claimed_at = Some(ask.now);
        row.history.attempt += 1;
        let claimed = row.claimed();
        let unique = row.options.unique.as_ref();
        if unique.is_some_and(|unique| unique.scope == UniqueScope::UntilStarted) {
            self.release_unique(id);
        }
        claimed
    }

    pub(crate) fn orphans(&self, alive: &NodeId, limit: u16) -> Vec<Claimed> {
        let running = self.jobs.values().filter_map(Row::claimed);
        let dead = running.filter(|claimed| claimed.node != *alive);
        dead.take(usize::from(limit)).collect()
    }
}
