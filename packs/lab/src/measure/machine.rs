//! The machine, as the record names it.

use std::fs;
use std::path::Path;
use std::thread;

use offloop::runtime::clock::{Clock as _, SystemClock};
use rustix::fs::statfs;

use crate::report::Machine;

/// Milliseconds since 1970, UTC.
pub(super) fn now() -> u64 {
    SystemClock.now().as_millis()
}

/// `others`: how busy others kept it, 0 to 1.
pub(super) fn describe(data: &Path, others: f64) -> Machine {
    let system = rustix::system::uname();
    Machine {
        processor: processor().unwrap_or_else(|| system.machine().to_string_lossy().into_owned()),
        cores: thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory().unwrap_or(0),
        kernel: format!(
            "{} {}",
            system.sysname().to_string_lossy(),
            system.release().to_string_lossy()
        ),
        disk: disk(data),
        others_busy: others,
    }
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn processor() -> Option<String> {
    field("/proc/cpuinfo", "model name")
}

fn memory() -> Option<u64> {
    let kib = field("/proc/meminfo", "MemTotal")?;
    Some(kib.strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// The file system of the durable jobs: on `tmpfs` a flush costs nothing.
fn disk(data: &Path) -> String {
    const NAMES: [(i64, &str); 6] = [
        (0xEF53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683E, "btrfs"),
        (0x2FC1_2FC1, "zfs"),
        (0x0102_1994, "tmpfs"),
        (0x794C_7630, "overlay"),
    ];
    let Ok(about) = statfs(data) else {
        return "unknown".into();
    };
    #[allow(clippy::unnecessary_cast, reason = "its width differs by system")]
    let magic = about.f_type as i64;
    let known = NAMES.iter().find(|(number, _)| *number == magic);
    known.map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).into())
}
