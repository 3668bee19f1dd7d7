//! The seam between the runtime and the places where code runs.
//!
//! A lane takes [`Work`], runs it, and answers with [`Ended`] once nothing of it runs any more.
//! That is the promise of the whole product, so it is a type: settling an attempt needs its
//! [`Gone`], and only a lane that has seen the executor end makes one.
//!
//! Must never: know a store, decide a retry, or read the wall clock.

mod checkpoint;
mod contain;
mod context;
mod gone;
mod report;
pub mod slice;
mod token;
mod unstarted;
mod verdict;
mod work;

pub use checkpoint::{CHECKPOINT_WAIT_MAX, CheckpointError, CheckpointReply, Saving};
pub use contain::{contained, drop_quietly, panicked};
pub use context::{TaskContext, TaskError, TaskOutput, append_log};
pub use gone::{Gone, Proof};
pub use report::{Ended, LaneEvent, LaneSink};
pub use token::{StopToken, Stopped};
pub use unstarted::{TypicalRun, cannot_be_done, not_begun, not_given, unstarted};
pub use verdict::{Overrun, outcome_of};
pub use work::{Work, WorkLimits};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use offloop_job::{Lease, StopReason, TaskName};

/// What a task is called and what its jobs get where they ask for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    pub name: TaskName,
    /// `None`: [`offloop_job::limits::TIMEOUT_DEFAULT`].
    pub timeout: Option<Duration>,
    /// For a person: one line.
    pub about: Box<str>,
}

/// How many attempts a lane runs at once, and whether it can hold more in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Attempts that run at the same time, 1 to 4,096.
    pub running: u16,
    /// Attempts that may wait inside the lane so that short ones are not slowed by the way to the
    /// store; 0 where work is pushed to idle executors only.
    pub ahead: u16,
}

/// What a lane shows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStatus {
    pub running: u32,
    pub queued: u32,
    /// Executors that were asked to stop, past their grace, and have not ended.
    pub stuck: u32,
    /// Threads or children alive.
    pub executors: u32,
    /// How long the work at the head of the lane's own line has waited.
    pub head_age: Option<Duration>,
    /// Work that ended after its deadline since the lane was opened: done for nobody.
    pub late: u64,
}

/// How often executors left for one reason since the lane was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCount {
    /// A code such as `recycled_jobs`, `timeout`, `crashed`.
    pub reason: &'static str,
    pub count: u64,
}

/// Work that executors have come to ask for, where a lane does not push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub tasks: Arc<[TaskName]>,
    /// Jobs, 1 or more.
    pub jobs: u16,
}

/// Leftovers of a killed server that could not be cleared.
#[derive(Debug, thiserror::Error)]
#[error("cannot clear what an earlier server left running in lane `{lane}`: {message}")]
pub struct LeftoverError {
    pub lane: Box<str>,
    pub message: String,
}

/// One pool of executors with the tasks that it runs.
///
/// Every call returns at once: a lane answers by its [`LaneSink`].
pub trait Lane: Send + Sync + fmt::Debug {
    /// Unique in a server: `cpu`, `io`, `process:report`, `exec:magick`.
    fn name(&self) -> &str;

    /// Fixed for the life of the lane.
    fn tasks(&self) -> &[TaskInfo];

    /// Fixed for the life of the lane; of a lane with a [`Lane::demand`], what it has now.
    fn slots(&self) -> Slots;

    /// `Some` for a lane whose executors come and ask: it is given no more than they ask for now,
    /// whatever its slots are. [`LaneEvent::Wanted`] says that it grew.
    fn demand(&self) -> Option<Vec<Demand>> {
        None
    }

    /// How long an executor of an earlier, killed server may go on where nothing can end it. Its job
    /// is not given out again before.
    fn outlives(&self, _task: &TaskName) -> Duration {
        Duration::ZERO
    }

    /// Bytes of a payload or a result that it can carry; what a job may have, or more.
    fn bytes_max(&self) -> usize {
        offloop_job::limits::PAYLOAD_BYTES_MAX
    }

    /// Makes executors ready; answers go to `sink`. Called once, before any work.
    fn open(&self, sink: Arc<dyn LaneSink>) -> Result<(), LaneOpenError>;

    /// Runs each piece of work. The caller keeps within [`Lane::slots`]; work over it, and work
    /// that comes after [`Lane::close`], ends as stopped by `Shutdown`, never started.
    fn start(&self, work: Vec<Work>);

    /// Climbs the ladder for one attempt. Its [`Ended`] follows, with the answer if that came
    /// first. A lease that is not here is ignored: it has ended already.
    fn stop(&self, lease: Lease, reason: StopReason);

    /// No more work: what is queued ends at once as stopped by `Shutdown`, what runs goes on.
    fn close(&self);

    /// Ends every executor, idle and busy, the hard way where there is one; waits at most `within`.
    /// Answers the leases whose executor could not be ended (threads that ignore their token).
    fn terminate(&self, within: Duration) -> Vec<Lease>;

    fn status(&self) -> LaneStatus;

    /// Its tasks are futures on an event loop, so one that computes holds up all the others; false:
    /// each attempt has a thread or a process to itself.
    fn is_loop(&self) -> bool {
        false
    }

    /// Why executors left, for lanes whose executors come and go.
    fn exits(&self) -> Vec<ExitCount> {
        Vec::new()
    }

    /// Why the lane starts no executors at present, and what to do about it. `None` when it is well.
    fn trouble(&self) -> Option<Box<str>> {
        None
    }

    /// Starts one executor, waits until it is ready, and ends it: what `offloop check` asks of a lane
    /// that was not opened. The error is a sentence for a person.
    fn try_out(&self) -> Result<(), String> {
        Ok(())
    }

    /// Ends what an earlier, killed server left running, and returns when it is gone. The runtime
    /// calls it before it gives any of that server's jobs out again.
    fn clear_leftovers(&self) -> Result<u32, LeftoverError> {
        Ok(0)
    }
}

/// A lane that cannot start its executors.
#[derive(Debug, thiserror::Error)]
#[error("lane `{lane}` cannot start: {message}")]
pub struct LaneOpenError {
    pub lane: Box<str>,
    pub message: String,
}
