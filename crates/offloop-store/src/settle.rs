//! Ending attempts.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    Failure, FinalReason, JobId, JobState, Lease, LogTail, NewJob, NodeId, RecordWrite, Step,
    Timestamp, Usage,
};

/// The end of one attempt, with what the runtime decided. Applied if the job is running under
/// this lease; otherwise nothing changes.
///
/// `Retry`, `Snooze` and `HandBack` of a job whose cancel was marked are applied as `Abort`: the cancel was
/// answered, so the job must not run again.
#[derive(Clone, Debug, PartialEq)]
pub struct Settlement {
    pub id: JobId,
    pub lease: Lease,
    pub verdict: Verdict,
    pub report: AttemptReport,
    /// Rows of a pack, written in the same commit.
    pub records: Vec<RecordWrite>,
    /// Jobs that are taken in by the same commit, after the end, if the settlement is applied. One
    /// that is refused (its queue is full, its key is held) never refuses the end: what became of
    /// each is told by [`crate::GroupStore::advance`].
    pub follow: Vec<NewJob>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Completed {
        result: Option<Bytes>,
    },
    /// Again at `due`: scheduled, even if that has passed. A crash-like failure lengthens the job's
    /// streak, any other resets it; one over its memory limit is counted in its `memory_ends`, for
    /// this life.
    Retry {
        due: Timestamp,
    },
    /// Again at `due`: scheduled, even if that has passed. The attempt is not spent and leaves no
    /// record, but what it cost is summed up; it counts in the job's `snoozes`. Streak and earlier
    /// failure stay as they are.
    Snooze {
        due: Timestamp,
    },
    GiveUp {
        reason: FinalReason,
    },
    /// The attempt is not spent and leaves no record; ready at once, with the due time it had.
    HandBack,
    /// Cancelled.
    Abort,
}

impl Verdict {
    pub const fn step(&self) -> Step {
        match self {
            Self::Completed { .. } => Step::Succeed,
            Self::Retry { .. } => Step::Retry,
            Self::Snooze { .. } => Step::Snooze,
            Self::GiveUp { .. } => Step::GiveUp,
            Self::HandBack => Step::HandBack,
            Self::Abort => Step::Abort,
        }
    }
}

/// What goes on record about the attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptReport {
    pub node: NodeId,
    pub lane: Box<str>,
    pub executor: Box<str>,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub wait: Duration,
    pub usage: Usage,
    pub failure: Option<Failure>,
    pub log: LogTail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Done(JobState),
    /// A settlement of this lease, the job's last one, was applied before: an answer was lost on
    /// the way. Verdicts are not compared; the state is the one that the job is in now.
    Already(JobState),
    /// Another lease holds the job or held it since, it was revived, or it is gone: nothing was
    /// written.
    Stale,
}
