//! Figures of lanes, attempts, event loops and the machine as Prometheus text.
//!
//! Labels are few: lanes and reasons are fixed, tasks at most 256 (`RuntimeHandle::costs`).

use std::borrow::Cow;
use std::fmt::Write as _;

use offloop_pulse::machine::Machine;
use offloop_pulse::{BOUNDS_US, Buckets, LoopView};
use offloop_runtime::{LaneView, RuntimeHandle, TaskBuckets};
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

/// One histogram: `labels` are written already, without braces.
fn histogram(out: &mut String, name: &str, labels: &str, buckets: &Buckets) {
    let mut below = 0;
    for (index, count) in buckets.counts.iter().enumerate() {
        below += count;
        let bound = BOUNDS_US.get(index).map(|us| *us as f64 / 1e6);
        let bound = bound.map_or("+Inf".into(), |bound| bound.to_string());
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
    }
    let sum = buckets.sum_us as f64 / 1e6;
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
    let _ = writeln!(out, "{name}_count{{{labels}}} {below}");
}

/// Waits and runs by task.
pub(crate) fn times(handle: &RuntimeHandle, out: &mut String) {
    let tasks = handle.task_times();
    let mut each = |name: &str, help: &str, buckets: fn(&TaskBuckets) -> &Buckets| {
        head(out, name, "histogram", help);
        for row in &tasks {
            let task = row.task.as_ref().map_or("(others)", |task| task.as_str());
            histogram(out, name, &format!("task=\"{task}\""), buckets(row));
        }
    };
    let help = "From due to started, of attempts that ended.";
    each("offloop_task_wait_seconds", help, |row| &row.wait);
    let help = "From started to ended, of attempts that ended.";
    each("offloop_task_run_seconds", help, |row| &row.run);
}

/// Event loops, memory and stalls, as the pulse published them last.
pub(crate) fn pulse(handle: &RuntimeHandle, out: &mut String) {
    let snapshot = handle.pulse().snapshot();
    let name = "offloop_loop_delay_seconds";
    let help = "From the post of a no-op to its run in the event loop.";
    head(out, name, "histogram", help);
    for view in &snapshot.loops {
        let labels = format!("loop=\"{}\"", label(&view.name));
        histogram(out, name, &labels, &view.buckets);
    }
    let mut each = |name: &str, help: &str, value: fn(&LoopView) -> f64| {
        head(out, name, "gauge", help);
        for view in &snapshot.loops {
            let on = label(&view.name);
            let _ = writeln!(out, "{name}{{loop=\"{on}\"}} {}", value(view));
        }
    };
    let help = "Share of its threads' time that the loop spent in polls, over 2 s.";
    each("offloop_loop_utilisation", help, |view| view.utilisation);
    let help = "Threads of the loop that one poll holds for too long.";
    each("offloop_loop_blocked", help, |view| {
        view.blocked.len() as f64
    });
    let name = "offloop_lane_saturation";
    let help = "Mean share of its slots that were taken, over 2 s.";
    head(out, name, "gauge", help);
    for lane in snapshot.lanes.iter() {
        let lane_name = label(&lane.sample.name);
        let _ = writeln!(out, "{name}{{lane=\"{lane_name}\"}} {}", lane.saturation);
    }
    machine(&snapshot.machine, out);
}

/// What is not known is left out.
fn machine(machine: &Machine, out: &mut String) {
    let mut one = |name: &str, kind: &str, help: &str, value: Option<u64>| {
        if let Some(value) = value {
            head(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
    };
    let group = machine.cgroup;
    let help = "Resident memory of the server's process.";
    one(
        "process_resident_memory_bytes",
        "gauge",
        help,
        machine.rss_bytes,
    );
    let help = "Memory of the server's control group.";
    let current = group.map(|group| group.current_bytes);
    one("offloop_cgroup_memory_bytes", "gauge", help, current);
    let help = "The tightest memory.max above it.";
    let max = group.and_then(|group| group.max_bytes);
    one("offloop_cgroup_memory_max_bytes", "gauge", help, max);
    let throttled = group.and_then(|group| group.throttled);
    let help = "Periods in which the control group used its processor quota up.";
    let periods = throttled.map(|throttled| throttled.periods);
    one(
        "offloop_cgroup_throttled_periods_total",
        "counter",
        help,
        periods,
    );
    let name = "offloop_stalled_seconds_total";
    let help =
        "How long some work stood still for want of a resource (pressure stall information).";
    head(out, name, "counter", help);
    let stall = &machine.stall;
    for (what, stall) in [
        ("cpu", stall.cpu),
        ("memory", stall.memory),
        ("io", stall.io),
    ] {
        if let Some(stall) = stall {
            let seconds = stall.some_total_us as f64 / 1e6;
            let _ = writeln!(out, "{name}{{resource=\"{what}\"}} {seconds}");
        }
    }
}
