//! The seam between the runtime and an engine that keeps jobs.
//!
//! [`JobStore`] is the hot path, batch by batch: each call is committed whole or not at all, and
//! answered after the commit is as durable as the engine promises. [`JobQuery`] is for screens and
//! may lag behind. [`Wake`] is a hint and may be lost.
//!
//! Must never: know an engine, a lane, HTTP or serde.

mod audit;
mod checkpoint;
pub mod codec;
mod error;
mod gate;
mod groups;
mod insert;
mod limits;
mod query;
pub mod schedule_text;
mod schedules;
mod sealed;
mod settle;
mod usage;

pub use audit::{
    AUDIT_ENTRIES_MAX, AUDIT_TEXT_BYTES_MAX, AuditAsk, AuditEntry, AuditPage, AuditStore,
};
pub use checkpoint::{Checkpoint, CheckpointOutcome};
pub use error::{BackendError, StoreError};
pub use gate::{Gate, ModeChange};
pub use groups::{
    Advanced, Asked, Doomed, DoomedWhy, FAN_OUT_AT_ONCE, FollowOf, GroupChange, GroupCreated,
    GroupListRequest, GroupOrder, GroupPage, GroupStore, Heard, MemberPage, MemberRequest, News,
    barred_message,
};
pub use insert::{
    InsertBatch, InsertOutcome, InsertRefusal, NotAdmitted, NotAdmittedWhy, PayloadProblem, SameAs,
    told,
};
pub use limits::{BlockedBy, LimitChange, LimitPage, LimitSet, LimitStatus, LimitStore, LimitsAsk};
pub use query::{
    Cursor, JobFilter, JobPage, JobQuery, LabelCount, LineStatus, ListRequest, QueueCounts,
    QueueStatus, Record, RecordPage, RecordScan, TimeRange,
};
pub use schedules::{
    Entry, Expect, Fired, Firing, LedgerAsk, LedgerOutcome, LedgerPage, LedgerPlace, LedgerRow,
    Next, Origin, PutOutcome, PutSchedule, ScheduleRow, ScheduleStore, Stretch, What,
};
pub use sealed::{SEALED_PREFIX, is_sealed};
pub use settle::{AttemptReport, Settled, Settlement, Verdict};
pub use usage::{
    USAGE_HOUR, USAGE_KEEP, USAGE_NAMES_MAX, USAGE_ROWS_MAX, USAGE_SUM_MAX, UsageAsk, UsageBy,
    UsageRow, UsageSum, UsageSums, usage_hour, usage_hour_start, usage_kept_from,
};

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    GroupId, History, Input, JobId, JobOptions, JobState, Lease, NewJob, NodeId, QueueName,
    RecordWrite, Step, TaskName, Timestamp,
};

/// An answer that comes after the commit. One box per batch.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// The hot path.
pub trait JobStore: Send + Sync + fmt::Debug {
    /// Takes jobs in, with rows of a pack in the same commit. One outcome per job, in order; each
    /// job sees what those before it in the batch did. The rows are written whatever becomes of
    /// the jobs.
    ///
    /// A batch with a [`offloop_job::RequestKey`] that was there before is answered with the jobs that were
    /// made then ([`SameAs::IdempotencyKey`]); those of it that were not made are tried again. If the key
    /// was given to another request, all of it is refused.
    ///
    /// Checked in this order: idempotency key, its group and the jobs it waits for, unique key,
    /// draining (the queue, then the task), room in the queue. Due at `run_at`, or now if that has passed. Only a created job takes an id.
    ///
    /// Jobs that name each other by their places belong together: if a queue has no room for all of
    /// the batch, none of it is taken in.
    ///
    /// A job whose `after` names unfinished jobs is `Waiting` until they have ended; due then, at
    /// `run_at`, or after its `delay` from then. A parent that is final counts at once.
    fn insert(&self, batch: InsertBatch) -> Reply<Vec<InsertOutcome>>;

