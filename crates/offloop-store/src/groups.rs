//! Jobs that settle together, and jobs that wait for others.
//!
//! An engine counts a member's end in the commit of that end, whichever way it ended, and decides
//! the group in the same commit; a group's follow-up is made there too. A dependent is let go in
//! the commit of its last parent's end where few wait for that parent, and by
//! [`GroupStore::advance`] where many do. Both are rows: what a killed process left undone is there
//! again, and nothing is done twice.
//!
//! What a decision means for others is work that the runtime fetches in pieces:
//! [`GroupStore::doomed`] names unfinished members of decided groups, and dependents that can never
//! run; it ends them with [`crate::JobStore::end_idle`] and stops those that run. From the commit
//! of the decision on no member of the group is handed out.

use bytes::Bytes;
use offloop_job::{
    Group, GroupId, GroupState, JobId, JobState, NewGroup, NewJob, QueueName, RecordWrite,
    TaskName, Timestamp,
};

use crate::{AuditEntry, Cursor, InsertOutcome, InsertRefusal, Reply};

/// Dependents of one parent that are looked at in the commit of its end; more are left to
/// [`GroupStore::advance`].
pub const FAN_OUT_AT_ONCE: usize = 64;

/// Groups and dependencies.
pub trait GroupStore: Send + Sync {
    /// Makes a group with its first members in one commit; `jobs` are members whatever their
    /// options say. A job that was there already (its unique or idempotency key) is no member. One
    /// that holds no member and is not held is decided at once; if members were asked for and none
    /// came to be, it is not made: its id names nothing.
    ///
    /// With a [`offloop_job::RequestKey`] that was there before nothing is made, for less than
    /// [`offloop_job::limits::IDEMPOTENCY_KEEP`]; see [`Asked`]. A key belongs to groups alone: jobs and
    /// batches may have the same one.
    ///
    /// More members come by [`crate::JobStore::insert`] with the option `group`.
    fn create_group(
        &self,
        now: Timestamp,
        group: NewGroup,
        jobs: Vec<NewJob>,
    ) -> Reply<GroupCreated>;

    /// No more members are promised: from now on it is over when all have ended. More may be added
    /// until then. A group that is not held is left as it is.
    /// On the audit log as `group.seal`.
    fn seal_group(&self, order: GroupOrder) -> Reply<GroupChange>;

    /// Decides an open group as cancelled. On the audit log as `group.cancel`.
    fn cancel_group(&self, order: GroupOrder) -> Reply<GroupChange>;

    /// A bounded piece of what ends have left to do: at most `limit` dependents are looked at, and
    /// groups past their deadline are failed. Tells what became of it, and what commits since the
    /// last call have brought.
    fn advance(&self, now: Timestamp, limit: u16) -> Reply<Advanced>;

    /// Jobs that must be ended because of others, in no certain order: idle ones, and running ones
    /// whose cancel is not marked yet. Fewer than `limit` does not mean that there are no more: ask
    /// again while [`GroupStore::stirred`].
    fn doomed(&self, now: Timestamp, limit: u16) -> Reply<Vec<Doomed>>;

    /// Jobs that ended where nobody could be asked what follows from it: replaced by another one with
    /// their unique key, or settled for another life while their cancel was marked. In no certain order,
    /// and again until [`GroupStore::heard`]; also after a restart.
    fn unheard(&self, limit: u16) -> Reply<Vec<JobId>>;

    /// What follows from such ends, in one commit. Of a job that is not among them nothing is taken: it was
    /// heard before.
    fn heard(&self, now: Timestamp, ends: Vec<Heard>) -> Reply<()>;

    /// A hint, answered at once: [`GroupStore::advance`], [`GroupStore::doomed`] or [`GroupStore::unheard`]
    /// has something.
    fn stirred(&self) -> bool;

    fn group(&self, id: GroupId) -> Reply<Option<Group>>;

