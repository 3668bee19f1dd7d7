//! Schedules, and the ledger of their due times.
//!
//! An engine keeps rows and makes one promise: a due time has one row, and its row, its job and the
//! schedule's next due time are one commit. What is due when, and what becomes of it, is decided above
//! (`offloop-schedule`); the engine compares and sets.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::limits::LEDGER_REASON_BYTES_MAX;
use offloop_job::{JobId, NewJob, ScheduleName, ScheduleSpec, SkipReason, Timestamp};

use crate::schedule_text::spec_text;
use crate::{AuditEntry, InsertOutcome, Reply};

/// The schedules of a store.
pub trait ScheduleStore: Send + Sync {
    /// Makes or changes a schedule, if its revision is still the expected one. The commit holds the
    /// change, its entry in the audit log and, where a held due time is dropped by it, that one's row.
    fn put_schedule(&self, now: Timestamp, put: PutSchedule) -> Reply<PutOutcome>;

    /// Forgets a schedule and its ledger; its jobs go on. Answers what it was.
    fn delete_schedule(
        &self,
        now: Timestamp,
        name: ScheduleName,
        actor: Box<str>,
    ) -> Reply<Option<ScheduleRow>>;

    fn schedule(&self, name: ScheduleName) -> Reply<Option<ScheduleRow>>;

    /// By name, those after `after`, at most `limit`. Fewer than asked for means that there are no more.
    fn schedules(&self, after: Option<ScheduleName>, limit: u16) -> Reply<Vec<ScheduleRow>>;

    /// Keeps due times: for each firing, rows of the ledger, jobs by the ordinary insert, and what is
    /// next, or nothing of it. All firings are one commit; one outcome per firing, in order.
    ///
    /// A firing is applied if the schedule's revision, next due time and held due time are the
    /// expected ones: so of all nodes one fires. A due time that has a row already gets no other, and
    /// no job.
    fn fire(&self, now: Timestamp, firings: Vec<Firing>) -> Reply<Vec<Fired>>;

    /// The newest due time first, those before `before`.
    fn ledger(&self, ask: LedgerAsk) -> Reply<LedgerPage>;

    /// Unfinished jobs of each schedule, oldest first.
    fn live_jobs(&self, names: Vec<ScheduleName>) -> Reply<Vec<Vec<JobId>>>;

    /// Deletes rows of the ledger whose due times are as old as [`offloop_job::limits::LEDGER_KEEP`], a bounded
    /// piece at a time; answers whether there is more. (Those over
    /// [`offloop_job::limits::LEDGER_ROWS_MAX`] of one schedule go as new ones come.)
    fn prune_ledger(&self, now: Timestamp) -> Reply<bool>;
}

/// Who declared a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// Somebody asked for it.
    Api = 0,
    /// It is in the configuration, and goes when it is there no more.
    File = 1,
}

/// A schedule as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleRow {
    pub name: ScheduleName,
    pub spec: Arc<ScheduleSpec>,
    pub origin: Origin,
    /// Grows with every change of the spec, from 1.
    pub revision: u64,
    /// The anchor of an interval without a start.
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The first due time that has no row; `None` when there is none any more.
    pub next_due: Option<Timestamp>,
    /// A due time that waits for a job to end; it has no row yet.
    pub held: Option<Timestamp>,
}

/// What becomes of the next due time when a spec changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It and a held one stay: the times are the same.
    Keep,
    /// It is this; a held one is skipped as replaced.
    Set(Option<Timestamp>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct PutSchedule {
    pub name: ScheduleName,
    pub spec: Arc<ScheduleSpec>,
    pub origin: Origin,
    /// The revision that is changed; `None`: it must not exist.
    pub expect: Option<u64>,
    pub next: Next,
    /// Who asks, for the audit log.
    pub actor: Box<str>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PutOutcome {
    /// As it is now.
    Put(ScheduleRow),
    /// Its revision is another one: look again.
    Conflict,
    /// [`offloop_job::limits::SCHEDULES_MAX`] are there.
    Full,
}

impl AuditEntry {
    /// A schedule was made, changed or forgotten. What its payload holds is not told.
    pub fn of_schedule(
        at: Timestamp,
        actor: Box<str>,
        name: &ScheduleName,
        before: Option<&ScheduleSpec>,
        after: Option<&ScheduleSpec>,
    ) -> Self {
        let action = match after {
            Some(_) => "schedule.put",
            None => "schedule.delete",
        };
        let text = |spec: &ScheduleSpec| spec_text(spec).into();
        Self {
            at,
            actor,
            subject: format!("schedule:{name}").into(),
            action: action.into(),
            before: before.map(text),
            after: after.map(text),
        }
    }
}

/// One turn of one schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    pub name: ScheduleName,
    pub expect: Expect,
    /// Ascending by due time, but for a held one, which comes first.
    pub entries: Vec<Entry>,
    pub next_due: Option<Timestamp>,
    pub held: Option<Timestamp>,
    /// Apply nothing if a job of the schedule is unfinished.
    pub unless_live: bool,
}

/// What a turn was decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Compared with the row; another one refuses the turn.
    At {
        revision: u64,
        next_due: Option<Timestamp>,
        held: Option<Timestamp>,
    },
    /// By hand: nothing is compared, and what is next stays.
    Anything,
}

