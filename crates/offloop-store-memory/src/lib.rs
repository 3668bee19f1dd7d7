//! A store that forgets everything with its process: the oracle that every engine is compared
//! with, and a store for tests.
//!
//! Slow and obvious on purpose: one lock, ordered maps, linear scans. Where it disagrees with
//! another engine, this one should be the easier to check against the words of `offloop-store`.
//!
//! Must never: be clever, wait, or keep state outside `State`.

mod claim;
mod flows;
mod groups;
mod idle;
mod insert;
mod limits;
mod prune;
mod query;
mod records;
mod schedules;
mod settle;
mod state;
mod turns;
mod usage;

use std::fmt;
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use offloop_job::{
    Collection, Group, GroupId, Job, JobId, Mode, NewGroup, NewJob, NodeId, RecordKey, RecordWrite,
    TaskName, Timestamp,
};
use offloop_store::{
    Advanced, AuditAsk, AuditPage, AuditStore, Capability, Checkpoint, CheckpointOutcome,
    ClaimRequest, Claimed, Claims, DeleteOutcome, Doomed, EndIdle, EndIdleOutcome, Engine, Gate,
    GroupChange, GroupCreated, GroupListRequest, GroupOrder, GroupPage, GroupStore, Heard,
    InsertBatch, InsertOutcome, JobPage, JobQuery, JobStore, LabelCount, LimitChange, LimitPage,
    LimitSet, LimitStore, LimitsAsk, LineStatus, ListRequest, MemberPage, MemberRequest,
    ModeChange, Overdue, ProgressNote, Promoted, PruneReport, PruneRule, QueueStatus, Record,
    RecordPage, RecordScan, Reply, ReviveOutcome, Settled, Settlement, StoreError, UsageAsk,
    UsageSums, Wake, WakeHook,
};

use crate::state::State;

/// How a [`MemoryStore`] is made.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Seed of the random part of job ids: equal seeds and times make equal ids.
    pub id_seed: u64,
    /// Unfinished jobs that one queue holds; more are refused.
    pub queue_jobs_max: u64,
}

impl Default for MemoryOptions {
    /// Seed 0, a million jobs per queue.
    fn default() -> Self {
        Self {
            id_seed: 0,
            queue_jobs_max: 1_000_000,
        }
    }
}

/// Jobs in memory. Every answer is there when the call returns.
pub struct MemoryStore {
    state: Mutex<State>,
    hook: Mutex<Option<WakeHook>>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = lock(&self.state).jobs.len();
        f.debug_struct("MemoryStore")
            .field("jobs", &jobs)
            .finish_non_exhaustive()
    }
}

/// A panic under the lock is a bug that its own caller reports; the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryStore {
    pub fn new(options: MemoryOptions) -> Self {
        Self {
            state: Mutex::new(State::new(options)),
            hook: Mutex::new(None),
        }
    }

    /// Makes all flows even, as the end of the process does in an engine that survives it: turns
    /// are not kept.
    pub fn forget_turns(&self) {
        lock(&self.state).forget_turns();
    }

    /// Does `work` under the lock. The hook is called after it, so that it may call back.
    fn answer<T: Send + 'static>(&self, work: impl FnOnce(&mut State) -> T) -> Reply<T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Box::pin(ready(Err(StoreError::Closed)));
        }
        let answer = work(&mut state);
        state.refresh_turns();
        let wake = std::mem::take(&mut state.wake);
        drop(state);
        if wake {
            let hook = lock(&self.hook).clone();
            if let Some(hook) = hook {
                hook();
            }
        }
        Box::pin(ready(Ok(answer)))
    }
}

impl JobStore for MemoryStore {
    fn insert(&self, batch: InsertBatch) -> Reply<Vec<InsertOutcome>> {
        self.answer(|state| state.insert(batch))
    }

    fn claim(&self, ask: ClaimRequest) -> Reply<Claims> {
        self.answer(|state| state.claim(&ask))
    }

    fn settle(&self, now: Timestamp, ends: Vec<Settlement>) -> Reply<Vec<Settled>> {
        self.answer(|state| ends.into_iter().map(|end| state.settle(now, end)).collect())
    }

    fn note_progress(&self, now: Timestamp, notes: Vec<ProgressNote>) -> Reply<()> {
        self.answer(|state| state.note_progress(now, notes))
    }

    fn checkpoint(&self, _now: Timestamp, notes: Vec<Checkpoint>) -> Reply<Vec<CheckpointOutcome>> {
        self.answer(|state| {
            let notes = notes.into_iter();
            notes.map(|note| state.checkpoint(note)).collect()
        })
    }

    fn promote(&self, now: Timestamp) -> Reply<Promoted> {
        self.answer(|state| state.promote(now))
    }

    fn end_idle(&self, now: Timestamp, ends: Vec<EndIdle>) -> Reply<Vec<EndIdleOutcome>> {
        self.answer(|state| ends.iter().map(|end| state.end_idle(now, end)).collect())
    }

    fn overdue(&self, now: Timestamp, limit: u16) -> Reply<Vec<Overdue>> {
        self.answer(|state| state.overdue(now, limit))
    }

    fn revive(&self, now: Timestamp, jobs: Vec<JobId>) -> Reply<Vec<ReviveOutcome>> {
        self.answer(|state| jobs.iter().map(|id| state.revive(now, *id)).collect())
    }

