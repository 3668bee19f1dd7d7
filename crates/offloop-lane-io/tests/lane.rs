//! The io lane: the rules of every lane, and its own.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof, TaskError, TaskOutput};
use offloop_lane_io::{IoLane, IoLaneBuilder};
use support::{PATIENCE, Subject, TestSink, eventually, failed_as, info, result, stopped_by, work};

fn builder(slots: u16) -> IoLaneBuilder {
    IoLane::builder("io")
        .slots(slots)
        .grace(Duration::from_millis(20))
        .task(
            info("echo"),
            Arc::new(|ctx| Box::pin(async move { Ok(TaskOutput::json(ctx.payload().clone())) })),
        )
        .task(
            info("fail"),
            Arc::new(|_| Box::pin(async { Err(TaskError::invalid("no good")) })),
        )
        .task(
            info("wait"),
            Arc::new(|ctx| {
                Box::pin(async move {
                    ctx.progress("\"waiting\"")?;
                    std::future::pending().await
                })
            }),
        )
}

fn opened(builder: IoLaneBuilder) -> (IoLane, Arc<TestSink>) {
    let (lane, sink) = (builder.build(), TestSink::new());
    lane.open(sink.clone()).unwrap();
    (lane, sink)
}

lane_conformance!(|slots| {
    let (lane, sink) = opened(builder(slots));
    Subject {
        lane: Box::new(lane),
        sink,
    }
});

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_job_is_not_ended_before_its_future_is_dropped() {
    let dropped = Arc::new(AtomicBool::new(false));
    let inside = dropped.clone();
    let (lane, sink) = opened(builder(1).task(
        info("hold"),
        Arc::new(move |ctx| {
            let flag = Flag(inside.clone());
            Box::pin(async move {
                ctx.progress("1")?;
                std::future::pending::<()>().await;
                drop(flag);
                Ok(TaskOutput::none())
            })
        }),
    ));
    lane.start(vec![work(1, "hold", "null")]);
    sink.note(1);
    lane.stop(Lease(1), StopReason::Cancel);
    let ended = sink.ended(1);
    assert!(dropped.load(Ordering::Acquire));
    stopped_by(&ended, StopReason::Cancel);
    assert_eq!(ended.gone.proof(), Proof::FutureDropped);
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

#[test]
fn a_panic_in_a_future_or_in_its_dropping_takes_nothing_with_it() {
    let (lane, sink) = opened(
        builder(4)
            .task(info("make"), Arc::new(|_| panic!("in making")))
            .task(
                info("poll"),
                Arc::new(|_| Box::pin(async { panic!("in poll") })),
            )
            .task(
                info("drop"),
                Arc::new(|ctx| {
                    let bomb = Bomb;
                    Box::pin(async move {
                        ctx.progress("1")?;
                        std::future::pending::<()>().await;
                        drop(bomb);
                        Ok(TaskOutput::none())
                    })
                }),
            ),
    );
    lane.start(vec![work(1, "make", "0"), work(2, "poll", "0")]);
    failed_as(&sink.ended(1), FailureClass::Error, "in making");
    failed_as(&sink.ended(2), FailureClass::Error, "in poll");
    lane.start(vec![work(3, "drop", "0")]);
    sink.note(3);
    lane.stop(Lease(3), StopReason::Cancel);
    stopped_by(&sink.ended(3), StopReason::Cancel);
    lane.start(vec![work(4, "echo", "4")]);
    assert_eq!(result(&sink.ended(4)), "4");
}

#[test]
fn a_future_that_never_yields_is_shown_as_stuck_and_its_job_is_not_ended() {
    let release = Arc::new(AtomicBool::new(false));
    let inside = release.clone();
    let (lane, sink) = opened(builder(1).task(
        info("block"),
        Arc::new(move |ctx| {
            let release = inside.clone();
            Box::pin(async move {
                ctx.progress("1")?;
                while !release.load(Ordering::Acquire) {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Ok(TaskOutput::json("1"))
            })
        }),
    ));
    lane.start(vec![work(1, "block", "null")]);
    sink.note(1);
    lane.stop(Lease(1), StopReason::Cancel);
    eventually("stuck", || lane.status().stuck == 1);
    assert_eq!(lane.terminate(Duration::from_millis(10)), [Lease(1)]);
    sink.peek(|seen| assert!(seen.ended.is_empty(), "{:?}", seen.ended));
    release.store(true, Ordering::Release);
    assert_eq!(result(&sink.ended(1)), "1");
}

#[test]
fn a_lane_that_is_dropped_still_answers_for_every_job() {
    let (lane, sink) = opened(builder(8));
    lane.start((1..=8).map(|lease| work(lease, "wait", "0")).collect());
    for lease in 1..=8 {
        sink.note(lease);
    }
    drop(lane);
    for lease in 1..=8 {
        stopped_by(&sink.ended(lease), StopReason::Shutdown);
    }
}

#[test]
fn a_thousand_waits_run_at_the_same_time() {
    let (lane, sink) = opened(builder(1_024));
    lane.start((1..=1_024).map(|lease| work(lease, "wait", "0")).collect());
    sink.wait("notes", |seen| (seen.notes.len() == 1_024).then_some(()));
    assert_eq!(lane.status().running, 1_024);
    assert_eq!(lane.terminate(PATIENCE), []);
    sink.peek(|seen| assert_eq!(seen.ended.len(), 1_024));
}

#[test]
fn work_whose_deadline_passed_is_not_begun_and_what_ends_late_is_counted() {
    let (lane, sink) = opened(builder(4));
    let mut passed = work(1, "echo", "1");
    passed.deadline = Some(Instant::now());
    lane.start(vec![passed]);
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::Timeout, "its deadline passed");
    assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    let mut slow = work(2, "wait", "1");
    slow.limits.timeout = Duration::from_millis(60);
    slow.deadline = Some(Instant::now() + Duration::from_millis(20));
    lane.start(vec![slow]);
    failed_as(&sink.ended(2), FailureClass::Timeout, "ran for");
    assert_eq!(lane.status().late, 1);
}

#[test]
fn what_a_task_was_given_and_gave_back_is_on_record() {
    let (lane, sink) = opened(builder(4));
    lane.start(vec![work(1, "echo", "[1, 2]")]);
    let usage = sink.ended(1).usage;
    assert_eq!((usage.bytes_in, usage.bytes_out), (6, 6));
    lane.start(vec![work(2, "wait", "null")]);
    sink.note(2);
    lane.stop(Lease(2), StopReason::Cancel);
    let usage = sink.ended(2).usage;
    assert_eq!((usage.bytes_in, usage.bytes_out), (4, 9), "a note counts");
}
