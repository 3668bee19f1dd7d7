//! What /proc says of servers and of what they leave behind.

use std::fs;
use std::time::{Duration, Instant};

/// In the environment of every process that a lane starts.
const MARKER: &[u8] = b"OFFLOOP_EXECUTOR=";

/// Processes, zombies left out, that a server of this pid has started, directly or not.
pub(crate) fn executors_of(server: u32) -> Vec<i32> {
    let wanted = format!(".{server}-");
    let Ok(all) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = all
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| marker(*pid).is_some_and(|marker| marker.contains(&wanted)))
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
