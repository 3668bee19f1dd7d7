//! Processor time, read from /proc: of a server with its children, of this process, of the machine.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What was used until a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    at: Instant,
    server: Duration,
    own: Duration,
    machine: Duration,
}

/// What was used between two moments, seconds of processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    /// Wall time.
    pub(crate) wall: f64,
    pub(crate) server: f64,
    pub(crate) own: f64,
    /// By anybody else; what the host took from this machine as well.
    pub(crate) others: f64,
}

impl Used {
    /// `server`: its process.
    pub(crate) fn now(server: u32) -> Self {
        Self {
            at: Instant::now(),
            server: tree(server),
            own: own(),
            machine: machine(),
        }
    }

    pub(crate) fn until(self, later: Self) -> Share {
        let between = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
        let (server, own) = (
            between(self.server, later.server),
            between(self.own, later.own),
        );
        Share {
            wall: between(Duration::ZERO, later.at - self.at),
            server,
            own,
            others: (between(self.machine, later.machine) - server - own).max(0.0),
        }
    }
}

impl Share {
    /// Processors that others kept busy, on average.
    pub(crate) fn others_cores(self) -> f64 {
        if self.wall > 0.0 {
            self.others / self.wall
        } else {
            0.0
        }
    }
}

fn own() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        spent.tv_sec.unsigned_abs(),
        spent.tv_nsec.unsigned_abs() as u32,
    )
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Busy time of all processors: user, nice, system, irq, softirq, steal.
fn machine() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at));
    ticks(busy.sum())
}

struct Stat {
    parent: u32,
    own_ticks: u64,
    /// Of children that were waited for.
    reaped_ticks: u64,
}

fn stat(text: &str) -> Option<Stat> {
    // The name stands in brackets and may hold anything.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| -> Option<u64> { fields.get(at)?.parse().ok() };
    Some(Stat {
        parent: number(1)? as u32,
        own_ticks: number(11)? + number(12)?,
        reaped_ticks: number(13)? + number(14)?,
    })
}

/// Processor time of a process and everything that descends from it.
fn tree(root: u32) -> Duration {
    let all: HashMap<u32, Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, stat(&text)?))
        })
        .collect();
    let descends = |pid: u32| {
        let mut at = pid;
        // Bounded: the table may have changed while it was read, even into a ring.
        for _ in 0..64 {
            if at == root {
                return true;
            }
            match all.get(&at) {
                Some(stat) => at = stat.parent,
                None => return false,
            }
        }
        false
    };
    all.iter()
        .filter(|(pid, _)| descends(**pid))
        .map(|(pid, stat)| ticks(stat.reaped_ticks) + exact(*pid).max(ticks(stat.own_ticks)))
        .sum()
}

/// Of the threads that live, to the nanosecond; the kernel's table of the process has ticks only.
fn exact(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let ns = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
    Duration::from_nanos(ns.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_counted_as_the_servers_and_as_nobody_elses() {
        let me = std::process::id();
        let before = Used::now(me);
        let mut sum = 0_u64;
        while own() < before.own + Duration::from_millis(150) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        let share = before.until(Used::now(me));
        assert!(share.own >= 0.15, "{share:?}");
        // Read at other moments, and tests run beside it.
        assert!(share.server >= 0.13, "{share:?}");
        assert!(share.wall > 0.0 && share.others >= 0.0);
        assert!(tree(u32::MAX).is_zero());
    }

    #[test]
    fn a_name_with_brackets_and_blanks_shifts_no_field() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 5 0 999";
        let told = stat(text).unwrap();
        assert_eq!(
            (told.parent, told.own_ticks, told.reaped_ticks),
            (7, 30, 70)
        );
        assert!(stat("42 (a").is_none());
    }
}
