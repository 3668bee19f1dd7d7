//! Jobs that settle together: the rules of groups, and what a job may wait for.
//!
//! Pure: a rule sees counts and answers a state. Which job ended, and when, is the engine's affair
//! (`offloop-store/src/groups.rs`). Why it is so: docs/adr/0020.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use bytes::Bytes;

use crate::failure::clip;
use crate::limits::{GROUP_FAILURE_BYTES_MAX, GROUP_FAILURES_KEPT};
use crate::{
    FailureClass, JobId, JobState, NewJob, ParseJobIdError, RequestKey, TaskName, Timestamp,
};

/// Which group. A UUID of version 7 from the same source as job ids: no job has the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(JobId);

impl GroupId {
    /// `id`: a fresh one, which is given to no job.
    pub const fn new(id: JobId) -> Self {
        Self(id)
    }

    pub const fn from_parts(order: u64, random: u64) -> Self {
        Self(JobId::from_parts(order, random))
    }

    /// See [`JobId::order`].
    pub const fn order(self) -> u64 {
        self.0.order()
    }

    pub const fn random(self) -> u64 {
        self.0.random()
    }

    pub const fn created(self) -> Timestamp {
        self.0.created()
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupId({})", self.0)
    }
}

impl FromStr for GroupId {
    type Err = ParseJobIdError;

    fn from_str(text: &str) -> Result<Self, ParseJobIdError> {
        text.parse().map(Self)
    }
}

/// When a group is decided, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum GroupRule {
    /// The first member that does not complete fails the group, and the rest is cancelled.
    #[default]
    All = 0,
    /// Completed once every member has ended, however it ended.
    AllSettled = 1,
    /// The first end decides, good or bad, and the rest is cancelled.
    Race = 2,
    /// The first member that completes decides, and the rest is cancelled; failed if none does.
    Any = 3,
}

