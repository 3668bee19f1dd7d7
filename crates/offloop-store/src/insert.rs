//! Taking jobs in.

use std::time::Duration;

use offloop_job::{
    GroupId, GroupState, JobId, JobState, NewJob, QueueName, RecordWrite, RequestKey, TaskName,
    Timestamp,
};

use crate::Gate;

/// Jobs, and rows of a pack, for one commit. At most [`offloop_job::limits::BATCH_JOBS_MAX`] jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertBatch {
    pub now: Timestamp,
    pub jobs: Vec<NewJob>,
    pub records: Vec<RecordWrite>,
    /// Of all of it together; each job may have a key of its own as well.
    pub request: Option<RequestKey>,
}

/// What became of one job of the batch. A refusal does not touch its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// `Waiting` if it is for other jobs, `Scheduled` if it is for a later time, else `Ready`. `replaced`: the holder of its unique
    /// key, cancelled in the same commit.
    Created {
        id: JobId,
        state: JobState,
        replaced: Option<JobId>,
    },
    /// Nothing was created: this job is there already, or was: one that was found by its
    /// idempotency key, or by a unique key that is held for a period, may be finished, or deleted
    /// since. Nothing was written either, but for [`SameAs::Debounced`].
    Existing {
        id: JobId,
        same: SameAs,
    },
    Refused(InsertRefusal),
}

impl InsertOutcome {
    /// The job that it names, made now or before.
    pub const fn job(&self) -> Option<JobId> {
        match self {
            Self::Created { id, .. } | Self::Existing { id, .. } => Some(*id),
            Self::Refused(_) => None,
        }
    }
}

/// By what an existing job was found.
///
/// - Unique key: held per task. A new job that would replace a running holder finds it, or one that
///   ended.
/// - Debounced: the holder of the unique key took the new payload and options, and is due later. It
///   keeps its id and its attempts.
/// - Idempotency key: kept with every created job, for less than
///   [`offloop_job::limits::IDEMPOTENCY_KEEP`] by the batch's `now`. The same request is the same
///   task, payload and options, but for `run_at` (a delay makes another one at each try),
///   `trace` and `keep` (a task's default may change).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameAs {
    UniqueKey,
    Debounced,
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
    #[error(
        "{gate} is being drained and takes no new jobs; send it elsewhere, or resume it (POST /v1/{kind}s/{name}/resume)",
        kind = .gate.kind(), name = .gate.name()
    )]
    Draining { gate: Gate },
    /// `place`: in its `after`.
    #[error("after: job {parent} is not here; it never was, or it was deleted or pruned")]
    UnknownParent { parent: JobId, place: u16 },
    #[error("after: the job that it should wait for was not taken in")]
    ParentRefused { place: u16 },
    #[error("after: the place {earlier} is not before it in its batch")]
    NotEarlier { earlier: u16, place: u16 },
    #[error("group: {group} is not here; it never was, or it was pruned")]
    UnknownGroup { group: GroupId },
    #[error("group: {group} is {state}; members can be added while it is open")]
    GroupDecided { group: GroupId, state: GroupState },
    #[error("group: {group} has {limit} members, its limit; make another group")]
    GroupFull { group: GroupId, limit: u64 },
    /// Decided before an engine was asked.
    #[error("{0}")]
    NotAdmitted(NotAdmitted),
    /// What its task's rule says of the payload. Decided before an engine was asked.
    #[error("payload: `{task}` does not take it: {}", told(problems))]
    Payload {
        task: TaskName,
        problems: Vec<PayloadProblem>,
    },
}

/// One thing that is wrong with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadProblem {
    /// JSON pointer into the payload (RFC 6901); empty for the whole of it.
    pub pointer: String,
    /// A sentence without its subject. Never a value of the payload: it may be a secret.
    pub message: String,
}

/// All of them in one line.
pub fn told(problems: &[PayloadProblem]) -> String {
    let one = |problem: &PayloadProblem| {
        let at = if problem.pointer.is_empty() {
            "it"
        } else {
            &problem.pointer
        };
        format!("{at} {}", problem.message)
    };
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Why a job is not worth taking in now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmittedWhy {
    /// Its caller would not wait for it any more.
    Deadline { left: Duration, typical: Duration },
    /// So many jobs of the task wait already.
    Queued { task: TaskName, limit: u64 },
    /// It would wait longer than the task allows.
    Wait { task: TaskName, limit: Duration },
}

/// A job that was refused for what waits before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAdmitted {
    pub why: NotAdmittedWhy,
    /// Until it would begin; `None` where nothing is known.
    pub estimated_wait: Option<Duration>,
    pub retry_after: Duration,
}

impl std::fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wait = self.estimated_wait.unwrap_or_default();
        match &self.why {
            NotAdmittedWhy::Deadline { left, typical } => write!(
                f,
                "deadline: cannot be met: it would begin in {wait:.1?} and typically runs {typical:.1?}, and {left:.1?} are left; give it more time, or none"
            ),
            NotAdmittedWhy::Queued { task, limit } => write!(
                f,
                "{limit} jobs of `{task}` wait already, its limit (max_queued); come again when it has drained"
            ),
            NotAdmittedWhy::Wait { task, limit } => write!(
                f,
                "jobs of `{task}` would wait {wait:.1?}; its limit is {limit:?} (max_wait); come again when it has drained"
            ),
        }
    }
}
