//! The server as it is now. The figures were taken by the pulse's thread; this copies them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use offloop_pulse::machine::{Machine, Stall};
use offloop_pulse::{Blocked, Figures, Hint, LoopView, Name, Snapshot, TaskView};
use offloop_wire::{
    PulseBlocked, PulseCgroup, PulseDelay, PulseEnded, PulseFigures, PulseHint, PulseLane,
    PulseLoop, PulseMemory, PulseOwn, PulsePolls, PulsePressure, PulseStall, PulseStalls,
    PulseTask, PulseView, format_time,
};

use super::{Answer, json};
use crate::door::Inner;
use crate::query::Query;

pub(super) async fn get(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let snapshot = door.handle.pulse().snapshot();
    let mut body = view(&snapshot, Instant::now());
    body.at = format_time(door.handle.now());
    let pressed = door.handle.pressure();
    body.pressure = PulsePressure {
        level: pressed.level.name().into(),
        why: pressed.why.map(Into::into),
    };
    json(StatusCode::OK, &body)
}

/// Milliseconds with three decimals.
fn ms(span: Duration) -> f64 {
    span.as_micros() as f64 / 1e3
}

fn share(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn view(snapshot: &Snapshot, now: Instant) -> PulseView {
    let since = |then: Instant| ms(now.saturating_duration_since(then));
    let blocked = snapshot.loops.iter().any(|view| !view.blocked.is_empty());
    let state = match snapshot.taken {
        None => "off",
        Some(_) if blocked => "blocked",
        Some(_) => "ok",
    };
    PulseView {
        at: String::new(),
        pressure: PulsePressure::default(),
        state: state.into(),
        age_ms: snapshot.taken.map_or(0.0, since),
        loops: snapshot.loops.iter().map(one_loop).collect(),
        recent: snapshot
            .recent
            .iter()
            .map(|block| PulseEnded {
                on: block.on.to_string(),
                what: text(block.what),
                kind: kind(block.what),
                lasted_ms: ms(block.lasted),
                ago_ms: since(block.ended),
            })
            .collect(),
        lanes: snapshot.lanes.iter().map(lane).collect(),
        tasks: snapshot.tasks.iter().map(task).collect(),
        polls: snapshot
            .polls
            .iter()
            .map(|row| PulsePolls {
                on: row.on.to_string(),
                what: row.what.text().to_string(),
                kind: row.what.kind().as_str().into(),
                long: row.long,
                longest_ms: ms(row.longest),
                hint: row.hint.as_ref().map(hint),
            })
            .collect(),
        memory: memory(&snapshot.machine),
        stall: PulseStalls {
            of: snapshot.machine.stall.of.as_str().into(),
            cpu: snapshot.machine.stall.cpu.map(stall),
            memory: snapshot.machine.stall.memory.map(stall),
            io: snapshot.machine.stall.io.map(stall),
        },
        own: PulseOwn {
            cpu: share(snapshot.own.cpu),
            wakes_per_s: snapshot.own.wakes_per_s.round(),
            late_ms: ms(snapshot.own.late),
        },
    }
}

fn text(what: Option<Name>) -> Option<String> {
    what.map(|name| name.text().to_string())
}

fn kind(what: Option<Name>) -> Option<String> {
    what.map(|name| name.kind().as_str().into())
}

fn one_loop(view: &LoopView) -> PulseLoop {
    let delay = &view.delay;
    let lately = |figure: fn(Figures) -> Duration| delay.lately.map(|all| ms(figure(all)));
    let minute = |figure: fn(Figures) -> Duration| delay.minute.map(|all| ms(figure(all)));
    let blocked = |block: &Blocked| PulseBlocked {
        what: text(block.what),
        kind: kind(block.what),
        for_ms: ms(block.lasts),
        waited_ms: ms(block.waited),
        remedy: block.remedy().into(),
    };
    PulseLoop {
        name: view.name.to_string(),
        threads: view.threads,
        delay: PulseDelay {
            now_ms: ms(delay.now),
            p50_ms: lately(|all| all.p50),
            p99_ms: lately(|all| all.p99),
            max_ms: lately(|all| all.max),
            minute_p99_ms: minute(|all| all.p99),
            minute_max_ms: minute(|all| all.max),
            idle_ms: delay.idle.map(ms),
        },
        utilisation: share(view.utilisation),
        blocked: view.blocked.iter().map(blocked).collect(),
    }
}

fn lane(view: &offloop_pulse::LaneView) -> PulseLane {
    let sample = &view.sample;
    PulseLane {
        name: sample.name.to_string(),
        running: sample.running,
        slots: sample.slots,
        queued: sample.queued,
        stuck: sample.stuck,
        head_age_ms: sample.head_age.map(ms),
        saturation: share(view.saturation),
    }
}

fn task(view: &TaskView) -> PulseTask {
    let figures = |figures: Figures| PulseFigures {
        count: figures.count,
        p50_ms: ms(figures.p50),
        p90_ms: ms(figures.p90),
        p99_ms: ms(figures.p99),
        max_ms: ms(figures.max),
    };
    PulseTask {
        task: view.sample.task.as_deref().map(Into::into),
        wait: view.sample.wait.map(figures),
        run: view.sample.run.map(figures),
        hints: view.hints.iter().map(hint).collect(),
    }
}

fn hint(hint: &Hint) -> PulseHint {
    PulseHint {
        kind: hint.kind.as_str().into(),
        say: hint.say.clone(),
    }
}

fn memory(machine: &Machine) -> PulseMemory {
    PulseMemory {
        rss_bytes: machine.rss_bytes,
        cgroup: machine.cgroup.map(|group| PulseCgroup {
            current_bytes: group.current_bytes,
            max_bytes: group.max_bytes,
            high_bytes: group.high_bytes,
            throttled_periods: group.throttled.map(|throttled| throttled.periods),
            throttled_ms: group.throttled.map(|throttled| throttled.total_us / 1_000),
        }),
    }
}

fn stall(stall: Stall) -> PulseStall {
    PulseStall {
        some_avg10: stall.some_avg10,
        some_total_ms: stall.some_total_us / 1_000,
        full_avg10: stall.full_avg10,
        full_total_ms: stall.full_total_us.map(|us| us / 1_000),
    }
}
