//! A job as it is asked for, as it is kept, and the record of its attempts.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    Failure, FinalReason, IdempotencyKey, JobId, JobOptions, JobState, Lease, NodeId, TaskName,
    Timestamp,
};

/// A job that is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    pub task: TaskName,
    /// JSON text as it came, at most 1 MiB. No layer below the door parses it but the task.
    pub payload: Bytes,
    pub options: JobOptions,
    pub idempotency: Option<IdempotencyKey>,
}

/// Names one request for several jobs, so that a repeated one is answered and not done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    pub key: IdempotencyKey,
    /// A hash of everything that makes two requests the same.
    pub fingerprint: [u8; 16],
}

/// A job on record, with everything that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub summary: JobSummary,
    pub payload: Bytes,
    pub options: JobOptions,
    /// Oldest first; the last one may still run. At most [`crate::limits::ATTEMPTS_KEPT_MAX`].
    pub attempts: Vec<Attempt>,
    pub progress: Option<Progress>,
    pub result: Option<Bytes>,
    /// What it left for its next attempt. `None` once it is completed.
    pub checkpoint: Option<Bytes>,
}

/// One row of a list: a job without its payload, result and logs.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSummary {
    pub id: JobId,
    pub task: TaskName,
    pub queue: crate::QueueName,
    pub state: JobState,
    pub priority: u8,
    pub tags: Vec<crate::Tag>,
    pub created_at: Timestamp,
    /// When it became, or becomes, ready.
    pub due_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Attempts spent or being spent.
    pub attempt: u16,
    pub max_attempts: u16,
    /// Snoozes in a row: since the last attempt that was spent, in this life.
    pub snoozes: u16,
    /// Of a job that failed for good.
    pub reason: Option<FinalReason>,
    /// Of the last attempt that failed.
    pub failure: Option<Failure>,
    /// A running job whose cancel was asked for and is under way.
    pub cancelling: bool,
}

/// The last note of a running job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub at: Timestamp,
    /// JSON, at most 4 KiB.
    pub note: Bytes,
}

/// What one attempt cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub wall: Duration,
    /// Of the whole process tree; `None` where the lane cannot tell.
    pub cpu: Option<Duration>,
    /// Highest resident set of the whole process tree.
    pub max_rss_bytes: Option<u64>,
    /// The payload, as the executor was given it.
    pub bytes_in: u64,
    /// What the executor gave back: result, notes, and everything that it printed, kept or not.
    pub bytes_out: u64,
    /// How old the thread or child was when it began; `None` where none was kept for it.
    pub executor_age: Option<Duration>,
}

/// What is kept of an attempt's output: its start, its end, and how much was between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTail {
    pub head: Bytes,
    pub tail: Bytes,
    pub dropped_bytes: u64,
}

impl LogTail {
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty()
    }

    /// Everything that was logged, kept or not.
    pub fn written_bytes(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64 + self.dropped_bytes
    }
}

/// One run of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// 1 for the first. An attempt that was handed back repeats its number.
    pub number: u16,
    pub lease: Lease,
    pub node: NodeId,
    pub lane: Box<str>,
    /// Which thread or child, in the lane's own words, such as `pid 4711`.
    pub executor: Box<str>,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// From due to started.
    pub wait: Duration,
    pub usage: Usage,
    /// `None` while it runs and when it succeeded.
    pub failure: Option<Failure>,
    pub log: LogTail,
}
