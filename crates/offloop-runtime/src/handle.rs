//! What doors, packs and tests hold: asks and orders, from any thread.
//!
//! Orders about running attempts go to the keeper by its inbox; everything else goes straight to
//! the engine.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use offloop_job::{
    Collection, EventKind, Job, JobEvent, JobId, JobState, Lease, Limit, LimitTarget, NewJob,
    NodeId, RecordKey, RecordWrite, StopReason, TaskName, Timestamp,
};
use offloop_lane::{ExitCount, Lane, LaneStatus, Slots, TaskInfo};
use offloop_pulse::Pulse;
use offloop_store::{
    Capability, DeleteOutcome, EndIdleOutcome, Engine, IdleEnd, InsertOutcome, JobPage, LabelCount,
    ListRequest, QueueStatus, Record, RecordPage, RecordScan, ReviveOutcome, StoreError, UsageAsk,
    UsageRow, UsageSums,
};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;

use crate::admission::Pressure;
use crate::awaited::Awaited;
use crate::backlog::{self, Backlog};
use crate::calls::{self, CallAnswer, CallAsk, CallError, CallLaneView, Calls};
use crate::clock::{Clock, Dice};
use crate::config::{Budget, RuntimeConfig, TaskDefaults};
use crate::ends::{self, EndHook};
use crate::gauge::{Gauge, Pressed};
use crate::hooks::{FinalEnd, TaskHook};
use crate::keeper::Input;
use crate::meters::{Meters, TaskBuckets};
use crate::path::enqueue::{self, EnqueueError};
use crate::path::publish::{EventCursor, Events, Hub};
use crate::payload::PayloadCheck;
use crate::redact;
use crate::schedules::Schedules;

/// A task and the lane that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    pub info: TaskInfo,
    pub lane: Box<str>,
}

/// A lane and how busy it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneView {
    pub name: Box<str>,
    pub slots: Slots,
    pub status: LaneStatus,
    /// Why executors left since the lane was opened, each reason once.
    pub exits: Vec<ExitCount>,
    /// Why it starts no executors at present. The server stays ready: its other lanes go on.
    pub trouble: Option<Box<str>>,
    pub tasks: Vec<TaskName>,
}

/// A question that the engine could not answer.
pub type QueryError = StoreError;

/// What became of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// No executor had it.
    Cancelled,
    /// It runs; its executor is being stopped. The job is final once that is proven gone.
    Stopping,
    AlreadyFinal(JobState),
    Unknown,
}

/// What runs now, as far as the lanes have said.
#[derive(Clone, Debug)]
pub(crate) struct RunningView {
    pub(crate) lease: Lease,
    pub(crate) lane: usize,
    pub(crate) executor: Box<str>,
    pub(crate) started_at: Timestamp,
}

/// Everything that the doors' threads and the keeper's thread share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) lanes: Vec<Arc<dyn Lane>>,
    pub(crate) calls: Calls,
    /// Task to lane.
    pub(crate) routes: HashMap<TaskName, usize>,
    pub(crate) tasks: Vec<TaskView>,
    pub(crate) defaults: HashMap<TaskName, TaskDefaults>,
    pub(crate) hooks: HashMap<TaskName, Arc<dyn TaskHook>>,
    pub(crate) end_hooks: Vec<Arc<dyn EndHook>>,
    pub(crate) checks: HashMap<TaskName, Arc<dyn PayloadCheck>>,
    /// Large payloads that are looked at now.
    pub(crate) checking: Semaphore,
    /// Set at the start.
    pub(crate) declared_limits: Vec<(LimitTarget, Limit)>,
    pub(crate) budget: Budget,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dice: Dice,
    pub(crate) hub: Arc<Hub>,
    pub(crate) node: NodeId,
    pub(crate) config: RuntimeConfig,
    pub(crate) inbox: UnboundedSender<Input>,
    pub(crate) running: Mutex<HashMap<JobId, RunningView>>,
    /// A wake is in the inbox already.
    pub(crate) woken: AtomicBool,
    pub(crate) meters: Meters,
    pub(crate) backlog: Backlog,
    pub(crate) gauge: Gauge,
    /// Jobs that should have come with an end and were not taken in.
    pub(crate) follows_refused: AtomicU64,
    pub(crate) pulse: Pulse,
    pub(crate) settled: Arc<Awaited>,
    pub(crate) schedules: Schedules,
    closing: AtomicBool,
    /// Why the server is not ready, if so.
    trouble: Mutex<Option<Box<str>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// What the builder brings together.
