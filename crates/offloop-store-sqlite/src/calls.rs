//! The line of calls in front of the writer: bounded, and answered after the commit.
//!
//! Must never: block a caller. A full line is an answer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{
    Collection, JobId, NewGroup, NewJob, NodeId, RecordWrite, ScheduleName, Timestamp,
};
use offloop_store::{
    Advanced, Checkpoint, CheckpointOutcome, ClaimRequest, Claimed, Claims, DeleteOutcome, Doomed,
    EndIdle, EndIdleOutcome, Fired, Firing, GroupChange, GroupCreated, GroupOrder, Heard,
    InsertBatch, InsertOutcome, LabelCount, LimitChange, LimitPage, LimitSet, LimitsAsk,
    ModeChange, Overdue, ProgressNote, Promoted, PruneReport, PruneRule, PutOutcome, PutSchedule,
    Reply, ReviveOutcome, ScheduleRow, Settled, Settlement, StoreError, Verdict, What,
};
use tokio::sync::oneshot;

use crate::errors::Failure;

/// Jobs and rows in one transaction: past this the flush is no longer what costs.
const BATCH_ROWS_MAX: usize = 4_096;
/// Keeps a transaction's pages inside the page cache.
const BATCH_BYTES_MAX: usize = 8 << 20;

/// One call: what is asked, what was found, who waits.
pub(crate) struct Call<Q, A> {
    pub(crate) ask: Q,
    pub(crate) answer: Option<Result<A, StoreError>>,
    reply: oneshot::Sender<Result<A, StoreError>>,
}

impl<Q, A: Send + 'static> Call<Q, A> {
    /// The call and what its caller waits on.
    pub(crate) fn new(ask: Q) -> (Self, Reply<A>) {
        let (reply, answer) = oneshot::channel();
        let call = Self {
            ask,
            answer: None,
            reply,
        };
        let lost = StoreError::Broken { cause: None };
        let reply = Box::pin(async move { answer.await.unwrap_or(Err(lost)) });
        (call, reply)
    }

    /// Does its work. Its caller hears of it after the commit.
    pub(crate) fn work(
        &mut self,
        work: impl FnOnce(&Q) -> Result<A, Failure>,
    ) -> Result<(), Failure> {
        self.answer = Some(Ok(work(&self.ask)?));
        Ok(())
    }

    fn finish(self) {
        let lost = Err(StoreError::Broken { cause: None });
        // A caller that has gone away is no failure.
        let _ = self.reply.send(self.answer.unwrap_or(lost));
    }
}

/// Everything that the writer does.
#[expect(
    clippy::large_enum_variant,
    reason = "moved a few times on its way; a box for each call would cost more"
)]
pub(crate) enum Command {
    Insert(Call<InsertBatch, Vec<InsertOutcome>>),
    Claim(Call<ClaimRequest, Claims>),
    Settle(Call<(Timestamp, Vec<Settlement>), Vec<Settled>>),
    Note(Call<(Timestamp, Vec<ProgressNote>), ()>),
    Checkpoint(Call<(Timestamp, Vec<Checkpoint>), Vec<CheckpointOutcome>>),
    Promote(Call<Timestamp, Promoted>),
    EndIdle(Call<(Timestamp, Vec<EndIdle>), Vec<EndIdleOutcome>>),
    Overdue(Call<(Timestamp, u16), Vec<Overdue>>),
    Revive(Call<(Timestamp, Vec<JobId>), Vec<ReviveOutcome>>),
    Delete(Call<Vec<JobId>, Vec<DeleteOutcome>>),
    Orphans(Call<(NodeId, u16), Vec<Claimed>>),
    Prune(Call<PruneRule, PruneReport>),
    SetMode(Call<ModeChange, ()>),
    Records(Call<(Timestamp, Vec<RecordWrite>), ()>),
    Labels(Call<Collection, Vec<LabelCount>>),
    SetLimit(Call<LimitChange, LimitSet>),
    Limits(Call<LimitsAsk, LimitPage>),
    CreateGroup(Call<(Timestamp, NewGroup, Vec<NewJob>), GroupCreated>),
    SealGroup(Call<GroupOrder, GroupChange>),
    CancelGroup(Call<GroupOrder, GroupChange>),
    Advance(Call<(Timestamp, u16), Advanced>),
    Doomed(Call<u16, Vec<Doomed>>),
    Unheard(Call<u16, Vec<JobId>>),
    Heard(Call<(Timestamp, Vec<Heard>), ()>),
    PutSchedule(Call<(Timestamp, PutSchedule), PutOutcome>),
    DeleteSchedule(Call<(Timestamp, ScheduleName, Box<str>), Option<ScheduleRow>>),
    Fire(Call<(Timestamp, Vec<Firing>), Vec<Fired>>),
    LiveJobs(Call<Vec<ScheduleName>, Vec<Vec<JobId>>>),
    PruneLedger(Call<Timestamp, bool>),
    Close(Call<(), ()>),
}

