//! The lane as the runtime sees it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{Lease, LogTail, Outcome, StopReason, TaskName, Usage};
use offloop_lane::{
    Ended, Gone, Lane, LaneEvent, LaneOpenError, LaneSink, LaneStatus, Proof, Slots, StopToken,
    Stopped, TaskContext, TaskError, TaskInfo, TaskOutput, TypicalRun, Work, cannot_be_done,
    not_begun, unstarted,
};
use offloop_pulse::{Name, Pulse};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::flight::{Flight, NotingSink, fly};

/// What a task's code gives back.
pub type IoFuture = Pin<Box<dyn Future<Output = Result<TaskOutput, TaskError>> + Send>>;

/// The code of a task.
pub type IoHandler = Arc<dyn Fn(TaskContext) -> IoFuture + Send + Sync>;

/// Futures at a time.
pub const SLOTS_DEFAULT: u16 = 1_024;
const SLOTS_MAX: u16 = 4_096;
/// From the wish to stop until the future is dropped.
const GRACE_DEFAULT: Duration = Duration::from_millis(250);
/// A future that is past its grace by this much did not yield.
const STUCK_AFTER: Duration = Duration::from_secs(1);
pub(crate) const EXECUTOR: &str = "offloop-io";

/// One attempt, as the lane's map holds it.
#[derive(Debug)]
pub(crate) struct Entry {
    token: StopToken,
    /// Told when a stop is asked.
    pub(crate) called: Notify,
    times: Mutex<Times>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    progress: Instant,
    note_bytes: u64,
    asked: Option<Instant>,
    grace: Duration,
}

impl Entry {
    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn last_progress(&self) -> Instant {
        self.times().progress
    }

    /// A note came.
    pub(crate) fn progress_now(&self, bytes: usize) {
        let mut times = self.times();
        times.progress = Instant::now();
        times.note_bytes += bytes as u64;
    }

    /// Of all its notes.
    pub(crate) fn note_bytes(&self) -> u64 {
        self.times().note_bytes
    }

    pub(crate) fn grace(&self) -> Duration {
        self.times().grace
    }

    pub(crate) fn asked_now(&self) {
        self.times().asked.get_or_insert_with(Instant::now);
    }

    fn ask(&self, reason: StopReason, grace: Option<Duration>) {
        self.token.stop(Stopped::Asked(reason));
        self.asked_now();
        if let Some(grace) = grace {
            self.times().grace = grace;
        }
        self.called.notify_one();
    }

    fn is_stuck(&self, now: Instant) -> bool {
        let times = *self.times();
        let late = |asked: Instant| now.saturating_duration_since(asked);
        times
            .asked
            .is_some_and(|asked| late(asked) > times.grace + STUCK_AFTER)
    }
}

pub(crate) struct Shared {
    pub(crate) name: Box<str>,
    slots: u16,
    grace: Duration,
    pub(crate) tasks: HashMap<TaskName, IoTask>,
    sink: OnceLock<Arc<dyn LaneSink>>,
    state: Mutex<State>,
    quiet: Condvar,
}

/// A task's code, and how long it typically runs.
pub(crate) struct IoTask {
    pub(crate) handler: IoHandler,
    typical: TypicalRun,
    /// Marks its polls for the pulse.
    name: Name,
}

#[derive(Default)]
struct State {
    flights: HashMap<Lease, Arc<Entry>>,
    /// Out of the map, and the sink has not yet taken their end.
    answering: usize,
    closed: bool,
    /// Work that ended after its deadline.
    late: u64,
    runtime: Option<Runtime>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn send(&self, event: LaneEvent) {
        if let Some(sink) = self.sink.get() {
            sink.send(event);
        }
    }

    /// The slot is free before the answer is sent, so that whoever is answered can fill it.
    pub(crate) fn free_and_answer(&self, ended: Ended, late: bool) {
        let mut state = self.lock();
        state.flights.remove(&ended.lease);
        state.answering += 1;
        state.late += u64::from(late);
        drop(state);
        self.send(LaneEvent::Ended(Box::new(ended)));
        self.lock().answering -= 1;
        self.quiet.notify_all();
    }

