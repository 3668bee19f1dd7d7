//! The model check: the lane's own files, compiled against `shuttle` in place of the threads and
//! locks of the system, under thousands of schedules each. Submit, park, cancel, wide jobs,
//! replacement of threads, shutdown.
//!
//! That it can fail is shown by leaving out one step of the protocol at a time: each must be found.
//!
//! Time does not pass in the model: a wait with a timeout never times out. So whatever a timeout
//! would have hidden (a call that was lost, and made good by the watch) is found as a deadlock.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::missing_const_for_thread_local,
    reason = "the crate's files are compiled as part of this one"
)]

#[path = "../src/builder.rs"]
mod builder;
#[path = "../src/inside.rs"]
mod inside;
#[path = "../src/lane.rs"]
mod lane;
#[path = "../src/limits.rs"]
mod limits;
#[path = "../src/line.rs"]
mod line;
#[path = "../src/meter.rs"]
mod meter;
#[path = "../src/pulse.rs"]
mod pulse;
#[path = "../src/shared.rs"]
mod shared;
#[path = "../src/spread.rs"]
mod spread;
#[path = "../src/state.rs"]
mod state;
mod support;
#[path = "model/sync.rs"]
mod sync;
#[path = "../src/tasks.rs"]
mod tasks;
#[path = "../src/watch.rs"]
mod watch;
#[path = "model/wide.rs"]
mod wide;
#[path = "../src/worker.rs"]
mod worker;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use lane::CpuLane;
use offloop_job::{Lease, Outcome, StopReason};
use offloop_lane::{Lane, LaneEvent, LaneSink, Proof, TaskError, TaskOutput, Work};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::{Barrier, Condvar, Mutex};
use shuttle::thread;
use support::{info, work};
use sync::Step;

const SEED: u64 = 0x0FF1_00B5;

fn run_with(scheduler: impl Scheduler + 'static, scenario: fn()) {
    let mut config = shuttle::Config::new();
    config.stack_size = 256 * 1024; // frames of an unoptimised build
    config.failure_persistence = shuttle::FailurePersistence::Print;
    shuttle::Runner::new(scheduler, config).run(scenario);
}

/// Random schedules, and schedules with few but badly placed changes (PCT, Burckhardt et al. 2010).
fn check(schedules: usize, scenario: fn()) {
    run_with(RandomScheduler::new_from_seed(SEED, schedules), scenario);
    run_with(PctScheduler::new_from_seed(SEED, 4, schedules), scenario);
}

/// The model finds that `step` is left out.
fn finds(step: Step, scenario: fn()) {
    let found = std::thread::spawn(move || {
        sync::leave_out(Some(step));
        check(4_000, scenario);
    });
    let error = found.join().expect_err("the model does not notice");
    let text = error.downcast_ref::<String>().cloned().unwrap_or_default();
    println!("without {step:?}: {text}");
}

/// What was heard of each lease.
#[derive(Debug, Default)]
struct Heard {
    ends: Mutex<Vec<(u64, bool)>>,
    news: Condvar,
}

impl LaneSink for Heard {
    fn send(&self, event: LaneEvent) {
        if let LaneEvent::Ended(ended) = event {
            let ran = ended.gone.proof() != Proof::NeverStarted;
            self.ends.lock().unwrap().push((ended.lease.0, ran));
            self.news.notify_all();
        }
    }
}

impl Heard {
    fn wait(&self, count: usize) {
        let mut ends = self.ends.lock().unwrap();
        while ends.len() < count {
            ends = self.news.wait(ends).unwrap();
        }
    }

    /// Each of so many leases has ended, once.
    fn all_once(&self, count: u64) {
        let mut leases: Vec<u64> = self.ends.lock().unwrap().iter().map(|end| end.0).collect();
        leases.sort_unstable();
        assert_eq!(leases, (1..=count).collect::<Vec<_>>(), "lost or doubled");
    }
}

struct Model {
    lane: Arc<CpuLane>,
    heard: Arc<Heard>,
}

