//! What waits before the lanes, and what that means for a job that is asked for now. Path: **enqueue**
//! asks it before the engine does.
//!
//! The engine tells how many jobs wait, the lanes' ends tell how long each task runs; the estimate is
//! one over the other. Counts may lag by a commit, so what is on its way in counts too.
//!
//! Must never: refuse a job for an estimate that rests on nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offloop_job::{NewJob, TaskName, Timestamp};
use offloop_lane::TypicalRun;
use offloop_store::{InsertRefusal, LineStatus, NotAdmitted, NotAdmittedWhy, StoreError};

use crate::admission::{Pressure, estimated_wait, retry_after};
use crate::handle::Shared;

/// Estimates may be so old.
const FRESH_FOR: Duration = Duration::from_millis(50);
/// A refused producer comes again when so much of the limit has drained.
const DRAIN_SHARE: f64 = 0.05;

/// Jobs of one task, unfinished and not running.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    queued: u64,
    ready: u64,
    running: u64,
}

#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    tasks: HashMap<TaskName, Waiting>,
    /// Of the ready job that waits longest, by lane.
    oldest: Vec<Option<Timestamp>>,
    /// Asked for, and not yet answered by the engine.
    coming: HashMap<TaskName, u64>,
    pressure: HashMap<TaskName, Pressure>,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Backlog {
    seen: Mutex<Seen>,
    typical: HashMap<TaskName, TypicalRun>,
    /// When each lane was last given something.
    moved: Vec<Mutex<Option<Timestamp>>>,
}

