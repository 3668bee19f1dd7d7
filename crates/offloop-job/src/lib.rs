//! The nouns of offloop: ids, states, options, limits, retry, outcome, event.
//!
//! Level 0. Everything here is pure: it must never do I/O, read a clock, draw a random number, or
//! know how a job is written down (no serde). Time and dice come in as arguments.

mod backoff;
mod event;
mod failure;
mod group;
mod id;
mod job;
mod limit;
pub mod limits;
mod mode;
mod name;
mod options;
mod outcome;
mod record;
mod retry;
mod schedule;
mod state;
mod time;
mod webhook;

pub use backoff::{Backoff, BackoffKind, retry_delay};
pub use event::{Event, EventKind, JobEvent, ScheduleEvent, ScheduleEventKind, SilentWhy};
pub use failure::{Failure, FailureClass, FailureClasses};
pub use group::{
    After, Failures, Group, GroupId, GroupReason, GroupRule, GroupState, Input, MemberFailure,
    NewGroup, OnFailure, Parent, Passage, Tally, Then, ThenOn, verdict as group_verdict,
};
pub use id::{JobId, JobIdSource, Lease, NodeId, ParseJobIdError};
pub use job::{Attempt, Job, JobSummary, LogTail, NewJob, Progress, RequestKey, Usage};
pub use limit::{Bucket, KeyTarget, Limit, LimitTable, LimitTarget, Rate, TargetError, targets_of};
pub use mode::Mode;
pub use name::{IdempotencyKey, NameError, QueueName, ScheduleName, Tag, TaskName, UniqueKey};
pub use options::{JobOptions, OnConflict, OptionProblem, Unique, UniqueScope};
pub use outcome::{FinalReason, Outcome, StopReason};
pub use record::{Collection, RecordKey, RecordWrite};
pub use retry::{Decision, History, RetryPolicy, decide};
pub use schedule::{Missed, Overlap, ScheduleSpec, ScheduledBy, SkipReason, Timing};
pub use state::{IllegalStep, JobState, Step};
pub use time::Timestamp;
pub use webhook::{EndStates, WEBHOOK_URL_BYTES_MAX, Webhook};
