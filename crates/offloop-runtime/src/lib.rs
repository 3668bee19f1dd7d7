//! Where stores meet lanes: the path of a job and its upkeep.
//!
//! `path/` reads in order: enqueue, claim, dispatch, settle, publish. `upkeep/` is what time
//! demands: promote, expire, rescue, prune. `calls/` is the other way in, for work whose caller waits. The keeper runs both on a thread and a small runtime of
//! its own, so that neither a busy door nor a busy lane delays a claim, a settlement or a stop.
//!
//! Must never: name an engine or a lane, know HTTP or serde, run a task.

mod admission;
mod awaited;
mod backlog;
mod builder;
mod calls;
pub mod clock;
mod config;
mod ends;
mod feed;
mod gauge;
mod groups;
mod handle;
mod hooks;
mod inbox;
mod keeper;
mod limits;
mod meters;
mod modes;
mod path;
mod payload;
mod pulse;
mod redact;
mod schedules;
mod shutdown;
mod upkeep;

pub use admission::Pressure;
pub use awaited::AwaitedEnd;
pub use builder::{Runtime, RuntimeBuilder, StartError};
pub use calls::{
    CallAnswer, CallAsk, CallCounts, CallError, CallLaneView, CallSettings, Refused, RefusedWhy,
};
pub use config::{Redact, RuntimeConfig, TaskDefaults};
pub use ends::{EndHook, EndedJob};
pub use feed::{FeedCursor, JobNews, JobStream};
pub use gauge::Pressed;
pub use handle::{CancelOutcome, LaneView, QueryError, RuntimeHandle, TaskView};
pub use hooks::{FinalEnd, TaskHook};
pub use meters::TaskBuckets;
pub use path::enqueue::EnqueueError;
pub use path::publish::{EventCursor, Events, Lagged};
pub use payload::PayloadCheck;
pub use schedules::{
    DeclaredSchedules, NextDue, ScheduleError, SchedulePut, Silence, SilentSchedule,
};
pub use shutdown::{ShutdownPlan, ShutdownReport};