/// Jobs on their way into the store; dropped when the engine has answered.
#[derive(Debug)]
pub(crate) struct Coming<'a> {
    backlog: &'a Backlog,
    tasks: Vec<TaskName>,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut seen = self.backlog.lock();
        for task in &self.tasks {
            if let Some(count) = seen.coming.get_mut(task.as_str()) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

impl Backlog {
    pub(crate) fn new(routes: &HashMap<TaskName, usize>, lanes: usize) -> Self {
        let typical = routes
            .keys()
            .map(|task| (task.clone(), TypicalRun::default()));
        Self {
            seen: Mutex::default(),
            typical: typical.collect(),
            moved: (0..lanes).map(|_| Mutex::default()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run of the task completed.
    pub(crate) fn ran(&self, task: &TaskName, wall: Duration) {
        if let Some(typical) = self.typical.get(task.as_str()) {
            typical.ran(wall);
        }
    }

    /// The lane was given work.
    pub(crate) fn moved(&self, lane: usize, now: Timestamp) {
        if let Some(moved) = self.moved.get(lane) {
            *moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
    }

    fn take(&self, shared: &Shared, lines: Vec<LineStatus>) {
        let mut seen = self.lock();
        seen.at = Some(Instant::now());
        seen.tasks.clear();
        seen.oldest = vec![None; shared.lanes.len()];
        for line in lines {
            let waiting = seen.tasks.entry(line.task.clone()).or_default();
            waiting.queued += line.counts.ready + line.counts.scheduled + line.counts.waiting;
            waiting.running += line.counts.running;
            if line.paused {
                continue; // stands before nobody
            }
            waiting.ready += line.counts.ready;
            if let Some(lane) = shared.routes.get(line.task.as_str()) {
                let oldest = &mut seen.oldest[*lane];
                *oldest = oldest.iter().copied().chain(line.oldest_ready).min();
            }
        }
    }

    /// Reads the engine's counts. `now`: also if they were read a moment ago.
    pub(crate) async fn refresh(&self, shared: &Shared, now: bool) -> Result<(), StoreError> {
        let fresh = |at: Instant| at.elapsed() < FRESH_FOR;
        if !now && self.lock().at.is_some_and(fresh) {
            return Ok(());
        }
        let lines = shared.engine.backlog().await?;
        self.take(shared, lines);
        Ok(())
    }

    /// From now until a job of the task begins; `None`: nothing is known of what is before it.
    pub(crate) fn estimate(&self, shared: &Shared, task: &TaskName) -> Option<Duration> {
        let lane = *shared.routes.get(task.as_str())?;
        let seen = self.lock();
        let running = u64::from(shared.lanes[lane].slots().running);
        let mut ahead = Duration::ZERO;
        let (mut busy, mut ready) = (0, 0);
        for info in shared.lanes[lane].tasks() {
            let waiting = seen.tasks.get(info.name.as_str()).copied();
            let Waiting {
                ready: more,
                running: on,
                ..
            } = waiting.unwrap_or_default();
            if more + on == 0 {
                continue;
            }
            (busy, ready) = (busy + on, ready + more);
            let known = self
                .typical
                .get(info.name.as_str())
                .and_then(TypicalRun::get);
            // What runs is half done on the average.
            ahead += known?.mul_f64(more as f64 + on as f64 / 2.0);
        }
        if ready == 0 && busy < running {
            return Some(Duration::ZERO);
        }
        let still = self.still(shared, &seen, lane);
        Some(estimated_wait(still, ahead, running as u32))
    }

    /// How long the lane was given nothing although a job is ready for it.
    fn still(&self, shared: &Shared, seen: &Seen, lane: usize) -> Duration {
        let Some(oldest) = seen.oldest.get(lane).copied().flatten() else {
            return Duration::ZERO;
        };
        let moved = *self.moved[lane]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let since = moved.map_or(oldest, |moved| moved.max(oldest));
        shared.clock.now().since(since)
    }

    /// Whether each job may be asked for now. Those that may are counted until the answer is dropped.
    pub(crate) fn admit(
        &self,
        shared: &Shared,
        jobs: &[NewJob],
        now: Timestamp,
    ) -> (Coming<'_>, Vec<Option<InsertRefusal>>) {
        let mut tasks = Vec::new();
        let refusals = jobs.iter().map(|job| {
            let limited = is_limited(shared, &job.task);
            if !limited && job.options.deadline.is_none() {
                return None;
            }
            let refusal = self.refusal(shared, job, now);
            if refusal.is_none() && limited {
                *self.lock().coming.entry(job.task.clone()).or_default() += 1;
                tasks.push(job.task.clone());
            }
            refusal.map(InsertRefusal::NotAdmitted)
        });
        let refusals = refusals.collect();
        let backlog = self;
        (Coming { backlog, tasks }, refusals)
    }

    fn refusal(&self, shared: &Shared, job: &NewJob, now: Timestamp) -> Option<NotAdmitted> {
        let estimate = self.estimate(shared, &job.task);
        if let Some(why) = self.over_limit(shared, &job.task, estimate) {
            return Some(self.not_admitted(shared, &job.task, why, estimate));
        }
        let (deadline, wait) = (job.options.deadline?, estimate?);
        let begins = job.options.run_at.unwrap_or(now).max(now.plus(wait));
        let typical = self.typical.get(job.task.as_str())?.get()?;
        if begins.plus(typical) <= deadline {
            return None;
        }
        let left = deadline.since(now);
        let why = NotAdmittedWhy::Deadline { left, typical };
        Some(self.not_admitted(shared, &job.task, why, estimate))
    }

    fn over_limit(
        &self,
        shared: &Shared,
        task: &TaskName,
        estimate: Option<Duration>,
    ) -> Option<NotAdmittedWhy> {
        let limits = shared.defaults_of(task);
        let queued = self.queued(task);
        if let Some(limit) = limits.max_queued.filter(|limit| queued >= *limit) {
            let task = task.clone();
            return Some(NotAdmittedWhy::Queued { task, limit });
        }
        let limit = limits.max_wait?;
        (estimate? > limit).then(|| NotAdmittedWhy::Wait {
            task: task.clone(),
            limit,
        })
    }

    fn queued(&self, task: &TaskName) -> u64 {
        let seen = self.lock();
        let queued = seen.tasks.get(task.as_str()).map_or(0, |one| one.queued);
        queued + seen.coming.get(task.as_str()).copied().unwrap_or(0)
    }

    fn not_admitted(
        &self,
        shared: &Shared,
        task: &TaskName,
        why: NotAdmittedWhy,
        estimate: Option<Duration>,
    ) -> NotAdmitted {
        let again = match &why {
            NotAdmittedWhy::Deadline { .. } | NotAdmittedWhy::Wait { .. } => {
                estimate.unwrap_or_default()
            }
            NotAdmittedWhy::Queued { limit, .. } => self.drain(shared, task, *limit),
        };
        NotAdmitted {
            why,
            estimated_wait: estimate,
            retry_after: retry_after(again, shared.dice.roll()),
        }
    }

    /// How long a twentieth of so many jobs takes, as fast as they go now.
    pub(crate) fn drain(&self, shared: &Shared, task: &TaskName, jobs: u64) -> Duration {
        const UNKNOWN: Duration = Duration::from_secs(5);
        let lane = shared.routes.get(task.as_str());
        let slots = lane.map_or(1, |lane| shared.lanes[*lane].slots().running.max(1));
        let typical = self.typical.get(task.as_str()).and_then(TypicalRun::get);
        let drained = (jobs as f64 * DRAIN_SHARE).max(1.0) / f64::from(slots);
        typical.map_or(UNKNOWN, |run| {
            run.mul_f64(drained.min(1e6)) // a queue's limit is far below
        })
    }

    /// How full the task's line is, by the nearest of its limits.
    pub(crate) fn pressure(&self, shared: &Shared, task: &TaskName) -> Pressure {
        let limits = shared.defaults_of(task);
        let by_count = limits
            .max_queued
            .map(|limit| self.queued(task) as f64 / limit.max(1) as f64);
        let wait = limits.max_wait.and_then(|limit| {
            let wait = self.estimate(shared, task)?;
            Some(wait.as_secs_f64() / limit.as_secs_f64().max(1e-6))
        });
        let load = by_count.into_iter().chain(wait).fold(0.0, f64::max);
        let mut seen = self.lock();
        let level = seen.pressure.entry(task.clone()).or_default();
        *level = level.at(load);
        *level
    }
}

/// Whether the task bounds what may wait.
pub(crate) fn is_limited(shared: &Shared, task: &TaskName) -> bool {
    let limits = shared.defaults_of(task);
    limits.max_queued.is_some() || limits.max_wait.is_some()
}
