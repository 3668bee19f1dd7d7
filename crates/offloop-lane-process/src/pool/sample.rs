//! Looks at the trees of busy children: what they hold and what they have used.
//!
//! `statm` is read, never `smaps`: 5 us against 21 ms for a process of 2 GB.

use std::time::{Duration, Instant};

use offloop_job::Lease;
use offloop_lane::{Overrun, Stopped};

use super::Shared;
use super::child::Phase;
use super::state::Pool;
use crate::{procfs, sys};

/// A processor-time limit is looked at no more often.
const SOONEST: Duration = Duration::from_millis(5);

/// What is to be looked at.
pub(super) struct Target {
    number: u64,
    lease: Lease,
    pid: i32,
}

pub(super) struct Sample {
    target: Target,
    rss: u64,
    /// Of the leader.
    cpu: Duration,
    /// Of what is below it, live and waited for.
    cpu_below: Duration,
}

impl Pool {
    pub(super) fn sample_targets(&self, now: Instant) -> Vec<Target> {
        if now < self.next_sample {
            return Vec::new();
        }
        let busy = |phase: &Phase| matches!(phase, Phase::Busy);
        let children = self.children.iter().filter(|(_, c)| busy(&c.phase));
        children
            .filter_map(|(number, child)| {
                Some(Target {
                    number: *number,
                    lease: child.flight.as_ref()?.work.lease,
                    pid: child.pid,
                })
            })
            .collect()
    }
}

/// Without the pool's lock: a tree of many processes takes a while.
pub(super) fn look(targets: Vec<Target>) -> Vec<Sample> {
    targets
        .into_iter()
        .map(|target| {
            let below = procfs::descendants(target.pid);
            let rss_of = |pid: &i32| procfs::resident_bytes(*pid).unwrap_or(0);
            let ticks_of =
                |pid: &i32| procfs::stat(*pid).map_or(0, |s| s.own_ticks + s.waited_ticks);
            let waited = procfs::stat(target.pid).map_or(0, |stat| stat.waited_ticks);
            Sample {
                rss: rss_of(&target.pid) + below.iter().map(rss_of).sum::<u64>(),
                cpu: sys::cpu_time_of(target.pid).unwrap_or_default(),
                cpu_below: procfs::ticks(waited + below.iter().map(ticks_of).sum::<u64>()),
                target,
            }
        })
        .collect()
}

impl Shared {
    pub(super) fn sampled(&self, pool: &mut Pool, samples: Vec<Sample>, now: Instant) {
        let mut soonest: Option<Duration> = None;
        for sample in samples {
            let number = sample.target.number;
            let Some(child) = pool.children.get_mut(&number) else {
                continue;
            };
            child.cpu_below = sample.cpu_below;
            let flight = child.flight.as_mut();
            let Some(flight) = flight.filter(|f| f.work.lease == sample.target.lease) else {
                continue;
            };
            let used = (sample.cpu + sample.cpu_below).saturating_sub(flight.cpu_from);
            flight.max_rss = flight.max_rss.max(sample.rss);
            flight.cpu_seen = flight.cpu_seen.max(used);
            let limits = flight.work.limits;
            let over_memory = limits.memory_bytes.filter(|limit| sample.rss > *limit);
            let over_cpu = limits.cpu.filter(|limit| used >= *limit);
            let overrun = over_memory
                .map(|limit| Overrun::memory(limit, sample.rss))
                .or_else(|| over_cpu.map(|limit| Overrun::cpu(limit, used)));
            if let Some(overrun) = overrun {
                let why = Stopped::Limit(overrun.class);
                self.stop_flight(child, number, why, Some(overrun), now);
            } else if let Some(limit) = limits.cpu {
                let left = limit.saturating_sub(used).max(SOONEST);
                soonest = Some(soonest.map_or(left, |soon| soon.min(left)));
            }
        }
        pool.sample_again(now, soonest);
    }
}
