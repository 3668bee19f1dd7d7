//! How much of its threads' time a runtime spends in polls: by differences over a short window,
//! never since its start.
//!
//! tokio adds a worker's busy time up when it parks or has polled some dozens of tasks. A worker
//! that is blocked adds nothing for as long as it is, so what it was seen at work is added here
//! until its own figure catches up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::runtime::RuntimeMetrics;

/// The figure is over this long.
const OVER: Duration = Duration::from_secs(2);

/// One worker as it was last seen.
#[derive(Clone, Copy, Debug)]
struct Worker {
    parks: u64,
    busy: Duration,
    /// Since when nothing was heard of it while it was at work.
    silent_since: Option<Instant>,
}

/// The workers of one runtime.
#[derive(Debug)]
pub(crate) struct Workers {
    workers: Vec<Worker>,
    /// Busy time of all workers together, by the time it was read.
    read: VecDeque<(Instant, Duration)>,
}

impl Workers {
    pub(crate) fn new(metrics: &RuntimeMetrics) -> Self {
        let worker = |index| Worker {
            parks: metrics.worker_park_unpark_count(index),
            busy: metrics.worker_total_busy_duration(index),
            silent_since: None,
        };
        Self {
            workers: (0..metrics.num_workers()).map(worker).collect(),
            read: VecDeque::new(),
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Reads the counters. Answers whether every worker is parked.
    pub(crate) fn look(&mut self, metrics: &RuntimeMetrics, now: Instant) -> bool {
        let mut parked = true;
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let parks = metrics.worker_park_unpark_count(index);
            let busy = metrics.worker_total_busy_duration(index);
            let is_parked = parks % 2 == 1; // it counts both: parks and wakes
            let heard = parks != worker.parks || busy != worker.busy;
            worker.silent_since = match worker.silent_since {
                _ if is_parked => None,
                Some(since) if !heard => Some(since),
                _ => Some(now),
            };
            (worker.parks, worker.busy) = (parks, busy);
            parked &= is_parked;
        }
        parked
    }

    /// How long each worker has been at work without a word, longest first, those over `least`.
    pub(crate) fn silent(&self, now: Instant, least: Duration) -> Vec<(usize, Duration)> {
        let silent = |worker: &Worker| {
            let since = worker.silent_since?;
            Some(now.saturating_duration_since(since))
        };
        let workers = self.workers.iter().enumerate();
        let mut found: Vec<_> = workers
            .filter_map(|(index, worker)| Some((index, silent(worker)?)))
            .filter(|(_, age)| *age >= least)
            .collect();
        found.sort_by_key(|(_, age)| std::cmp::Reverse(*age));
        found
    }

    /// Puts a reading on record and answers the share of the last two seconds, 0 to 1.
    pub(crate) fn share(&mut self, now: Instant) -> f64 {
        let silent = |worker: &Worker| {
            worker
                .silent_since
                .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
        };
        let workers = self.workers.iter();
        let busy: Duration = workers.map(|worker| worker.busy + silent(worker)).sum();
        self.read.push_back((now, busy));
        while self.read.len() > 2 && now.saturating_duration_since(self.read[1].0) >= OVER {
            self.read.pop_front();
        }
        let (then, before) = self.read[0];
        let time = now.saturating_duration_since(then).as_secs_f64() * self.workers.len() as f64;
        if time <= 0.0 {
            return 0.0;
        }
        (busy.saturating_sub(before).as_secs_f64() / time).clamp(0.0, 1.0)
    }
}
