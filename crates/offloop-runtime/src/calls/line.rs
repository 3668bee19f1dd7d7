//! The line before one lane's slots: who is let in, who is next, who shares a run. Decisions only.
//!
//! Strictly by priority, then by arrival. What would be too late is refused at the door and dropped
//! at the head. All times come in as arguments, so that a simulation can drive it.
//!
//! Must never: start work, answer anybody, or read a clock.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::Lease;
use offloop_job::limits::PRIORITY_MAX;
use offloop_lane::{TypicalRun, Work, cannot_be_done};

use super::ask::{CallSettings, Refused, RefusedWhy};
use crate::admission::{Pressure, allowed_wait, estimated_wait, retry_after, sheds};

/// Larger payloads are not compared with those under way.
const SHARED_BYTES_MAX: usize = 64 << 10;
/// Weight of the newest run in the lane's mean.
const NEWEST: f64 = 1.0 / 16.0;

/// What is known of one task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) settings: CallSettings,
    typical: TypicalRun,
    waiting: u32,
}

impl Task {
    pub(super) fn new(settings: CallSettings) -> Self {
        Self {
            settings,
            typical: TypicalRun::default(),
            waiting: 0,
        }
    }
}

/// A caller that waits for the end of a run.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    pub(super) id: u64,
    pub(super) tell: T,
}

/// A run, from the moment that it is let in until its executor is free.
#[derive(Debug)]
struct Run<T> {
    task: usize,
    /// What it adds to the wait of those behind it.
    expect: Duration,
    /// Its place; `None` once it was given to the lane.
    place: Option<(u8, u64)>,
    key: Option<(usize, Bytes)>,
    waiters: Vec<Waiter<T>>,
}

#[derive(Debug)]
struct Waiting {
    work: Work,
    since: Instant,
}

/// How a caller was let in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It waits, or begins with the next [`Line::next`].
    Alone,
    /// It shares the run that has this lease.
    Joined(Lease),
}

/// What became of a caller that left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Others wait for the same run, or it had ended.
    Nothing,
    /// It was in line and is forgotten.
    Unqueued,
    /// It runs for nobody: to be stopped.
    Stop,
}

/// What comes off the head of the line.
#[derive(Debug)]
pub(super) enum Next<T> {
    Start(Work),
    /// It could not be done in time any more.
    Late {
        refused: Refused,
        waiters: Vec<Waiter<T>>,
    },
}

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallCounts {
    /// Let in, those that share a run included.
    pub admitted: u64,
    /// Shared a run that was under way.
    pub joined: u64,
    /// Refused at the door: it would have been too late.
    pub refused_deadline: u64,
    /// Refused at the door: the line was too long for its priority.
    pub refused_wait: u64,
    /// Refused at the door: too many of the task in line.
    pub refused_line: u64,
    /// Let in and dropped at the head of the line, since it could not be done any more.
    pub dropped: u64,
    /// Left before their answer: hung up or timed out.
    pub left: u64,
}

#[derive(Debug)]
pub(super) struct Line<T> {
    slots: u32,
    pub(super) tasks: Vec<Task>,
    waiting: BTreeMap<(u8, u64), Waiting>,
    runs: HashMap<Lease, Run<T>>,
    shared: HashMap<(usize, Bytes), Lease>,
    serving: u32,
    /// Sum of what the work in line is expected to take, by priority.
    ahead: [Duration; PRIORITY_MAX as usize + 1],
    /// The same of what runs.
    running: Duration,
    arrivals: u64,
    /// When something last went to the lane.
    moved: Option<Instant>,
    /// When somebody last found the line empty and began to wait.
    standing: Option<Instant>,
    /// Mean run of the lane in seconds.
    mean_run: f64,
    pressure: Pressure,
    pub(super) counts: CallCounts,
    pub(super) closed: bool,
}

