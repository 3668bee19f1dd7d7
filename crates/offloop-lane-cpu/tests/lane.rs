//! The CPU lane: the rules of every lane, and its own.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::time::Duration;

use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof, TaskError, TaskOutput};
use offloop_lane_cpu::{CpuLane, CpuLaneBuilder};
use support::{
    PATIENCE, Subject, TestSink, eventually, failed_as, failure, info, result, stopped_by, work,
};

fn builder(threads: u16, ahead: u16) -> CpuLaneBuilder {
    CpuLane::builder("cpu")
        .threads(threads)
        .ahead(ahead)
        .task(
            info("echo"),
            Arc::new(|ctx| Ok(TaskOutput::json(ctx.payload().clone()))),
        )
        .task(
            info("fail"),
            Arc::new(|_| Err(TaskError::invalid("no good"))),
        )
        .task(
            info("wait"),
            Arc::new(|ctx| {
                ctx.progress("\"waiting\"")?;
                while !ctx.should_stop() {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Err(TaskError::stopped())
            }),
        )
}

fn opened(builder: CpuLaneBuilder) -> (CpuLane, Arc<TestSink>) {
    let (lane, sink) = (builder.build(), TestSink::new());
    lane.open(sink.clone()).unwrap();
    (lane, sink)
}

lane_conformance!(|slots| {
    let (lane, sink) = opened(builder(slots, 0));
    Subject {
        lane: Box::new(lane),
        sink,
    }
});

#[test]
fn a_late_job_of_high_priority_is_not_held_up_by_the_line() {
    let (lane, sink) = opened(builder(1, 16));
    lane.start(vec![work(1, "wait", "null")]);
    sink.note(1);
    let with = |lease, priority| {
        let mut work = work(lease, "echo", "0");
        work.priority = priority;
        work
    };
    lane.start(vec![with(2, 9), with(3, 5), with(4, 5), with(5, 0)]);
    lane.start(vec![with(6, 5), with(7, 200)]);
    assert_eq!(lane.status().queued, 6);
    lane.stop(Lease(1), StopReason::Cancel);
    sink.ended_count(7);
    let order = sink.peek(|seen| seen.ended.iter().map(|e| e.lease.0).collect::<Vec<_>>());
    assert_eq!(order, [1, 5, 3, 4, 6, 2, 7]);
}

#[test]
fn a_job_that_is_cancelled_in_line_never_starts() {
    let (lane, sink) = opened(builder(1, 4));
    lane.start(vec![work(1, "wait", "null"), work(2, "echo", "2")]);
    sink.note(1);
    lane.stop(Lease(2), StopReason::Cancel);
    let ended = sink.ended(2);
    stopped_by(&ended, StopReason::Cancel);
    assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    assert_eq!(lane.status().queued, 0);
    lane.stop(Lease(1), StopReason::Cancel);
    stopped_by(&sink.ended(1), StopReason::Cancel);
    sink.peek(|seen| assert_eq!(seen.started.len(), 1));
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

#[test]
fn a_panic_in_a_task_or_in_a_destructor_takes_neither_the_thread_nor_the_next_job() {
    let (lane, sink) = opened(
        builder(1, 8)
            .task(info("panic"), Arc::new(|_| panic!("on purpose")))
            .task(
                info("drop"),
                Arc::new(|_| {
                    let _bomb = Bomb;
                    Ok(TaskOutput::none())
                }),
            )
            .task(info("value"), Arc::new(|_| std::panic::panic_any(Bomb))),
    );
    let tasks = [
        ("panic", "on purpose"),
        ("drop", "in drop"),
        ("value", "panicked"),
    ];
    for (lease, (task, says)) in (1..).zip(tasks) {
        lane.start(vec![work(lease, task, "null")]);
        failed_as(&sink.ended(lease), FailureClass::Error, says);
    }
    lane.start(vec![work(9, "echo", "9")]);
    assert_eq!(result(&sink.ended(9)), "9");
    sink.peek(|seen| assert!(seen.started.iter().all(|row| &*row.1 == "offloop-cpu-0")));
    assert_eq!(lane.status().executors, 1);
}

#[test]
fn a_task_nobody_runs_fails_by_name_and_harms_nothing() {
    let (lane, sink) = opened(builder(1, 1));
    lane.start(vec![work(1, "other", "null")]);
    failed_as(
        &sink.ended(1),
        FailureClass::Error,
        "does not run task `other`",
    );
}

#[test]
fn an_answer_that_came_first_is_kept_when_a_stop_was_asked() {
    let gate = Arc::new(Barrier::new(2));
    let inside = gate.clone();
    let (lane, sink) = opened(builder(1, 0).task(
        info("late"),
        Arc::new(move |ctx| {
            ctx.progress("1")?;
            inside.wait();
            assert!(ctx.should_stop());
            Ok(TaskOutput::json("\"done\""))
        }),
    ));
    lane.start(vec![work(1, "late", "null")]);
    sink.note(1);
    lane.stop(Lease(1), StopReason::Cancel);
    gate.wait();
    assert_eq!(result(&sink.ended(1)), "\"done\"");
}

#[test]
fn a_thread_that_ignores_its_token_is_replaced_and_its_job_ends_only_when_it_returns() {
    let release = Arc::new(AtomicBool::new(false));
    let inside = release.clone();
    let (lane, sink) = opened(builder(1, 4).grace(Duration::from_millis(30)).task(
        info("deaf"),
        Arc::new(move |ctx| {
            ctx.progress("1")?;
            while !inside.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err(TaskError::error("at last"))
        }),
    ));
    let mut deaf = work(1, "deaf", "null");
    deaf.limits.timeout = Duration::from_millis(30);
    lane.start(vec![deaf]);
    sink.note(1);
    lane.start(vec![work(2, "echo", "2")]);
    // The replacement runs the next job while the first still burns its thread.
    assert_eq!(result(&sink.ended(2)), "2");
    let status = lane.status();
    assert_eq!((status.stuck, status.running, status.executors), (1, 1, 2));
    sink.peek(|seen| assert!(seen.ended.is_empty(), "{:?}", seen.ended));

    // The bound: a second deaf job is stuck too, and no third thread comes.
    lane.start(vec![work(3, "deaf", "null"), work(4, "echo", "4")]);
    sink.note(3);
    lane.stop(Lease(3), StopReason::Cancel);
    eventually("two stuck", || lane.status().stuck == 2);
    assert_eq!(lane.status().executors, 2);
    assert_eq!(lane.status().queued, 1);
    assert_eq!(
        lane.terminate(Duration::from_millis(20)),
        [Lease(1), Lease(3)]
    );
    stopped_by(&sink.ended(4), StopReason::Shutdown);

    release.store(true, Ordering::Release);
    let first = sink.ended(1);
    failed_as(&first, FailureClass::Timeout, "limit is 30ms");
    assert_eq!(first.gone.proof(), Proof::ThreadReturned);
    stopped_by(&sink.ended(3), StopReason::Cancel);
    assert_eq!(lane.terminate(PATIENCE), []);
    assert_eq!(lane.status().executors, 0);
}

#[test]
fn a_replaced_thread_that_comes_back_leaves_so_the_pool_does_not_grow() {
    let release = Arc::new(AtomicBool::new(false));
    let inside = release.clone();
    let (lane, sink) = opened(builder(2, 4).grace(Duration::from_millis(5)).task(
        info("deaf"),
        Arc::new(move |_| {
            while !inside.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Ok(TaskOutput::none())
        }),
    ));
    for round in 0..3 {
        release.store(false, Ordering::Release);
        let lease = round * 10 + 1;
        lane.start(vec![work(lease, "deaf", "null")]);
        sink.started(lease);
        lane.stop(Lease(lease), StopReason::Cancel);
        eventually("replaced", || lane.status().executors == 3);
        release.store(true, Ordering::Release);
        assert_eq!(result(&sink.ended(lease)), "");
        eventually("left", || lane.status().executors == 2);
        assert_eq!(lane.status().stuck, 0);
    }
    lane.start((100..105).map(|lease| work(lease, "echo", "1")).collect());
    sink.ended_count(5);
}

#[test]
fn a_spinning_task_ends_at_its_processor_time_and_a_sleeping_one_does_not() {
    let (lane, sink) = opened(builder(2, 0).task(
        info("spin"),
        Arc::new(|ctx| {
            while !ctx.should_stop() {
                std::hint::spin_loop();
            }
            Err(TaskError::stopped())
        }),
    ));
    let limited = |lease, task| {
        let mut work = work(lease, task, "null");
        work.limits.cpu = Some(Duration::from_millis(60));
        work
    };
    lane.start(vec![limited(1, "wait"), limited(2, "spin")]);
    let spun = sink.ended(2);
    failed_as(&spun, FailureClass::CpuLimit, "limit is 60ms");
    let used = spun.usage.cpu.unwrap();
    assert!(used >= Duration::from_millis(55), "{used:?}");
    assert_eq!(lane.status().running, 1);
    lane.stop(Lease(1), StopReason::Cancel);
    let slept = sink.ended(1);
    let used = slept.usage.cpu.unwrap();
    assert!(used < Duration::from_millis(60), "{used:?} {slept:?}");
    stopped_by(&slept, StopReason::Cancel);
    assert!(failure(&slept).message.contains("stopped"));
}

#[test]
fn progress_holds_the_stall_limit_off() {
    let (lane, sink) = opened(builder(1, 0).task(
        info("chatty"),
        Arc::new(|ctx| {
            for _ in 0..20 {
                std::thread::park_timeout(Duration::from_millis(10));
                ctx.progress("1")?;
            }
            Ok(TaskOutput::json("1"))
        }),
    ));
    let mut chatty = work(1, "chatty", "null");
    chatty.limits.stall = Some(Duration::from_millis(150));
    lane.start(vec![chatty]);
    assert_eq!(result(&sink.ended(1)), "1");
}

#[test]
fn no_job_is_lost_or_run_twice_under_many_submitters_and_cancels() {
    let (lane, sink) = opened(builder(3, 4_096));
    let lane = &lane;
    std::thread::scope(|scope| {
        for submitter in 0..4_u64 {
            scope.spawn(move || {
                for n in 0..250 {
                    let lease = submitter * 1_000 + n * 2 + 1;
                    lane.start(vec![work(lease, "echo", "1"), work(lease + 1, "echo", "1")]);
                    if n % 3 == 0 {
                        lane.stop(Lease(lease + 1), StopReason::Cancel);
                    }
                }
            });
        }
    });
    sink.ended_count(2_000);
    assert_eq!(lane.terminate(PATIENCE), []);
    let mut leases: Vec<u64> = sink.peek(|s| s.ended.iter().map(|e| e.lease.0).collect());
    leases.sort_unstable();
    leases.dedup();
    assert_eq!(leases.len(), 2_000);
    sink.peek(|seen| assert_eq!(seen.ended.len(), 2_000));
}

#[test]
fn lane_threads_yield_to_the_doors() {
    let (lane, sink) = opened(builder(1, 0).task(
        info("nice"),
        Arc::new(|_| {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let after = stat.rsplit(')').next().unwrap();
            let nice = after.split_whitespace().nth(16).unwrap().to_owned();
            Ok(TaskOutput::json(nice))
        }),
    ));
    let own = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let own = own.rsplit(')').next().unwrap().to_owned();
    let own: i32 = own.split_whitespace().nth(16).unwrap().parse().unwrap();
    lane.start(vec![work(1, "nice", "null")]);
    assert_eq!(result(&sink.ended(1)), (own + 10).min(19).to_string());
}

#[test]
fn a_second_open_is_refused() {
    let (lane, sink) = opened(builder(1, 0));
    let error = lane.open(sink).unwrap_err();
    assert!(error.to_string().contains("open already"), "{error}");
}

/// Bytes whose destructor panics.
struct BombOf(Vec<u8>);

impl AsRef<[u8]> for BombOf {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for BombOf {
    fn drop(&mut self) {
        panic!("in the destructor of bytes");
    }
}

#[test]
fn a_panic_in_the_destructor_of_a_payload_or_a_result_takes_nothing_with_it() {
    let bomb = |len: usize| bytes::Bytes::from_owner(BombOf(vec![b'1'; len]));
    let (lane, sink) = opened(builder(1, 8).task(
        info("large"),
        Arc::new(move |_| {
            Ok(TaskOutput::json(bomb(
                offloop_job::limits::RESULT_BYTES_MAX + 1,
            )))
        }),
    ));
    let loaded = |lease, task| {
        let mut work = work(lease, task, "");
        work.payload = bomb(3);
        work
    };
    // A payload dropped after its job, in line, over the room, at its deadline, after the close.
    lane.start(vec![loaded(1, "fail")]);
    failed_as(&sink.ended(1), FailureClass::Invalid, "no good");
    // A result that is refused is dropped by the lane.
    lane.start(vec![work(2, "large", "")]);
    failed_as(&sink.ended(2), FailureClass::Error, "panicked");
    lane.start(vec![work(3, "wait", "")]);
    sink.note(3);
    let mut late = loaded(4, "echo");
    late.deadline = Some(std::time::Instant::now());
    lane.start(vec![late, loaded(5, "fail"), loaded(6, "fail")]);
    failed_as(&sink.ended(4), FailureClass::Timeout, "deadline passed");
    lane.stop(Lease(5), StopReason::Cancel);
    stopped_by(&sink.ended(5), StopReason::Cancel);
    let over = (10..20).map(|lease| loaded(lease, "fail")).collect();
    lane.start(over);
    stopped_by(&sink.ended(19), StopReason::Shutdown);
    assert_eq!(lane.status().executors, 1);
    lane.close();
    stopped_by(&sink.ended(6), StopReason::Shutdown);
    lane.start(vec![loaded(7, "fail")]);
    stopped_by(&sink.ended(7), StopReason::Shutdown);
    lane.stop(Lease(3), StopReason::Cancel);
    stopped_by(&sink.ended(3), StopReason::Cancel);
    assert_eq!(lane.terminate(PATIENCE), []);
}

#[test]
fn a_panic_in_the_destructor_of_what_a_handler_captured_does_not_reach_the_owner_of_the_lane() {
    let bomb = Bomb;
    let lane = builder(1, 1).task(
        info("captures"),
        Arc::new(move |_| {
            let _held = &bomb;
            Ok(TaskOutput::none())
        }),
    );
    drop(lane.build()); // never opened: no thread of the lane holds it, so this drop is the last
}

#[test]
fn a_sink_that_panics_costs_its_news_and_not_a_thread() {
    #[derive(Debug)]
    struct Broken(Arc<TestSink>);
    impl offloop_lane::LaneSink for Broken {
        fn send(&self, event: offloop_lane::LaneEvent) {
            let starts = matches!(event, offloop_lane::LaneEvent::Started { .. });
            assert!(!starts, "a broken sink");
            self.0.send(event);
        }
    }
    let (lane, sink) = (builder(1, 1).build(), TestSink::new());
    lane.open(Arc::new(Broken(sink.clone()))).unwrap();
    for lease in 1..4 {
        lane.start(vec![work(lease, "echo", "1")]);
        assert_eq!(result(&sink.ended(lease)), "1");
    }
    assert_eq!(lane.status().executors, 1);
}

#[test]
fn a_job_that_would_wait_for_its_own_lane_can_tell_before_it_does() {
    assert!(!offloop_lane_cpu::in_lane());
    let own: Arc<OnceLock<Arc<CpuLane>>> = Arc::default();
    let (inside, other) = (own.clone(), builder(1, 0).build());
    let (lane, sink) = opened(builder(1, 4).task(
        info("nested"),
        Arc::new(move |_| {
            let lane = inside.get().unwrap();
            assert!(lane.is_inside() && !other.is_inside() && offloop_lane_cpu::in_lane());
            assert_eq!(offloop_lane_cpu::current_lane().as_deref(), Some("cpu"));
            // To hand work in is no wait: it runs after this job, on the only thread there is.
            lane.start(vec![work(2, "echo", "2")]);
            if offloop_lane_cpu::in_lane() {
                return Err(TaskError::error(
                    "a job cannot wait for a job of its own lane",
                ));
            }
            Ok(TaskOutput::none())
        }),
    ));
    let lane = Arc::new(lane);
    own.set(lane.clone()).unwrap();
    lane.start(vec![work(1, "nested", "")]);
    failed_as(&sink.ended(1), FailureClass::Error, "cannot wait");
    assert_eq!(result(&sink.ended(2)), "2");
    assert!(!lane.is_inside());
}

#[test]
fn a_lane_that_one_of_its_own_jobs_terminates_does_not_wait_for_itself() {
    let own: Arc<OnceLock<Arc<CpuLane>>> = Arc::default();
    let inside = own.clone();
    let (lane, sink) = opened(builder(1, 4).task(
        info("ends"),
        Arc::new(move |ctx| {
            let left = inside.get().unwrap().terminate(PATIENCE);
            assert_eq!(left, [ctx.work().lease]);
            assert!(ctx.should_stop());
            Ok(TaskOutput::json("1"))
        }),
    ));
    let lane = Arc::new(lane);
    own.set(lane.clone()).unwrap();
    lane.start(vec![work(1, "ends", ""), work(2, "echo", "2")]);
    assert_eq!(result(&sink.ended(1)), "1");
    stopped_by(&sink.ended(2), StopReason::Shutdown);
    assert_eq!(lane.terminate(PATIENCE), []);
    assert_eq!(lane.status().executors, 0);
}

#[test]
fn a_closure_that_never_returns_does_not_hold_the_shutdown_up() {
    let release = Arc::new(AtomicBool::new(false));
    let inside = release.clone();
    let (lane, sink) = opened(builder(2, 4).task(
        info("deaf"),
        Arc::new(move |_| {
            while !inside.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Ok(TaskOutput::none())
        }),
    ));
    lane.start(vec![
        work(1, "deaf", ""),
        work(2, "wait", ""),
        work(3, "echo", ""),
    ]);
    sink.started(1);
    sink.note(2);
    let begin = std::time::Instant::now();
    assert_eq!(lane.terminate(Duration::from_millis(50)), [Lease(1)]);
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(50) && took < PATIENCE,
        "{took:?}"
    );
    stopped_by(&sink.ended(2), StopReason::Shutdown);
    stopped_by(&sink.ended(3), StopReason::Shutdown);
    // Submitted after the end: handed back, and still exactly one answer for what runs.
    lane.start(vec![work(4, "echo", "")]);
    stopped_by(&sink.ended(4), StopReason::Shutdown);
    release.store(true, Ordering::Release);
    assert_eq!(result(&sink.ended(1)), "");
    assert_eq!(lane.terminate(PATIENCE), []);
}

#[test]
fn usage_counts_what_came_in_what_went_out_and_the_age_of_the_thread() {
    let (lane, sink) = opened(builder(1, 4).task(
        info("talk"),
        Arc::new(|ctx| {
            ctx.progress("12345")?;
            ctx.progress("67")?;
            ctx.log("abc"); // and a line's end
            Ok(TaskOutput::json("1234567890"))
        }),
    ));
    lane.start(vec![work(1, "talk", "[1,2,3]")]);
    let first = sink.ended(1).usage;
    assert_eq!((first.bytes_in, first.bytes_out), (7, 10 + 7 + 4));
    lane.start(vec![work(2, "echo", "\"x\"")]);
    let second = sink.ended(2).usage;
    assert_eq!((second.bytes_in, second.bytes_out), (3, 3));
    assert!(
        second.executor_age > first.executor_age,
        "{first:?} {second:?}"
    );
    assert_eq!(second.max_rss_bytes, None); // a thread has no memory of its own
    lane.start(vec![work(3, "wait", ""), work(4, "echo", "123")]);
    lane.stop(Lease(4), StopReason::Cancel);
    assert_eq!(sink.ended(4).usage, offloop_job::Usage::default());
}

#[test]
fn what_a_job_leaves_behind_is_not_charged_to_the_next_one() {
    /// Slow to drop: that is the first job's doing.
    struct Slow;
    const LONG: Duration = Duration::from_millis(60);
    impl AsRef<[u8]> for Slow {
        fn as_ref(&self) -> &[u8] {
            b"1"
        }
    }
    impl Drop for Slow {
        fn drop(&mut self) {
            let end = std::time::Instant::now() + LONG;
            while std::time::Instant::now() < end {
                std::hint::spin_loop();
            }
        }
    }
    let gate = Arc::new(Barrier::new(2));
    let inside = gate.clone();
    let (lane, sink) = opened(
        builder(1, 4)
            .task(
                info("gate"),
                Arc::new(move |_| {
                    inside.wait();
                    Ok(TaskOutput::none())
                }),
            )
            .task(
                info("doze"),
                Arc::new(|_| {
                    std::thread::park_timeout(LONG / 2);
                    Ok(TaskOutput::none())
                }),
            ),
    );
    let mut first = work(1, "gate", "");
    first.payload = bytes::Bytes::from_owner(Slow);
    lane.start(vec![first, work(2, "doze", "")]); // the second waits in line when the first ends
    gate.wait();
    sink.ended(1);
    let usage = sink.ended(2).usage;
    assert!(usage.cpu.unwrap() < LONG / 4, "{usage:?}");
}