impl GroupRule {
    pub const ALL: [Self; 4] = [Self::All, Self::AllSettled, Self::Race, Self::Any];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::AllSettled => "all_settled",
            Self::Race => "race",
            Self::Any => "any",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Where a group stands. All but `Open` are for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum GroupState {
    #[default]
    Open = 0,
    Completed = 1,
    Failed = 2,
    Cancelled = 3,
}

impl GroupState {
    pub const ALL: [Self; 4] = [Self::Open, Self::Completed, Self::Failed, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a group failed or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GroupReason {
    /// A member ended without success.
    Member = 0,
    /// Its time was over.
    Deadline = 1,
    /// It was sealed without a single member, and its rule needs one.
    Empty = 2,
    /// A person or a program cancelled it.
    Asked = 3,
}

impl GroupReason {
    pub const ALL: [Self; 4] = [Self::Member, Self::Deadline, Self::Empty, Self::Asked];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Deadline => "deadline",
            Self::Empty => "empty",
            Self::Asked => "asked",
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Members of a group, and how many of them have ended.
///
/// Each member ends once here: `done` and `total` only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub expired: u64,
}

impl Tally {
    /// Members that have ended.
    pub const fn done(&self) -> u64 {
        self.completed + self.failed + self.cancelled + self.expired
    }

    /// Members that have not.
    pub const fn left(&self) -> u64 {
        self.total - self.done()
    }

    /// Counts one end. A state that is none changes nothing.
    pub const fn count(&mut self, end: JobState) {
        match end {
            JobState::Completed => self.completed += 1,
            JobState::Failed => self.failed += 1,
            JobState::Cancelled => self.cancelled += 1,
            JobState::Expired => self.expired += 1,
            _ => {}
        }
    }
}

/// What the rule says after these ends; `None`: the group stays open.
///
/// - `held`: members may still be promised, so that "every member has ended" cannot be said yet.
///   A single end that decides by itself (`all`, `race`, `any`) decides all the same.
///
/// The counts may hold several ends since the last question, but an engine asks after each, so that
/// `race` knows which came first: a completed one wins if both came at once.
pub const fn verdict(rule: GroupRule, tally: &Tally, held: bool) -> Option<GroupState> {
    let bad = tally.done() - tally.completed;
    let over = !held && tally.left() == 0;
    match rule {
        GroupRule::Race | GroupRule::Any if tally.completed > 0 => Some(GroupState::Completed),
        GroupRule::All | GroupRule::Race if bad > 0 => Some(GroupState::Failed),
        GroupRule::Race | GroupRule::Any if over => Some(GroupState::Failed),
        GroupRule::All | GroupRule::AllSettled if over => Some(GroupState::Completed),
        _ => None,
    }
}

/// How members ended that did not complete: counts by class, and the first few in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// By class of failure, or `cancelled`, `expired`, `dependency`.
    pub kinds: BTreeMap<Box<str>, u64>,
    /// At most [`GROUP_FAILURES_KEPT`], the first that came.
    pub first: Vec<MemberFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFailure {
    pub job: JobId,
    pub kind: Box<str>,
    /// At most [`GROUP_FAILURE_BYTES_MAX`] bytes, on one line.
    pub message: Box<str>,
}

impl Failures {
    /// `class`: of its last attempt, if that failed.
    pub fn note(&mut self, job: JobId, end: JobState, class: Option<FailureClass>, message: &str) {
        let kind = match (end, class) {
            (JobState::Failed, Some(class)) => class.as_str(),
            (JobState::Failed, None) => "dependency",
            (end, _) => end.as_str(),
        };
        *self.kinds.entry(kind.into()).or_default() += 1;
        if self.first.len() < GROUP_FAILURES_KEPT {
            let line = message.replace(|c: char| c.is_control(), " ");
            self.first.push(MemberFailure {
                job,
                kind: kind.into(),
                message: clip(line.trim(), GROUP_FAILURE_BYTES_MAX).into(),
            });
        }
    }

    /// `3 error, 1 timeout; first JOB (error): the message; ..`. Empty if nothing failed.
    pub fn summary(&self) -> String {
        let kinds = self.kinds.iter();
        let kinds: Vec<_> = kinds
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        let mut out = kinds.join(", ");
        for (at, failure) in self.first.iter().enumerate() {
            let lead = if at == 0 { "; first " } else { "; " };
            let _ = write!(out, "{lead}{} ({})", failure.job, failure.kind);
            if !failure.message.is_empty() {
                let _ = write!(out, ": {}", failure.message);
            }
        }
        out
    }

    /// For engines to keep: a line of counts, then one line for each of the first.
    pub fn encode(&self) -> String {
        let kinds = self.kinds.iter();
        let kinds: Vec<_> = kinds
            .map(|(kind, count)| format!("{kind}={count}"))
            .collect();
        let mut out = kinds.join(",");
        for failure in &self.first {
            let MemberFailure { job, kind, message } = failure;
            let _ = write!(out, "\n{job} {kind} {message}");
        }
        out
    }

    /// The inverse; what cannot be read is left out.
    pub fn decode(text: &str) -> Self {
        let mut lines = text.split('\n');
        let kinds = lines.next().unwrap_or_default().split(',');
        let kinds = kinds.filter_map(|part| {
            let (kind, count) = part.split_once('=')?;
            Some((kind.into(), count.parse().ok()?))
        });
        let kinds = kinds.collect();
        let first = lines.filter_map(|line| {
            let mut parts = line.splitn(3, ' ');
            Some(MemberFailure {
                job: parts.next()?.parse().ok()?,
                kind: parts.next()?.into(),
                message: parts.next().unwrap_or_default().into(),
            })
        });
        let first = first.collect();
        Self { kinds, first }
    }
}

/// On which end of a group its follow-up is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ThenOn {
    Completed = 0,
    /// Failed or cancelled.
    Failed = 1,
    #[default]
    Any = 2,
}

impl ThenOn {
    pub const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::Any];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Any => "any",
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    pub fn takes(self, state: GroupState) -> bool {
        match self {
            Self::Completed => state == GroupState::Completed,
            Self::Failed => matches!(state, GroupState::Failed | GroupState::Cancelled),
            Self::Any => state != GroupState::Open,
        }
    }
}

/// The job that is made in the commit that decides a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Then {
    pub on: ThenOn,
    /// Its queue's limit does not apply: the group's end must not get lost on a full queue.
    pub job: NewJob,
}

