//! Limits: what may run at once and how fast it may start, by queue, task and group key.
//!
//! They hold in the claim alone (the rule is told at [`crate::JobStore::claim`]): a job that is held
//! back stays ready. Set at run time, kept with the jobs, audited in the same commit.

use offloop_job::{Limit, LimitTarget, Timestamp};

use crate::{Origin, Reply};

/// Limits that change while jobs run.
pub trait LimitStore {
    /// Sets the limit of `target`, or removes it. Not checked: the door has done that. Durable when
    /// answered, and in force for the next claim; what runs already goes on, and counts.
    ///
    /// A target whose rate is another one than before begins with nothing taken from it. The
    /// engine calls its wake hook: jobs may go now. A change is put on the audit log as
    /// `limit.set` or `limit.remove`; a call that changes nothing is not.
    ///
    /// A limit is of who set it last; where a door asks for what is there already it stays the
    /// configuration's, and where the configuration does it becomes so.
    fn set_limit(&self, change: LimitChange) -> Reply<LimitSet>;

    /// Limits by their targets' order, one page.
    fn limits(&self, ask: LimitsAsk) -> Reply<LimitPage>;
}

#[derive(Clone, Debug, PartialEq)]
pub struct LimitChange {
    pub now: Timestamp,
    pub target: LimitTarget,
    /// `None` removes it.
    pub limit: Option<Limit>,
    pub origin: Origin,
    /// Who asks, for the audit log.
    pub actor: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSet {
    /// With what was in force before.
    Done { before: Option<Limit> },
    /// There are [`offloop_job::limits::LIMITS_MAX`] limits; nothing was changed.
    Full { limit: usize },
}

#[derive(Clone, Debug, PartialEq)]
pub struct LimitsAsk {
    pub now: Timestamp,
    /// Nothing but this one.
    pub only: Option<LimitTarget>,
    /// Targets after this one.
    pub after: Option<LimitTarget>,
    /// 1 to 500.
    pub limit: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LimitPage {
    pub limits: Vec<LimitStatus>,
    /// The last target of this page, if there are more.
    pub next: Option<LimitTarget>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LimitStatus {
    pub target: LimitTarget,
    pub limit: Limit,
    pub origin: Origin,
    /// Jobs that run under it. For a target that is for each key: of all keys that it governs.
    pub running: u64,
    /// What holds the next job back now. Of a target that is for each key nothing is told.
    pub blocked: Option<BlockedBy>,
}

/// Why the next job of a target may not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedBy {
    Concurrency,
    /// Until then.
    Rate(Timestamp),
}