/// `meet`: as many jobs as there are threads wait for each other.
/// `count`: notes how many processors are busy at a time, and fails over the lane's.
/// `wait`: runs until it is stopped.
fn model(threads: u16, spin: bool) -> Model {
    let meeting = Arc::new(Barrier::new(usize::from(threads)));
    let busy = Arc::new(AtomicU16::new(0));
    let lane = CpuLane::builder("model")
        .threads(threads)
        .ahead(16)
        .nice(0)
        .grace(Duration::ZERO)
        .spin(Duration::from_micros(u64::from(spin)))
        .task(info("echo"), Arc::new(|_| Ok(TaskOutput::none())))
        .task(
            info("meet"),
            Arc::new(move |_| {
                meeting.wait();
                Ok(TaskOutput::none())
            }),
        )
        .task(
            info("count"),
            Arc::new(move |ctx| {
                let cores = ctx.work().cores.min(threads);
                let now = busy.fetch_add(cores, Ordering::SeqCst) + cores;
                thread::yield_now();
                busy.fetch_sub(cores, Ordering::SeqCst);
                if now > threads {
                    OVER.set(true);
                }
                Ok(TaskOutput::none())
            }),
        )
        .task(
            info("wait"),
            Arc::new(|ctx| {
                while !ctx.should_stop() {
                    thread::yield_now();
                }
                thread::yield_now(); // long enough to be found deaf, with a grace of nothing
                Err(TaskError::stopped())
            }),
        )
        .build();
    let heard = Arc::new(Heard::default());
    lane.open(heard.clone()).unwrap();
    OVER.set(false);
    Model {
        lane: Arc::new(lane),
        heard,
    }
}

