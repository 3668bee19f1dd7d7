//! Taking jobs in: idempotency key, then unique key, then room in the queue.

use std::sync::Arc;

use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_job::{
    History, JobId, JobOptions, JobState, NewJob, OnConflict, QueueName, Step, Timestamp,
};
use offloop_store::{InsertBatch, InsertOutcome, InsertRefusal, SameAs};

use crate::state::{Request, Row, State};

impl State {
    pub(crate) fn insert(&mut self, batch: InsertBatch) -> Vec<InsertOutcome> {
        let now = batch.now;
        let jobs = batch.jobs.into_iter();
        let outcomes = jobs.map(|job| self.insert_one(now, job)).collect();
        self.write_records(now, &batch.records);
        outcomes
    }

    fn insert_one(&mut self, now: Timestamp, job: NewJob) -> InsertOutcome {
        if let Some(outcome) = self.known_request(now, &job) {
            return outcome;
        }
        let holder = self.holder(&job.task, &job.options);
        let replaced = match self.make_way(holder, &job) {
            Ok(replaced) => replaced,
            Err(outcome) => return outcome,
        };
        if let Some(refusal) = self.queue_full(&job.options.queue, replaced) {
            return InsertOutcome::Refused(refusal);
        }
        if let Some(replaced) = replaced {
            self.end(replaced, Step::Cancel, now);
        }
        self.create(now, job, replaced)
    }

    /// The answer to an idempotency key that was used not long ago.
    fn known_request(&self, now: Timestamp, job: &NewJob) -> Option<InsertOutcome> {
        let seen = self.idempotency.get(job.idempotency.as_ref()?)?;
        if now.since(seen.at) >= IDEMPOTENCY_KEEP {
            return None;
        }
        if is_same_request(&seen.job, job) {
            return Some(InsertOutcome::Existing {
                id: seen.made,
                same: SameAs::IdempotencyKey,
            });
        }
        let holder = seen.made;
        let refusal = InsertRefusal::IdempotencyMismatch { holder };
        Some(InsertOutcome::Refused(refusal))
    }

    /// Which holder of the unique key is to be cancelled, or why there is no new job.
    fn make_way(
        &self,
        holder: Option<JobId>,
        job: &NewJob,
    ) -> Result<Option<JobId>, InsertOutcome> {
        let (Some(holder), Some(unique)) = (holder, &job.options.unique) else {
            return Ok(None);
        };
        let existing = InsertOutcome::Existing {
            id: holder,
            same: SameAs::UniqueKey,
        };
        let runs = self.jobs[&holder].state == JobState::Running;
        match unique.on_conflict {
            OnConflict::Keep => Err(existing),
            OnConflict::Reject => Err(InsertOutcome::Refused(InsertRefusal::UniqueConflict {
                holder,
            })),
            OnConflict::Replace if runs => Err(existing),
            OnConflict::Replace => Ok(Some(holder)),
        }
    }

    /// Counts every unfinished job but the one that is about to be replaced.
    fn queue_full(&self, queue: &QueueName, replaced: Option<JobId>) -> Option<InsertRefusal> {
        let rows = self.jobs.values();
        let held = rows.filter(|row| {
            row.options.queue == *queue && !row.state.is_final() && Some(row.id) != replaced
        });
        let limit = self.queue_jobs_max;
        (held.count() as u64 >= limit).then(|| InsertRefusal::QueueFull {
            queue: queue.clone(),
            limit,
        })
    }

    fn create(&mut self, now: Timestamp, job: NewJob, replaced: Option<JobId>) -> InsertOutcome {
        let id = self.ids.next_id(now);
        let due_at = job.options.run_at.map_or(now, |at| at.max(now));
        let state = if due_at > now {
            JobState::Scheduled
        } else {
            self.wake = true;
            JobState::Ready
        };
        self.hold_unique(&job.task, &job.options, id);
        if let Some(key) = job.idempotency.clone() {
            let request = Request {
                at: now,
                made: id,
                job: job.clone(),
            };
            self.idempotency.insert(key, request);
        }
        let row = Row {
            id,
            task: job.task,
            payload: job.payload,
            options: Arc::new(job.options),
            state,
            due_at,
            history: History::default(),
            lease: None,
            node: None,
            claimed_at: None,
            finished_at: None,
            cancelling: false,
            reason: None,
            failure: None,
            attempts: Vec::new(),
            progress: None,
            result: None,
            checkpoint: None,
        };
        self.jobs.insert(id, row);
        InsertOutcome::Created {
            id,
            state,
            replaced,
        }
    }
}

/// A repeated request differs in its trace, and in a `run_at` that was reckoned from a delay.
fn is_same_request(one: &NewJob, other: &NewJob) -> bool {
    let comparable = |options: &JobOptions| JobOptions {
        run_at: None,
        trace: None,
        ..options.clone()
    };
    one.task == other.task
        && one.payload == other.payload
        && comparable(&one.options) == comparable(&other.options)
}
