//! One line of jobs: a queue and a task, ready jobs in serving order.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use offloop_job::limits::PRIORITY_MAX;
use offloop_job::{JobOptions, QueueName, TaskName};

use super::flows::{Turn, TurnKey};
use super::{Row, Spot};

/// Position in [`super::Index::lines`]; row numbers in the file are one larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LineId(pub(crate) u32);

/// Priority and due time in one number, so that a place in the order is 16 bytes.
/// A timestamp has 48 bits (year 9999).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReadyKey(u64);

const DUE_BITS: u32 = 48;

impl ReadyKey {
    pub(crate) const fn new(priority: u8, due: u64) -> Self {
        Self(((priority as u64) << DUE_BITS) | due)
    }

    pub(crate) const fn priority(self) -> u8 {
        (self.0 >> DUE_BITS) as u8
    }

    pub(crate) const fn due(self) -> u64 {
        self.0 & ((1 << DUE_BITS) - 1)
    }
}

/// A job that was taken out of the ready order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked {
    pub(crate) row: Row,
    pub(crate) spot: Spot,
}

/// What a line holds, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineCounts {
    pub(crate) waiting: u64,
    pub(crate) scheduled: u64,
    pub(crate) ready: u64,
    pub(crate) running: u64,
    /// Due time of the ready job that waits longest.
    pub(crate) oldest_ready: Option<u64>,
}

impl LineCounts {
    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting == 0 && self.scheduled == 0 && self.ready == 0 && self.running == 0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.waiting += other.waiting;
        self.scheduled += other.scheduled;
        self.ready += other.ready;
        self.running += other.running;
        self.oldest_ready = match (self.oldest_ready, other.oldest_ready) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
}

pub(crate) struct Line {
    /// Position in [`super::Index::queues`].
    pub(crate) queue: usize,
    pub(crate) task: TaskName,
    /// Position in [`super::Index::tasks`].
    pub(super) task_at: usize,
    /// Ready jobs without a key.
    pub(crate) ready: BTreeSet<(ReadyKey, Row)>,
    /// Ready jobs with one, by due time; their order is in their flows.
    pub(super) keyed: BTreeSet<(u64, Row)>,
    /// Flows with ready jobs that no limit is known to hold back.
    pub(super) turns: BTreeSet<TurnKey>,
    /// For other jobs.
    pub(crate) waiting: u64,
    pub(crate) scheduled: u64,
    pub(crate) running: u64,
    /// Those without a key.
    pub(super) plain_scheduled: u64,
    pub(super) plain_running: u64,
    /// Of the jobs without a key.
    pub(super) turn: Turn,
    /// There were no such jobs after the last call.
    pub(super) rests: bool,
    /// In [`super::Touched`] already.
    pub(super) touched: bool,
    /// Shared by its jobs that ask for nothing special.
    default_options: Option<Arc<JobOptions>>,
}

impl Line {
    pub(crate) fn new(queue: usize, task: TaskName, task_at: usize) -> Self {
        Self {
            queue,
            task,
            task_at,
            ready: BTreeSet::new(),
            keyed: BTreeSet::new(),
            turns: BTreeSet::new(),
            waiting: 0,
            scheduled: 0,
            running: 0,
            plain_scheduled: 0,
            plain_running: 0,
            turn: Turn::default(),
            rests: true,
            touched: false,
            default_options: None,
        }
    }

    pub(crate) fn default_options(&mut self, queue: &QueueName) -> Arc<JobOptions> {
        let make = || {
            Arc::new(JobOptions {
                queue: queue.clone(),
                ..JobOptions::default()
            })
        };
        Arc::clone(self.default_options.get_or_insert_with(make))
    }

    pub(crate) fn counts(&self) -> LineCounts {
        LineCounts {
            waiting: self.waiting,
            scheduled: self.scheduled,
            ready: (self.ready.len() + self.keyed.len()) as u64,
            running: self.running,
            oldest_ready: self.oldest_ready(),
        }
    }

    pub(super) fn has_no_plain_jobs(&self) -> bool {
        self.ready.is_empty() && self.plain_scheduled == 0 && self.plain_running == 0
    }

    pub(super) fn has_nothing_ready(&self) -> bool {
        self.ready.is_empty() && self.keyed.is_empty()
    }

    /// The first of each priority is the oldest of it.
    fn oldest_ready(&self) -> Option<u64> {
        let mut oldest = self.keyed.first().map(|keyed| keyed.0);
        let mut from = 0;
        while from <= PRIORITY_MAX {
            let Some((key, _)) = self.ready.range((ReadyKey::new(from, 0), 0)..).next() else {
                break;
            };
            oldest = Some(oldest.map_or(key.due(), |oldest| oldest.min(key.due())));
            from = key.priority() + 1;
        }
        oldest
    }
}

/// Takes the best `limit` jobs without a key out of the wanted lines; those that are too late stay.
pub(crate) fn pick(
    lines: &mut [Line],
    wanted: Vec<LineId>,
    limit: usize,
    is_late: impl Fn(Row) -> bool,
) -> Vec<Picked> {
    let mut heads = BinaryHeap::with_capacity(wanted.len());
    let mut late = Vec::new();
    let mut next = |lines: &mut [Line], id: LineId| loop {
        let (key, row) = lines[id.0 as usize].ready.pop_first()?;
        if !is_late(row) {
            return Some(Reverse((key, row, id)));
        }
        late.push((id, key, row));
    };
    if limit > 0 {
        for id in wanted {
            heads.extend(next(lines, id));
        }
    }
    let mut picked = Vec::with_capacity(limit.min(64));
    while let Some(Reverse((_, row, line))) = heads.pop() {
        let spot = Spot::line(line);
        picked.push(Picked { row, spot });
        if picked.len() == limit {
            break;
        }
        heads.extend(next(lines, line));
    }
    let unused = heads
        .into_iter()
        .map(|Reverse((key, row, id))| (id, key, row));
    for (id, key, row) in unused.chain(late) {
        lines[id.0 as usize].ready.insert((key, row));
    }
    picked
}