    /// Takes ready jobs out, each with a new lease and its attempt counted. Never a job of a paused
    /// queue or task, before its time, past its `expires_at` (that millisecond itself is in time), or that
    /// a limit holds back. Wants in their order, one job after the other:
    ///
    /// - A *flow* is the jobs of one queue, task and group key, or those without a key. Within it:
    ///   by priority, then due time, then age (id).
    /// - Jobs without a key: by the same order over all flows of the want.
    /// - Jobs with a key: the flow whose last turn ended longest ago, then by the same order. A
    ///   turn is as many picks as the key has weight, default 1. A flow whose first job came
    ///   after it had none is served as if its turn had ended just before the last one that did.
    /// - Between the best of either kind: the one whose flow's turn ended longer ago, then by the
    ///   same order.
    ///
    /// So jobs of one key never wait behind all those of another, and without keys nothing but the
    /// order counts. Turns need not outlive the process: then all flows are even.
    ///
    /// A job is held back while one of the limits of its queue, task, key, or task and key
    /// ([`offloop_job::LimitTable::holding`]) has as many running as it allows, or its rate is not
    /// open. A claim takes the job's `cost` from each of those rates, in the same commit; nothing
    /// gives it back.
    ///
    /// A member of a decided group is not given out, and does not use up the limit.
    ///
    /// A job's time has come when [`JobStore::promote`] has said so, or at its insert: a clock that
    /// steps back does not make it wait again. A claim releases a unique key that is held until
    /// the job is started; neither a retry nor a hand-back takes it again.
    ///
    /// The leases need not survive a power cut, only the death of this process: a claim that was
    /// lost is a job that is ready.
    fn claim(&self, ask: ClaimRequest) -> Reply<Claims>;

    /// Ends attempts. A settlement whose lease is not the job's current one changes nothing, and
    /// writes none of its records. One outcome per settlement, in order.
    fn settle(&self, now: Timestamp, ends: Vec<Settlement>) -> Reply<Vec<Settled>>;

    /// Keeps the last note of running jobs. Stale leases are ignored; may be lost in a power cut.
    /// The note goes with its attempt.
    fn note_progress(&self, now: Timestamp, notes: Vec<ProgressNote>) -> Reply<()>;

    /// Keeps what running jobs want to find again in their next attempt: the newest one of each.
    /// Durable when answered. One outcome per checkpoint, in order. See [`Checkpoint`].
    fn checkpoint(&self, now: Timestamp, notes: Vec<Checkpoint>) -> Reply<Vec<CheckpointOutcome>>;

    /// Makes scheduled jobs whose time has come ready; the engine calls its [`WakeHook`] if any.
    /// Until then they are shown as scheduled and not given out, however late they are.
    /// A promotion need not outlive the process: the next one promotes again.
    fn promote(&self, now: Timestamp) -> Reply<Promoted>;

    /// Ends jobs that no executor has. A running job is marked (`cancelling`) by a cancel, so that
    /// it is not run again, by a retry or after a crash, and its lease is answered. An expiry of a
    /// running job changes nothing.
    fn end_idle(&self, now: Timestamp, ends: Vec<EndIdle>) -> Reply<Vec<EndIdleOutcome>>;

    /// Idle jobs whose `expires_at` has passed, in no certain order.
    fn overdue(&self, now: Timestamp, limit: u16) -> Reply<Vec<Overdue>>;

    /// Gives final jobs (not completed ones) another life: ready and due now, attempts and streak
    /// at 0. Earlier attempts and the last failure stay on record; leases of the earlier life are
    /// stale. An `expires_at` that has passed is lifted: it would end the job again at once. The
    /// queue's limit does not apply. A member of a decided group leaves it: the decision stands, and
    /// the new life is its own. Parents are not waited for again, and dependents are not touched.
    fn revive(&self, now: Timestamp, jobs: Vec<JobId>) -> Reply<Vec<ReviveOutcome>>;

    /// Forgets final jobs. Their idempotency keys stay for their time: a repeated request must not
    /// run again.
    fn delete(&self, jobs: Vec<JobId>) -> Reply<Vec<DeleteOutcome>>;

    /// Running jobs whose node is dead, for the runtime to settle by their old lease. For an
    /// embedded engine: every running job that `alive` did not claim. In no certain order.
    fn orphans(&self, alive: NodeId, limit: u16) -> Reply<Vec<Claimed>>;

    /// Deletes finished jobs by age and count, and idempotency keys that are as old as
    /// [`offloop_job::limits::IDEMPOTENCY_KEEP`], and sums of usage older than [`USAGE_KEEP`], a
    /// bounded piece at a time.
    fn prune(&self, rule: PruneRule) -> Reply<PruneReport>;

    /// Pauses, drains or opens a queue or a task; both may be unknown as yet. Durable when answered. A
    /// change is put on the audit log as `mode.set`; a call that changes nothing is not.
    fn set_mode(&self, change: ModeChange) -> Reply<()>;

    /// Rows of packs without a job. Durable when answered.
    fn write_records(&self, now: Timestamp, writes: Vec<RecordWrite>) -> Reply<()>;

    /// Answers what came before, leaves the store clean, and refuses what comes after.
    fn close(&self) -> Reply<()>;
}

/// Called by an engine when jobs may have become ready. Must return at once.
pub type WakeHook = Arc<dyn Fn() + Send + Sync>;

/// Hints that ready work may be there. Never relied upon: the runtime also polls.
pub trait Wake: Send + Sync {
    /// Replaces the earlier hook.
    fn set_hook(&self, hook: WakeHook);
}

