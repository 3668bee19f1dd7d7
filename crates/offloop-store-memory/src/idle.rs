//! Jobs that no executor has: ending, reviving and forgetting them.

use std::sync::Arc;

use offloop_job::{GroupState, History, JobId, JobOptions, JobState, Step, Timestamp, UniqueScope};
use offloop_store::{
    DeleteOutcome, EndIdle, EndIdleOutcome, FollowOf, IdleEnd, Overdue, ReviveOutcome,
};

use crate::insert::Room;
use crate::state::State;

impl State {
    pub(crate) fn end_idle(&mut self, now: Timestamp, end: &EndIdle) -> EndIdleOutcome {
        let Some(row) = self.jobs.get_mut(&end.id) else {
            return EndIdleOutcome::Unknown;
        };
        if row.state.is_final() {
            return EndIdleOutcome::AlreadyFinal(row.state);
        }
        if let (Some(lease), Some(node)) = (row.running_lease(), row.node.clone()) {
            // It started in time: expiry has no hold on it.
            row.cancelling |= end.why == IdleEnd::Cancel;
            return EndIdleOutcome::Running { lease, node };
        }
        let (task, queue) = (row.task.clone(), row.options.queue.clone());
        let Some(state) = self.end(end.id, end.why.step(), now) else {
            return EndIdleOutcome::Unknown;
        };
        self.write_records(now, &end.records);
        for job in &end.follow {
            self.follow(now, job.clone(), FollowOf::Job(end.id), Room::Checked);
        }
        EndIdleOutcome::Ended { task, queue, state }
    }

    pub(crate) fn overdue(&self, now: Timestamp, limit: u16) -> Vec<Overdue> {
        let late = self.jobs.values().filter(|row| {
            !row.state.is_final() && row.state != JobState::Running && row.is_too_late(now)
        });
        let late = late.take(usize::from(limit));
        late.map(|row| Overdue {
            id: row.id,
            task: row.task.clone(),
            queue: row.options.queue.clone(),
            payload: row.payload.clone(),
        })
        .collect()
    }

    pub(crate) fn revive(&mut self, now: Timestamp, id: JobId) -> ReviveOutcome {
        let Some(row) = self.jobs.get(&id) else {
            return ReviveOutcome::Unknown;
        };
        let Ok(state) = row.state.after(Step::Revive) else {
            return ReviveOutcome::NotRevivable(row.state);
        };
        let (task, mut options) = (row.task.clone(), JobOptions::clone(&row.options));
        if let Some(group) = options.group.take()
            && self
                .group(group)
                .is_some_and(|group| group.state == GroupState::Open)
        {
            return ReviveOutcome::Counted { group };
        }
        let holder = self.holder(now, &task, &options);
        if let Some(holder) = holder.filter(|holder| *holder != id) {
            return ReviveOutcome::UniqueConflict { holder };
        }
        if row.is_too_late(now) {
            options.expires_at = None;
        }
        let queue = options.queue.clone();
        let scope = options.unique.as_ref().map(|unique| unique.scope);
        if !matches!(scope, Some(UniqueScope::For(_))) {
            self.hold_unique(now, &task, &options, id);
        }
        if let Some(row) = self.jobs.get_mut(&id) {
            row.state = state;
            row.options = Arc::new(options);
            row.due_at = now;
            row.history = History::default();
            row.lease = None;
            row.node = None;
            row.claimed_at = None;
            row.finished_at = None;
            row.reason = None;
        }
        self.wake = true;
        ReviveOutcome::Revived { task, queue }
    }

    pub(crate) fn delete(&mut self, id: JobId) -> DeleteOutcome {
        let Some(row) = self.jobs.get(&id) else {
            return DeleteOutcome::Unknown;
        };
        if !row.state.is_final() {
            return DeleteOutcome::NotFinal(row.state);
        }
        self.jobs.remove(&id);
        self.unheard.remove(&id);
        DeleteOutcome::Deleted
    }
}