impl<T> Line<T> {
    pub(super) fn new(slots: u32, tasks: Vec<Task>) -> Self {
        Self {
            slots: slots.max(1),
            tasks,
            waiting: BTreeMap::new(),
            runs: HashMap::new(),
            shared: HashMap::new(),
            serving: 0,
            ahead: [Duration::ZERO; PRIORITY_MAX as usize + 1],
            running: Duration::ZERO,
            arrivals: 0,
            moved: None,
            standing: None,
            mean_run: 0.0,
            pressure: Pressure::Open,
            counts: CallCounts::default(),
            closed: false,
        }
    }

    pub(super) fn serving(&self) -> u32 {
        self.serving
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn head_age(&self, now: Instant) -> Option<Duration> {
        let oldest = self.waiting.values().map(|waiting| waiting.since).min()?;
        Some(now.saturating_duration_since(oldest))
    }

    fn mean_run(&self) -> Duration {
        Duration::from_secs_f64(self.mean_run)
    }

    /// What a newcomer of this priority would wait. `stuck`: slots whose executor was replaced.
    pub(super) fn estimate(&self, priority: u8, stuck: u32, now: Instant) -> Duration {
        if self.serving < self.slots + stuck && self.waiting.is_empty() {
            return Duration::ZERO;
        }
        let first = self.waiting.first_key_value();
        let before = first.filter(|((class, _), _)| *class <= priority);
        let still = before.map_or(Duration::ZERO, |(_, head)| {
            now.saturating_duration_since(self.moved.map_or(head.since, |at| at.max(head.since)))
        });
        let in_line: Duration = self.ahead[..=usize::from(priority.min(PRIORITY_MAX))]
            .iter()
            .sum();
        // What runs is half done on the average.
        estimated_wait(still, in_line + self.running / 2, self.slots)
    }

    fn allowed(&self, max_wait: Duration, now: Instant) -> Duration {
        let standing = self
            .standing
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        allowed_wait(standing, self.mean_run(), max_wait)
    }

    /// How full it is for a call of the usual priority.
    pub(super) fn pressure(&mut self, stuck: u32, now: Instant) -> Pressure {
        let most = self.tasks.iter().map(|task| task.settings.max_wait).max();
        let allowed = self.allowed(most.unwrap_or_default(), now);
        let wait = self.estimate(offloop_job::limits::PRIORITY_DEFAULT, stuck, now);
        let load = wait.as_secs_f64() / allowed.as_secs_f64().max(1e-6);
        self.pressure = self.pressure.at(load);
        self.pressure
    }

    fn refuse(&mut self, why: RefusedWhy, wait: Duration, roll: f64) -> Refused {
        match why {
            RefusedWhy::Deadline { .. } => self.counts.refused_deadline += 1,
            RefusedWhy::Wait { .. } => self.counts.refused_wait += 1,
            RefusedWhy::Line { .. } => self.counts.refused_line += 1,
            RefusedWhy::Pressed => {} // decided before it came here
        }
        Refused {
            why,
            wait,
            retry_after: retry_after(wait, roll),
        }
    }

    /// Lets a caller in, or says why not.
    ///
    /// - `roll`: uniform in `0.0..1.0`.
    pub(super) fn admit(
        &mut self,
        task: usize,
        work: Work,
        waiter: Waiter<T>,
        stuck: u32,
        now: Instant,
        roll: f64,
    ) -> Result<Admitted, Refused> {
        let settings = self.tasks[task].settings;
        let share = settings.single_flight && work.payload.len() <= SHARED_BYTES_MAX;
        let key = share.then(|| (task, work.payload.clone()));
        if let Some(lease) = key.as_ref().and_then(|key| self.shared.get(key)).copied()
            && self.join(lease, &work)
        {
            if let Some(run) = self.runs.get_mut(&lease) {
                run.waiters.push(waiter);
            }
            self.counts.admitted += 1;
            self.counts.joined += 1;
            return Ok(Admitted::Joined(lease));
        }
        let priority = work.priority.min(PRIORITY_MAX);
        let wait = self.estimate(priority, stuck, now);
        let known = self.tasks[task].typical.get();
        let typical = known.unwrap_or_default();
        let left = work
            .deadline
            .map_or(Duration::MAX, |at| at.saturating_duration_since(now));
        if left.is_zero() || (!wait.is_zero() && wait.saturating_add(typical) > left) {
            return Err(self.refuse(RefusedWhy::Deadline { left, typical }, wait, roll));
        }
        if wait.is_zero() && cannot_be_done(&work, Some(&self.tasks[task].typical), now) {
            return Err(self.refuse(RefusedWhy::Deadline { left, typical }, wait, roll));
        }
        if self.tasks[task].waiting >= settings.line {
            let limit = settings.line;
            return Err(self.refuse(RefusedWhy::Line { limit }, wait, roll));
        }
        let allowed = self.allowed(settings.max_wait, now);
        if sheds(wait, allowed, priority, roll) {
            return Err(self.refuse(RefusedWhy::Wait { allowed }, wait, roll));
        }
        self.queue(task, priority, work, waiter, known, key, now);
        Ok(Admitted::Alone)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one entry")]
    fn queue(
        &mut self,
        task: usize,
        priority: u8,
        work: Work,
        waiter: Waiter<T>,
        known: Option<Duration>,
        key: Option<(usize, Bytes)>,
        now: Instant,
    ) {
        let expect = known.unwrap_or_else(|| self.mean_run());
        let lease = work.lease;
        let place = (priority, self.arrivals);
        self.arrivals += 1;
        self.counts.admitted += 1;
        if let Some(key) = &key {
            self.shared.insert(key.clone(), lease);
        }
        self.runs.insert(
            lease,
            Run {
                task,
                expect,
                place: Some(place),
                key,
                waiters: vec![waiter],
            },
        );
        self.ahead[usize::from(priority)] += expect;
        self.tasks[task].waiting += 1;
        self.waiting.insert(place, Waiting { work, since: now });
        if self.serving >= self.slots {
            self.standing.get_or_insert(now);
        }
    }

    /// Whether a caller with this work can share the run: it waits at least as long as it may.
    fn join(&mut self, lease: Lease, work: &Work) -> bool {
        let Some(run) = self.runs.get(&lease) else {
            return false;
        };
        if let Some(waiting) = run.place.and_then(|place| self.waiting.get_mut(&place)) {
            waiting.work.deadline = waiting.work.deadline.max(work.deadline);
        }
        true
    }

    /// The work that may begin now, or that is too late to. Call it until it answers `None`.
    pub(super) fn next(&mut self, stuck: u32, now: Instant) -> Option<Next<T>> {
        if self.serving >= self.slots + stuck {
            return None;
        }
        let (place, Waiting { mut work, since }) = self.waiting.pop_first()?;
        let run = self.runs.get_mut(&work.lease)?;
        let (task, expect) = (run.task, run.expect);
        run.place = None;
        self.ahead[usize::from(place.0)] = self.ahead[usize::from(place.0)].saturating_sub(expect);
        self.tasks[task].waiting -= 1;
        if self.waiting.is_empty() {
            self.standing = None;
        }
        let typical = &self.tasks[task].typical;
        if cannot_be_done(&work, Some(typical), now) {
            let why = RefusedWhy::Deadline {
                left: work
                    .deadline
                    .map_or(Duration::ZERO, |at| at.saturating_duration_since(now)),
                typical: typical.get().unwrap_or_default(),
            };
            self.counts.dropped += 1;
            let waiters = self.forget(work.lease);
            let wait = now.saturating_duration_since(since);
            return Some(Next::Late {
                refused: Refused {
                    why,
                    wait,
                    retry_after: retry_after(wait, 0.5),
                },
                waiters,
            });
        }
        self.serving += 1;
        self.moved = Some(now);
        self.running += expect;
        // A shared run outlives its first caller: each caller has a clock of its own.
        let left = work.deadline.filter(|_| run.key.is_none());
        if let Some(left) = left {
            let left = left.saturating_duration_since(now);
            work.limits.timeout = work.limits.timeout.min(left);
        }
        if run.key.is_some() {
            work.deadline = None;
        }
        Some(Next::Start(work))
    }

    fn forget(&mut self, lease: Lease) -> Vec<Waiter<T>> {
        let Some(run) = self.runs.remove(&lease) else {
            return Vec::new();
        };
        if let Some(key) = &run.key
            && self.shared.get(key) == Some(&lease)
        {
            self.shared.remove(key);
        }
        run.waiters
    }

    /// An executor is free again. `completed`: only such runs tell how long the task takes.
    pub(super) fn ended(
        &mut self,
        lease: Lease,
        wall: Duration,
        completed: bool,
    ) -> Vec<Waiter<T>> {
        let Some(run) = self.runs.get(&lease) else {
            return Vec::new();
        };
        if run.place.is_none() {
            self.serving = self.serving.saturating_sub(1);
            self.running = self.running.saturating_sub(run.expect);
        }
        if completed {
            self.tasks[run.task].typical.ran(wall);
        }
        // What failed or was stopped held its slot as well.
        let run_s = wall.as_secs_f64();
        self.mean_run += (run_s - self.mean_run) * if self.mean_run == 0.0 { 1.0 } else { NEWEST };
        self.forget(lease)
    }

    /// A caller does not wait any longer.
    pub(super) fn leave(&mut self, lease: Lease, waiter: u64) -> Left {
        let Some(run) = self.runs.get_mut(&lease) else {
            return Left::Nothing;
        };
        let before = run.waiters.len();
        run.waiters.retain(|one| one.id != waiter);
        if run.waiters.len() == before {
            return Left::Nothing;
        }
        self.counts.left += 1;
        if !run.waiters.is_empty() {
            return Left::Nothing;
        }
        // Nobody may join what is being stopped.
        if let Some(key) = run.key.take()
            && self.shared.get(&key) == Some(&lease)
        {
            self.shared.remove(&key);
        }
        let Some(place) = run.place else {
            return Left::Stop;
        };
        let (task, expect) = (run.task, run.expect);
        self.waiting.remove(&place);
        self.ahead[usize::from(place.0)] = self.ahead[usize::from(place.0)].saturating_sub(expect);
        self.tasks[task].waiting -= 1;
        if self.waiting.is_empty() {
            self.standing = None;
        }
        self.runs.remove(&lease);
        Left::Unqueued
    }

    /// Empties the line: nothing more is started. What runs goes on.
    pub(super) fn close(&mut self) -> Vec<Waiter<T>> {
        self.closed = true;
        let mut waiters = Vec::new();
        while let Some((_, waiting)) = self.waiting.pop_first() {
            waiters.extend(self.forget(waiting.work.lease));
        }
        self.ahead = Default::default();
        self.standing = None;
        for task in &mut self.tasks {
            task.waiting = 0;
        }
        waiters
    }

    /// What is with the lane now.
    pub(super) fn running(&self) -> Vec<Lease> {
        let runs = self.runs.iter().filter(|(_, run)| run.place.is_none());
        runs.map(|(lease, _)| *lease).collect()
    }

    /// Whether nobody waits any more for a run that has not ended.
    pub(super) fn is_deserted(&self, lease: Lease) -> bool {
        let run = self.runs.get(&lease);
        run.is_some_and(|run| run.waiters.is_empty())
    }

    /// Whether a run was given to the lane; `None`: there is none such.
    pub(super) fn began(&self, lease: Lease) -> Option<bool> {
        self.runs.get(&lease).map(|run| run.place.is_none())
    }
}
