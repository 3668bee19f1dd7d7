//! Deadlines: refused when they come, dropped when their turn comes too late, counted when they end
//! too late.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof, TaskError, TaskOutput, Work};
use offloop_lane_cpu::CpuLane;
use support::{TestSink, eventually, failed_as, failure, info, result, work};

const SLOW: Duration = Duration::from_millis(300);

struct Bench {
    lane: CpuLane,
    sink: Arc<TestSink>,
    /// Makes `slow` quick.
    quick: Arc<AtomicBool>,
}

fn until(at: Instant) {
    while let Some(left) = at.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left.max(Duration::from_micros(1)));
    }
}

fn one_thread() -> Bench {
    let quick = Arc::new(AtomicBool::new(false));
    let now_quick = quick.clone();
    let lane = CpuLane::builder("cpu")
        .threads(1)
        .ahead(64)
        .task(
            info("wait"),
            Arc::new(|ctx| {
                ctx.progress("1")?;
                while !ctx.should_stop() {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Err(TaskError::stopped())
            }),
        )
        .task(
            info("slow"),
            Arc::new(move |_| {
                if !now_quick.load(Ordering::Acquire) {
                    until(Instant::now() + SLOW);
                }
                Ok(TaskOutput::json("1"))
            }),
        )
        .task(
            info("overstay"),
            Arc::new(|ctx| {
                until(ctx.work().deadline.unwrap() + Duration::from_millis(1));
                Ok(TaskOutput::json("1"))
            }),
        )
        .build();
    let sink = TestSink::new();
    lane.open(sink.clone()).unwrap();
    Bench { lane, sink, quick }
}

fn due(lease: u64, task: &str, deadline: Instant) -> Work {
    let mut work = work(lease, task, "null");
    work.deadline = Some(deadline);
    work
}

#[test]
fn work_whose_deadline_has_passed_is_refused_at_once_though_every_thread_is_busy() {
    let Bench { lane, sink, .. } = one_thread();
    lane.start(vec![work(1, "wait", "null")]);
    sink.note(1);
    lane.start(vec![due(2, "slow", Instant::now())]);
    // Nothing ran in between: the answer is there when `start` returns.
    assert_eq!(sink.peek(|seen| seen.ended.len()), 1);
    let ended = sink.ended(2);
    failed_as(
        &ended,
        FailureClass::Timeout,
        "its deadline passed: it waited",
    );
    failed_as(
        &ended,
        FailureClass::Timeout,
        "remaining 0.0ns; it was not started",
    );
    assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    assert_eq!(lane.status().queued, 0);
}

#[test]
fn work_whose_deadline_passes_in_line_is_not_begun() {
    let Bench { lane, sink, .. } = one_thread();
    lane.start(vec![work(1, "wait", "null")]);
    sink.note(1);
    assert_eq!(lane.status().head_age, None);
    let wait = Duration::from_millis(30);
    lane.start(vec![
        due(2, "slow", Instant::now() + wait),
        work(3, "slow", "null"),
    ]);
    // A lane whose threads are all blocked shows it: the head's age, not a wait at dequeue.
    eventually("a head that ages", || {
        lane.status().head_age.is_some_and(|age| age > wait)
    });
    lane.stop(Lease(1), StopReason::Cancel);
    let ended = sink.ended(2);
    failed_as(&ended, FailureClass::Timeout, "its deadline passed");
    assert!(ended.queued >= wait, "{ended:?}");
    assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    assert_eq!(result(&sink.ended(3)), "1"); // and what stood behind it is not held up
    assert_eq!(sink.peek(|seen| seen.started.len()), 2);
    assert_eq!(lane.status().late, 0);
}

#[test]
fn work_that_cannot_be_done_by_its_deadline_is_not_begun() {
    let Bench { lane, sink, .. } = one_thread();
    // Nothing is known of the task: it is let through.
    lane.start(vec![due(
        1,
        "slow",
        Instant::now() + Duration::from_mins(1),
    )]);
    assert_eq!(result(&sink.ended(1)), "1");
    lane.start(vec![due(2, "slow", Instant::now() + SLOW / 2)]);
    let ended = sink.ended(2);
    assert!(!failure(&ended).message.contains("not known"), "{ended:?}");
    failed_as(&ended, FailureClass::Timeout, "it was not started");
    assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    lane.start(vec![due(3, "slow", Instant::now() + SLOW * 100)]);
    assert_eq!(result(&sink.ended(3)), "1");
    assert_eq!(sink.peek(|seen| seen.started.len()), 2);
}

#[test]
fn an_estimate_that_is_too_high_does_not_refuse_a_task_for_ever() {
    let Bench { lane, sink, quick } = one_thread();
    lane.start(vec![work(1, "slow", "null")]);
    assert_eq!(result(&sink.ended(1)), "1");
    quick.store(true, Ordering::Release);
    let mut refused = 0;
    for lease in 2..500 {
        lane.start(vec![due(lease, "slow", Instant::now() + SLOW / 6)]);
        let ended = sink.ended(lease);
        if ended.gone.proof() != Proof::NeverStarted {
            assert!(refused > 0, "the estimate was not used at all");
            // The next one is judged by the run that was let through.
            assert_eq!(result(&ended), "1");
            return;
        }
        failed_as(&ended, FailureClass::Timeout, "it was not started");
        refused += 1;
    }
    panic!("refused {refused} times although it is quick by now");
}

#[test]
fn work_that_ends_after_its_deadline_is_counted_as_done_for_nobody() {
    let Bench { lane, sink, .. } = one_thread();
    lane.start(vec![due(
        1,
        "overstay",
        Instant::now() + Duration::from_secs(1),
    )]);
    assert_eq!(result(&sink.ended(1)), "1"); // the answer is kept: whoever asked decides
    assert_eq!(lane.status().late, 1);
    lane.start(vec![
        due(2, "slow", Instant::now() + Duration::from_mins(1)),
        work(3, "slow", ""),
    ]);
    sink.ended_count(2);
    assert_eq!(lane.status().late, 1);
}

#[test]
fn a_cancel_of_work_that_is_refused_is_too_late() {
    let Bench { lane, sink, .. } = one_thread();
    lane.start(vec![due(1, "slow", Instant::now())]);
    lane.stop(Lease(1), StopReason::Cancel);
    assert_eq!(failure(&sink.ended(1)).class, FailureClass::Timeout);
    assert_eq!(sink.peek(|seen| seen.ended.len()), 0);
}
