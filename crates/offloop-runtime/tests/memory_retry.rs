//! `on_memory_limit`: a job that needs more memory than usual gets it once, and only once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    Backoff, BackoffKind, FailureClass, FinalReason, Job, JobOptions, JobState, NewJob, NodeId,
    RetryPolicy, TaskName,
};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{RuntimeBuilder, TaskDefaults};
use offloop_store::InsertOutcome;
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);
const USUAL: u64 = 100 << 20;
const LARGER: u64 = 1 << 30;

/// Runs one job that needs `needs` bytes; answers it and the limits that its attempts had.
fn run(needs: u64, error_first: bool, own_limit: Option<u64>) -> (Job, Vec<u64>) {
    let limits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&limits);
    let task = TaskName::parse("t").unwrap();
    let code = move |context: &TaskContext| {
        let limit = context.work().limits.memory_bytes.unwrap();
        let mut seen = seen.lock().unwrap();
        seen.push(limit);
        if error_first && seen.len() == 2 {
            return Err(TaskError::error("something else"));
        }
        if needs <= limit {
            return Ok(TaskOutput::none());
        }
        Err(TaskError::new(FailureClass::MemoryLimit, "held too much"))
    };
    let info = TaskInfo {
        name: task.clone(),
        timeout: None,
        about: "".into(),
    };
    let lane = CpuLane::builder("cpu")
        .threads(1)
        .task(info, Arc::new(code));
    let store = MemoryStore::new(MemoryOptions {
        id_seed: 1,
        queue_jobs_max: 10,
    });
    let defaults = TaskDefaults {
        memory_limit_bytes: Some(USUAL),
        memory_retry_bytes: Some(LARGER),
        ..TaskDefaults::default()
    };
    let runtime = RuntimeBuilder::new(Arc::new(store), NodeId("a".into()))
        .lane(Arc::new(lane.build()))
        .defaults(task.clone(), defaults)
        .start()
        .unwrap();
    let backoff = Backoff {
        kind: BackoffKind::Fixed,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(1),
        jitter_percent: 0,
    };
    let options = JobOptions {
        memory_limit_bytes: own_limit,
        retry: RetryPolicy {
            max_attempts: 9,
            backoff,
            by_class: Vec::new(),
        },
        ..JobOptions::default()
    };
    let job = NewJob {
        task,
        payload: Bytes::from_static(b"{}"),
        options,
        idempotency: None,
    };
    let wait = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let handle = runtime.handle();
    let outcome = wait.block_on(handle.enqueue(vec![job])).unwrap().remove(0);
    let InsertOutcome::Created { id, .. } = outcome else {
        panic!("{outcome:?}");
    };
    let job = wait.block_on(handle.wait_final(id, SOON)).unwrap().unwrap();
    let limits = limits.lock().unwrap().clone();
    (job, limits)
}

#[test]
fn a_job_that_fits_the_larger_memory_completes_there_also_after_another_error() {
    for (error_first, want) in [
        (false, vec![USUAL, LARGER]),
        (true, vec![USUAL, LARGER, LARGER]),
    ] {
        let (job, limits) = run(LARGER, error_first, None);
        assert_eq!(job.summary.state, JobState::Completed, "{job:?}");
        assert_eq!(limits, want);
    }
}

#[test]
fn a_job_over_the_larger_memory_too_is_final_and_not_tried_nine_times() {
    let (job, limits) = run(LARGER + 1, false, None);
    assert_eq!(job.summary.state, JobState::Failed);
    assert_eq!(job.summary.reason, Some(FinalReason::NotRetryable));
    let class = job.summary.failure.unwrap().class;
    assert_eq!(class, FailureClass::MemoryLimit);
    assert_eq!(limits, [USUAL, LARGER]);
}

#[test]
fn the_larger_memory_never_shrinks_what_the_job_asked_for_itself() {
    let (_, limits) = run(u64::MAX, false, Some(2 * LARGER));
    assert_eq!(limits, [2 * LARGER, 2 * LARGER]);
}
