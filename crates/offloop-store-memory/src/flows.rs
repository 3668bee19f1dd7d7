//! Jobs that wait for others: what they wait for, and what an end does to them.

use offloop_job::{
    After, Failure, FailureClass, JobId, JobState, OnFailure, Parent, Passage, Step, Timestamp,
};
use offloop_store::{InsertOutcome, InsertRefusal, News};

use crate::state::{Row, State};

/// How a new job with parents begins.
pub(crate) struct Begin {
    /// Those that have not ended.
    pub(crate) waits: Vec<(JobId, OnFailure)>,
    pub(crate) barred_by: Option<JobId>,
}

impl State {
    /// Parents by id. Places of the batch are those of `earlier`.
    pub(crate) fn resolve(
        &self,
        after: &[After],
        earlier: &[InsertOutcome],
    ) -> Result<Vec<After>, InsertRefusal> {
        let mut resolved: Vec<After> = Vec::with_capacity(after.len());
        for (place, one) in after.iter().enumerate() {
            let place = place as u16;
            let parent = match one.parent {
                Parent::Job(id) => id,
                Parent::Earlier(at) => match earlier.get(usize::from(at)) {
                    Some(
                        InsertOutcome::Created { id, .. } | InsertOutcome::Existing { id, .. },
                    ) => *id,
                    Some(InsertOutcome::Refused(_)) => {
                        return Err(InsertRefusal::ParentRefused { place });
                    }
                    None => return Err(InsertRefusal::NotEarlier { earlier: at, place }),
                },
            };
            if !self.jobs.contains_key(&parent) {
                return Err(InsertRefusal::UnknownParent { parent, place });
            }
            let parent = Parent::Job(parent);
            if resolved.iter().all(|other| other.parent != parent) {
                let on_failure = one.on_failure;
                resolved.push(After { parent, on_failure });
            }
        }
        Ok(resolved)
    }

    /// Parents that are final count at once. One that bars it comes before one that lets it go.
    pub(crate) fn begin(&self, after: &[After]) -> Begin {
        let mut begin = Begin {
            waits: Vec::new(),
            barred_by: None,
        };
        let mut free = false;
        for one in after {
            let Parent::Job(parent) = one.parent else {
                continue;
            };
            match self.jobs.get(&parent).map(|row| row.state) {
                Some(state) if state.is_final() => match one.on_failure.on_end(state) {
                    Passage::Counted => {}
                    Passage::Free => free = true,
                    Passage::Barred => begin.barred_by = begin.barred_by.or(Some(parent)),
                },
                _ => begin.waits.push((parent, one.on_failure)),
            }
        }
        if free || begin.barred_by.is_some() {
            begin.waits.clear();
        }
        begin
    }

    /// Tells every job that waits for `parent`.
    pub(crate) fn pass_on(&mut self, parent: JobId, now: Timestamp) {
        let Some(end) = self.jobs.get(&parent).map(|row| row.state) else {
            return;
        };
        let waiting = self.jobs.values();
        let waiting = waiting.filter(|row| row.waits.iter().any(|wait| wait.0 == parent));
        let children: Vec<JobId> = waiting.map(|row| row.id).collect();
        for child in children {
            let Some(row) = self.jobs.get_mut(&child) else {
                continue;
            };
            let Some(at) = row.waits.iter().position(|wait| wait.0 == parent) else {
                continue;
            };
            let (_, rule) = row.waits.remove(at);
            match rule.on_end(end) {
                Passage::Counted if !row.waits.is_empty() => {}
                Passage::Counted | Passage::Free => self.unblock(child, now),
                Passage::Barred => {
                    row.waits.clear();
                    row.barred_by = Some(parent);
                }
            }
        }
    }

    fn unblock(&mut self, id: JobId, now: Timestamp) {
        let Some(row) = self.jobs.get_mut(&id) else {
            return;
        };
        let Ok(scheduled) = row.state.after(Step::Unblock) else {
            return;
        };
        row.waits.clear();
        row.due_at = row.options.due(now);
        row.state = scheduled;
        if row.due_at <= now {
            row.state = JobState::Ready;
            self.wake = true;
        }
        self.news.push(News::Unblocked {
            id,
            task: row.task.clone(),
            queue: row.options.queue.clone(),
            due_at: row.due_at,
        });
    }

    /// A job that can never run has never failed: its record says why.
    pub(crate) fn say_why_barred(&mut self, id: JobId) {
        if let Some(row) = self.jobs.get_mut(&id) {
            let parent = row.barred_by.take();
            let message = offloop_store::barred_message(parent);
            row.failure = Some(Failure::new(FailureClass::Error, message));
            row.reason = Some(offloop_job::FinalReason::Dependency);
        }
    }
}

impl Row {
    pub(crate) fn waited_for(&self) -> impl Iterator<Item = (JobId, OnFailure)> {
        self.options
            .after
            .iter()
            .filter_map(|one| match one.parent {
                Parent::Job(id) => Some((id, one.on_failure)),
                Parent::Earlier(_) => None,
            })
    }
}
