//! Figures of lanes and attempts as Prometheus text.
//!
//! Labels are few: lanes and reasons are fixed, tasks at most 256 (`RuntimeHandle::costs`).

use std::borrow::Cow;
use std::fmt::Write as _;

use offloop_runtime::{LaneView, RuntimeHandle};
use offloop_store::UsageRow;

use crate::metrics::head;

/// A text between the quotes of a label.
fn label(text: &str) -> Cow<'_, str> {
    if text.contains(['"', '\\', '\n']) {
        return text.replace(['"', '\\', '\n'], "_").into();
    }
    text.into()
}

pub(crate) fn lanes(handle: &RuntimeHandle, out: &mut String) {
    let lanes = handle.lanes();
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&LaneView) -> f64| {
        head(out, name, kind, help);
        for lane in &lanes {
            let lane_name = label(&lane.name);
            let _ = writeln!(out, "{name}{{lane=\"{lane_name}\"}} {}", value(lane));
        }
    };
    each("offloop_lane_slots", "gauge", "Attempts at once.", |lane| {
        lane.slots.running.into()
    });
    let help = "Attempts that run.";
    each("offloop_lane_running", "gauge", help, |lane| {
        lane.status.running.into()
    });
    each(
        "offloop_lane_queued",
        "gauge",
        "Attempts in line.",
        |lane| lane.status.queued.into(),
    );
    let help = "Executors that ignore a stop.";
    each("offloop_lane_stuck", "gauge", help, |lane| {
        lane.status.stuck.into()
    });
    each(
        "offloop_lane_executors",
        "gauge",
        "Executors alive.",
        |lane| lane.status.executors.into(),
    );
    let help = "How long the work at the head of the lane's own line has waited.";
    each("offloop_lane_head_age_seconds", "gauge", help, |lane| {
        lane.status.head_age.map_or(0.0, |age| age.as_secs_f64())
    });
    let help = "Work that ended after its deadline: done for nobody.";
    each("offloop_lane_late_total", "counter", help, |lane| {
        lane.status.late as f64
    });
    let help = "1 while the lane starts no executors; GET /v1/nodes says why.";
    each("offloop_lane_trouble", "gauge", help, |lane| {
        u8::from(lane.trouble.is_some()).into()
    });
    let name = "offloop_executor_exits_total";
    head(out, name, "counter", "Executors that left, by reason.");
    for lane in &lanes {
        for exit in &lane.exits {
            let (lane, reason) = (label(&lane.name), label(exit.reason));
            let count = exit.count;
            let _ = writeln!(out, "{name}{{lane=\"{lane}\",reason=\"{reason}\"}} {count}");
        }
    }
}

/// Tasks over the limit share the label `(others)`, which no task can have.
pub(crate) fn attempts(handle: &RuntimeHandle, out: &mut String) {
    let tasks = handle.costs();
    let name_of = |row: &UsageRow| row.name.clone().unwrap_or_else(|| "(others)".into());
    let name = "offloop_attempts_total";
    head(
        out,
        name,
        "counter",
        "Attempts that ended, by task and end.",
    );
    for row in &tasks {
        let failed = row.failed.iter().map(|(class, n)| (class.as_str(), *n));
        for (end, count) in std::iter::once(("completed", row.completed)).chain(failed) {
            let task = name_of(row);
            let _ = writeln!(out, "{name}{{task=\"{task}\",end=\"{end}\"}} {count}");
        }
    }
    let mut sum = |name: &str, help: &str, value: fn(&UsageRow) -> Option<f64>| {
        head(out, name, "counter", help);
        for row in &tasks {
            if let Some(value) = value(row) {
                let _ = writeln!(out, "{name}{{task=\"{}\"}} {value}", name_of(row));
            }
        }
    };
    let help = "Wall time of attempts that ended.";
    sum("offloop_attempt_wall_seconds_total", help, |row| {
        Some(row.total.wall_us as f64 / 1e6)
    });
    let help = "Processor time of attempts that ended, where the lane can tell.";
    sum("offloop_attempt_cpu_seconds_total", help, |row| {
        row.total.cpu_us.map(|us| us as f64 / 1e6)
    });
    let help = "How long attempts that ended had waited from due to started.";
    sum("offloop_attempt_wait_seconds_total", help, |row| {
        Some(row.total.wait_us as f64 / 1e6)
    });
    let help = "Payloads that executors were given.";
    sum("offloop_attempt_in_bytes_total", help, |row| {
        Some(row.total.bytes_in as f64)
    });
    let help = "Results, notes and output of executors.";
    sum("offloop_attempt_out_bytes_total", help, |row| {
        Some(row.total.bytes_out as f64)
    });
}