    /// Newest first.
    fn groups(&self, ask: GroupListRequest) -> Reply<GroupPage>;

    /// In the order in which they were added.
    fn members(&self, ask: MemberRequest) -> Reply<MemberPage>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCreated {
    pub id: GroupId,
    pub state: GroupState,
    /// Empty unless it was made now.
    pub members: Vec<InsertOutcome>,
    pub asked: Asked,
}

/// What its request key says of a request for a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// It is done now.
    #[default]
    First,
    /// It was done before: the group is the one that it made, as it is now.
    Again,
    /// The key belongs to another request, which made the group; nothing was done.
    Otherwise,
}

/// What follows from an end that had to be heard of.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub id: JobId,
    /// Rows of a pack.
    pub records: Vec<RecordWrite>,
    /// As [`crate::Settlement::follow`].
    pub follow: Vec<NewJob>,
}

/// An order about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOrder {
    pub now: Timestamp,
    pub id: GroupId,
    /// Who asks, for the audit log. `None`: it is a part of making the group, and not put there.
    pub actor: Option<Box<str>>,
}

impl GroupOrder {
    /// What the audit log says of it.
    pub fn entry(&self, action: &str, after: GroupState) -> Option<AuditEntry> {
        let actor = self.actor.clone()?;
        Some(AuditEntry {
            at: self.now,
            actor,
            subject: format!("group:{}", self.id).into(),
            action: action.into(),
            before: Some(GroupState::Open.as_str().into()),
            after: Some(after.as_str().into()),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// It is in this state now.
    Done(GroupState),
    /// It was decided before; nothing changed.
    Decided(GroupState),
    Unknown,
}

/// What [`GroupStore::advance`] tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Advanced {
    /// What was committed, oldest first. Told once, and not across a restart; under a flood the
    /// oldest are left out.
    pub news: Vec<News>,
    /// There is more to do now.
    pub more: bool,
    /// When the next group runs out of time.
    pub next_deadline: Option<Timestamp>,
}

/// What a commit brought beside what its caller was told.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A job that came with an end, or with a group's decision.
    Created {
        id: JobId,
        task: TaskName,
        queue: QueueName,
        state: JobState,
        due_at: Timestamp,
    },
    /// A job that should have come with the end or the decision of `of` was not taken in.
    FollowRefused {
        of: FollowOf,
        task: TaskName,
        refusal: InsertRefusal,
    },
    /// Waits for no job any more.
    Unblocked {
        id: JobId,
        task: TaskName,
        queue: QueueName,
        due_at: Timestamp,
    },
    Decided {
        group: GroupId,
        state: GroupState,
    },
}

/// What a job comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowOf {
    Job(JobId),
    Group(GroupId),
}

/// What the record of a job says that never ran because of a parent.
pub fn barred_message(parent: Option<JobId>) -> String {
    match parent {
        Some(parent) => format!("never ran: job {parent}, which it waited for, did not complete"),
        None => "never ran: a job that it waited for did not complete".into(),
    }
}

/// A job to be ended because of others.
#[derive(Clone, Debug, PartialEq)]
pub struct Doomed {
    pub id: JobId,
    pub task: TaskName,
    pub queue: QueueName,
    pub payload: Bytes,
    pub why: DoomedWhy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoomedWhy {
    /// Its group is decided: to be cancelled.
    Group(GroupId),
    /// A job that it waited for did not complete: to be ended as `Dependency`.
    Dependency,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GroupListRequest {
    pub state: Option<GroupState>,
    /// 1 to 500.
    pub limit: u16,
    pub cursor: Option<Cursor>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GroupPage {
    pub groups: Vec<Group>,
    pub next: Option<Cursor>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MemberRequest {
    pub group: GroupId,
    /// 1 to 1,000.
    pub limit: u16,
    pub cursor: Option<Cursor>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MemberPage {
    /// `None`: it has been deleted since.
    pub members: Vec<(JobId, Option<JobState>)>,
    pub next: Option<Cursor>,
}