    /// A run completed.
    pub(crate) fn ran(&self, task: &TaskName, wall: Duration) {
        if let Some(task) = self.tasks.get(task) {
            task.typical.ran(wall);
        }
    }

    /// Why this work is not worth beginning.
    fn hopeless(&self, work: &Work, now: Instant) -> Option<Outcome> {
        let typical = self.tasks.get(&work.task).map(|task| &task.typical);
        cannot_be_done(work, typical, now).then(|| {
            let typical = typical.and_then(TypicalRun::get);
            not_begun(work, Duration::ZERO, typical, now)
        })
    }

    /// Work that ends without having begun.
    fn refuse(&self, work: &Work, outcome: Outcome) {
        self.send(LaneEvent::Ended(Box::new(Ended {
            job: work.job,
            lease: work.lease,
            outcome,
            executor: "".into(),
            queued: Duration::ZERO,
            usage: Usage::default(),
            log: LogTail::default(),
            gone: Gone::proven(Proof::NeverStarted),
        })));
    }
}

/// How an io lane is put together; made by [`IoLane::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct IoLaneBuilder {
    name: Box<str>,
    slots: u16,
    grace: Duration,
    tasks: Vec<TaskInfo>,
    code: HashMap<TaskName, IoTask>,
    pulse: Pulse,
}

impl IoLaneBuilder {
    /// Futures at a time, 1 to 4,096; default [`SLOTS_DEFAULT`].
    pub fn slots(mut self, slots: u16) -> Self {
        self.slots = slots.clamp(1, SLOTS_MAX);
        self
    }

    /// From the wish to stop until the future is dropped; default 250 ms.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// What watches the lane's loop; default nothing.
    pub fn pulse(mut self, pulse: Pulse) -> Self {
        self.pulse = pulse;
        self
    }

    /// Adds a task; the same name again replaces it.
    pub fn task(mut self, info: TaskInfo, handler: IoHandler) -> Self {
        let task = IoTask {
            handler,
            typical: TypicalRun::default(),
            name: Name::task(info.name.as_str()),
        };
        if self.code.insert(info.name.clone(), task).is_some() {
            self.tasks.retain(|task| task.name != info.name);
        }
        self.tasks.push(info);
        self
    }

    pub fn build(self) -> IoLane {
        IoLane {
            tasks: self.tasks,
            pulse: self.pulse,
            shared: Arc::new(Shared {
                name: self.name,
                slots: self.slots,
                grace: self.grace,
                tasks: self.code,
                sink: OnceLock::new(),
                state: Mutex::default(),
                quiet: Condvar::new(),
            }),
        }
    }
}

impl std::fmt::Debug for IoLaneBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoLaneBuilder")
            .field("name", &self.name)
            .field("slots", &self.slots)
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}

/// Futures on a runtime of their own. See the crate's page.
pub struct IoLane {
    tasks: Vec<TaskInfo>,
    pulse: Pulse,
    shared: Arc<Shared>,
}

impl IoLane {
    /// `name`: unique in a server, usually `io`.
    pub fn builder(name: &str) -> IoLaneBuilder {
        IoLaneBuilder {
            name: name.into(),
            slots: SLOTS_DEFAULT,
            grace: GRACE_DEFAULT,
            tasks: Vec::new(),
            code: HashMap::new(),
            pulse: Pulse::off(),
        }
    }

    /// Asks every attempt, with a grace of its own.
    fn ask_all(&self, grace: Duration) {
        for entry in self.shared.lock().flights.values() {
            entry.ask(StopReason::Shutdown, Some(grace));
        }
    }
}

impl Lane for IoLane {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn tasks(&self) -> &[TaskInfo] {
        &self.tasks
    }

    fn slots(&self) -> Slots {
        Slots {
            running: self.shared.slots,
            ahead: 0,
        }
    }