std::thread_local! {
    static OVER: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

impl Model {
    fn sound(&self) {
        let flaw = self.lane.flaw();
        assert_eq!(flaw, None);
        assert!(!OVER.get(), "more processors busy than there are");
    }

    /// A thread that looks at the state between whatever the others do.
    fn observed(self, rest: impl FnOnce(&Self)) {
        let this = Arc::new(self);
        let other = this.clone();
        let observer = thread::spawn(move || {
            for _ in 0..6 {
                other.sound();
                thread::yield_now();
            }
        });
        rest(&this);
        observer.join().unwrap();
        this.sound();
    }

    fn end(&self, jobs: u64) {
        assert_eq!(self.lane.terminate(Duration::MAX), []);
        assert_eq!(self.lane.status().executors, 0);
        self.heard.all_once(jobs);
    }
}

fn wide(lease: u64, task: &str, cores: u16) -> Work {
    let mut work = work(lease, task, "null");
    work.cores = cores;
    work
}

fn two_submitters(spin: bool) {
    model(2, spin).observed(|model| {
        let lane = model.lane.clone();
        let other = thread::spawn(move || {
            lane.start(vec![work(1, "echo", ""), work(2, "echo", "")]);
            lane.start(vec![work(3, "echo", "")]);
        });
        model.lane.start(vec![work(4, "echo", "")]);
        model.lane.start(vec![work(5, "echo", "")]);
        other.join().unwrap();
        model.heard.wait(5);
        model.end(5);
    });
}

fn submitters_and_sleepers() {
    two_submitters(false);
}

fn submitters_and_a_spinner() {
    two_submitters(true);
}

fn a_batch_whose_jobs_need_each_other() {
    model(3, true).observed(|model| {
        model
            .lane
            .start((1..=3).map(|n| work(n, "meet", "")).collect());
        model.heard.wait(3);
        model.end(3);
    });
}

fn cancels_race_with_the_threads() {
    model(2, false).observed(|model| {
        let lane = model.lane.clone();
        model
            .lane
            .start((1..=4).map(|n| work(n, "echo", "")).collect());
        let other = thread::spawn(move || {
            for lease in [4, 1, 3] {
                lane.stop(Lease(lease), StopReason::Cancel);
            }
        });
        model.lane.stop(Lease(4), StopReason::Cancel);
        other.join().unwrap();
        model.heard.wait(4);
        model.end(4);
    });
}

fn wide_and_narrow() {
    model(3, false).observed(|model| {
        let lane = model.lane.clone();
        let other = thread::spawn(move || {
            lane.start(vec![wide(1, "count", 2), wide(2, "count", 9)]);
        });
        model.lane.start(vec![
            wide(3, "count", 1),
            wide(4, "count", 2),
            wide(5, "count", 1),
        ]);
        other.join().unwrap();
        model.heard.wait(5);
        model.end(5);
    });
}

/// The first has no room beside the one that runs; without it the second has.
fn the_cancel_of_a_wide_job_frees_the_one_behind_it() {
    model(2, false).observed(|model| {
        model.lane.start(vec![work(1, "wait", "")]);
        while model.lane.status().running == 0 {
            thread::yield_now();
        }
        model
            .lane
            .start(vec![wide(2, "echo", 2), work(3, "echo", "")]);
        model.lane.stop(Lease(2), StopReason::Cancel);
        model.heard.wait(2);
        model.lane.stop(Lease(1), StopReason::Cancel);
        model.heard.wait(3);
        model.end(3);
    });
}

fn shutdown_races_with_submitters() {
    model(2, true).observed(|model| {
        let lane = model.lane.clone();
        let other = thread::spawn(move || {
            lane.start(vec![work(1, "echo", ""), work(2, "wait", "")]);
            lane.start(vec![work(3, "echo", "")]);
        });
        assert_eq!(model.lane.terminate(Duration::MAX), []);
        other.join().unwrap();
        model.end(3);
    });
}

/// A grace of nothing: a job that is asked to stop is deaf until it returns, and its thread is
/// replaced if the watch is quick.
fn threads_are_replaced_while_others_submit() {
    model(1, true).observed(|model| {
        model.lane.start(vec![work(1, "wait", "")]);
        let lane = model.lane.clone();
        let other = thread::spawn(move || {
            lane.start(vec![work(2, "echo", "")]);
            lane.start(vec![work(3, "echo", "")]);
        });
        model.lane.stop(Lease(1), StopReason::Cancel);
        other.join().unwrap();
        model.heard.wait(3);
        model.lane.start(vec![work(4, "echo", "")]);
        model.heard.wait(4);
        model.end(4);
    });
}

macro_rules! models {
    ($($name:ident: $schedules:literal)*) => {
        mod no_schedule_breaks {
            $( #[test] fn $name() { super::check($schedules, super::$name); } )*
        }
    };
}

models! {
    submitters_and_sleepers: 3_000
    submitters_and_a_spinner: 3_000
    a_batch_whose_jobs_need_each_other: 3_000
    cancels_race_with_the_threads: 3_000
    wide_and_narrow: 3_000
    the_cancel_of_a_wide_job_frees_the_one_behind_it: 3_000
    shutdown_races_with_submitters: 3_000
    threads_are_replaced_while_others_submit: 3_000
}

mod the_model_finds {
    use super::*;

    #[test]
    fn a_thread_that_parks_without_a_last_look() {
        finds(Step::LookBeforePark, submitters_and_sleepers);
    }

    #[test]
    fn a_thread_that_takes_work_and_calls_nobody_for_the_rest() {
        finds(Step::PassOn, a_batch_whose_jobs_need_each_other);
    }

    #[test]
    fn a_cancel_that_calls_nobody_for_what_it_made_room_for() {
        let scenario = the_cancel_of_a_wide_job_frees_the_one_behind_it;
        finds(Step::PassOnAfterCancel, scenario);
    }

    #[test]
    fn a_submit_that_calls_nobody() {
        finds(Step::CallOnSubmit, submitters_and_sleepers);
    }

    #[test]
    fn a_thread_that_leaves_and_keeps_the_search() {
        finds(
            Step::LeaveTheSearch,
            threads_are_replaced_while_others_submit,
        );
    }
}