/// A group that is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewGroup {
    pub rule: GroupRule,
    /// Decided by then, or it fails and what is left is cancelled.
    pub deadline: Option<Timestamp>,
    /// More members will come: it is not over before it is sealed.
    pub hold: bool,
    pub then: Option<Then>,
    pub request: Option<RequestKey>,
}

/// A group on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub id: GroupId,
    pub rule: GroupRule,
    pub state: GroupState,
    pub hold: bool,
    pub created_at: Timestamp,
    pub deadline: Option<Timestamp>,
    pub decided_at: Option<Timestamp>,
    /// Of one that failed or was cancelled.
    pub reason: Option<GroupReason>,
    pub tally: Tally,
    pub failures: Failures,
    /// When its follow-up is made, if it has one.
    pub then_on: Option<ThenOn>,
    /// The task of its follow-up.
    pub then_task: Option<TaskName>,
    /// Its follow-up, once it is made.
    pub then_job: Option<JobId>,
}

impl Group {
    /// For a person: why it failed. `None` while nothing did.
    pub fn message(&self) -> Option<String> {
        let detail = self.failures.summary();
        let done = self.tally.done();
        let bad = done - self.tally.completed;
        let total = self.tally.total;
        Some(match (self.state, self.reason?) {
            (GroupState::Open | GroupState::Completed, _) => return None,
            (_, GroupReason::Empty) => "it was sealed without a member".into(),
            (_, GroupReason::Asked) => format!("cancelled with {done} of {total} members done"),
            (_, GroupReason::Deadline) => {
                format!("its deadline came with {done} of {total} members done")
            }
            (_, GroupReason::Member) if self.rule == GroupRule::Any => {
                format!("none of {total} members completed: {detail}")
            }
            (_, GroupReason::Member) => format!("{bad} of {total} members failed: {detail}"),
        })
    }
}

/// What happens to a job when one that it waits for does not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum OnFailure {
    /// It ends as failed (`dependency`) and never runs.
    #[default]
    Fail = 0,
    /// As if that one had completed.
    Ignore = 1,
    /// It waits for nothing more: it is due now.
    Continue = 2,
}

impl OnFailure {
    pub const ALL: [Self; 3] = [Self::Fail, Self::Ignore, Self::Continue];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Ignore => "ignore",
            Self::Continue => "continue",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == name)
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// What the end of a parent means for a job that waits for it.
    pub const fn on_end(self, end: JobState) -> Passage {
        match (end, self) {
            (JobState::Completed, _) | (_, Self::Ignore) => Passage::Counted,
            (_, Self::Fail) => Passage::Barred,
            (_, Self::Continue) => Passage::Free,
        }
    }
}

/// What an ended parent does to its dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// One parent fewer to wait for.
    Counted,
    /// It waits for none any more.
    Free,
    /// It can never run.
    Barred,
}

/// Which job is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    Job(JobId),
    /// The job at this place of the same batch, before this one. 0 for the first.
    Earlier(u16),
}

/// One job that another waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    pub parent: Parent,
    pub on_failure: OnFailure,
}

/// What a job sees of one that it waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    pub id: JobId,
    /// `None`: it is on record no more.
    pub state: Option<JobState>,
    /// Class of its last failure, if it did not complete.
    pub class: Option<FailureClass>,
    /// JSON. `None` where it had none, or where `omitted`.
    pub result: Option<Bytes>,
    /// The results together would be over [`crate::limits::INPUT_BYTES_MAX`]: ask for it by its id.
    pub omitted: bool,
}

#[cfg(test)]
mod tests;
