//! A process with everything that descends from it, and what the machine's processors did: for tools
//! that measure a server from outside.
//!
//! Formats: proc_pid_stat(5), proc_stat(5). What is missing or odd is left out, never an error.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// One process, as the kernel's table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    /// Processor time of its threads, to [`TICK`].
    pub cpu: Duration,
    /// Of its children that were waited for.
    pub reaped_cpu: Duration,
    pub threads: u64,
    pub resident_bytes: u64,
}

/// How exact the table's processor times are, on all usual systems.
pub const TICK: Duration = Duration::from_millis(10);

/// `root` and its descendants, in no certain order; empty if there is no such process.
pub fn tree(root: u32) -> Vec<Process> {
    let page = rustix::param::page_size() as u64;
    let all: HashMap<u32, Process> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parse_stat(pid, &text, page)?))
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
                Some(process) => at = process.parent,
                None => return false,
            }
        }
        false
    };
    let found = all.iter().filter(|(pid, _)| descends(**pid));
    found.map(|(_, process)| *process).collect()
}

/// A line of `/proc/PID/stat`.
pub fn parse_stat(pid: u32, text: &str, page_bytes: u64) -> Option<Process> {
    // The name stands in brackets and may hold anything.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| -> Option<u64> { fields.get(at)?.parse().ok() };
    Some(Process {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        cpu: ticks(number(11)?.checked_add(number(12)?)?),
        reaped_cpu: ticks(number(13)?.checked_add(number(14)?)?),
        threads: number(17)?,
        resident_bytes: number(21)?.checked_mul(page_bytes)?,
    })
}

/// Processor time of all processors since the machine's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processors {
    /// User, nice, system, interrupts, and what the host took.
    pub busy: Duration,
    pub all: Duration,
}

pub fn processors() -> Option<Processors> {
    parse_processors(&fs::read_to_string("/proc/stat").ok()?)
}

/// The first line of `/proc/stat`.
pub fn parse_processors(text: &str) -> Option<Processors> {
    let first = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = first
        .split_whitespace()
        .take(8) // what comes behind is counted in these already
        .filter_map(|field| field.parse().ok())
        .collect();
    let all: u64 = fields.iter().sum();
    let idle = fields.get(3)?.checked_add(*fields.get(4)?)?;
    Some(Processors {
        busy: ticks(all.saturating_sub(idle)),
        all: ticks(all),
    })
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(
        count.saturating_mul(1_000) / rustix::param::clock_ticks_per_second().max(1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_shifts_no_field() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 5 0 999 1000000 250 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let tick = ticks(1);
        let want = Process {
            pid: 42,
            parent: 7,
            cpu: tick * 30,
            reaped_cpu: tick * 70,
            threads: 5,
            resident_bytes: 250 * 4_096,
        };
        assert_eq!(parse_stat(42, text, 4_096), Some(want));
        assert_eq!(parse_stat(42, "42 (a", 4_096), None);
    }

    #[test]
    fn a_busy_machine_is_told_from_an_idle_one_by_times_that_only_grow() {
        let text = "cpu  10 20 30 400 50 6 7 8 900 1000\ncpu0 1 2 3 4\n";
        let told = parse_processors(text).unwrap();
        assert_eq!((told.busy, told.all), (ticks(81), ticks(531)));
        assert_eq!(parse_processors("cpu 1 2"), None);
        let (before, after) = (processors().unwrap(), processors().unwrap());
        assert!(after.busy >= before.busy && after.all >= before.all);
    }

    #[test]
    fn this_process_is_in_its_own_tree_and_nobodys_is_empty() {
        let me = std::process::id();
        let own = tree(me)
            .into_iter()
            .find(|process| process.pid == me)
            .unwrap();
        assert!(own.threads >= 1 && own.resident_bytes > 0, "{own:?}");
        assert!(tree(u32::MAX).is_empty());
    }
}
