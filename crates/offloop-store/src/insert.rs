//! Taking jobs in.

use offloop_job::{JobId, JobState, NewJob, QueueName, RecordWrite, Timestamp};

/// Jobs, and rows of a pack, for one commit. At most [`offloop_job::limits::BATCH_JOBS_MAX`] jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertBatch {
    pub now: Timestamp,
    pub jobs: Vec<NewJob>,
    pub records: Vec<RecordWrite>,
}

/// What became of one job of the batch. A refusal does not touch its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// `Scheduled` if it is for a later time, else `Ready`. `replaced`: the holder of its unique
    /// key, cancelled in the same commit.
    Created {
        id: JobId,
        state: JobState,
        replaced: Option<JobId>,
    },
    /// Nothing was written: this job is there already, or was: one that was found by its
    /// idempotency key may be finished, or deleted since.
    Existing {
        id: JobId,
        same: SameAs,
    },
    Refused(InsertRefusal),
}

/// By what an existing job was found.
///
/// - Unique key: held per task. A new job that would replace a running holder finds it.
/// - Idempotency key: kept with every created job, for less than
///   [`offloop_job::limits::IDEMPOTENCY_KEEP`] by the batch's `now`. The same request is the same
///   task, payload and options, but for `run_at` (a delay makes another one at each try) and
///   `trace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameAs {
    UniqueKey,
    IdempotencyKey,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertRefusal {
    #[error(
        "unique.key: job {holder} holds it; wait for its end, cancel it, or use on_conflict keep or replace"
    )]
    UniqueConflict { holder: JobId },
    #[error(
        "Idempotency-Key: was used for job {holder} with another task, payload or options; use a new key"
    )]
    IdempotencyMismatch { holder: JobId },
    /// All unfinished jobs count; one that this job would replace in the same queue does not.
    #[error("queue `{queue}` holds {limit} jobs, its limit; try again when it has drained")]
    QueueFull { queue: QueueName, limit: u64 },
}
