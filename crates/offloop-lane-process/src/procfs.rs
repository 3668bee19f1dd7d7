//! What `/proc` says about processes.
//!
//! Everything here is a reading of a moment: the process may be gone before it is used. Whoever
//! signals by it must hold the process by other means (an unreaped child, a pidfd).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// The lines of `/proc/PID/stat` that matter here; proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// Ticks, its own.
    pub(crate) own_ticks: u64,
    /// Ticks, of the children that it waited for.
    pub(crate) waited_ticks: u64,
    /// Ticks since boot: with the pid the identity of a process.
    pub(crate) start: u64,
}

impl Stat {
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

pub(crate) fn stat(pid: i32) -> Option<Stat> {
    parse_stat(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(pid: i32, text: &str) -> Option<Stat> {
    // The name may hold blanks and brackets; the last one closes it.
    let (_, after) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let signed = |at: usize| fields.get(at)?.parse::<i32>().ok();
    Some(Stat {
        pid,
        state: fields.first()?.chars().next()?,
        parent: signed(1)?,
        group: signed(2)?,
        own_ticks: number(11)? + number(12)?,
        waited_ticks: number(13)? + number(14)?,
        start: number(19)?,
    })
}

pub(crate) fn ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_micros(ticks.saturating_mul(1_000_000) / per_second)
}

/// Resident bytes of one process.
pub(crate) fn resident_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Resident bytes of one process, of those that it shares only its part. Slow: 10 ms for a gigabyte.
pub(crate) fn proportional_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1_024)
}

/// Files that a process has open.
pub(crate) fn open_files(pid: i32) -> Option<u64> {
    let folder = format!("/proc/{pid}/fd");
    // Linux 6.2 and later say it without a listing.
    match fs::metadata(&folder).ok()?.len() {
        0 => Some(fs::read_dir(&folder).ok()?.count() as u64),
        count => Some(count),
    }
}

/// Its control group in the version 2 hierarchy, as this process sees it.
pub(crate) fn cgroup(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.to_owned())
}

/// Children of one thread; those that a subreaper adopts belong to its main thread.
pub(crate) fn children_of_thread(pid: i32, thread: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"));
    let text = text.unwrap_or_default();
    let pids = text.split_ascii_whitespace();
    pids.filter_map(|pid| pid.parse().ok()).collect()
}

/// All processes below `pid`, which is not among them.
pub(crate) fn descendants(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let thread = thread.file_name().to_str().and_then(|t| t.parse().ok());
            let Some(thread) = thread else { continue };
            for child in children_of_thread(pid, thread) {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}

/// Every process.
pub(crate) fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Every process, by pid.
pub(crate) fn all() -> HashMap<i32, Stat> {
    let all = pids().into_iter();
    all.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

/// What the environment that a process was started with says of one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    Value(String),
    /// There are others, and not this one.
    Absent,
    /// No environment can be read. While a process changes its program (execve) this is so for a
    /// moment; of a dead one, and of one that was started with an empty one, for ever.
    Nothing,
}

pub(crate) fn look_up(pid: i32, name: &str) -> Variable {
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    if environ.is_empty() {
        return Variable::Nothing;
    }
    let found = environ.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_vec()).ok()
    });
    found.map_or(Variable::Absent, Variable::Value)
}

/// The variable's value, where one can be read.
pub(crate) fn variable(pid: i32, name: &str) -> Option<String> {
    match look_up(pid, name) {
        Variable::Value(value) => Some(value),
        Variable::Absent | Variable::Nothing => None,
    }
}

/// Whether a process may gain no privileges; the shim sets it and it cannot be unset.
pub(crate) fn no_new_privs(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("NoNewPrivs:"));
    line.is_some_and(|value| value.trim() == "1")
}

/// Changes with each boot: pids and start times mean nothing across it.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let text = "7 (a) b) (c) S 1 5 6 0 -1 4 0 0 0 0 10 20 3 4 20 0 1 0 999 0 0";
        let stat = parse_stat(7, text).unwrap();
        let want = Stat {
            pid: 7,
            state: 'S',
            parent: 1,
            group: 5,
            own_ticks: 30,
            waited_ticks: 7,
            start: 999,
        };
        assert_eq!(stat, want);
    }

    #[test]
    fn this_process_reads_itself() {
        let pid = std::process::id() as i32;
        assert_eq!(stat(pid).unwrap().pid, pid);
        assert!(resident_bytes(pid).unwrap() > 0);
        assert!(proportional_bytes(pid).unwrap() > 0);
        let before = open_files(pid).unwrap();
        let held: Vec<_> = (0..50)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        assert!(open_files(pid).unwrap() >= before + 30, "{before}"); // other tests close some
        drop(held);
        assert!(all().contains_key(&pid));
    }
}
