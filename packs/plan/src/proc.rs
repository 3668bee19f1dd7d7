//! Processor time, read from /proc: of a server with its children, of this process, of the machine.

use std::fs;
use std::time::{Duration, Instant};

use offloop::pulse::processes::{self, processors};
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
            server: of_tree(server),
            own: own(),
            machine: processors().map_or(Duration::ZERO, |machine| machine.busy),
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

/// Processor time of a process and everything that descends from it.
fn of_tree(root: u32) -> Duration {
    let all = processes::tree(root);
    let spent = all.iter();
    spent
        .map(|process| process.reaped_cpu + exact(process.pid).max(process.cpu))
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
        assert!(of_tree(u32::MAX).is_zero());
    }
}
