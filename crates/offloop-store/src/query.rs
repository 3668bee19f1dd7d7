//! What screens ask. Answers may lag behind the hot path by what is in flight.

use bytes::Bytes;
use offloop_job::{
    Collection, FailureClass, Job, JobId, JobState, JobSummary, Mode, QueueName, RecordKey,
    ScheduleName, Tag, TaskName, Timestamp,
};

use crate::{Reply, UsageAsk, UsageSums};

/// Read-only questions.
pub trait JobQuery: Send + Sync {
    /// The job with its attempts; of a running one the last attempt has no end, and no lane or
    /// executor (a store does not know them), and its wait is from due to claimed. No more than
    /// [`offloop_job::limits::ATTEMPTS_KEPT_MAX`] in all. `progress` is `None` unless it runs.
    ///
    /// In its summary `created_at` is the id's, `started_at` the claim of the attempt that runs or
    /// that ended the job (`None` while idle, and if it was ended idle), `failure` the last one in
    /// any life.
    fn job(&self, id: JobId) -> Reply<Option<Job>>;

    /// Newest id first. A page may be short, even empty, and still have a next one: the engine
    /// bounds the rows that it looks at, not the rows that it finds. Pages up to the one without a
    /// next show every job once that was there at the first and is not deleted.
    fn jobs(&self, ask: ListRequest) -> Reply<JobPage>;

    /// Every queue that has unfinished jobs or whose mode was ever set; an empty one may be shown too.
    fn queues(&self, now: Timestamp) -> Reply<Vec<QueueStatus>>;

    /// Every task whose mode was ever set, by name.
    fn task_modes(&self) -> Reply<Vec<(TaskName, Mode)>>;

    /// What waits, by queue and task: what estimates are made of, so it must be answered from memory
    /// and may lag by a commit. Lines that hold nothing may be left out.
    fn backlog(&self) -> Reply<Vec<LineStatus>>;

    /// One row of a pack.
    fn record(&self, collection: Collection, key: RecordKey) -> Reply<Option<Record>>;

    /// Rows of a pack in key order.
    fn records(&self, scan: RecordScan) -> Reply<RecordPage>;

    /// Rows of a pack by label.
    fn record_counts(&self, collection: Collection) -> Reply<Vec<LabelCount>>;

    /// What attempts cost since an hour: exactly the sums over those that were settled and not
    /// handed back.
    fn usage(&self, ask: UsageAsk) -> Reply<UsageSums>;
}

/// Where the next page starts. Opaque to callers: made and read by the engine alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Box<str>);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobFilter {
    pub task: Option<TaskName>,
    pub queue: Option<QueueName>,
    pub state: Option<JobState>,
    /// All of them.
    pub tags: Vec<Tag>,
    /// Class of the last failure.
    pub class: Option<FailureClass>,
    /// The schedule that made it.
    pub schedule: Option<ScheduleName>,
    /// By [`JobSummary::created_at`].
    pub created: TimeRange,
    /// By [`JobSummary::finished_at`]; a bound leaves out what has not finished.
    pub finished: TimeRange,
}

/// Instants from one on and before another; without bounds all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    pub from: Option<Timestamp>,
    pub before: Option<Timestamp>,
}

impl TimeRange {
    pub fn holds(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| at >= from) && self.before.is_none_or(|before| at < before)
    }

    /// Whether something that has no instant fits.
    pub const fn is_open(&self) -> bool {
        self.from.is_none() && self.before.is_none()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListRequest {
    pub now: Timestamp,
    pub filter: JobFilter,
    /// 1 to 500.
    pub limit: u16,
    pub cursor: Option<Cursor>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct JobPage {
    pub jobs: Vec<JobSummary>,
    pub next: Option<Cursor>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    pub waiting: u64,
    pub scheduled: u64,
    pub ready: u64,
    pub running: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct QueueStatus {
    pub name: QueueName,
    pub mode: Mode,
    pub counts: QueueCounts,
    /// Due time of the ready job that waits longest.
    pub oldest_ready: Option<Timestamp>,
}

/// The jobs of one task in one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct LineStatus {
    pub queue: QueueName,
    pub task: TaskName,
    /// Its queue or its task gives nothing out.
    pub paused: bool,
    pub counts: QueueCounts,
    /// Due time of the ready job that waits longest.
    pub oldest_ready: Option<Timestamp>,
}

/// A row of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: RecordKey,
    pub label: TaskName,
    pub value: Bytes,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RecordScan {
    pub collection: Collection,
    pub label: Option<TaskName>,
    /// Keys after this one.
    pub after: Option<RecordKey>,
    /// 1 to 10,000.
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RecordPage {
    pub records: Vec<Record>,
    /// The last key that was looked at, if there may be more.
    pub next: Option<RecordKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelCount {
    pub label: TaskName,
    pub count: u64,
}
