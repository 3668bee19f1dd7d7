//! When a child that does well is replaced, and that the pool never shrinks by it.
//!
//! A child passes a figure and is *due*. It serves on until one more than the pool's size is ready;
//! then, between two jobs, it is *retired*: its channel is closed, and the ladder waits behind it.
//! Capacity is always read off the table of children: counts kept beside it drift.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::child::{Child, Phase, Rung};
use super::exits::ExitReason;
use super::sample::resident;
use super::state::Pool;
use crate::cgroup::Group;
use crate::spec::Recycle;
use crate::tree::{self, Roots};

/// Between two looks at what the tree of one child holds.
const WEIGH_EVERY: Duration = Duration::from_millis(100);
/// Each figure is spread by so many thousandths at most, up and down.
const SPREAD: u64 = 100;

/// The figures of one child.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecycleAt {
    jobs: Option<u64>,
    age: Option<Duration>,
    memory_bytes: Option<u64>,
}

impl RecycleAt {
    pub(super) fn of(recycle: &Recycle, number: u64) -> Self {
        let part = |salt| part_of(number, salt);
        let spread = |value: u64, salt| {
            // To the nearest: two jobs are two jobs, and not one for every other child.
            let wide = (u128::from(value) * u128::from(part(salt)) + 500) / 1_000;
            u64::try_from(wide).unwrap_or(u64::MAX).max(1)
        };
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            jobs: recycle.jobs.map(|jobs| spread(u64::from(jobs), 1)),
            age: recycle
                .age
                .map(|age| Duration::from_millis(spread(millis(age), 2))),
            memory_bytes: recycle.memory_bytes.map(|bytes| spread(bytes, 3)),
        }
    }
}

/// Thousandths of a figure that hold for this child: the same in each run of the server, and
/// different for its neighbours (the mixing of SplitMix64).
fn part_of(number: u64, salt: u64) -> u64 {
    let seed = number
        .wrapping_mul(4)
        .wrapping_add(salt)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    1_000 - SPREAD + (z ^ (z >> 31)) % (2 * SPREAD + 1)
}

impl Child {
    /// The first reason stays.
    pub(super) fn see_if_due(&mut self, now: Instant) {
        if self.due.is_some() {
            return;
        }
        let at = &self.recycle_at;
        let old = at.age.zip(self.born);
        if at.jobs.is_some_and(|jobs| self.served >= jobs) {
            self.due = Some(ExitReason::RecycledJobs);
        } else if self.wants_out && self.served > 0 {
            self.due = Some(ExitReason::RecycledByRequest);
        } else if old.is_some_and(|(age, born)| now.saturating_duration_since(born) >= age) {
            self.due = Some(ExitReason::RecycledAge);
        }
    }

    /// When its age will make it due.
    pub(super) fn due_at(&self) -> Option<Instant> {
        if self.due.is_some() || self.is_leaving() {
            return None;
        }
        self.born?.checked_add(self.recycle_at.age?)
    }

    /// Whether it is to be weighed before its next job.
    pub(super) fn is_to_be_weighed(&self, now: Instant) -> bool {
        let long_ago = |at: Instant| now.saturating_duration_since(at) >= WEIGH_EVERY;
        self.recycle_at.memory_bytes.is_some()
            && self.due.is_none()
            && self.weighed.is_none_or(long_ago)
    }
}

/// A child that holds still for it.
pub(super) struct Weighing {
    number: u64,
    pid: i32,
    group: Option<Arc<Group>>,
    marker: String,
    most: Option<u64>,
}

impl Pool {
    /// Retiring at a time.
    pub(super) fn retiring_max(slots: usize) -> usize {
        (slots / 4).max(1)
    }

    /// Children that have a job or could take one.
    pub(super) fn ready(&self) -> usize {
        self.children
            .values()
            .filter(|child| child.is_ready())
            .count()
    }

