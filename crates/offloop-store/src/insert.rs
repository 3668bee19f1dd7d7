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
    /// Nothing was written: this job is there already.
    Existing {
        id: JobId,
        same: SameAs,
    },
    Refused(InsertRefusal),
}

/// By what an existing job was found.
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
    #[error("queue `{queue}` holds {limit} jobs, its limit; try again when it has drained")]
    QueueFull { queue: QueueName, limit: u64 },
}
