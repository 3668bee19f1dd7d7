//! What subscribers hear: a closed list. An event exists only after its commit.

use crate::{FailureClass, JobId, JobState, QueueName, TaskName, Timestamp};

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// On disk; it is ready or scheduled.
    Enqueued,
    /// Handed to a lane.
    Started,
    Progress,
    /// An attempt failed; the next one is due then.
    Retrying {
        class: FailureClass,
        due_at: Timestamp,
    },
    /// The task asked to be run again then; no attempt is spent.
    Snoozed {
        due_at: Timestamp,
    },
    Completed,
    Failed {
        class: FailureClass,
    },
    /// Back to ready without spending the attempt.
    HandedBack,
    Cancelled,
    Expired,
    /// Given another life by a person.
    Revived,
}

impl EventKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueued => "enqueued",
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Retrying { .. } => "retrying",
            Self::Snoozed { .. } => "snoozed",
            Self::Completed => "completed",
            Self::Failed { .. } => "failed",
            Self::HandedBack => "handed_back",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Revived => "revived",
        }
    }

    /// No other event of this job follows, unless a person revives it.
    pub const fn is_final(self) -> bool {
        self.final_state().is_some()
    }

    /// The state that the job is in for good, if this was its end.
    pub const fn final_state(self) -> Option<JobState> {
        match self {
            Self::Completed => Some(JobState::Completed),
            Self::Failed { .. } => Some(JobState::Failed),
            Self::Cancelled => Some(JobState::Cancelled),
            Self::Expired => Some(JobState::Expired),
            _ => None,
        }
    }
}

/// One committed change of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    pub at: Timestamp,
    pub job: JobId,
    pub task: TaskName,
    pub queue: QueueName,
    pub kind: EventKind,
}