/// One row of the ledger that is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub due: Timestamp,
    /// Behind the due time and its jitter.
    pub late: Duration,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The row says what became of the job.
    Fire(Box<NewJob>),
    Skip(SkipReason),
    /// A row for a whole stretch of due times, the first of which is the entry's. `count`: `None` if
    /// there were too many to count.
    SkipUntil {
        reason: SkipReason,
        until: Timestamp,
        count: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fired {
    /// The rows that were written, in order.
    Done(Vec<LedgerRow>),
    /// It was changed, or another node was faster. The row as it is; `None`: it is gone.
    Stale(Option<ScheduleRow>),
    /// These jobs are unfinished.
    Live(Vec<JobId>),
}

/// One due time, or a stretch of skipped ones, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerRow {
    pub due_at: Timestamp,
    /// Behind the due time and its jitter.
    pub late: Duration,
    pub outcome: LedgerOutcome,
    /// When the row was written.
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub enum LedgerOutcome {
    /// `by_hand`: triggered; `due_at` is when.
    Fired { job: JobId, by_hand: bool },
    /// [`SkipReason`] as text.
    Skipped {
        reason: Box<str>,
        stretch: Option<Stretch>,
    },
}

/// The due times after the row's own that it stands for too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The last one.
    pub until: Timestamp,
    /// With the first and the last one; `None`: too many to count.
    pub count: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LedgerAsk {
    pub name: ScheduleName,
    pub before: Option<LedgerPlace>,
    /// 1 to 500.
    pub limit: u16,
}

/// A row's place in the ledger of its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerPlace {
    pub due_at: Timestamp,
    pub by_hand: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LedgerPage {
    /// `None`: there is no such schedule.
    pub rows: Option<Vec<LedgerRow>>,
    /// Where the next page begins, if there is one.
    pub next: Option<LedgerPlace>,
}

impl LedgerRow {
    /// The row of a due time, or of a stretch from it on, that was not fired.
    pub fn skipped(
        due_at: Timestamp,
        late: Duration,
        reason: &SkipReason,
        stretch: Option<Stretch>,
        at: Timestamp,
    ) -> Self {
        let text = reason.to_string();
        let end = text.floor_char_boundary(LEDGER_REASON_BYTES_MAX);
        let reason = text[..end].into();
        Self {
            due_at,
            late,
            outcome: LedgerOutcome::Skipped { reason, stretch },
            at,
        }
    }

    /// The row of a due time whose job was asked for.
    pub fn asked(
        due_at: Timestamp,
        late: Duration,
        outcome: &InsertOutcome,
        by_hand: bool,
        at: Timestamp,
    ) -> Self {
        let why = match outcome {
            InsertOutcome::Created { id, .. } => {
                return Self {
                    due_at,
                    late,
                    outcome: LedgerOutcome::Fired { job: *id, by_hand },
                    at,
                };
            }
            InsertOutcome::Existing { id, .. } => SkipReason::Unique { holder: *id },
            InsertOutcome::Refused(refusal) => SkipReason::Refused(refusal.to_string().into()),
        };
        Self::skipped(due_at, late, &why, None, at)
    }

    pub const fn place(&self) -> LedgerPlace {
        let by_hand = matches!(self.outcome, LedgerOutcome::Fired { by_hand: true, .. });
        LedgerPlace {
            due_at: self.due_at,
            by_hand,
        }
    }
}
