//! The lane as the runtime sees it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{Failure, FailureClass, Lease, LogTail, Outcome, StopReason, TaskName, Usage};
use offloop_lane::{
    Ended, Gone, Lane, LaneEvent, LaneOpenError, LaneSink, LaneStatus, Proof, Slots, TaskInfo, Work,
};

use crate::builder::{CpuHandler, CpuLaneBuilder};
use crate::pulse::SeatSink;
use crate::state::{Queued, Seat, State};
use crate::{watch, worker};

/// What the lane, its threads and its watch share.
pub(crate) struct Shared {
    pub(crate) name: Box<str>,
    pub(crate) threads: u16,
    pub(crate) grace: Duration,
    pub(crate) nice: u8,
    pub(crate) handlers: HashMap<TaskName, CpuHandler>,
    ahead: u16,
    epoch: Instant,
    sink: OnceLock<Arc<dyn LaneSink>>,
    state: Mutex<State>,
    pub(crate) watch_call: Condvar,
    /// A thread left.
    quiet: Condvar,
}

/// A bounded pool of threads. See the crate's page.
pub struct CpuLane {
    tasks: Vec<TaskInfo>,
    shared: Arc<Shared>,
}

impl CpuLane {
    /// `name`: unique in a server, usually `cpu`.
    pub fn builder(name: &str) -> CpuLaneBuilder {
        CpuLaneBuilder::new(name)
    }

    pub(crate) fn new(from: CpuLaneBuilder) -> Self {
        let now = Instant::now();
        Self {
            tasks: from.tasks,
            shared: Arc::new(Shared {
                name: from.name,
                threads: from.threads,
                grace: from.grace,
                nice: from.nice,
                handlers: from.handlers,
                ahead: from.ahead,
                epoch: now,
                sink: OnceLock::new(),
                state: Mutex::new(State::new(now)),
                watch_call: Condvar::new(),
                quiet: Condvar::new(),
            }),
        }
    }

    fn open_error(&self, message: impl Into<String>) -> LaneOpenError {
        LaneOpenError {
            lane: self.shared.name.clone(),
            message: message.into(),
        }
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait_watch<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        let waited = self.watch_call.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn send(&self, event: LaneEvent) {
        if let Some(sink) = self.sink.get() {
            sink.send(event);
        }
    }

    /// Starts a thread on a new seat.
    fn add_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let Some(sink) = self.sink.get() else {
            return Ok(());
        };
        let pulse = Arc::new(SeatSink::new(sink.clone(), self.epoch));
        let mut state = self.lock();
        let seat = state.free_seat();
        let name = format!("offloop-{}-{seat}", self.name);
        let (shared, news, title) = (self.clone(), pulse.clone(), name.clone());
        let builder = std::thread::Builder::new().name(name);
        // Started under the lock: the seat is there before the thread looks for it.
        let handle = builder.spawn(move || {
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            shared.lock().seats[seat].tid = tid;
            worker::run(&shared, seat, &title, &news);
        })?;
        state.seats[seat].thread = Some(handle.thread().clone());
        state.seats[seat].pulse = Some(pulse);
        state.alive += 1;
        Ok(())
    }

    /// Puts a new thread beside one that does not listen. False: the system refused.
    pub(crate) fn replace(self: &Arc<Self>, seat: usize) -> bool {
        if self.add_thread().is_err() {
            return false;
        }
        let mut state = self.lock();
        state.seats[seat].replaced = true;
        state.replacements += 1;
        // It may have come back in between, and sleep: it leaves all the same, as one too many.
        let called = state.call_seat(seat);
        drop(state);
        wake(called);
        true
    }

    pub(crate) fn note_cpu_start(&self, seat: usize, lease: Lease, used: Duration) {
        let mut state = self.lock();
        if let Some(running) = state.seats[seat].running.as_mut()
            && running.work.lease == lease
        {
            running.cpu_from = Some(used);
        }
    }

    /// A thread's last word.
    pub(crate) fn left(&self, seat: usize) {
        let mut state = self.lock();
        state.alive -= 1;
        if std::mem::take(&mut state.seats[seat].replaced) {
            state.replacements -= 1;
        }
        state.seats[seat] = Seat::default();
        // It may have been called for a job that it did not take.
        let called = state.call_sleepers();
        drop(state);
        wake(called);
        self.quiet.notify_all();
        self.watch_call.notify_one();
    }