    pub(super) fn to_weigh(&self) -> Vec<Weighing> {
        let found = self.children.iter();
        let found = found.filter(|(_, child)| matches!(child.phase, Phase::Weighing));
        found
            .map(|(number, child)| Weighing {
                number: *number,
                pid: child.pid,
                group: child.group.as_ref().map(|kill| kill.group().clone()),
                marker: child.marker.clone(),
                most: child.recycle_at.memory_bytes,
            })
            .collect()
    }
}

/// Without the pool's lock: resident bytes of each tree.
pub(super) fn weigh(children: Vec<Weighing>) -> Vec<(u64, u64)> {
    let weight = |one: Weighing| {
        let members = tree::members(Roots {
            leader: one.pid,
            group: one.group.as_deref(),
            marker: &one.marker,
        });
        let bytes = resident(&members, one.most);
        (one.number, bytes)
    };
    children.into_iter().map(weight).collect()
}

impl Shared {
    /// Puts the children back to work, or on the list of those to be replaced.
    pub(super) fn weighed(&self, pool: &mut Pool, weights: Vec<(u64, u64)>, now: Instant) {
        for (number, bytes) in weights {
            let Some(child) = pool.children.get_mut(&number) else {
                continue;
            };
            if !matches!(child.phase, Phase::Weighing) {
                continue; // it died meanwhile
            }
            child.weighed = Some(now);
            if child
                .recycle_at
                .memory_bytes
                .is_some_and(|most| bytes > most)
            {
                child.due = Some(ExitReason::RecycledMemory);
            }
            pool.idles(number, now);
        }
        self.dispatch(pool, now);
        self.fill(pool, now);
    }

    /// Retires who is due, as far as enough others are ready.
    pub(super) fn retire_due(&self, pool: &mut Pool, now: Instant) {
        let gone = |child: &Child| child.retired.is_some();
        let retiring = pool.children.values().filter(|child| gone(child)).count();
        let may = Pool::retiring_max(self.slots()).saturating_sub(retiring);
        let spare = pool.ready().saturating_sub(self.slots());
        let due = |number: &u64| pool.children.get(number).is_some_and(|c| c.due.is_some());
        let leave: Vec<u64> = pool.idle.iter().copied().filter(due).collect();
        for number in leave.into_iter().take(may.min(spare)) {
            pool.idle.retain(|idle| *idle != number);
            let Some(child) = pool.children.get_mut(&number) else {
                continue;
            };
            child.retired = child.due;
            child.phase = Phase::Retired;
            child.channel = None; // the end of its input: it leaves by itself
            child.rung = Rung::Asked {
                until: now + self.spec.grace,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_one_pool_do_not_leave_together_and_none_far_from_its_figure() {
        let recycle = Recycle {
            jobs: Some(1_000),
            age: Some(Duration::from_secs(1_000)),
            memory_bytes: Some(1_000_000),
        };
        let figures: Vec<RecycleAt> = (1..=256).map(|n| RecycleAt::of(&recycle, n)).collect();
        let of = |read: fn(&RecycleAt) -> u64, unit: u64| {
            let mut all: Vec<u64> = figures.iter().map(read).collect();
            all.sort_unstable();
            let (least, most) = (all[0], all[all.len() - 1]);
            assert!(
                least >= 900 * unit && most <= 1_100 * unit,
                "{least} {most}"
            );
            assert!(least < 920 * unit && most > 1_080 * unit, "{least} {most}");
            all.dedup();
            assert!(all.len() > 100, "{} different", all.len());
        };
        of(|at| at.jobs.unwrap(), 1);
        of(|at| at.age.unwrap().as_millis() as u64, 1_000);
        of(|at| at.memory_bytes.unwrap(), 1_000);
        let again = RecycleAt::of(&recycle, 7).jobs;
        assert_eq!(again, figures[6].jobs, "the same child, another figure");
    }

    #[test]
    fn the_smallest_figures_stay_what_they_are() {
        for few in 1..=4 {
            let recycle = Recycle {
                jobs: Some(few),
                ..Recycle::default()
            };
            for number in 1..100 {
                let jobs = RecycleAt::of(&recycle, number).jobs.unwrap();
                assert_eq!(jobs, u64::from(few));
            }
        }
    }
}