    fn delete(&self, jobs: Vec<JobId>) -> Reply<Vec<DeleteOutcome>> {
        self.answer(|state| jobs.iter().map(|id| state.delete(*id)).collect())
    }

    fn orphans(&self, alive: NodeId, limit: u16) -> Reply<Vec<Claimed>> {
        self.answer(|state| state.orphans(&alive, limit))
    }

    fn prune(&self, rule: PruneRule) -> Reply<PruneReport> {
        self.answer(|state| state.prune(rule))
    }

    fn set_mode(&self, change: ModeChange) -> Reply<()> {
        self.answer(|state| {
            if let Some(entry) = change.entry(state.mode(&change.gate)) {
                state.note_change(entry);
            }
            state.wake |= change.mode != Mode::Paused;
            state.modes.insert(change.gate, change.mode);
        })
    }

    fn write_records(&self, now: Timestamp, writes: Vec<RecordWrite>) -> Reply<()> {
        self.answer(|state| state.write_records(now, &writes))
    }

    fn close(&self) -> Reply<()> {
        self.answer(|state| state.closed = true)
    }
}

impl GroupStore for MemoryStore {
    fn create_group(
        &self,
        now: Timestamp,
        group: NewGroup,
        jobs: Vec<NewJob>,
    ) -> Reply<GroupCreated> {
        self.answer(|state| state.create_group(now, group, jobs))
    }

    fn seal_group(&self, order: GroupOrder) -> Reply<GroupChange> {
        self.answer(|state| state.seal_group(&order))
    }

    fn cancel_group(&self, order: GroupOrder) -> Reply<GroupChange> {
        self.answer(|state| state.cancel_group(&order))
    }

    fn advance(&self, now: Timestamp, _limit: u16) -> Reply<Advanced> {
        self.answer(|state| state.advance(now))
    }

    fn doomed(&self, _now: Timestamp, limit: u16) -> Reply<Vec<Doomed>> {
        self.answer(|state| state.doomed(limit))
    }

    fn unheard(&self, limit: u16) -> Reply<Vec<JobId>> {
        self.answer(|state| {
            let unheard = state.unheard.iter().copied();
            unheard.take(usize::from(limit)).collect()
        })
    }

    fn heard(&self, now: Timestamp, ends: Vec<Heard>) -> Reply<()> {
        self.answer(|state| ends.into_iter().for_each(|end| state.heard(now, end)))
    }

    fn stirred(&self) -> bool {
        lock(&self.state).stirs()
    }

    fn group(&self, id: GroupId) -> Reply<Option<Group>> {
        self.answer(|state| state.group(id))
    }

    fn groups(&self, ask: GroupListRequest) -> Reply<GroupPage> {
        self.answer(|state| state.list_groups(&ask))
    }

    fn members(&self, ask: MemberRequest) -> Reply<MemberPage> {
        self.answer(|state| state.members(&ask))
    }
}

impl JobQuery for MemoryStore {
    fn job(&self, id: JobId) -> Reply<Option<Job>> {
        self.answer(|state| state.jobs.get(&id).map(state::Row::job))
    }

    fn jobs(&self, ask: ListRequest) -> Reply<JobPage> {
        self.answer(|state| state.list(&ask))
    }

    fn backlog(&self) -> Reply<Vec<LineStatus>> {
        self.answer(|state| state.backlog())
    }

    fn task_modes(&self) -> Reply<Vec<(TaskName, Mode)>> {
        self.answer(|state| {
            let modes = state.modes.iter();
            let of_tasks = modes.filter_map(|(gate, mode)| match gate {
                Gate::Task(name) => Some((name.clone(), *mode)),
                Gate::Queue(_) => None,
            });
            of_tasks.collect()
        })
    }

    fn queues(&self, _now: Timestamp) -> Reply<Vec<QueueStatus>> {
        self.answer(|state| state.queues())
    }

    fn record(&self, collection: Collection, key: RecordKey) -> Reply<Option<Record>> {
        self.answer(|state| state.records.get(&(collection, key)).cloned())
    }

    fn records(&self, scan: RecordScan) -> Reply<RecordPage> {
        self.answer(|state| state.scan(&scan))
    }

    fn record_counts(&self, collection: Collection) -> Reply<Vec<LabelCount>> {
        self.answer(|state| state.label_counts(&collection))
    }

    fn usage(&self, ask: UsageAsk) -> Reply<UsageSums> {
        self.answer(|state| state.usage(ask))
    }
}

impl LimitStore for MemoryStore {
    fn set_limit(&self, change: LimitChange) -> Reply<LimitSet> {
        self.answer(|state| state.set_limit(change))
    }

    fn limits(&self, ask: LimitsAsk) -> Reply<LimitPage> {
        self.answer(|state| state.limit_page(&ask))
    }
}

impl AuditStore for MemoryStore {
    fn audit(&self, ask: AuditAsk) -> Reply<AuditPage> {
        self.answer(|state| state.audit_page(&ask))
    }
}

impl Wake for MemoryStore {
    fn set_hook(&self, hook: WakeHook) {
        *lock(&self.hook) = Some(hook);
    }
}

impl Engine for MemoryStore {
    fn capability(&self) -> Capability {
        Capability {
            engine: "memory",
            survives_process: false,
            survives_power_cut: false,
            shared: false,
        }
    }
}