/// What an engine can do, declared, not discovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// For a person: `sqlite`, `memory`.
    pub engine: &'static str,
    /// An answered insert survives the death of the process.
    pub survives_process: bool,
    /// An answered insert survives a power cut.
    pub survives_power_cut: bool,
    /// Several nodes may share it.
    pub shared: bool,
}

/// A store as the runtime takes it.
pub trait Engine:
    JobStore + GroupStore + JobQuery + Wake + LimitStore + AuditStore + ScheduleStore
{
    fn capability(&self) -> Capability;
}

/// Ready jobs that a node has room for.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequest {
    pub now: Timestamp,
    pub node: NodeId,
    /// One entry per lane.
    pub wants: Vec<Want>,
}

/// Room in one lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    pub tasks: Arc<[TaskName]>,
    pub limit: u16,
}

/// What a claim found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    pub jobs: Vec<Claimed>,
    /// A want was not filled, and ready jobs are held back by a rate until then, or earlier: when to
    /// ask again if nothing else happens. Always later than the `now` of the ask.
    pub blocked_until: Option<Timestamp>,
}

/// A job that is now running under a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    pub id: JobId,
    pub lease: Lease,
    pub task: TaskName,
    pub payload: Bytes,
    pub options: Arc<JobOptions>,
    pub due_at: Timestamp,
    pub claimed_at: Timestamp,
    /// With this attempt counted.
    pub history: History,
    /// What an earlier attempt left; see [`Checkpoint`].
    pub checkpoint: Option<Bytes>,
    /// Its cancel was asked for before its node died.
    pub cancelling: bool,
    /// What became of the jobs that it waited for, in the order of its `after`; for a group's
    /// follow-up, of the first [`offloop_job::limits::INPUTS_MAX`] members. Results up to
    /// [`offloop_job::limits::INPUT_BYTES_MAX`] in all. Empty for an orphan.
    pub inputs: Arc<[Input]>,
    /// Who held it: for orphans, the dead node.
    pub node: NodeId,
}

/// A note of a running job. JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgressNote {
    pub id: JobId,
    pub lease: Lease,
    pub note: Bytes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promoted {
    pub jobs: u32,
    /// When the next scheduled job is due.
    pub next_due: Option<Timestamp>,
}

/// One job to end before it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct EndIdle {
    pub id: JobId,
    pub why: IdleEnd,
    /// Written in the same commit if the job is ended by this call.
    pub records: Vec<RecordWrite>,
    /// Taken in by the same commit if the job is ended by this call; see [`Settlement::follow`].
    pub follow: Vec<NewJob>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleEnd {
    Cancel,
    Expire,
    /// A job that it waited for did not complete: it ends as failed. Only a waiting job can; any
    /// other is `Unknown` for that, or running, and nothing changes.
    Dependency,
}

impl IdleEnd {
    /// What it is in the table of states.
    pub const fn step(self) -> Step {
        match self {
            Self::Cancel => Step::Cancel,
            Self::Expire => Step::Expire,
            Self::Dependency => Step::Bar,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum EndIdleOutcome {
    Ended {
        task: TaskName,
        queue: QueueName,
        state: JobState,
    },
    /// A cancel is marked; the executor must be stopped and the attempt settled as `Abort`. An
    /// expiry marks nothing.
    Running {
        lease: Lease,
        node: NodeId,
    },
    AlreadyFinal(JobState),
    Unknown,
}

/// An idle job that is too late to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Overdue {
    pub id: JobId,
    pub task: TaskName,
    pub queue: QueueName,
    pub payload: Bytes,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ReviveOutcome {
    Revived {
        task: TaskName,
        queue: QueueName,
    },
    /// Still alive, or completed: nothing to retry.
    NotRevivable(JobState),
    /// Its unique key is held by another job now.
    UniqueConflict {
        holder: JobId,
    },
    /// A member of an open group, which has counted its end: progress never steps back.
    Counted {
        group: GroupId,
    },
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    Deleted,
    /// Cancel it first.
    NotFinal(JobState),
    Unknown,
}

/// What finished jobs are kept. A row goes when one of the rules says so: too old first, then the
/// oldest (by `finished_at`, then id) of those over the count. A job with a `keep` of its own goes
/// when that has passed (at least [`offloop_job::limits::KEEP_MIN`]), whatever the ages say; the count
/// is of all, since it bounds the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneRule {
    pub now: Timestamp,
    /// It goes when it is as old as this.
    pub completed_for: Duration,
    /// Failed, cancelled and expired ones.
    pub others_for: Duration,
    /// Finished jobs in all, the oldest go first.
    pub rows_max: u64,
    /// Rows looked at in this call, so that no call is long.
    pub rows_per_call: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Jobs; keys are not counted.
    pub deleted: u64,
    /// There is more to look at.
    pub more: bool,
}