pub(crate) struct Parts {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) lanes: Vec<Arc<dyn Lane>>,
    pub(crate) calls: Calls,
    pub(crate) routes: HashMap<TaskName, usize>,
    pub(crate) defaults: HashMap<TaskName, TaskDefaults>,
    pub(crate) hooks: HashMap<TaskName, Arc<dyn TaskHook>>,
    pub(crate) end_hooks: Vec<Arc<dyn EndHook>>,
    pub(crate) checks: HashMap<TaskName, Arc<dyn PayloadCheck>>,
    pub(crate) declared_limits: Vec<(LimitTarget, Limit)>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: u64,
    pub(crate) node: NodeId,
    pub(crate) config: RuntimeConfig,
    pub(crate) inbox: UnboundedSender<Input>,
    pub(crate) pulse: Pulse,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let tasks = parts.lanes.iter().flat_map(|lane| {
            lane.tasks().iter().map(|info| TaskView {
                info: info.clone(),
                lane: lane.name().into(),
            })
        });
        let epoch = parts.clock.now().as_millis();
        let backlog = Backlog::new(&parts.routes, parts.lanes.len());
        Self {
            tasks: tasks.collect(),
            hub: Arc::new(Hub::new(epoch, parts.config.events_kept)),
            engine: parts.engine,
            lanes: parts.lanes,
            calls: parts.calls,
            routes: parts.routes,
            defaults: parts.defaults,
            hooks: parts.hooks,
            end_hooks: parts.end_hooks,
            checks: parts.checks,
            checking: Semaphore::new(
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ),
            declared_limits: parts.declared_limits,
            budget: parts.config.budget(),
            clock: parts.clock,
            dice: Dice::new(parts.seed),
            node: parts.node,
            config: parts.config,
            inbox: parts.inbox,
            running: Mutex::default(),
            woken: AtomicBool::new(false),
            meters: Meters::default(),
            backlog,
            gauge: Gauge::default(),
            follows_refused: AtomicU64::new(0),
            pulse: parts.pulse,
            settled: Arc::default(),
            schedules: Schedules::default(),
            closing: AtomicBool::new(false),
            trouble: Mutex::new(Some("starting".into())),
        }
    }

    /// A hint: ready work may be there. Cheap when one is under way already.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let _ = self.inbox.send(Input::Wake); // the keeper has ended: so will the caller
        }
    }

    /// A job was scheduled for this time.
    pub(crate) fn due_at(&self, due: Timestamp) {
        let _ = self.inbox.send(Input::DueAt(due)); // as above
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn set_closing(&self) {
        self.closing.store(true, Ordering::Release);
        self.set_trouble(Some("shutting down"));
    }

    pub(crate) fn set_trouble(&self, why: Option<&str>) {
        *lock(&self.trouble) = why.map(Into::into);
    }

    pub(crate) fn defaults_of(&self, task: &TaskName) -> TaskDefaults {
        self.defaults.get(task).copied().unwrap_or_default()
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, HashMap<JobId, RunningView>> {
        lock(&self.running)
    }

    /// The rows that a pack wants written when a job ends without success.
    pub(crate) fn final_records(&self, end: &FinalEnd<'_>) -> Vec<RecordWrite> {
        self.hooks
            .get(end.task.as_str())
            .map(|hook| hook.on_final(end))
            .unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server, as seen from outside its path. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RuntimeHandle(pub(crate) Arc<Shared>);

impl RuntimeHandle {
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The server goes down: a task without an end of its own ends now, so that nobody waits for it.
    pub fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    /// How long the job will be kept once it is final, if it or its task says so.
    pub fn keep_of(&self, job: &NewJob) -> Option<Duration> {
        job.options.keep.or(self.0.defaults_of(&job.task).keep)
    }

    /// Whether one job could be taken in: for doors that answer line by line.
    pub fn check(&self, job: &NewJob) -> Result<(), EnqueueError> {
        enqueue::check(&self.0, job)
    }

    /// Takes jobs in; they are durable when this answers. One outcome per job, in order. At most
    /// 1,024 jobs, all or (with an error) none.
    pub async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<InsertOutcome>, EnqueueError> {
        enqueue::enqueue(&self.0, jobs, Vec::new(), None).await
    }

    /// The same, with rows of a pack in the same commit.
    pub async fn enqueue_with(
        &self,
        jobs: Vec<NewJob>,
        records: Vec<RecordWrite>,
    ) -> Result<Vec<InsertOutcome>, EnqueueError> {
        enqueue::enqueue(&self.0, jobs, records, None).await
    }

    /// From now until a job of this task begins, by what waits before it; `None`: nothing is known of
    /// that yet. At most 50 ms old.
    pub async fn estimated_wait(&self, task: &TaskName) -> Option<Duration> {
        let backlog = &self.0.backlog;
        backlog.refresh(&self.0, false).await.ok()?;
        backlog.estimate(&self.0, task)
    }

    /// How full the line of the task's jobs is, by its `max_queued` and `max_wait`.
    pub async fn job_pressure(&self, task: &TaskName) -> Pressure {
        if !backlog::is_limited(&self.0, task)
            || self.0.backlog.refresh(&self.0, false).await.is_err()
        {
            return Pressure::Open;
        }
        self.0.backlog.pressure(&self.0, task)
    }

    /// When a job that found its queue full should come again.
    pub fn drain_time(&self, task: &TaskName, limit: u64) -> Duration {
        self.0.backlog.drain(&self.0, task, limit)
    }

    /// Ends a job: at once if it is idle, by its lane's ladder if it runs.
    pub async fn cancel(&self, id: JobId) -> Result<CancelOutcome, StoreError> {
        let shared = &self.0;
        let now = shared.clock.now();
        let Some(job) = shared.engine.job(id).await? else {
            return Ok(CancelOutcome::Unknown);
        };
        let (task, why) = (&job.summary.task, IdleEnd::Cancel);
        let end = ends::end_idle(shared, id, task, &job.payload, why, now).await?;
        let outcome = shared
            .engine
            .end_idle(now, vec![end])
            .await?
            .into_iter()
            .next();
        Ok(match outcome {
            Some(EndIdleOutcome::Ended { task, queue, .. }) => {
                let kind = EventKind::Cancelled;
                shared.hub.publish(vec![JobEvent {
                    at: now,
                    job: id,
                    task,
                    queue,
                    kind,
                }]);
                CancelOutcome::Cancelled
            }
            Some(EndIdleOutcome::Running { lease, .. }) => {
                let _ = shared.inbox.send(Input::Stop {
                    lease,
                    reason: StopReason::Cancel,
                });
                CancelOutcome::Stopping
            }
            Some(EndIdleOutcome::AlreadyFinal(state)) => CancelOutcome::AlreadyFinal(state),
            Some(EndIdleOutcome::Unknown) | None => CancelOutcome::Unknown,
        })
    }

    /// Gives a failed, cancelled or expired job another life.
    pub async fn retry(&self, id: JobId) -> Result<ReviveOutcome, StoreError> {
        let outcomes = self.retry_many(vec![id]).await?;
        Ok(outcomes
            .into_iter()
            .next()
            .unwrap_or(ReviveOutcome::Unknown))
    }

    /// The same for several in one commit; one outcome per job, in order.
    pub async fn retry_many(&self, ids: Vec<JobId>) -> Result<Vec<ReviveOutcome>, StoreError> {
        let now = self.0.clock.now();
        let outcomes = self.0.engine.revive(now, ids.clone()).await?;
        let revived = ids.into_iter().zip(&outcomes).filter_map(|(job, outcome)| {
            let ReviveOutcome::Revived { task, queue } = outcome else {
                return None;
            };
            Some(JobEvent {
                at: now,
                job,
                task: task.clone(),
                queue: queue.clone(),
                kind: EventKind::Revived,
            })
        });
        let events: Vec<_> = revived.collect();
        if !events.is_empty() {
            self.0.hub.publish(events);
            self.0.wake();
        }
        Ok(outcomes)
    }

    /// Forgets a final job.
    pub async fn delete(&self, id: JobId) -> Result<DeleteOutcome, StoreError> {
        let outcomes = self.delete_many(vec![id]).await?;
        Ok(outcomes
            .into_iter()
            .next()
            .unwrap_or(DeleteOutcome::Unknown))
    }

    /// The same for several in one commit; one outcome per job, in order.
    pub async fn delete_many(&self, ids: Vec<JobId>) -> Result<Vec<DeleteOutcome>, StoreError> {
        self.0.engine.delete(ids).await
    }

    /// Whether payloads of this task are shown to nobody.
    pub fn hides_payload(&self, task: &TaskName) -> bool {
        self.0.defaults_of(task).redact.payload
    }

    pub async fn job(&self, id: JobId) -> Result<Option<Job>, QueryError> {
        let mut job = self.0.engine.job(id).await?;
        if let Some(job) = &mut job
            && job.summary.state == JobState::Running
        {
            self.show_running(job);
        }
        if let Some(job) = &mut job {
            let what = self.0.defaults_of(&job.summary.task).redact;
            redact::job(job, what);
        }
        Ok(job)
    }

    /// What the lane said of the running attempt and the store does not hold yet.
    fn show_running(&self, job: &mut Job) {
        let running = self.0.running();
        let Some(view) = running.get(&job.summary.id) else {
            return;
        };
        job.summary.started_at = Some(view.started_at);
        if let Some(attempt) = job.attempts.iter_mut().find(|a| a.lease == view.lease) {
            attempt.executor.clone_from(&view.executor);
            attempt.lane = self.0.lanes[view.lane].name().into();
            attempt.started_at = view.started_at;
            attempt.wait = view.started_at.since(job.summary.due_at);
            attempt.usage.wall = self.0.clock.now().since(view.started_at);
        }
    }

    pub async fn jobs(&self, ask: ListRequest) -> Result<JobPage, QueryError> {
        let mut page = self.0.engine.jobs(ask).await?;
        for job in &mut page.jobs {
            redact::summary(job, self.0.defaults_of(&job.task).redact);
        }
        Ok(page)
    }

    pub async fn queues(&self) -> Result<Vec<QueueStatus>, QueryError> {
        self.0.engine.queues(self.0.clock.now()).await
    }

    /// What attempts cost since an hour, by task, queue or tag.
    pub async fn usage(&self, ask: UsageAsk) -> Result<UsageSums, QueryError> {
        self.0.engine.usage(ask).await
    }

    /// What attempts cost since this process started, by task: at most 256 of them by name.
    pub fn costs(&self) -> Vec<UsageRow> {
        self.0.meters.read()
    }

    /// How long attempts waited and ran since this process started, for the tasks of
    /// [`RuntimeHandle::costs`].
    pub fn task_times(&self) -> Vec<TaskBuckets> {
        self.0.meters.buckets()
    }

    /// What watches the loops of this server. Whoever runs another one adds it.
    pub fn pulse(&self) -> &Pulse {
        &self.0.pulse
    }

    pub fn tasks(&self) -> &[TaskView] {
        &self.0.tasks
    }

    /// Those for jobs, then those for calls.
    pub fn lanes(&self) -> Vec<LaneView> {
        let view = |lane: &Arc<dyn Lane>| LaneView {
            name: lane.name().into(),
            slots: lane.slots(),
            status: lane.status(),
            exits: lane.exits(),
            trouble: lane.trouble(),
            tasks: lane.tasks().iter().map(|task| task.name.clone()).collect(),
        };
        self.0
            .lanes
            .iter()
            .chain(self.0.calls.lanes())
            .map(view)
            .collect()
    }

    /// Runs a task for a caller who waits, on a lane for calls: nothing is written. Dropped before it
    /// answers, it hangs up, and the work is stopped. Call it inside a tokio runtime.
    pub async fn call(&self, ask: CallAsk) -> Result<CallAnswer, CallError> {
        calls::call(&self.0, ask).await
    }

    /// Whether calls of the task are taken.
    pub fn is_callable(&self, task: &str) -> bool {
        self.0.calls.takes(task)
    }

    pub fn call_lanes(&self) -> Vec<CallLaneView> {
        self.0.calls.views()
    }

    /// Of the line that this task's calls wait in.
    pub fn pressure_of(&self, task: &TaskName) -> Pressure {
        self.0.calls.pressure_of(task)
    }

    /// How hard pressed the server is, by its loops, its memory and its lines for calls: the worst.
    pub fn pressure(&self) -> Pressed {
        let pressed = self.0.gauge.read(&self.0.pulse);
        let fullest = self
            .0
            .calls
            .views()
            .into_iter()
            .max_by_key(|lane| lane.pressure);
        match fullest {
            Some(lane) if lane.pressure > pressed.level => Pressed {
                level: lane.pressure,
                load: pressed.load,
                why: Some(
                    format!("the line of `{}` is {}", lane.name, lane.pressure.name()).into(),
                ),
            },
            _ => pressed,
        }
    }

    pub fn node(&self) -> &NodeId {
        &self.0.node
    }

    pub fn capability(&self) -> Capability {
        self.0.engine.capability()
    }

    /// Why the server should not be sent work now; `None` when it is ready.
    pub fn trouble(&self) -> Option<Box<str>> {
        lock(&self.0.trouble).clone()
    }

    /// Committed events after `after`, or from now on.
    pub fn events(&self, after: Option<EventCursor>) -> Events {
        self.0.hub.subscribe(after)
    }

    /// The job once it is final, or as it is after `within`. `None`: there is no such job.
    ///
    /// Never late, never lost: it listens first and looks then.
    pub async fn wait_final(&self, id: JobId, within: Duration) -> Result<Option<Job>, QueryError> {
        let mut waiter = self.0.hub.wait_final(id);
        let job = self.job(id).await?;
        if job.as_ref().is_none_or(|job| job.summary.state.is_final()) {
            return Ok(job);
        }
        if tokio::time::timeout(within, waiter.end()).await.is_err() && within.is_zero() {
            return Ok(job);
        }
        self.job(id).await
    }

    pub async fn record(
        &self,
        collection: Collection,
        key: RecordKey,
    ) -> Result<Option<Record>, QueryError> {
        self.0.engine.record(collection, key).await
    }

    pub async fn records(&self, scan: RecordScan) -> Result<RecordPage, QueryError> {
        self.0.engine.records(scan).await
    }

    pub async fn record_counts(
        &self,
        collection: Collection,
    ) -> Result<Vec<LabelCount>, QueryError> {
        self.0.engine.record_counts(collection).await
    }

    /// Rows of a pack without a job; durable when this answers.
    pub async fn write_records(&self, writes: Vec<RecordWrite>) -> Result<(), EnqueueError> {
        if let Some(problem) = writes.iter().find_map(RecordWrite::problem) {
            return Err(EnqueueError::Record(problem));
        }
        Ok(self
            .0
            .engine
            .write_records(self.0.clock.now(), writes)
            .await?)
    }
}
