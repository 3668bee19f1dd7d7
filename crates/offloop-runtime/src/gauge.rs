//! How hard pressed the whole server is, beside what its lines say: late loops and a machine out of
//! memory. From the pulse's figures, ten times a second at most.
//!
//! Must never: refuse everything. The most urgent are let in whatever it shows, and health routes do
//! not ask.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use offloop_pulse::{LaneView, Pulse, Snapshot};

use crate::admission::{Pressure, crowds_out};

/// A loop whose p99 of delay is this late is fully loaded: everybody's answer is.
const LOOP_LATE: Duration = Duration::from_millis(50);
/// Percent of time that some task waited for memory, over 10 s (PSI), at which the machine is: it moves
/// pages and does no work.
const MEMORY_STALLED: f64 = 25.0;
const FRESH_FOR: Duration = Duration::from_millis(100);
/// So many no-ops must have come back before their p99 says something.
const FIGURES_MIN: u64 = 200;

/// What presses, and how much.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressed {
    pub level: Pressure,
    /// The worst figure over its bound: 1 is full.
    pub load: f64,
    /// For a person; `None` while nothing does.
    pub why: Option<Box<str>>,
}

#[derive(Debug, Default)]
pub(crate) struct Gauge(Mutex<(Option<Instant>, Pressed)>);

impl Gauge {
    pub(crate) fn read(&self, pulse: &Pulse) -> Pressed {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, pressed) = &mut *state;
        if at.is_none_or(|at| at.elapsed() >= FRESH_FOR) {
            *at = Some(Instant::now());
            *pressed = judge(&pulse.snapshot(), pressed.level);
        }
        pressed.clone()
    }

    /// Whether a newcomer of this priority is turned away for it.
    ///
    /// - `roll`: uniform in `0.0..1.0`.
    pub(crate) fn crowds_out(&self, pulse: &Pulse, priority: u8, roll: f64) -> Option<Pressed> {
        let pressed = self.read(pulse);
        crowds_out(pressed.load, priority, roll).then_some(pressed)
    }
}

fn judge(snapshot: &Snapshot, before: Pressure) -> Pressed {
    let mut worst = Pressed::default();
    let mut press = |load: f64, why: &dyn Fn() -> String| {
        if load > worst.load {
            worst.load = load;
            worst.why = (load >= 0.5).then(|| why().into());
        }
    };
    for one in &snapshot.loops {
        // A lane's own loop makes its own work late and nobody's answer; a few figures tell of an
        // accident, not of a state.
        let is_lane = |lane: &LaneView| lane.sample.name == one.name;
        let Some(lately) = one.delay.lately.filter(|all| all.count >= FIGURES_MIN) else {
            continue;
        };
        if snapshot.lanes.iter().any(is_lane) {
            continue;
        }
        let late = lately.p99;
        press(late.as_secs_f64() / LOOP_LATE.as_secs_f64(), &|| {
            format!(
                "loop `{}` is late: p99 {late:.1?} of {LOOP_LATE:?}",
                one.name
            )
        });
    }
    if let Some(memory) = snapshot.machine.stall.memory {
        press(memory.some_avg10 / MEMORY_STALLED, &|| {
            let stalled = memory.some_avg10;
            format!(
                "tasks waited for memory {stalled:.0} % of the last 10 s (bound {MEMORY_STALLED} %)"
            )
        });
    }
    worst.level = before.at(worst.load);
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use offloop_pulse::machine::{Machine, Stall};

    fn stalled(percent: f64) -> Snapshot {
        let mut machine = Machine::default();
        machine.stall.memory = Some(Stall {
            some_avg10: percent,
            ..Stall::default()
        });
        Snapshot {
            machine: Arc::new(machine),
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_machine_out_of_memory_presses_and_says_so() {
        let calm = judge(&stalled(1.0), Pressure::Open);
        assert_eq!((calm.level, calm.why), (Pressure::Open, None));
        let full = judge(&stalled(30.0), Pressure::Open);
        assert_eq!(full.level, Pressure::Full);
        assert!(full.why.is_some_and(|why| why.contains("30 %")));
        assert_eq!(
            judge(&Snapshot::default(), Pressure::Full).level,
            Pressure::Open
        );
    }
}