    fn never_started(&self, entry: &Queued, now: Instant, reason: StopReason) {
        let why = match reason {
            StopReason::Cancel => "cancelled before it began",
            StopReason::Shutdown => "handed back before it began: the lane takes no more work",
        };
        self.send(LaneEvent::Ended(Box::new(Ended {
            job: entry.work.job,
            lease: entry.work.lease,
            outcome: Outcome::Stopped {
                reason,
                failure: Failure::new(FailureClass::Cancelled, why),
            },
            executor: "".into(),
            queued: now.saturating_duration_since(entry.since),
            usage: Usage::default(),
            log: LogTail::default(),
            gone: Gone::proven(Proof::NeverStarted),
        })));
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let left = state.drain();
        drop(state);
        let now = Instant::now();
        for entry in &left {
            self.never_started(entry, now, StopReason::Shutdown);
        }
    }

    /// No more work, every running job asked, free threads leave.
    fn end(&self) {
        self.close();
        let mut state = self.lock();
        state.ask_all(StopReason::Shutdown, Instant::now());
        let called = state.call_everyone();
        drop(state);
        self.watch_call.notify_one();
        wake(called);
    }
}

fn wake(threads: Vec<std::thread::Thread>) {
    for thread in threads {
        thread.unpark();
    }
}

impl Lane for CpuLane {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn tasks(&self) -> &[TaskInfo] {
        &self.tasks
    }

    fn slots(&self) -> Slots {
        Slots {
            running: self.shared.threads,
            ahead: self.shared.ahead,
        }
    }

    fn open(&self, sink: Arc<dyn LaneSink>) -> Result<(), LaneOpenError> {
        if cfg!(panic = "abort") {
            let why = "this program is built with panic=abort, so one panic would end them all";
            return Err(self.open_error(why));
        }
        if self.shared.sink.set(sink).is_err() {
            return Err(self.open_error("it is open already"));
        }
        let begin = || {
            for _ in 0..self.shared.threads {
                self.shared.add_thread()?;
            }
            let shared = self.shared.clone();
            let name = format!("offloop-{}-watch", self.shared.name);
            std::thread::Builder::new()
                .name(name)
                .spawn(move || watch::run(&shared))
                .map(drop)
        };
        begin().map_err(|error| {
            self.shared.end();
            self.open_error(format!(
                "the system refuses to start {} threads: {error}",
                self.shared.threads
            ))
        })
    }

    fn start(&self, work: Vec<Work>) {
        let now = Instant::now();
        let entries = work.into_iter().map(|work| Queued {
            work: Arc::new(work),
            since: now,
        });
        let room = usize::from(self.shared.threads) + usize::from(self.shared.ahead);
        let mut refused = Vec::new();
        // The allocations of `entries` happen under the lock; they cost less than a second pass.
        let mut state = self.shared.lock();
        for entry in entries {
            // Stuck jobs do not count: their threads have a replacement.
            if state.closed || state.queued + state.busy - state.stuck >= room {
                refused.push(entry);
            } else {
                state.push(entry);
            }
        }
        let called = state.call_sleepers();
        drop(state);
        wake(called);
        for entry in &refused {
            self.shared.never_started(entry, now, StopReason::Shutdown);
        }
    }

    fn stop(&self, lease: Lease, reason: StopReason) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        if let Some(entry) = state.remove(lease) {
            drop(state);
            self.shared.never_started(&entry, now, reason);
            return;
        }
        if !state.ask_lease(lease, reason, now) {
            return;
        }
        let call_watch = state.earlier(now.checked_add(self.shared.grace));
        drop(state);
        if call_watch {
            self.shared.watch_call.notify_one();
        }
    }

    fn close(&self) {
        self.shared.close();
    }

    fn terminate(&self, within: Duration) -> Vec<Lease> {
        self.shared.end();
        let deadline = Instant::now().checked_add(within);
        let mut state = self.shared.lock();
        while state.alive > 0 {
            let left = deadline.map_or(within, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let waited = self.shared.quiet.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let running = state.seats.iter().filter_map(|seat| seat.running.as_ref());
        running.map(|running| running.work.lease).collect()
    }

    fn status(&self) -> LaneStatus {
        let state = self.shared.lock();
        LaneStatus {
            running: state.busy as u32,
            queued: state.queued as u32,
            stuck: state.stuck as u32,
            executors: state.alive as u32,
            ..LaneStatus::default()
        }
    }
}

impl Drop for CpuLane {
    /// Asks everything to stop and does not wait; threads leave when they are free.
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl std::fmt::Debug for CpuLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuLane")
            .field("name", &self.shared.name)
            .field("threads", &self.shared.threads)
            .finish_non_exhaustive()
    }
}
