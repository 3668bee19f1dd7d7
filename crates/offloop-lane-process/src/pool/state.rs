//! The pool's state: its children, the jobs that wait for one, and the news that wait to be told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{LogTail, Outcome, StopReason, Usage};
use offloop_lane::{
    Ended, Gone, LaneEvent, LaneStatus, Proof, Stopped, TypicalRun, Work, unstarted,
};

use super::child::{Child, Flight, Phase, Rung};
use super::exits::Exits;
use crate::frame::Breach;
use crate::spec::Pacing;

/// The pool's thread looks up this often while it has children: callers that push a job need not
/// call it for the next sample.
const SLEEP_MAX: Duration = Duration::from_millis(250);
const SLEEP_EMPTY: Duration = Duration::from_secs(60);
/// A young job is looked at sooner, so that short commands have a figure too.
const SAMPLE_YOUNG: Duration = Duration::from_millis(10);
/// Between two looks at memory and processor time.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// After SIGKILL, a tree that is still there counts as stuck.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(1);

/// A job that waits for a child.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) work: Arc<Work>,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Pool {
    /// By number: the token of their descriptors.
    pub(super) children: BTreeMap<u64, Child>,
    pub(super) next_number: u64,
    /// Most recently idle on top: its memory is warm.
    pub(super) idle: Vec<u64>,
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) news: Vec<LaneEvent>,
    pub(super) delivering: bool,
    pub(super) closed: bool,
    pub(super) ending: bool,
    pub(super) pacing: Pacing,
    /// Starts in a row that brought no child that stays.
    pub(super) failures: u32,
    /// What the last of them said.
    pub(super) last_words: String,
    pub(super) no_start_before: Option<Instant>,
    pub(super) exits: Exits,
    /// Work that ended after its deadline.
    pub(super) late: u64,
    /// Moving mean of the runs that completed.
    pub(super) typical: TypicalRun,
    pub(super) sleeps_until: Instant,
    pub(super) next_sample: Instant,
    /// When the pool's thread was last called for a look at a job that began while it slept.
    pub(super) called_to_look: Option<Instant>,
}

impl Pool {
    pub(super) fn new(now: Instant, pacing: Pacing) -> Self {
        Self {
            children: BTreeMap::new(),
            next_number: 1,
            idle: Vec::new(),
            waiting: VecDeque::new(),
            news: Vec::new(),
            delivering: false,
            closed: false,
            ending: false,
            pacing,
            failures: 0,
            last_words: String::new(),
            no_start_before: None,
            exits: Exits::default(),
            late: 0,
            typical: TypicalRun::default(),
            sleeps_until: now,
            next_sample: now,
            called_to_look: None,
        }
    }

