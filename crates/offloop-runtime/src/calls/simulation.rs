//! The line under load, with a clock of its own: what is done in time, and how long it waited.
//!
//! Calls come at random (Poisson) and run at random (exponential); a caller gives up at its
//! deadline. The figures to beat are those of an unbounded line of the same calls: 2 % of capacity
//! at 1.5 times the load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobId, Lease, TaskName};
use offloop_lane::{Work, WorkLimits};

use super::ask::CallSettings;
use super::line::{Line, Next, Task, Waiter};
use crate::clock::Dice;

const SLOTS: u32 = 7;
const RUN: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_millis(500);
const SPAN: Duration = Duration::from_secs(60);

struct Outcome {
    /// Part of what the slots could do at most, done in time.
    goodput: f64,
    /// Part of what was offered.
    refused: f64,
    /// From the call to its answer, of those done in time.
    p50: Duration,
    p99: Duration,
}

fn work(number: u64, priority: u8, deadline: Instant) -> Work {
    Work {
        job: JobId::from_parts(number, number),
        lease: Lease(number),
        attempt: 1,
        task: TaskName::parse("t").unwrap(),
        payload: Bytes::new(),
        priority,
        limits: WorkLimits {
            timeout: PATIENCE,
            cpu: None,
            memory_bytes: None,
            stall: None,
            result_bytes: 1,
        },
        cores: 1,
        deadline: Some(deadline),
        checkpoint: None,
        trace: None,
        inputs: std::sync::Arc::default(),
    }
}

/// One simulated minute.
struct World {
    line: Line<Instant>,
    dice: Dice,
    /// Ends of what runs: when, which, how long, when it was asked.
    ends: BTreeMap<(Instant, u64), Duration>,
    took: Vec<Duration>,
    offered: u64,
    refused: u64,
}

impl World {
    fn exponential(&self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.dice.roll()).ln())
    }

    fn feed(&mut self, now: Instant) {
        while let Some(next) = self.line.next(0, now) {
            match next {
                Next::Start(work) => {
                    let run = self.exponential(RUN);
                    self.ends.insert((now + run, work.lease.0), run);
                }
                Next::Late { waiters, .. } => self.refused += waiters.len() as u64,
            }
        }
    }

    fn end_until(&mut self, until: Instant) {
        while let Some(((at, lease), run)) = self.ends.pop_first() {
            if at > until {
                self.ends.insert((at, lease), run);
                return;
            }
            for waiter in self.line.ended(Lease(lease), run, true) {
                let took = at - waiter.tell;
                if took <= PATIENCE {
                    self.took.push(took);
                }
            }
            self.feed(at);
        }
    }
}

fn simulate(load: f64, seed: u64, priority: impl Fn(u64) -> u8) -> (Outcome, [u64; 10]) {
    let begin = Instant::now();
    let settings = CallSettings::default();
    let mut world = World {
        line: Line::new(SLOTS, vec![Task::new(settings)]),
        dice: Dice::new(seed),
        ends: BTreeMap::new(),
        took: Vec::new(),
        offered: 0,
        refused: 0,
    };
    let between = RUN.div_f64(f64::from(SLOTS) * load);
    let mut refused_by_priority = [0; 10];
    let mut now = begin;
    while now < begin + SPAN {
        now += world.exponential(between);
        world.end_until(now);
        world.offered += 1;
        let priority = priority(world.offered);
        let work = work(world.offered, priority, now + PATIENCE);
        let waiter = Waiter {
            id: world.offered,
            tell: now,
        };
        let roll = world.dice.roll();
        if world.line.admit(0, work, waiter, 0, now, roll).is_err() {
            world.refused += 1;
            refused_by_priority[usize::from(priority)] += 1;
        }
        world.feed(now);
    }
    world.took.sort_unstable();
    let at = |part: f64| world.took[(world.took.len() as f64 * part) as usize];
    let capacity = SPAN.as_secs_f64() / RUN.as_secs_f64() * f64::from(SLOTS);
    let outcome = Outcome {
        goodput: world.took.len() as f64 / capacity,
        refused: world.refused as f64 / world.offered as f64,
        p50: at(0.5),
        p99: at(0.99),
    };
    (outcome, refused_by_priority)
}

#[test]
fn overload_is_refused_and_what_is_let_in_is_done_in_time() {
    for (load, goodput, p50_ms) in [(1.5, 0.95, 60), (3.0, 0.95, 60), (10.0, 0.95, 60)] {
        let (seen, _) = simulate(load, 7, |_| 5);
        let Outcome { p50, p99, .. } = seen;
        println!(
            "{load}: goodput {:.3}, refused {:.3}, p50 {p50:?}, p99 {p99:?}",
            seen.goodput, seen.refused
        );
        assert!(seen.goodput >= goodput, "{load}: {}", seen.goodput);
        assert!(p50 <= Duration::from_millis(p50_ms), "{load}: {p50:?}");
    }
}

#[test]
fn a_pool_that_keeps_up_refuses_next_to_nothing() {
    for (load, most) in [(0.5, 0.0005), (0.7, 0.002), (0.9, 0.04)] {
        let (seen, _) = simulate(load, 7, |_| 5);
        println!(
            "{load}: goodput {:.3}, refused {:.4}, p50 {:?}, p99 {:?}",
            seen.goodput, seen.refused, seen.p50, seen.p99
        );
        assert!(seen.refused <= most, "{load}: {}", seen.refused);
    }
}

#[test]
fn what_is_urgent_is_served_while_what_can_wait_is_refused() {
    let (_, refused) = simulate(
        1.5,
        7,
        |number| if number.is_multiple_of(2) { 1 } else { 8 },
    );
    println!("{refused:?}");
    assert!(refused[8] > 20 * refused[1].max(1), "{refused:?}");
}
