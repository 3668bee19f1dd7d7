//! The model check of the breaker: its own file, compiled against `shuttle` in place of the locks of the
//! system, under thousands of schedules; and its own rules over ten million random steps.
//!
//! That it can fail is shown by leaving out one step of the protocol at a time: each must be found.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the crate's file is compiled as part of this one"
)]

#[path = "../src/breaker.rs"]
mod breaker;
#[path = "model/sync.rs"]
mod sync;

use std::sync::Arc;
use std::time::Duration;

use breaker::{Breaker, BreakerRule, BreakerState};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Mutex;
use shuttle::thread;
use sync::Step;

const SEED: u64 = 0x0FF1_00B5;

fn run_with(scheduler: impl Scheduler + 'static, scenario: fn()) {
    let mut config = shuttle::Config::new();
    config.stack_size = 128 * 1024;
    config.failure_persistence = shuttle::FailurePersistence::Print;
    shuttle::Runner::new(scheduler, config).run(scenario);
}

fn check(schedules: usize, scenario: fn()) {
    run_with(RandomScheduler::new_from_seed(SEED, schedules), scenario);
    run_with(PctScheduler::new_from_seed(SEED, 3, schedules), scenario);
}

fn finds(step: Step, scenario: fn()) {
    let found = std::thread::spawn(move || {
        sync::leave_out(Some(step));
        check(4_000, scenario);
    });
    assert!(found.join().is_err(), "the model does not notice {step:?}");
}

const fn rule(probes: u32) -> BreakerRule {
    BreakerRule {
        calls: 2,
        failed_share: 0.5,
        window: Duration::from_secs(10),
        open: Duration::from_secs(1),
        open_max: Duration::from_secs(4),
        probes,
    }
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn tripped(probes: u32) -> Arc<Breaker> {
    let breaker = Arc::new(Breaker::new(rule(probes)));
    for _ in 0..2 {
        breaker.permit(at(0)).unwrap().bad(at(0));
    }
    assert_eq!(breaker.state(at(0)), BreakerState::Open);
    assert!(breaker.permit(at(0)).is_err());
    breaker
}

/// Callers that race for two probes; one of them goes away without a word.
fn probes_race() {
    let breaker = tripped(2);
    let out = Arc::new(Mutex::new(0_u32));
    let callers = (0..3).map(|turn| {
        let (breaker, out) = (Arc::clone(&breaker), Arc::clone(&out));
        thread::spawn(move || {
            let Ok(permit) = breaker.permit(at(2)) else {
                return;
            };
            let probe = u32::from(permit.is_probe());
            let now = {
                let mut out = out.lock().unwrap();
                *out += probe;
                *out
            };
            assert!(now <= 2, "a third probe is out");
            thread::yield_now();
            *out.lock().unwrap() -= probe;
            if turn == 0 {
                drop(permit); // cancelled
            } else {
                permit.good(at(2));
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    for caller in callers {
        caller.join().unwrap();
    }
    // Whatever happened, it is not stuck: what is still needed is let through, and closes it.
    for _ in 0..2 {
        if breaker.state(at(3)) == BreakerState::HalfOpen {
            breaker.permit(at(3)).unwrap().good(at(3));
        }
    }
    assert_eq!(breaker.state(at(3)), BreakerState::Closed);
}

/// A call from before the host went down ends while the probe is out.
fn an_old_call_ends_late() {
    let breaker = Arc::new(Breaker::new(rule(1)));
    let old = breaker.permit(at(0)).unwrap();
    for _ in 0..2 {
        breaker.permit(at(0)).unwrap().bad(at(0));
    }
    let probe = {
        let breaker = Arc::clone(&breaker);
        thread::spawn(move || breaker.permit(at(2)).unwrap().good(at(2)))
    };
    let late = thread::spawn(move || old.bad(at(2)));
    probe.join().unwrap();
    late.join().unwrap();
    assert_eq!(breaker.state(at(2)), BreakerState::Closed);
}

/// A probe fails while another is cancelled: it is open again, for longer, and comes back.
fn probes_fail_and_go_away() {
    let breaker = tripped(2);
    let bad = {
        let breaker = Arc::clone(&breaker);
        thread::spawn(move || {
            breaker
                .permit(at(2))
                .map(|permit| permit.bad(at(2)))
                .is_ok()
        })
    };
    let gone = {
        let breaker = Arc::clone(&breaker);
        thread::spawn(move || drop(breaker.permit(at(2))))
    };
    assert!(bad.join().unwrap(), "two probes have room for both");
    gone.join().unwrap();
    assert_eq!(breaker.state(at(3)), BreakerState::Open);
    assert_eq!(breaker.state(at(4)), BreakerState::HalfOpen);
    for _ in 0..2 {
        breaker.permit(at(4)).unwrap().good(at(4));
    }
    assert_eq!(breaker.state(at(4)), BreakerState::Closed);
}

#[test]
fn no_schedule_lets_out_more_probes_than_allowed_or_gets_stuck() {
    for scenario in [probes_race, an_old_call_ends_late, probes_fail_and_go_away] {
        check(10_000, scenario);
    }
}

#[test]
fn every_interleaving_of_two_callers_ends_well() {
    for scenario in [an_old_call_ends_late, probes_fail_and_go_away] {
        run_with(DfsScheduler::new(Some(200_000), false), scenario);
    }
}

#[test]
fn the_model_notices_a_probe_that_keeps_its_place_when_it_is_dropped() {
    finds(Step::GiveBack, probes_race);
}

#[test]
fn the_model_notices_an_outcome_from_before_the_change() {
    finds(Step::Generation, an_old_call_ends_late);
}