    pub(super) fn add(&mut self, child: Child) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.children.insert(number, child);
        number
    }

    /// Jobs that this lane has to answer for.
    pub(super) fn held(&self) -> usize {
        let flights = self.children.values().filter(|c| c.flight.is_some());
        flights.count() + self.waiting.len()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.children.is_empty() && self.news.is_empty() && !self.delivering
    }

    /// Into the line, before those of a later priority.
    pub(super) fn wait(&mut self, waiting: Waiting) {
        let after = |other: &Waiting| other.work.priority <= waiting.work.priority;
        let at = self.waiting.partition_point(after);
        self.waiting.insert(at, waiting);
    }

    pub(super) fn status(&self, now: Instant) -> LaneStatus {
        let children = self.children.values();
        let stuck = children.clone().filter(|child| match child.rung {
            Rung::Killed { at } => now.saturating_duration_since(at) > STUCK_AFTER,
            _ => false,
        });
        LaneStatus {
            running: children.clone().filter(|c| c.flight.is_some()).count() as u32,
            queued: self.waiting.len() as u32,
            stuck: stuck.count() as u32,
            executors: children.filter(|child| child.pid != 0).count() as u32,
            head_age: self
                .waiting
                .front()
                .map(|head| now.saturating_duration_since(head.since)),
            late: self.late,
        }
    }

    /// When the pool's thread is needed, apart from samples.
    pub(super) fn due_without_samples(&self) -> Instant {
        let calm = if self.children.is_empty() {
            SLEEP_EMPTY
        } else {
            SLEEP_MAX
        };
        let now = Instant::now();
        let mut due = now + calm;
        let mut sooner = |at: Option<Instant>| due = at.map_or(due, |at| at.min(due));
        if !self.closed {
            // In the past it waits for a child that is being tried, not for time.
            sooner(self.no_start_before.filter(|at| *at > now));
        }
        for child in self.children.values() {
            match child.rung {
                Rung::Asked { until } | Rung::Termed { until } => sooner(Some(until)),
                Rung::Calm | Rung::Killed { .. } => {}
            }
            if let Phase::Starting { until } = child.phase
                && !child.is_leaving()
            {
                sooner(Some(until));
            }
            sooner(child.check(now).unwrap_or(Some(now)));
            sooner(child.due_at());
            sooner(child.flight.as_ref().and_then(|f| f.notes.due_at()));
            sooner(child.ping_at(&self.pacing));
        }
        for waiting in &self.waiting {
            sooner(waiting.work.deadline);
        }
        due
    }

    pub(super) fn due(&self) -> Instant {
        let due = self.due_without_samples();
        // Only such a look sets the time of the next one: without one the thread would spin until the
        // spawner or the undertaker is done with the child, and keep the lock from them.
        let any = self.children.values().any(Child::is_looked_at);
        if any { due.min(self.next_sample) } else { due }
    }

    pub(super) fn sample_again(&mut self, now: Instant, soonest: Option<Duration>) {
        let age = |child: &Child| {
            let began = child.flight.as_ref()?.began?;
            Some(now.saturating_duration_since(began))
        };
        // After half of the youngest one's age, between 10 and 100 ms.
        let youngest = self.children.values().filter_map(age).min();
        let calm = youngest.map_or(SAMPLE_EVERY, |age| {
            (age / 2).clamp(SAMPLE_YOUNG, SAMPLE_EVERY)
        });
        self.next_sample = now + soonest.map_or(calm, |soon| soon.min(calm));
    }

    pub(super) fn has_proven_child(&self) -> bool {
        self.children.values().any(Child::is_ready)
    }

    pub(super) fn shut(&mut self) {
        let now = Instant::now();
        self.closed = true;
        for waiting in std::mem::take(&mut self.waiting) {
            let queued = now.saturating_duration_since(waiting.since);
            self.tell_never_started(&waiting.work, queued, unstarted(StopReason::Shutdown));
        }
    }

    pub(super) fn kill_all(&mut self) {
        let now = Instant::now();
        self.ending = true;
        for child in self.children.values_mut() {
            if let Some(flight) = child.flight.as_mut() {
                flight
                    .stop
                    .get_or_insert(Stopped::Asked(StopReason::Shutdown));
            }
            if child.pid != 0 {
                child.kill(now);
            }
        }
    }

    pub(super) fn breach(&mut self, number: u64, breach: Breach, now: Instant) {
        self.idle.retain(|idle| *idle != number);
        if let Some(child) = self.children.get_mut(&number) {
            child.breach.get_or_insert(breach);
            child.kill(now);
        }
    }

    pub(super) fn tell_started(&mut self, number: u64) {
        let Some(child) = self.children.get(&number) else {
            return;
        };
        if let Some(flight) = &child.flight {
            self.news.push(LaneEvent::Started {
                job: flight.work.job,
                lease: flight.work.lease,
                executor: child.executor(),
            });
        }
    }

    pub(super) fn tell_end(&mut self, ended: Ended) {
        #[cfg(feature = "sabotage")]
        let ended = crate::sabotage::ended(ended);
        self.news.push(LaneEvent::Ended(Box::new(ended)));
    }

    /// The end of a job that no child had.
    pub(super) fn tell_never_started(&mut self, work: &Work, queued: Duration, outcome: Outcome) {
        self.tell_end(Ended {
            job: work.job,
            lease: work.lease,
            outcome,
            executor: "".into(),
            queued,
            usage: Usage::default(),
            log: LogTail::default(),
            gone: Gone::proven(Proof::NeverStarted),
        });
    }

    /// The end of a flight that no child had. Its child is to be removed.
    pub(super) fn tell_unflown(&mut self, flight: &Flight, now: Instant, outcome: Outcome) {
        let queued = flight.queued(now);
        self.tell_never_started(&flight.work, queued, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use offloop_job::{JobId, Lease, TaskName};
    use offloop_lane::WorkLimits;

    fn work() -> Work {
        Work {
            job: JobId::from_parts(1, 1),
            lease: Lease(1),
            attempt: 1,
            task: TaskName::parse("t").unwrap(),
            payload: Bytes::new(),
            priority: 5,
            limits: WorkLimits {
                timeout: Duration::from_secs(60),
                cpu: None,
                memory_bytes: None,
                stall: None,
                result_bytes: 1,
            },
            cores: 1,
            deadline: None,
            checkpoint: None,
            trace: None,
            inputs: std::sync::Arc::default(),
        }
    }

    #[test]
    fn the_thread_does_not_spin_while_another_one_has_its_child() {
        let now = Instant::now();
        let phases = [
            (Phase::Planning, false),
            (Phase::Spawning, false),
            (Phase::Busy, true),
            (Phase::Dead, false),
            (Phase::Reading, false),
        ];
        for (phase, looks) in phases {
            let shown = format!("{phase:?}");
            let mut pool = Pool::new(now, Pacing::default());
            let mut child = Child::new("m".into(), "r".into(), phase);
            child.flight = Some(Flight::new(Arc::new(work()), now));
            pool.add(child);
            pool.next_sample = now;
            assert_eq!(pool.due() <= Instant::now(), looks, "{shown}");
        }
    }
}
