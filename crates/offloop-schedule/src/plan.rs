//! The due times of one schedule.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::{OptionProblem, ScheduleName, ScheduleSpec, Timestamp, Timing};

use crate::cron::Cron;
use crate::zone::Zone;

/// Due times that are counted one by one; past it, a stretch is told without a number.
const COUNTED_MAX: usize = 10_000;

#[derive(Clone, Debug)]
enum Times {
    Cron(Box<Cron>),
    Every { anchor: u64, every: u64 },
    At(Arc<[Timestamp]>),
}

/// A spec as a function from instants to due times.
#[derive(Clone, Debug)]
pub struct Plan {
    times: Times,
    zone: Zone,
    starts_at: Option<Timestamp>,
    ends_at: Timestamp,
    jitter_ms: u64,
    seed: u64,
}

/// Due times up to some instant: the last ones one by one, those before them as a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    pub older: Option<Older>,
    pub dues: Vec<Timestamp>,
}

/// From the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Older {
    pub first: Timestamp,
    pub last: Timestamp,
    /// `None`: over 10,000 in all.
    pub count: Option<u64>,
}

impl Plan {
    /// - `created_at`: the anchor of an interval without a start.
    /// - Errors: every problem of the spec, each with its field.
    pub fn new(
        name: &ScheduleName,
        spec: &ScheduleSpec,
        created_at: Timestamp,
    ) -> Result<Self, Vec<OptionProblem>> {
        let mut problems = spec.problems();
        let mut keep = |field, message| problems.push(OptionProblem { field, message });
        let zone = Zone::parse(&spec.timezone);
        if let Err(problem) = &zone {
            keep("timezone", problem.clone());
        }
        let times = match &spec.timing {
            Timing::Cron(text) => match Cron::parse(text) {
                Ok(cron) => Some(Times::Cron(Box::new(cron))),
                Err(problem) => {
                    keep("cron", problem);
                    None
                }
            },
            Timing::Every(every) => Some(Times::Every {
                anchor: spec.starts_at.unwrap_or(created_at).as_millis(),
                every: (every.as_millis() as u64).max(1),
            }),
            Timing::At(at) => Some(Times::At(Arc::clone(at))),
        };
        match (times, zone) {
            (Some(times), Ok(zone)) if problems.is_empty() => Ok(Self {
                times,
                zone,
                starts_at: spec.starts_at,
                ends_at: spec.ends_at.unwrap_or(Timestamp::MAX),
                jitter_ms: spec.jitter.as_millis() as u64,
                seed: fnv(name.as_str().as_bytes(), FNV_START),
            }),
            _ => Err(problems),
        }
    }