macro_rules! each {
    ($command:expr, $call:ident => $body:expr) => {
        match $command {
            Command::Insert($call) => $body,
            Command::Claim($call) => $body,
            Command::Settle($call) => $body,
            Command::Note($call) => $body,
            Command::Checkpoint($call) => $body,
            Command::Promote($call) => $body,
            Command::EndIdle($call) => $body,
            Command::Overdue($call) => $body,
            Command::Revive($call) => $body,
            Command::Delete($call) => $body,
            Command::Orphans($call) => $body,
            Command::Prune($call) => $body,
            Command::SetMode($call) => $body,
            Command::Records($call) => $body,
            Command::Labels($call) => $body,
            Command::SetLimit($call) => $body,
            Command::Limits($call) => $body,
            Command::CreateGroup($call) => $body,
            Command::SealGroup($call) => $body,
            Command::CancelGroup($call) => $body,
            Command::Advance($call) => $body,
            Command::Doomed($call) => $body,
            Command::Unheard($call) => $body,
            Command::Heard($call) => $body,
            Command::PutSchedule($call) => $body,
            Command::DeleteSchedule($call) => $body,
            Command::Fire($call) => $body,
            Command::LiveJobs($call) => $body,
            Command::PruneLedger($call) => $body,
            Command::Close($call) => $body,
        }
    };
}

impl Command {
    /// Answers the caller.
    pub(crate) fn finish(self) {
        each!(self, call => call.finish());
    }

    /// Puts an error in the place of whatever was found, and answers.
    pub(crate) fn fail(mut self, error: StoreError) {
        self.refuse(error);
        self.finish();
    }

    /// Answers this call alone with an error, after the commit.
    pub(crate) fn refuse(&mut self, error: StoreError) {
        each!(self, call => call.answer = Some(Err(error)));
    }

    /// Whether its rows must be on disk before it is answered. The others are true again after a
    /// power cut: a lost claim is a ready job, a lost promotion is made again.
    pub(crate) const fn is_durable(&self) -> bool {
        !matches!(
            self,
            Self::Claim(_)
                | Self::Note(_)
                | Self::Promote(_)
                | Self::Overdue(_)
                | Self::Orphans(_)
                | Self::Labels(_)
                | Self::Limits(_)
                | Self::Doomed(_)
                | Self::Unheard(_)
                | Self::LiveJobs(_)
        )
    }

    /// Takes room that running jobs may need to end: refused first when the disk is nearly full.
    pub(crate) const fn is_intake(&self) -> bool {
        matches!(
            self,
            Self::Insert(_)
                | Self::Records(_)
                | Self::CreateGroup(_)
                | Self::PutSchedule(_)
                | Self::Fire(_)
        )
    }

    /// Rows and bytes, about.
    fn weight(&self) -> (usize, usize) {
        let records = |writes: &[RecordWrite]| -> usize {
            writes
                .iter()
                .map(|write| write.key.len() + write.value.len() + 64)
                .sum()
        };
        let jobs =
            |jobs: &[NewJob]| -> usize { jobs.iter().map(|job| job.payload.len() + 256).sum() };
        match self {
            Self::CreateGroup(call) => (call.ask.2.len() + 1, jobs(&call.ask.2)),
            Self::Insert(call) => {
                let (new, rows) = (&call.ask.jobs, &call.ask.records);
                (new.len() + rows.len(), jobs(new) + records(rows))
            }
            Self::Settle(call) => {
                let ends = call.ask.1.iter().map(|end| {
                    let result = match &end.verdict {
                        Verdict::Completed { result } => {
                            result.as_ref().map_or(0, bytes::Bytes::len)
                        }
                        _ => 0,
                    };
                    let log = end.report.log.head.len() + end.report.log.tail.len();
                    result + log + records(&end.records) + jobs(&end.follow) + 512
                });
                (call.ask.1.len(), ends.sum())
            }
            Self::Claim(call) => {
                let jobs = call
                    .ask
                    .wants
                    .iter()
                    .map(|want| usize::from(want.limit))
                    .sum();
                (jobs, 256)
            }
            Self::EndIdle(call) => {
                let ends = call.ask.1.iter();
                let ends = ends.map(|end| records(&end.records) + jobs(&end.follow) + 512);
                (call.ask.1.len(), ends.sum())
            }
            Self::Heard(call) => {
                let size = |end: &Heard| records(&end.records) + jobs(&end.follow) + 64;
                (call.ask.1.len(), call.ask.1.iter().map(size).sum())
            }
            Self::Advance(call) => (call.ask.1.into(), usize::from(call.ask.1) * 128),
            Self::Records(call) => (call.ask.1.len(), records(&call.ask.1)),
            Self::Note(call) => {
                let notes = call.ask.1.iter().map(|note| note.note.len() + 64);
                (call.ask.1.len(), notes.sum())
            }
            Self::Checkpoint(call) => {
                let notes = call.ask.1.iter().map(|note| note.data.len() + 64);
                (call.ask.1.len(), notes.sum())
            }
            Self::Fire(call) => {
                let entries = call.ask.1.iter().flat_map(|firing| &firing.entries);
                let sizes = entries.map(|entry| match &entry.what {
                    What::Fire(job) => job.payload.len() + 512,
                    What::Skip(_) | What::SkipUntil { .. } => 128,
                });
                let sizes: Vec<_> = sizes.collect();
                (sizes.len(), sizes.iter().sum())
            }
            Self::PutSchedule(call) => (1, call.ask.1.spec.payload.len() + 512),
            Self::Prune(call) => (call.ask.rows_per_call as usize, 64),
            _ => (1, 64),
        }
    }
}

