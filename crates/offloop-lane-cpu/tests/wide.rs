//! Wide jobs: n processors, a pool of their own, and nobody starves.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, TaskContext, TaskError, TaskInfo, TaskOutput, Work};
use offloop_lane_cpu::{CpuHandler, CpuLane, current_lane, in_lane};
use rayon::prelude::*;
use rustix::time::{ClockId, clock_gettime};
use support::{PATIENCE, TestSink, eventually, failed_as, info, result, stopped_by, work};

fn opened(threads: u16, tasks: Vec<(TaskInfo, CpuHandler)>) -> (CpuLane, Arc<TestSink>) {
    let mut builder = CpuLane::builder("cpu").threads(threads).ahead(4_096);
    for (info, handler) in tasks {
        builder = builder.task(info, handler);
    }
    let (lane, sink) = (builder.build(), TestSink::new());
    lane.open(sink.clone()).unwrap();
    (lane, sink)
}

fn task(
    name: &str,
    code: impl Fn(&TaskContext) -> Result<TaskOutput, TaskError> + Send + Sync + 'static,
) -> (TaskInfo, CpuHandler) {
    (info(name), Arc::new(code))
}

fn wait(ctx: &TaskContext) -> Result<TaskOutput, TaskError> {
    ctx.progress("1")?;
    while !ctx.should_stop() {
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Err(TaskError::stopped())
}

fn wide(lease: u64, task: &str, cores: u16) -> Work {
    let mut work = work(lease, task, "null");
    work.cores = cores;
    work
}

fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn wide_and_narrow_jobs_together_never_use_more_than_the_lane_has() {
    const THREADS: u16 = 4;
    let (busy, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (now_busy, seen_most) = (busy.clone(), most.clone());
    let count = task("count", move |ctx| {
        let cores = u32::from(ctx.work().cores.min(THREADS));
        let now = now_busy.fetch_add(cores, Ordering::SeqCst) + cores;
        seen_most.fetch_max(now, Ordering::SeqCst);
        std::thread::yield_now();
        now_busy.fetch_sub(cores, Ordering::SeqCst);
        Ok(TaskOutput::none())
    });
    let (lane, sink) = opened(THREADS, vec![count]);
    for batch in 0..40_u64 {
        let jobs = (1..=10).map(|n| {
            let lease = batch * 10 + n;
            let mut work = wide(lease, "count", [1, 1, 2, 1, 3, 1, 4, 9][lease as usize % 8]);
            work.priority = (lease % 10) as u8;
            work
        });
        lane.start(jobs.collect());
    }
    sink.ended_count(400);
    assert_eq!(
        most.load(Ordering::SeqCst),
        u32::from(THREADS),
        "over, or never full"
    );
    assert_eq!(lane.terminate(PATIENCE), []);
}

#[test]
fn a_wide_job_is_not_starved_by_narrow_ones_nor_they_by_it() {
    let one = |_: &TaskContext| Ok(TaskOutput::json("1"));
    let (lane, sink) = opened(2, vec![task("wait", wait), task("one", one)]);
    lane.start(vec![work(1, "wait", ""), work(2, "wait", "")]);
    sink.note(1);
    sink.note(2);
    // In this order: narrow, wide, narrow, wide, narrow.
    let cores = [1, 2, 1, 2, 1];
    let jobs = (3..)
        .zip(cores)
        .map(|(lease, cores)| wide(lease, "wait", cores));
    lane.start(jobs.collect());
    lane.stop(Lease(1), StopReason::Cancel);
    sink.note(3);
    // The wide one is first in line. What becomes free is held for it, though the next would fit.
    lane.stop(Lease(3), StopReason::Cancel);
    sink.ended(3);
    assert_eq!((lane.status().running, lane.status().queued), (1, 4));
    // A job of a higher priority may still pass it, by the rule of ageing and no other.
    let mut urgent = work(9, "one", "");
    urgent.priority = 0;
    lane.start(vec![urgent]);
    assert_eq!(result(&sink.ended(9)), "1");
    lane.stop(Lease(2), StopReason::Cancel);
    sink.note(4);
    assert_eq!((lane.status().running, lane.status().queued), (1, 3));
    for lease in [4, 5, 6, 7] {
        sink.note(lease);
        lane.stop(Lease(lease), StopReason::Cancel);
        stopped_by(&sink.ended(lease), StopReason::Cancel);
    }
    let order = sink.peek(|seen| seen.started.iter().map(|row| row.0.0).collect::<Vec<_>>());
    assert_eq!(order[2..], [3, 9, 4, 5, 6, 7]);
}

#[test]
fn the_cancel_of_a_wide_job_in_line_lets_the_next_one_begin() {
    let (lane, sink) = opened(2, vec![task("wait", wait)]);
    lane.start(vec![work(1, "wait", "")]);
    sink.note(1);
    lane.start(vec![wide(2, "wait", 2), work(3, "wait", "")]);
    assert_eq!(lane.status().queued, 2);
    lane.stop(Lease(2), StopReason::Cancel);
    sink.note(3);
}

#[test]
fn the_code_of_a_wide_job_runs_on_threads_of_its_own_at_the_lanes_nice_value() {
    let nice = || rustix::process::getpriority_process(None).unwrap();
    let own = nice();
    let look = task("look", move |_| {
        let threads = rayon::current_num_threads();
        let names: Vec<String> = rayon::broadcast(|_| {
            assert_eq!(nice(), (own + 10).min(19));
            assert!(in_lane());
            assert_eq!(current_lane().as_deref(), Some("cpu"));
            std::thread::current().name().unwrap_or("none").to_owned()
        });
        let sum: u64 = (0..1_000_u64).into_par_iter().sum();
        Ok(TaskOutput::json(format!(
            "{threads} {sum} {}",
            names.join(" ")
        )))
    });
    let (lane, sink) = opened(3, vec![look]);
    lane.start(vec![wide(1, "look", 2)]);
    let ended = sink.ended(1);
    let text = result(&ended);
    let own = &ended.executor;
    assert_eq!(text, format!("2 499500 {own}.0 {own}.1"));
    // More than the lane has is what the lane has.
    lane.start(vec![wide(2, "look", 99)]);
    assert!(result(&sink.ended(2)).starts_with("3 499500"));
    assert!(!in_lane());
}

#[test]
fn the_processor_time_of_a_wide_job_is_that_of_all_its_threads() {
    const EACH: Duration = Duration::from_millis(40);
    let burn = task("burn", |_| {
        let burned = rayon::broadcast(|_| {
            let from = own_cpu();
            while own_cpu() < from + EACH {
                std::hint::spin_loop();
            }
            own_cpu().saturating_sub(from)
        });
        let all: Duration = burned.iter().sum();
        Ok(TaskOutput::json(format!("{}", all.as_secs_f64())))
    });
    let (lane, sink) = opened(3, vec![burn]);
    lane.start(vec![wide(1, "burn", 3)]);
    let ended = sink.ended(1);
    let burned = Duration::from_secs_f64(result(&ended).parse().unwrap());
    let used = ended.usage.cpu.unwrap();
    // No thread is left out, and none counts twice.
    assert!(used >= EACH * 3 && used < burned + EACH, "{used:?}");
}

#[test]
fn a_limit_of_processor_time_counts_all_threads_of_a_wide_job() {
    let spin = task("spin", |ctx| {
        rayon::broadcast(|_| {
            while !ctx.should_stop() {
                std::hint::spin_loop();
            }
        });
        Err(TaskError::stopped())
    });
    let (lane, sink) = opened(2, vec![spin]);
    let mut work = wide(1, "spin", 2);
    work.limits.cpu = Some(Duration::from_millis(80));
    lane.start(vec![work]);
    failed_as(&sink.ended(1), FailureClass::CpuLimit, "limit is 80ms");
}

#[test]
fn a_panic_anywhere_in_a_wide_job_fails_that_job_alone() {
    let joined = |_: &TaskContext| {
        rayon::join(|| panic!("in one half"), || ());
        Ok(TaskOutput::none())
    };
    let direct = |_: &TaskContext| panic!("in its own code");
    // Without a handler of ours, rayon would abort the program for this one.
    let forgotten = |_: &TaskContext| {
        rayon::spawn(|| panic!("in what it spawned"));
        Ok(TaskOutput::none())
    };
    let (lane, sink) = opened(
        2,
        vec![
            task("joined", joined),
            task("direct", direct),
            task("forgotten", forgotten),
            task("sum", |_| {
                let sum: u32 = (0..10_u32).into_par_iter().sum();
                Ok(TaskOutput::json(sum.to_string()))
            }),
        ],
    );
    let cases = [
        ("joined", "panicked: in one half"),
        ("direct", "panicked: in its own code"),
        ("forgotten", "panicked: in what it spawned"),
    ];
    for (lease, (task, says)) in (1..).zip(cases) {
        lane.start(vec![wide(lease, task, 2)]);
        failed_as(&sink.ended(lease), FailureClass::Error, says);
    }
    lane.start(vec![wide(9, "sum", 2)]);
    assert_eq!(result(&sink.ended(9)), "45");
    assert_eq!(lane.status().executors, 2);
}

#[test]
fn a_wide_job_has_not_ended_while_something_that_it_spawned_runs() {
    let release = Arc::new(AtomicBool::new(false));
    let returned = Arc::new(AtomicBool::new(false));
    let (inside, has_returned) = (release.clone(), returned.clone());
    let spawns = task("spawns", move |_| {
        let inside = inside.clone();
        rayon::spawn(move || {
            while !inside.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        has_returned.store(true, Ordering::Release);
        Ok(TaskOutput::json("1"))
    });
    let (lane, sink) = opened(2, vec![spawns]);
    lane.start(vec![wide(1, "spawns", 2)]);
    eventually("its code returned", || returned.load(Ordering::Acquire));
    assert_eq!(lane.terminate(Duration::from_millis(20)), [Lease(1)]);
    sink.peek(|seen| assert!(seen.ended.is_empty(), "{:?}", seen.ended));
    release.store(true, Ordering::Release);
    assert_eq!(result(&sink.ended(1)), "1");
    assert_eq!(lane.terminate(PATIENCE), []);
}

#[test]
fn a_wide_job_that_does_not_listen_is_replaced_as_wide_as_it_was_and_no_wider() {
    let release = Arc::new(AtomicBool::new(false));
    let inside = release.clone();
    let deaf = task("deaf", move |_| {
        while !inside.load(Ordering::Acquire) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(TaskOutput::json("1"))
    });
    let mut builder = CpuLane::builder("cpu").threads(3).ahead(64);
    for (info, handler) in [deaf, task("wait", wait)] {
        builder = builder.task(info, handler);
    }
    let (lane, sink) = (
        builder.grace(Duration::from_millis(10)).build(),
        TestSink::new(),
    );
    lane.open(sink.clone()).unwrap();
    lane.start(vec![wide(1, "deaf", 2)]);
    sink.started(1);
    lane.stop(Lease(1), StopReason::Cancel);
    eventually("replaced", || lane.status().executors == 4);
    // All three are there again; one more may be stood in for, two are too many.
    lane.start(vec![wide(2, "deaf", 2), work(3, "wait", "")]);
    sink.started(2);
    sink.note(3);
    lane.stop(Lease(2), StopReason::Cancel);
    eventually("stuck", || lane.status().stuck == 2);
    lane.start(vec![work(4, "wait", "")]);
    assert_eq!((lane.status().executors, lane.status().queued), (4, 1));
    release.store(true, Ordering::Release);
    assert_eq!(result(&sink.ended(1)), "1");
    assert_eq!(result(&sink.ended(2)), "1");
    sink.note(4);
    eventually("three threads again", || lane.status().executors == 3);
    assert_eq!(lane.terminate(PATIENCE), []);
}

#[test]
fn nothing_is_lost_or_run_twice_under_widths_deadlines_cancels_and_a_close() {
    for seed in 1..=8_u64 {
        let runs: Arc<Vec<AtomicU32>> = Arc::new((0..1_601).map(|_| AtomicU32::new(0)).collect());
        let ran = runs.clone();
        let mark = task("mark", move |ctx| {
            ran[ctx.work().lease.0 as usize].fetch_add(1, Ordering::SeqCst);
            Ok(TaskOutput::json("1"))
        });
        let (lane, sink) = opened(3, vec![mark]);
        let lane = &lane;
        std::thread::scope(|scope| {
            for submitter in 0..4_u64 {
                scope.spawn(move || submit_at_random(lane, seed, submitter));
            }
            // Some of it comes after the close.
            scope.spawn(|| {
                sink.ended_count(900);
                lane.close();
            });
        });
        sink.ended_count(1_600);
        assert_eq!(lane.terminate(PATIENCE), []);
        sink.peek(|seen| {
            let mut leases: Vec<u64> = seen.ended.iter().map(|end| end.lease.0).collect();
            leases.sort_unstable();
            assert_eq!(leases, (1..=1_600).collect::<Vec<_>>(), "seed {seed}");
            for ended in &seen.ended {
                let never = ended.gone.proof() == offloop_lane::Proof::NeverStarted;
                let count = runs[ended.lease.0 as usize].load(Ordering::SeqCst);
                assert_eq!(count, u32::from(!never), "seed {seed}: {ended:?}");
            }
        });
    }
}

/// 400 jobs of one submitter, alone or in pairs.
fn submit_at_random(lane: &CpuLane, seed: u64, submitter: u64) {
    let mut state = (seed * 4 + submitter + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut dice = move |sides: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    };
    for n in 0..200 {
        let lease = submitter * 400 + n * 2 + 1;
        let jobs = [lease, lease + 1].map(|lease| {
            // Making a pool of threads is the slow part: one in ten is wide.
            let cores = if dice(10) == 0 { 1 + dice(4) } else { 1 };
            let mut work = wide(lease, "mark", cores as u16);
            work.priority = dice(10) as u8;
            let now = std::time::Instant::now();
            let within = [0, 50, 500, 60_000_000][dice(4) as usize];
            work.deadline = (dice(3) == 0).then(|| now + Duration::from_micros(within));
            work
        });
        lane.start(jobs.into());
        if dice(3) == 0 {
            lane.stop(Lease(lease + dice(2)), StopReason::Cancel);
        }
    }
}
