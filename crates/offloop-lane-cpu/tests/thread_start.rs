//! A system that starts no more threads. One test in a program of its own: it takes the address
//! space away from the whole process.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, TaskOutput};
use offloop_lane_cpu::CpuLane;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{PATIENCE, TestSink, eventually, failed_as, info, result, work};

/// Less than the stack of a thread (2 MiB), enough for what a test allocates.
const ROOM: u64 = 1 << 20;

/// Bounds the address space to what is used now and a little: `clone` needs a stack and gets none.
fn no_more_threads() -> Rlimit {
    let before = getrlimit(Resource::As);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().next().unwrap().parse().unwrap();
    let used = pages * rustix::param::page_size() as u64;
    let current = Some(used + ROOM);
    setrlimit(Resource::As, Rlimit { current, ..before }).unwrap();
    before
}

/// Threads of lanes that have begun. Each takes memory of its own just before it takes its name: one that is
/// found without room then ends the process.
fn begun() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.map(|thread| std::fs::read_to_string(thread.path().join("comm")));
    names
        .filter(|name| {
            name.as_ref()
                .is_ok_and(|name| name.starts_with("offloop-cpu"))
        })
        .count()
}

#[test]
fn a_thread_that_cannot_start_is_loud_and_the_lane_goes_on_without_it() {
    let release = Arc::new(AtomicBool::new(false));
    let inside = release.clone();
    let build = |threads| {
        let inside = inside.clone();
        CpuLane::builder("cpu")
            .threads(threads)
            .ahead(16)
            .grace(Duration::from_millis(10))
            .task(
                info("deaf"),
                Arc::new(move |_| {
                    while !inside.load(Ordering::Acquire) {
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                    Ok(TaskOutput::none())
                }),
            )
            .task(
                info("echo"),
                Arc::new(|ctx| Ok(TaskOutput::json(ctx.payload().clone()))),
            )
            .build()
    };
    let (lane, sink) = (build(2), TestSink::new());
    lane.open(sink.clone()).unwrap();
    let (second, heard) = (build(2), TestSink::new());
    second.open(heard.clone()).unwrap();
    lane.start(vec![work(1, "deaf", "null")]);
    sink.started(1);

    eventually("threads that have begun", || begun() == 6); // two and a watch, twice

    // A replacement that cannot start: said, and what is left of the lane works.
    let before = no_more_threads();
    lane.stop(Lease(1), StopReason::Cancel);
    let refusal = "the system refuses to start another thread: ";
    eventually("trouble", || {
        lane.trouble().is_some_and(|text| text.contains(refusal))
    });
    let trouble = lane.trouble().unwrap();
    assert!(trouble.contains("0 of at most 2"), "{trouble}");
    assert!(trouble.contains("task `deaf` (lease 1)"), "{trouble}");
    lane.start(vec![work(2, "echo", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
    assert_eq!(lane.status().executors, 2);

    // A wide job that gets no threads of its own: its failure alone.
    let mut wide = work(1, "echo", "1");
    wide.cores = 2;
    second.start(vec![wide, work(2, "echo", "2")]);
    let says = "refuses to start the 2 threads of a wide job";
    failed_as(&heard.ended(1), FailureClass::Error, says);
    assert_eq!(result(&heard.ended(2)), "2");

    // A lane that cannot start at all: an error with the number and the cause.
    let error = build(64).open(TestSink::new()).unwrap_err().to_string();
    for says in ["lane `cpu` cannot start", "64 threads", "os error 11"] {
        assert!(error.contains(says), "{says:?} not in {error:?}");
    }

    // The watch tries again once a second.
    setrlimit(Resource::As, before).unwrap();
    eventually("replaced", || {
        let trouble = lane.trouble().unwrap();
        !trouble.contains(refusal) && trouble.contains("1 of at most 2")
    });
    assert_eq!(lane.status().executors, 3);
    release.store(true, Ordering::Release);
    sink.ended(1);
    assert_eq!(lane.trouble(), None);
    assert_eq!(lane.terminate(PATIENCE), []);
}
