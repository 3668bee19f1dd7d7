//! The wall clock steps while jobs run: what is timed must not notice.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    FailureClass, JobOptions, JobState, NewJob, NodeId, RetryPolicy, TaskName, Timestamp,
};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::RuntimeBuilder;
use offloop_runtime::clock::Clock;
use offloop_store::InsertOutcome;
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);
const START_MS: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 24 * 3_600_000;

/// A clock that somebody sets.
#[derive(Debug)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Acquire))
    }
}

#[test]
fn a_clock_that_steps_ends_no_job_early_and_holds_no_limit_back() {
    let (started, starts) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let code = move |context: &TaskContext| {
        started.send(context.work().attempt).unwrap();
        if context.payload() == "\"patient\"" {
            released.lock().unwrap().recv_timeout(SOON).unwrap();
            return Ok(TaskOutput::none());
        }
        while !context.should_stop() {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Err(TaskError::stopped())
    };
    let task = TaskName::parse("t").unwrap();
    let info = TaskInfo {
        name: task.clone(),
        timeout: None,
        about: "".into(),
    };
    let lane = CpuLane::builder("cpu")
        .threads(2)
        .task(info, Arc::new(code));
    let store = MemoryStore::new(MemoryOptions {
        id_seed: 1,
        queue_jobs_max: 10,
    });
    let clock = Arc::new(SetClock(AtomicU64::new(START_MS)));
    let runtime = RuntimeBuilder::new(Arc::new(store), NodeId("a".into()))
        .lane(Arc::new(lane.build()))
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .start()
        .unwrap();
    let handle = runtime.handle();
    let wait = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let enqueue = |payload: &'static str, timeout| {
        let job = NewJob {
            task: task.clone(),
            payload: Bytes::from_static(payload.as_bytes()),
            options: JobOptions {
                timeout: Some(timeout),
                retry: RetryPolicy {
                    max_attempts: 1,
                    ..RetryPolicy::default()
                },
                ..JobOptions::default()
            },
            idempotency: None,
        };
        let outcome = wait.block_on(handle.enqueue(vec![job])).unwrap().remove(0);
        let InsertOutcome::Created { id, .. } = outcome else {
            panic!("{outcome:?}");
        };
        starts.recv_timeout(SOON).unwrap();
        id
    };
    let patient = enqueue("\"patient\"", SOON);
    for step_to in [START_MS + DAY_MS, START_MS - 3_650 * DAY_MS, START_MS + 1] {
        clock.0.store(step_to, Ordering::Release);
        let deaf = enqueue("\"until told\"", Duration::from_millis(30));
        clock.0.store(step_to - DAY_MS / 24, Ordering::Release);
        let job = wait
            .block_on(handle.wait_final(deaf, SOON))
            .unwrap()
            .unwrap();
        let failure = job.summary.failure.expect("its limit was not held");
        assert_eq!(failure.class, FailureClass::Timeout);
        let wall = job.attempts[0].usage.wall;
        assert!(wall >= Duration::from_millis(30) && wall < SOON, "{wall:?}");
    }
    release.send(()).unwrap();
    let job = wait
        .block_on(handle.wait_final(patient, SOON))
        .unwrap()
        .unwrap();
    assert_eq!(job.summary.state, JobState::Completed, "{job:?}");
    assert_eq!(job.summary.attempt, 1, "nobody took it for lost");
    assert!(job.attempts[0].usage.wall < SOON);
}
