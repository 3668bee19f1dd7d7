//! The server as it is now: loops, lanes, tasks, memory, what blocks.
//!
//! Times are milliseconds with three decimals: a loop that is well is late by microseconds.

use serde::{Deserialize, Serialize};

/// `GET /v1/pulse`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseView {
    pub at: String,
    /// `ok`; `blocked` while a poll lasts too long; `off` where nothing is watched.
    pub state: String,
    /// Whether producers should hold back, and for what.
    pub pressure: PulsePressure,
    /// How long ago the figures were taken.
    pub age_ms: f64,
    pub loops: Vec<PulseLoop>,
    /// Blocks that ended, newest first, at most 16.
    pub recent: Vec<PulseEnded>,
    pub lanes: Vec<PulseLane>,
    /// Those that ended attempts in the last minute or two.
    pub tasks: Vec<PulseTask>,
    /// Tasks and routes with polls of 1 ms and more in the last minute or two, the longest first.
    pub polls: Vec<PulsePolls>,
    pub memory: PulseMemory,
    pub stall: PulseStalls,
    pub own: PulseOwn,
}

/// How hard pressed the server is. It refuses what is least urgent first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PulsePressure {
    /// `open`, `busy` or `full`.
    pub level: String,
    pub why: Option<String>,
}

/// One event loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseLoop {
    pub name: String,
    pub threads: usize,
    pub delay: PulseDelay,
    /// Share of its threads' time in polls over the last 2 s, 0 to 1.
    pub utilisation: f64,
    pub blocked: Vec<PulseBlocked>,
}

/// From the post of a no-op by a thread outside to its run in the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PulseDelay {
    /// The age of the no-op that is out, if it is late; else what the last one took.
    pub now_ms: f64,
    /// Over the last 10 s, like `p99_ms` and `max_ms`.
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
    pub minute_p99_ms: Option<f64>,
    pub minute_max_ms: Option<f64>,
    /// The median where the loop was parked: what waking a thread costs here.
    pub idle_ms: Option<f64>,
}

/// What holds a thread of the loop now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseBlocked {
    /// Name of the task, route or section; `null`: code without a name.
    pub what: Option<String>,
    /// `task`, `route` or `section`.
    pub kind: Option<String>,
    pub for_ms: f64,
    /// Of which its thread may have waited for a processor.
    pub waited_ms: f64,
    pub remedy: String,
}

/// A block that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseEnded {
    #[serde(rename = "loop")]
    pub on: String,
    pub what: Option<String>,
    pub kind: Option<String>,
    pub lasted_ms: f64,
    pub ago_ms: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseLane {
    pub name: String,
    pub running: u32,
    pub slots: u32,
    pub queued: u32,
    pub stuck: u32,
    pub head_age_ms: Option<f64>,
    /// Mean share of its slots that were taken over the last 2 s, 0 to 1.
    pub saturation: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseTask {
    /// `null`: tasks after the first 256, together.
    pub task: Option<String>,
    /// From due to started.
    pub wait: Option<PulseFigures>,
    /// From started to ended.
    pub run: Option<PulseFigures>,
    pub hints: Vec<PulseHint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseFigures {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// What to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulseHint {
    /// `too_short`: dispatched, not worth its way. `too_long`: on a loop, others wait.
    pub kind: String,
    pub say: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulsePolls {
    #[serde(rename = "loop")]
    pub on: String,
    pub what: String,
    pub kind: String,
    pub long: u64,
    pub longest_ms: f64,
    pub hint: Option<PulseHint>,
}

/// What is not known here is `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulseMemory {
    /// Resident memory of the server's own process.
    pub rss_bytes: Option<u64>,
    pub cgroup: Option<PulseCgroup>,
}

/// The control group of the server, version 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulseCgroup {
    pub current_bytes: u64,
    pub max_bytes: Option<u64>,
    pub high_bytes: Option<u64>,
    /// Periods in which the processor quota was used up, and for how long work stood still then.
    pub throttled_periods: Option<u64>,
    pub throttled_ms: Option<u64>,
}

/// Pressure stall information of the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseStalls {
    /// `cgroup` or `machine`.
    pub of: String,
    pub cpu: Option<PulseStall>,
    pub memory: Option<PulseStall>,
    pub io: Option<PulseStall>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseStall {
    /// Percent of the last 10 s in which some work waited for the resource.
    pub some_avg10: f64,
    pub some_total_ms: u64,
    /// In which all work did.
    pub full_avg10: Option<f64>,
    pub full_total_ms: Option<u64>,
}

/// What the pulse itself costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PulseOwn {
    /// Share of one processor.
    pub cpu: f64,
    pub wakes_per_s: f64,
    /// How late its thread was woken at worst in the last second: the machine, not a loop.
    pub late_ms: f64,
}
