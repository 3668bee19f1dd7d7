//! What subscribers hear: a closed list. An event of a job exists only after its commit; one of a
//! schedule tells that nothing was committed although it should have been.

use std::time::Duration;

use crate::{FailureClass, JobId, JobState, QueueName, ScheduleName, TaskName, Timestamp};

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

/// Why nothing comes from a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilentWhy {
    /// A due time has no row, although it should have been kept long ago.
    Late,
    /// The clock went back: the times until the next due one were kept before that.
    ClockWentBack,
    /// This version cannot read the schedule.
    Unreadable,
}

impl SilentWhy {
    pub const ALL: [Self; 3] = [Self::Late, Self::ClockWentBack, Self::Unreadable];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::ClockWentBack => "clock_went_back",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What is told of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleEventKind {
    /// Told once for each silence.
    Silent {
        why: SilentWhy,
        /// The due time that has no row, or comes next; unknown where it is unreadable.
        due_at: Option<Timestamp>,
        /// How long ago that should have been kept; zero where it was not due yet.
        late: Duration,
    },
    /// Its silence is over.
    Back,
}

impl ScheduleEventKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silent { .. } => "schedule_silent",
            Self::Back => "schedule_back",
        }
    }
}

/// An alert about one schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleEvent {
    pub at: Timestamp,
    pub schedule: ScheduleName,
    pub kind: ScheduleEventKind,
}

/// Anything that subscribers hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Job(JobEvent),
    Schedule(ScheduleEvent),
}

impl Event {
    /// The change of a job, if it is one.
    pub const fn job(&self) -> Option<&JobEvent> {
        match self {
            Self::Job(event) => Some(event),
            Self::Schedule(_) => None,
        }
    }
}
