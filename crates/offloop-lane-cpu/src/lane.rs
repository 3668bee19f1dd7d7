//! The lane as the runtime sees it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{Lease, StopReason};
use offloop_lane::{Lane, LaneOpenError, LaneSink, LaneStatus, Slots, TaskInfo, Work, unstarted};

use crate::builder::CpuLaneBuilder;
use crate::line::Queued;
use crate::shared::{Shared, wake};
use crate::state::{Hopeless, State};
use crate::sync::{Builder, Step, takes};
use crate::{inside, watch};

/// So many are named in `trouble`.
const DEAF_NAMED_MAX: usize = 3;

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

    pub(crate) fn new(mut from: CpuLaneBuilder) -> Self {
        Self {
            tasks: std::mem::take(&mut from.tasks),
            shared: Arc::new(Shared::new(from, Instant::now())),
        }
    }

    /// True on this lane's own threads: here, never wait for one of its jobs.
    pub fn is_inside(&self) -> bool {
        inside::is_inside(&self.shared.name)
    }

    /// What is wrong with the state, between two holds of its lock.
    #[cfg(test)]
    #[allow(dead_code, reason = "the model check compiles this file and calls it")]
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        self.shared.lock().flaw()
    }

    fn open_error(&self, message: impl Into<String>) -> LaneOpenError {
        LaneOpenError {
            lane: (&*self.shared.name).into(),
            message: message.into(),
        }
    }
}

fn leases(state: &State) -> Vec<Lease> {
    let running = state.seats.iter().filter_map(|seat| seat.running.as_ref());
    running.map(|running| running.work.lease).collect()
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

    fn bytes_max(&self) -> usize {
        offloop_job::limits::CALL_PAYLOAD_BYTES_MAX
    }

    fn open(&self, sink: Arc<dyn LaneSink>) -> Result<(), LaneOpenError> {
        if cfg!(panic = "abort") {
            let why = "this program is built with panic=abort, so one panic would end them all";
            return Err(self.open_error(why));
        }
        if self.shared.sink.set(sink).is_err() {
            return Err(self.open_error("it is open already"));
        }
        let mut started = 0;
        let mut begin = || {
            for _ in 0..self.shared.threads {
                self.shared.add_thread()?;
                started += 1;
            }
            let shared = self.shared.clone();
            let name = format!("offloop-{}-watch", self.shared.name);
            Builder::new()
                .name(name)
                .spawn(move || watch::run(&shared))
                .map(drop)
        };
        let begun = begin();
        begun.map_err(|error| {
            self.shared.end();
            self.open_error(format!(
                "the system refuses to start {} threads and a watch; it refused after {started}: {error}",
                self.shared.threads
            ))
        })
    }

    fn start(&self, work: Vec<Work>) {
        let now = Instant::now();
        let (mut hopeless, mut refused) = (Vec::new(), Vec::new());
        // What can be allocated is allocated before the lock is taken.
        let mut entries = Vec::with_capacity(work.len());
        for work in work {
            let late = work.deadline.is_some_and(|at| at <= now);
            let entry = Queued {
                work: Arc::new(work),
                since: now,
            };
            if late {
                hopeless.push(entry);
            } else {
                entries.push(entry);
            }
        }
        let room = usize::from(self.shared.threads) + usize::from(self.shared.ahead);
        let mut state = self.shared.lock();
        for entry in entries {
            // Stuck jobs do not count: their threads have a replacement.
            if state.closed || state.lines.len() + state.busy - state.stuck >= room {
                refused.push(entry);
            } else {
                refused.extend(state.lines.push(entry).err());
            }
        }
        let called = takes(Step::CallOnSubmit)
            .then(|| state.call_next())
            .flatten();
        drop(state);
        self.shared.call_spinner();
        wake(called);
        for entry in hopeless {
            let typical = self.shared.tasks.get(&entry.work.task);
            let typical = typical.and_then(|task| task.typical.get());
            self.shared.refuse(Hopeless { entry, typical }, now);
        }
        for entry in refused {
            let outcome = unstarted(StopReason::Shutdown);
            self.shared.never_started(entry, now, outcome);
        }
    }

    fn stop(&self, lease: Lease, reason: StopReason) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        if let Some(entry) = state.lines.remove(lease) {
            // A wide job may have held the processors that the one behind it needs.
            let passes = takes(Step::PassOnAfterCancel);
            let called = passes.then(|| state.call_next()).flatten();
            drop(state);
            wake(called);
            self.shared.never_started(entry, now, unstarted(reason));
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
        if self.is_inside() {
            // The caller is one of the threads that it would wait for.
            return leases(&self.shared.lock());
        }
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
        leases(&state)
    }

    fn status(&self) -> LaneStatus {
        let now = Instant::now();
        let state = self.shared.lock();
        let oldest = state.lines.oldest();
        LaneStatus {
            running: state.busy as u32,
            queued: state.lines.len() as u32,
            stuck: state.stuck as u32,
            executors: state.alive as u32,
            head_age: oldest.map(|since| now.saturating_duration_since(since)),
            late: state.late,
        }
    }

    fn trouble(&self) -> Option<Box<str>> {
        let state = self.shared.lock();
        let deaf = state.deaf_jobs(Instant::now());
        let (replaced, refused) = (state.stood_in, state.start_error.clone());
        drop(state);
        if deaf.is_empty() {
            return None;
        }
        let mut parts: Vec<String> = deaf
            .iter()
            .take(DEAF_NAMED_MAX)
            .map(|job| format!("{job}, and does not listen"))
            .collect();
        if deaf.len() > DEAF_NAMED_MAX {
            parts.push(format!("and {} more", deaf.len() - DEAF_NAMED_MAX));
        }
        parts.push(format!(
            "processors replaced for such jobs: {replaced} of at most {}",
            self.shared.threads
        ));
        parts.extend(
            refused.map(|error| format!("the system refuses to start another thread: {error}")),
        );
        parts.push("a task that cannot ask for its token belongs on the process lane".to_owned());
        Some(parts.join("; ").into())
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
