//! What workers ask, say and are told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{FailureClass, Input, JobId, Lease, LogTail, TaskName};
use offloop_lane::TaskInfo;

/// An offer that is not confirmed in this time never was: long enough for a slow network, short
/// enough that a job does not wait for a worker that is gone.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// Shorter ones run out by a pause of the network alone.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// From the notice to stop until the lease is withdrawn.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// Workers that wait for work, and those that wait for notices.
pub const PULLS_MAX: usize = 1_024;
/// Jobs with workers, and on their way to them.
pub(crate) const HELD_MAX: usize = 4_096;
/// Payloads, checkpoints and inputs in one answer, but for a first one that is larger by itself.
pub const OFFER_BYTES_MAX: usize = 4 << 20;

/// A task that workers elsewhere run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteTask {
    pub info: TaskInfo,
    /// What each extension gives, [`LEASE_MIN`] to [`LEASE_MAX`].
    pub lease: Duration,
    /// From the notice to stop until the lease is withdrawn.
    pub grace: Duration,
}

impl RemoteTask {
    pub const fn new(info: TaskInfo) -> Self {
        Self {
            info,
            lease: LEASE_DEFAULT,
            grace: GRACE_DEFAULT,
        }
    }
}

/// A worker that asks for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// For a person; no two workers need differ.
    pub worker: Arc<str>,
    /// Empty: every task of the lane.
    pub tasks: Vec<TaskName>,
    /// Jobs at most, 1 or more.
    pub limit: u16,
}

/// Why nobody may wait for work now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimRefusal {
    #[error("`{task}` is no task for workers here; those are {known}")]
    UnknownTask { task: TaskName, known: String },
    #[error("{PULLS_MAX} workers wait for work already; come again later")]
    TooMany,
    #[error("the server is shutting down; come again later")]
    Closed,
}

/// A job that a worker may have, if it confirms in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub job: JobId,
    pub lease: Lease,
    pub attempt: u16,
    pub task: TaskName,
    pub payload: Bytes,
    /// What an earlier attempt left for this one.
    pub checkpoint: Option<Bytes>,
    /// What became of the jobs that it waited for.
    pub inputs: Arc<[Input]>,
    /// What each extension gives.
    pub lease_for: Duration,
    /// Wall clock of the attempt, from its confirmation.
    pub timeout: Duration,
    /// Until nobody waits for the result any more.
    pub deadline_in: Option<Duration>,
    /// W3C traceparent.
    pub trace: Option<Box<str>>,
}

/// What a worker has to tell while it works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// JSON, at most 4 KiB.
    pub note: Option<Bytes>,
    /// Lines for the attempt's log.
    pub log: Option<Bytes>,
    /// A piece of the result for whoever listens now: JSON, at most 16 KiB.
    pub partial: Option<Bytes>,
}

/// Why a worker must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWhy {
    Cancelled,
    /// The server goes down; the job is run again.
    Shutdown,
    /// Over a limit of the attempt.
    Limit(FailureClass),
}

impl StopWhy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Shutdown => "shutdown",
            Self::Limit(class) => class.as_str(),
        }
    }
}

/// The lease goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// Until the lease runs out, unless it is extended again.
    pub lease_left: Duration,
    /// Stop; it is not extended any more.
    pub stop: Option<StopWhy>,
}

/// The lease is not the asker's (any more): somebody else has the job, or it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease is over: it ran out, was withdrawn or was settled, or it never was this job's")]
pub struct Stale;

/// A notice to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopNotice {
    pub job: JobId,
    pub lease: Lease,
    pub why: StopWhy,
    /// Until the lease is withdrawn.
    pub lease_left: Duration,
}

/// What somebody who watches over leases is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    pub stop: Vec<StopNotice>,
    /// Over.
    pub gone: Vec<(JobId, Lease)>,
}

impl Watched {
    pub const fn is_empty(&self) -> bool {
        self.stop.is_empty() && self.gone.is_empty()
    }
}

/// How a worker ends its attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    /// JSON.
    Completed { result: Option<Bytes> },
    Failed {
        class: FailureClass,
        message: String,
    },
    /// Not run, or in vain by no fault of the job's: the attempt is not spent.
    HandBack,
    /// Not to be done yet: again after this, the attempt not spent.
    Snooze { after: Duration },
}

/// What a worker says of the attempt beside its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub cpu: Option<Duration>,
    pub max_rss_bytes: Option<u64>,
    pub log: Option<Bytes>,
}

/// What became of a worker's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// On its way into the store.
    Taken,
    /// This lease was settled before: an answer was lost on the way.
    Already,
}

/// One worker, for screens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteWorker {
    pub name: Arc<str>,
    /// Jobs that it holds.
    pub running: u32,
    /// Requests for work that wait.
    pub waiting: u32,
}

/// The lane, for screens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteView {
    /// By name.
    pub workers: Vec<RemoteWorker>,
    /// Jobs that nobody who waits can take.
    pub queued: u32,
}

/// Adds what a worker logged.
pub(crate) fn add_log(log: &mut LogTail, text: Option<&Bytes>) {
    if let Some(text) = text {
        offloop_lane::append_log(log, text);
        if !text.ends_with(b"\n") {
            offloop_lane::append_log(log, b"\n");
        }
    }
}
