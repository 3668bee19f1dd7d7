//! What /proc says of servers and of what they leave behind.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// In the environment of every process that a lane starts.
const MARKER: &[u8] = b"OFFLOOP_EXECUTOR=";

/// Processes, zombies left out, that a server of this pid has started, directly or not.
pub(crate) fn executors_of(server: u32) -> Vec<i32> {
    let wanted = format!(".{server}-");
    pids()
        .filter(|pid| marker(*pid).is_some_and(|marker| marker.contains(&wanted)))
        .collect()
}

fn marker(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let entries = environment.split(|byte| *byte == 0);
    let mut found = entries.filter_map(|entry| entry.strip_prefix(MARKER));
    String::from_utf8(found.next()?.to_vec()).ok()
}

/// Waits until nothing of a dead server lives; `Err` with what still does after `limit`.
pub(crate) fn wait_gone(server: u32, limit: Duration) -> Result<Duration, Vec<i32>> {
    let began = Instant::now();
    loop {
        let left = executors_of(server);
        if left.is_empty() {
            return Ok(began.elapsed());
        }
        if began.elapsed() > limit {
            return Err(left);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that cannot be taken for another one that got its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Known {
    pub(crate) pid: i32,
    start: u64,
}

/// `None` if there is no such process, or only its remains.
pub(crate) fn known(pid: i32) -> Option<Known> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain spaces; what follows its closing parenthesis does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(Known { pid, start })
}

/// Processes whose command line has `token`, wherever they hide.
pub(crate) fn named(token: &str) -> Vec<Known> {
    let has = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        memchr::memmem::find(&line, token.as_bytes()).is_some()
    };
    pids().filter(has).filter_map(known).collect()
}

/// Children of `parent` whose command line has `word`.
pub(crate) fn children(parent: u32, word: &str) -> Vec<Known> {
    let of_parent = |one: &Known| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", one.pid)).unwrap_or_default();
        let fields = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace());
        let its = fields.and_then(|mut fields| fields.nth(1)?.parse::<u32>().ok());
        its == Some(parent)
    };
    named(word).into_iter().filter(of_parent).collect()
}

/// Which of them still live.
pub(crate) fn still(all: &[Known]) -> Vec<Known> {
    let lives = |one: &&Known| known(one.pid) == Some(**one);
    all.iter().filter(lives).copied().collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What each thread of a process waits for: for a campaign that finds it stuck.
pub(crate) fn threads(pid: u32) -> String {
    let read = |path: String| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lines = tasks.map(|task| {
        let at = task.path().display().to_string();
        let told = ["comm", "wchan", "syscall"].map(|file| read(format!("{at}/{file}")));
        told.join("  ") + "\n"
    });
    lines.collect()
}

/// A field of /proc/PID/status in bytes: `VmRSS`, `VmHWM`.
pub(crate) fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    number
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(0)
        << 10
}

/// Looks at a process' resident memory until it is told to stop.
pub(crate) struct MemoryWatch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl MemoryWatch {
    pub(crate) fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Ordering::Acquire) {
                most = most.max(memory(pid, "VmRSS"));
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        Self { stop, thread }
    }

    /// The most that was seen, in bytes.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}
