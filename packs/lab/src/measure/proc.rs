//! What a server and its children hold, read from /proc: threads, memory, processor time.

use std::collections::HashMap;
use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Each look reads one small file for every process of the machine.
const EVERY: Duration = Duration::from_millis(200);

/// How exact processor time is there, on all usual systems.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// One process: the fields of /proc/PID/stat that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Clock ticks of it, and of its children that were waited for.
    cpu_ticks: u64,
    threads: u64,
    resident_pages: u64,
}

fn parse(text: &str) -> Option<Stat> {
    // The name stands in brackets and may hold anything.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| -> Option<u64> { fields.get(at)?.parse().ok() };
    Some(Stat {
        parent: number(1)? as u32,
        cpu_ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        threads: number(17)?,
        resident_pages: number(21)?,
    })
}

/// A process and everything that descends from it.
fn tree(root: u32) -> Vec<Stat> {
    let all: HashMap<u32, Stat> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parse(&text)?))
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
    let found = all.iter().filter(|(pid, _)| descends(**pid));
    found.map(|(_, stat)| *stat).collect()
}

/// Processor time of a tree so far, to 10 ms.
pub(super) fn cpu_time(root: u32) -> Duration {
    let ticks: u64 = tree(root).iter().map(|stat| stat.cpu_ticks).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

/// Of all processors since the start of the machine, in milliseconds: busy, and all.
pub(super) fn machine_ticks() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let first = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = first
        .split_whitespace()
        .take(8) // what comes behind is counted in these already
        .filter_map(|field| field.parse().ok())
        .collect();
    let all: u64 = ticks.iter().sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let ms = 1_000 / rustix::param::clock_ticks_per_second();
    Some((all.saturating_sub(idle) * ms, all * ms))
}

/// The most that was seen at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Peak {
    pub(super) threads: u64,
    pub(super) rss_bytes: u64,
}

/// Looks at a tree five times a second until it is asked.
pub(super) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Peak>,
}

impl Watch {
    pub(super) fn begin(root: u32) -> Self {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || look(root, &stopped));
        Self { stop, thread }
    }

    pub(super) fn end(self) -> Peak {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

fn look(root: u32, stopped: &Receiver<()>) -> Peak {
    let page = rustix::param::page_size() as u64;
    let mut peak = Peak::default();
    loop {
        let now = tree(root);
        let sum = |of: fn(&Stat) -> u64| now.iter().map(of).sum::<u64>();
        peak.threads = peak.threads.max(sum(|stat| stat.threads));
        peak.rss_bytes = peak.rss_bytes.max(sum(|stat| stat.resident_pages) * page);
        if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return peak;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_shifts_no_field() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 5 0 999 1000000 250 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let want = Stat {
            parent: 7,
            cpu_ticks: 100,
            threads: 5,
            resident_pages: 250,
        };
        assert_eq!(parse(text), Some(want));
        assert_eq!(parse("42 (a"), None);
    }

    #[test]
    fn a_thread_more_is_seen() {
        let watch = Watch::begin(std::process::id());
        let before = watch.end();
        assert!(before.threads >= 1 && before.rss_bytes > 0, "{before:?}");
        let (stop, stopped) = channel::<()>();
        let more: Vec<_> = (0..16)
            .map(|_| thread::spawn(|| thread::park_timeout(Duration::from_secs(60))))
            .collect();
        drop((stop, stopped));
        let after = Watch::begin(std::process::id()).end();
        // Other tests of this process may have ended theirs meanwhile.
        assert!(after.threads + 8 >= before.threads, "{before:?} {after:?}");
        assert!(after.threads >= 16, "{after:?}");
        for thread in more {
            thread.thread().unpark();
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_busy_machine_is_told_from_an_idle_one_by_ticks_that_only_grow() {
        let (busy, all) = machine_ticks().unwrap();
        assert!(all >= busy && all > 0);
        let (busy_after, all_after) = machine_ticks().unwrap();
        assert!(busy_after >= busy && all_after >= all);
        assert!(tree(u32::MAX).is_empty());
    }
}