    /// The first due time after `after`; `None`: there is none any more.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = match self.starts_at {
            Some(start) if start > after => match start.as_millis().checked_sub(1) {
                Some(before) => Timestamp::from_millis(before),
                None => start,
            },
            _ => after,
        };
        let due = match &self.times {
            Times::Cron(cron) => {
                let after = (after.as_millis() / 1_000) as i64;
                let second = self.zone.next_after(cron, after)?;
                Timestamp::from_millis(u64::try_from(second).ok()?.checked_mul(1_000)?)
            }
            Times::Every { anchor, every } => {
                Timestamp::from_millis(after.as_millis().checked_sub(*anchor).map_or(
                    Some(*anchor),
                    |since| {
                        (since / every + 1)
                            .checked_mul(*every)?
                            .checked_add(*anchor)
                    },
                )?)
            }
            Times::At(at) => *at.get(at.partition_point(|at| *at <= after))?,
        };
        (due > after && due <= self.ends_at && due < Timestamp::MAX).then_some(due)
    }

    /// When a due time is fired: later by its own part of the jitter.
    pub fn planned(&self, due: Timestamp) -> Timestamp {
        if self.jitter_ms == 0 {
            return due;
        }
        let drawn = fnv(&due.as_millis().to_le_bytes(), self.seed);
        // The high bits of FNV are poor in short inputs: mixed once more (SplitMix64's finish).
        let mut z = drawn;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        due.plus(Duration::from_millis(z % (self.jitter_ms + 1)))
    }

    /// A due time on the clock of the schedule's zone: `2026-03-29T03:00:00+02:00`.
    pub fn local(&self, due: Timestamp) -> String {
        self.zone.local(due.as_millis() as i64)
    }

    /// Due times from `first`, which is one, that are to be fired by `now`: the last `keep` one by one.
    pub fn passed(&self, first: Timestamp, now: Timestamp, keep: usize) -> Tail {
        // With jitter, what is due by then is surely passed; what comes after is looked at singly.
        let sure = now.minus(Duration::from_millis(self.jitter_ms));
        let mut tail = if first <= sure {
            self.up_to(first, sure, keep)
        } else {
            Tail::default()
        };
        let mut next = match tail.dues.last() {
            Some(last) => self.next_after(*last),
            None => Some(first),
        };
        while let Some(due) = next.filter(|due| self.planned(*due) <= now) {
            tail.dues.push(due);
            next = self.next_after(due);
        }
        tail
    }

    /// All from `first` to `to`, as [`Plan::passed`].
    fn up_to(&self, first: Timestamp, to: Timestamp, keep: usize) -> Tail {
        let to = to.min(self.ends_at).max(first);
        let (mut dues, all) = match &self.times {
            Times::Every { every, .. } => {
                let count = (to.as_millis() - first.as_millis()) / every + 1;
                let shown = count.min(keep as u64 + 1);
                let last = first.as_millis() + (count - 1) * every;
                let dues = (0..shown)
                    .rev()
                    .map(|back| Timestamp::from_millis(last - back * every));
                (dues.collect::<Vec<_>>(), Some(count))
            }
            Times::At(at) => {
                let from = at.partition_point(|at| *at < first);
                let dues = &at[from..at.partition_point(|at| *at <= to)];
                let shown = dues.len().min(keep + 1);
                (dues[dues.len() - shown..].to_vec(), Some(dues.len() as u64))
            }
            Times::Cron(_) => match self.walk(first, to) {
                Some(dues) => {
                    let count = dues.len();
                    let shown = count.min(keep + 1);
                    (dues[count - shown..].to_vec(), Some(count as u64))
                }
                None => (self.last_ones(first, to, keep + 1), None),
            },
        };
        if dues.len() <= keep {
            return Tail { older: None, dues };
        }
        let last = dues.remove(0);
        let count = all.map(|all| all - dues.len() as u64);
        let older = Some(Older { first, last, count });
        Tail { older, dues }
    }

    /// One by one, if they are few enough.
    fn walk(&self, first: Timestamp, to: Timestamp) -> Option<Vec<Timestamp>> {
        let mut dues = Vec::new();
        let mut next = Some(first);
        while let Some(due) = next.filter(|due| *due <= to) {
            if dues.len() == COUNTED_MAX {
                return None;
            }
            dues.push(due);
            next = self.next_after(due);
        }
        Some(dues)
    }

    /// The last `wanted` of very many: a span before the end is halved until it holds few enough.
    fn last_ones(&self, first: Timestamp, to: Timestamp, wanted: usize) -> Vec<Timestamp> {
        let (mut too_few, mut too_many) = (0, to.as_millis() - first.as_millis());
        let mut found = Vec::new();
        while too_many - too_few > 1 {
            let span = too_few + (too_many - too_few) / 2;
            let after = Timestamp::from_millis(to.as_millis() - span);
            let dues = match self.next_after(after) {
                Some(due) => self.walk(due, to),
                None => Some(Vec::new()),
            };
            match dues {
                None => too_many = span,
                Some(dues) => {
                    too_few = span;
                    let enough = dues.len() >= wanted;
                    found = dues;
                    if enough {
                        break;
                    }
                }
            }
        }
        let shown = found.len().min(wanted);
        found.split_off(found.len() - shown)
    }
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: the same on every machine and in every version.
fn fnv(bytes: &[u8], start: u64) -> u64 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
