//! Medians with their spread, and what they were measured on.

use serde_json::json;

/// What a figure was measured on.
pub(crate) fn machine() -> serde_json::Value {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.map_or("unknown", |(_, name)| name),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": release.trim(),
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}

/// Prints one measure: the median of its rounds, and the least and the most.
pub(crate) fn print(measure: &str, unit: &str, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (rounds.first(), rounds.last()) else {
        return;
    };
    let median = rounds[rounds.len() / 2];
    println!(
        "{}",
        json!({ "measure": measure, "unit": unit, "median": median, "min": least, "max": most, "rounds": rounds.len() })
    );
}