/// How many calls, and how many of their bytes, may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    /// The store is being reopened.
    Broken,
    /// No call comes after this one.
    Closed,
}

struct Waiting {
    calls: VecDeque<(Command, usize, usize)>,
    bytes: usize,
    door: Door,
}

/// Callers on one side, the writer on the other.
pub(crate) struct Calls {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    bounds: Bounds,
}

impl Calls {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                calls: VecDeque::new(),
                bytes: 0,
                door: Door::Open,
            }),
            bell: Condvar::new(),
            bounds,
        }
    }

    /// No code panics under this lock; if it did, the line itself would still be sound.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call in line, or answers it at once.
    pub(crate) fn push(&self, command: Command) {
        let (rows, bytes) = command.weight();
        let mut waiting = self.lock();
        // What ends jobs has room after what brings new ones is refused.
        let share = if command.is_intake() { 1 } else { 2 };
        let full = waiting.calls.len() >= self.bounds.calls * share
            || (waiting.bytes + bytes > self.bounds.bytes * share && !waiting.calls.is_empty());
        let closes = matches!(command, Command::Close(_));
        let refusal = match waiting.door {
            Door::Closed => Some(StoreError::Closed),
            Door::Broken if !closes => Some(StoreError::Broken { cause: None }),
            Door::Open if full && !closes => Some(StoreError::Busy {
                waiting: waiting.calls.len(),
            }),
            Door::Open | Door::Broken => None,
        };
        if let Some(refusal) = refusal {
            drop(waiting);
            command.fail(refusal);
            return;
        }
        if closes {
            waiting.door = Door::Closed;
        }
        waiting.bytes += bytes;
        waiting.calls.push_back((command, rows, bytes));
        let first = waiting.calls.len() == 1;
        drop(waiting);
        if first {
            self.bell.notify_one();
        }
    }

    /// The next calls for one transaction, in order; none if `patience` has passed.
    pub(crate) fn take(&self, patience: Duration) -> Vec<Command> {
        let until = Instant::now() + patience;
        let mut waiting = self.lock();
        while waiting.calls.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            let woken = self.bell.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (mut rows, mut bytes) = (0, 0);
        let mut taken = Vec::new();
        while let Some((command, own_rows, own_bytes)) = waiting.calls.pop_front() {
            let over = rows + own_rows > BATCH_ROWS_MAX || bytes + own_bytes > BATCH_BYTES_MAX;
            if over && !taken.is_empty() {
                waiting.calls.push_front((command, own_rows, own_bytes));
                break;
            }
            rows += own_rows;
            bytes += own_bytes;
            waiting.bytes -= own_bytes;
            taken.push(command);
        }
        taken
    }

    /// While the store is down, calls are refused at once. Those in line are handed out for it.
    pub(crate) fn break_off(&self) -> Vec<Command> {
        let mut waiting = self.lock();
        if waiting.door == Door::Open {
            waiting.door = Door::Broken;
        }
        waiting.bytes = 0;
        waiting.calls.drain(..).map(|entry| entry.0).collect()
    }

    /// Calls are taken again, unless the end has come meanwhile.
    pub(crate) fn resume(&self) {
        let mut waiting = self.lock();
        if waiting.door == Door::Broken {
            waiting.door = Door::Open;
        }
    }

    /// Everything from now on is refused.
    pub(crate) fn shut(&self) -> Vec<Command> {
        let mut waiting = self.lock();
        waiting.door = Door::Closed;
        waiting.bytes = 0;
        waiting.calls.drain(..).map(|entry| entry.0).collect()
    }
}
