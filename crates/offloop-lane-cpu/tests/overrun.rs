//! A task that does not listen is seen: in the log, in the lane's status and in its trouble.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offloop_job::{Lease, StopReason};
use offloop_lane::{Lane, TaskOutput};
use offloop_lane_cpu::CpuLane;
use support::{PATIENCE, TestSink, eventually, info, result, work};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_job_that_does_not_listen_is_named_with_its_age_and_the_bound_holds() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let release = Arc::new(AtomicBool::new(false));
    let inside = release.clone();
    let lane = CpuLane::builder("cpu")
        .threads(2)
        .ahead(16)
        .grace(Duration::from_millis(20))
        .task(
            info("deaf"),
            Arc::new(move |_| {
                while !inside.load(Ordering::Acquire) {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Ok(TaskOutput::json("1"))
            }),
        )
        .build();
    let sink = TestSink::new();
    lane.open(sink.clone()).unwrap();
    assert_eq!(lane.trouble(), None);

    // Five deaf jobs on two threads: two are replaced, and then the bound holds.
    lane.start((1..=5).map(|lease| work(lease, "deaf", "null")).collect());
    for lease in 1..=4 {
        sink.started(lease);
        lane.stop(Lease(lease), StopReason::Cancel);
        let stuck = lease as u32;
        eventually("stuck", || lane.status().stuck == stuck);
    }
    let status = lane.status();
    assert_eq!((status.executors, status.running, status.queued), (4, 4, 1));
    let trouble = lane.trouble().unwrap();
    for says in [
        "task `deaf` (lease 1) has run for",
        "and 1 more",
        "2 of at most 2",
        "process lane",
    ] {
        assert!(trouble.contains(says), "{says:?} not in {trouble:?}");
    }
    let text = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for lease in 1..=4 {
        let line = format!("task `deaf` (lease {lease}) has run for ");
        eventually("a line in the log", || text().matches(&line).count() == 1);
    }
    assert_eq!(
        text().matches("and was asked to stop").count(),
        4,
        "{}",
        text()
    );

    release.store(true, Ordering::Release);
    for lease in 1..=5 {
        assert_eq!(result(&sink.ended(lease)), "1");
    }
    eventually("two threads again", || lane.status().executors == 2);
    assert_eq!(lane.trouble(), None);
    assert_eq!(lane.status().stuck, 0);
    assert_eq!(lane.terminate(PATIENCE), []);
}