    fn bytes_max(&self) -> usize {
        offloop_job::limits::CALL_PAYLOAD_BYTES_MAX
    }

    fn open(&self, sink: Arc<dyn LaneSink>) -> Result<(), LaneOpenError> {
        let error = |message: String| LaneOpenError {
            lane: self.shared.name.clone(),
            message,
        };
        if self.shared.sink.set(sink).is_err() {
            return Err(error("it is open already".into()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(8) // name lookups of clients (egress bounds its own); CPU work has its own lane
            .thread_name(format!("offloop-{}", self.shared.name))
            .enable_all()
            .build()
            .map_err(|cause| error(format!("the system refuses to start its thread: {cause}")))?;
        self.pulse
            .watch(&self.shared.name, runtime.handle().clone());
        self.shared.lock().runtime = Some(runtime);
        Ok(())
    }

    fn start(&self, work: Vec<Work>) {
        let Some(sink) = self.shared.sink.get() else {
            return;
        };
        let now = Instant::now();
        let mut refused = Vec::new();
        let mut state = self.shared.lock();
        for work in work {
            if let Some(outcome) = self.shared.hopeless(&work, now) {
                refused.push((work, outcome));
                continue;
            }
            let full = state.flights.len() >= usize::from(self.shared.slots);
            let closed = state.closed || full;
            let Some(runtime) = state.runtime.as_ref().filter(|_| !closed) else {
                refused.push((work, unstarted(StopReason::Shutdown)));
                continue;
            };
            let handle = runtime.handle().clone();
            let name = self.shared.tasks.get(&work.task).map(|task| task.name);
            let entry = Arc::new(Entry {
                token: StopToken::new(),
                called: Notify::new(),
                times: Mutex::new(Times {
                    progress: now,
                    note_bytes: 0,
                    asked: None,
                    grace: self.shared.grace,
                }),
            });
            let noting = NotingSink {
                inner: sink.clone(),
                entry: entry.clone(),
                lease: work.lease,
            };
            state.flights.insert(work.lease, entry.clone());
            let ctx = TaskContext::new(Arc::new(work), entry.token.clone(), Arc::new(noting));
            let flight = Flight::new(self.shared.clone(), ctx, entry, now);
            match name {
                Some(name) => handle.spawn(offloop_pulse::doing(name, fly(flight))),
                None => handle.spawn(fly(flight)),
            };
        }
        drop(state);
        for (work, outcome) in refused {
            self.shared.refuse(&work, outcome);
        }
    }

    fn stop(&self, lease: Lease, reason: StopReason) {
        if let Some(entry) = self.shared.lock().flights.get(&lease) {
            entry.ask(reason, None);
        }
    }

    fn close(&self) {
        self.shared.lock().closed = true;
    }

    fn terminate(&self, within: Duration) -> Vec<Lease> {
        self.close();
        let deadline = Instant::now().checked_add(within);
        self.ask_all(self.shared.grace.min(within / 2));
        let mut state = self.shared.lock();
        while !state.flights.is_empty() || state.answering > 0 {
            let left = deadline.map_or(within, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let waited = self.shared.quiet.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let left: Vec<Lease> = state.flights.keys().copied().collect();
        let runtime = state.runtime.take();
        drop(state);
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
        left
    }

    fn is_loop(&self) -> bool {
        true
    }

    fn status(&self) -> LaneStatus {
        let now = Instant::now();
        let state = self.shared.lock();
        let stuck = state.flights.values().filter(|entry| entry.is_stuck(now));
        LaneStatus {
            running: state.flights.len() as u32,
            queued: 0,
            stuck: stuck.count() as u32,
            executors: u32::from(state.runtime.is_some()),
            head_age: None,
            late: state.late,
        }
    }
}

impl Drop for IoLane {
    /// Drops every future at its next pause and does not wait.
    fn drop(&mut self) {
        self.close();
        let runtime = self.shared.lock().runtime.take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for IoLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoLane")
            .field("name", &self.shared.name)
            .field("slots", &self.shared.slots)
            .finish_non_exhaustive()
    }
}
