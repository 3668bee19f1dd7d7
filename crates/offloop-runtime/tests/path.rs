//! The path of a job on a real lane and the memory store: what would hurt if it went wrong.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    Backoff, BackoffKind, EventKind, FailureClass, FinalReason, Job, JobId, JobOptions, JobState,
    NewJob, NodeId, RetryPolicy, TaskName,
};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{
    CancelOutcome, EnqueueError, Runtime, RuntimeBuilder, RuntimeConfig, RuntimeHandle,
    ShutdownPlan,
};
use offloop_store::{ClaimRequest, Engine, InsertBatch, InsertOutcome, JobStore, Want};
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(MemoryOptions {
        id_seed: 1,
        queue_jobs_max: 1_000_000,
    }))
}

fn name(text: &str) -> TaskName {
    TaskName::parse(text).unwrap()
}

fn info(task: &str) -> TaskInfo {
    TaskInfo {
        name: name(task),
        timeout: None,
        about: "".into(),
    }
}

fn job(task: &str) -> NewJob {
    NewJob {
        task: name(task),
        payload: Bytes::from_static(b"{}"),
        options: JobOptions::default(),
        idempotency: None,
    }
}

fn at_once(max_attempts: u16) -> RetryPolicy {
    let backoff = Backoff {
        kind: BackoffKind::Fixed,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(1),
        jitter_percent: 0,
    };
    RetryPolicy {
        max_attempts,
        backoff,
        by_class: Vec::new(),
    }
}

type Run = dyn Fn(&TaskContext) -> Result<TaskOutput, TaskError> + Send + Sync;

fn start(store: &Arc<MemoryStore>, node: &str, run: Arc<Run>) -> Runtime {
    let lane = CpuLane::builder("cpu")
        .threads(2)
        .task(info("t"), run)
        .build();
    let config = RuntimeConfig {
        tick: Duration::from_millis(50),
        ..RuntimeConfig::default()
    };
    let engine: Arc<dyn Engine> = Arc::clone(store) as _;
    RuntimeBuilder::new(engine, NodeId(node.into()))
        .lane(Arc::new(lane))
        .config(config)
        .start()
        .unwrap()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

fn enqueue(handle: &RuntimeHandle, job: NewJob) -> JobId {
    match wait(handle.enqueue(vec![job])).unwrap().remove(0) {
        InsertOutcome::Created { id, .. } => id,
        other => panic!("not created: {other:?}"),
    }
}

fn end_of(handle: &RuntimeHandle, id: JobId) -> Job {
    let job = wait(handle.wait_final(id, SOON)).unwrap().unwrap();
    assert!(job.summary.state.is_final(), "{job:?}");
    job
}

fn shutdown(runtime: Runtime) -> offloop_runtime::ShutdownReport {
    let (_keep, force) = tokio::sync::oneshot::channel();
    wait(runtime.shutdown(ShutdownPlan::default(), force))
}

#[test]
fn every_job_of_a_burst_is_run_once() {
    let runs = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&runs);
    let runtime = start(
        &store(),
        "a",
        Arc::new(move |context| {
            seen.lock().unwrap().push(context.work().job);
            Ok(TaskOutput::json("1"))
        }),
    );
    let mut events = runtime.handle().events(None);
    let mut ids = Vec::new();
    for _ in 0..20 {
        let outcomes = wait(runtime.handle().enqueue(vec![job("t"); 500])).unwrap();
        ids.extend(outcomes.into_iter().map(|outcome| match outcome {
            InsertOutcome::Created { id, .. } => id,
            other => panic!("{other:?}"),
        }));
    }
    let mut completed = 0;
    wait(async {
        while completed < ids.len() {
            let batch = tokio::time::timeout(SOON, events.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            completed += batch
                .iter()
                .filter_map(|event| event.job())
                .filter(|e| e.kind == EventKind::Completed)
                .count();
        }
    });
    let mut runs = runs.lock().unwrap().clone();
    runs.sort_unstable();
    ids.sort_unstable();
    assert_eq!(runs, ids);
    let job = end_of(runtime.handle(), ids[7]);
    assert_eq!(
        (job.summary.state, job.result.as_deref()),
        (JobState::Completed, Some(&b"1"[..]))
    );
    assert!(shutdown(runtime).is_clean());
}

#[test]
fn a_failure_is_retried_until_its_attempts_are_used_and_each_is_on_record() {
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let runtime = start(
        &store(),
        "a",
        Arc::new(move |context| {
            count.fetch_add(1, Ordering::Relaxed);
            context.log(&format!("attempt {}", context.work().attempt));
            Err(TaskError::error("no luck"))
        }),
    );
    let mut job = job("t");
    job.options.retry = at_once(3);
    let id = enqueue(runtime.handle(), job);
    let end = end_of(runtime.handle(), id);
    assert_eq!(end.summary.state, JobState::Failed);
    assert_eq!(end.summary.reason, Some(FinalReason::Exhausted));
    assert_eq!(end.attempts.len(), 3);
    assert_eq!(runs.load(Ordering::Relaxed), 3);
    let numbers: Vec<_> = end.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(&end.attempts[2].log.head[..], b"attempt 3\n");
    shutdown(runtime);
}

#[test]
fn an_invalid_payload_is_not_retried() {
    let runtime = start(
        &store(),
        "a",
        Arc::new(|_| Err(TaskError::invalid("not a picture"))),
    );
    let id = enqueue(runtime.handle(), job("t"));
    let end = end_of(runtime.handle(), id);
    assert_eq!(end.summary.reason, Some(FinalReason::NotRetryable));
    assert_eq!(end.summary.failure.unwrap().class, FailureClass::Invalid);
    shutdown(runtime);
}

#[test]
fn a_job_nobody_could_run_is_refused_at_the_door() {
    let runtime = start(&store(), "a", Arc::new(|_| Ok(TaskOutput::none())));
    let error = wait(runtime.handle().enqueue(vec![job("u")])).unwrap_err();
    assert!(matches!(error, EnqueueError::UnknownTask { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "task: `u` is not declared here; declared are `t`"
    );
    shutdown(runtime);
}

/// A task that says that it runs, and then waits for its token.
fn waits_for_its_token() -> (Arc<Run>, mpsc::Receiver<JobId>) {
    let (started, starts) = mpsc::channel();
    let run = move |context: &TaskContext| {
        let _ = started.send(context.work().job);
        while !context.should_stop() {
            std::thread::yield_now();
        }
        Err(TaskError::stopped())
    };
    (Arc::new(run), starts)
}

#[test]
fn a_cancelled_job_is_final_only_after_its_executor_has_ended() {
    let (run, starts) = waits_for_its_token();
    let runtime = start(&store(), "a", run);
    let id = enqueue(runtime.handle(), job("t"));
    assert_eq!(starts.recv_timeout(SOON).unwrap(), id);
    assert_eq!(
        wait(runtime.handle().cancel(id)).unwrap(),
        CancelOutcome::Stopping
    );
    let end = end_of(runtime.handle(), id);
    assert_eq!(end.summary.state, JobState::Cancelled);
    assert_eq!(
        wait(runtime.handle().cancel(id)).unwrap(),
        CancelOutcome::AlreadyFinal(JobState::Cancelled)
    );
    assert_eq!(runtime.handle().lanes()[0].status.running, 0);
    shutdown(runtime);
}

#[test]
fn a_cancelled_job_that_waits_is_never_run() {
    let (run, starts) = waits_for_its_token();
    let runtime = start(&store(), "a", run);
    let mut later = job("t");
    later.options.run_at = Some(runtime.handle().now().plus(Duration::from_secs(3600)));
    let id = enqueue(runtime.handle(), later);
    assert_eq!(
        wait(runtime.handle().cancel(id)).unwrap(),
        CancelOutcome::Cancelled
    );
    assert_eq!(
        end_of(runtime.handle(), id).summary.state,
        JobState::Cancelled
    );
    shutdown(runtime);
    assert!(starts.try_recv().is_err());
}

#[test]
fn a_shutdown_hands_back_what_runs_without_spending_its_attempt() {
    let (run, starts) = waits_for_its_token();
    let store = store();
    let runtime = start(&store, "a", run);
    let mut events = runtime.handle().events(None);
    let ids: Vec<_> = (0..5)
        .map(|_| enqueue(runtime.handle(), job("t")))
        .collect();
    starts.recv_timeout(SOON).unwrap();
    starts.recv_timeout(SOON).unwrap();
    let plan = ShutdownPlan {
        drain: Duration::from_millis(20),
        stop: Duration::from_secs(10),
    };
    let (_keep, force) = tokio::sync::oneshot::channel();
    let report = wait(runtime.shutdown(plan, force));
    assert!(report.is_clean() && report.handed_back >= 2, "{report:?}");

    let mut handed_back = 0;
    while let Some(Ok(batch)) = wait(async {
        tokio::time::timeout(Duration::from_millis(1), events.next())
            .await
            .unwrap_or(None)
    }) {
        for event in batch.iter().filter_map(|event| event.job()) {
            assert!(ids.contains(&event.job));
            match event.kind {
                EventKind::HandedBack => handed_back += 1,
                EventKind::Enqueued | EventKind::Started => {}
                other => panic!("{other:?}: an attempt was spent"),
            }
        }
    }
    assert_eq!(handed_back, report.handed_back);
}

#[test]
fn a_second_signal_cuts_the_drain_short_and_is_told() {
    let (run, starts) = waits_for_its_token();
    let runtime = start(&store(), "a", run);
    enqueue(runtime.handle(), job("t"));
    starts.recv_timeout(SOON).unwrap();
    let plan = ShutdownPlan {
        drain: Duration::from_secs(3600),
        stop: Duration::from_secs(3600),
    };
    let (force, forced) = tokio::sync::oneshot::channel();
    force.send(()).unwrap();
    let report = wait(runtime.shutdown(plan, forced));
    assert!(
        report.forced && !report.is_clean() && report.handed_back == 1,
        "{report:?}"
    );
}

/// Leaves a job as a killed server would: claimed by a node that is no more.
fn claim_as_dead_node(store: &MemoryStore, now: offloop_job::Timestamp) {
    let want = Want {
        tasks: Arc::new([name("t")]),
        limit: 10,
    };
    let ask = ClaimRequest {
        now,
        node: NodeId("dead".into()),
        wants: vec![want],
    };
    assert_eq!(wait(store.claim(ask)).unwrap().jobs.len(), 1);
}

#[test]
fn a_job_of_a_dead_node_is_run_again_and_three_deaths_quarantine_it() {
    let now = offloop_job::Timestamp::from_millis(1_000);
    for (deaths, want) in [(1, JobState::Completed), (3, JobState::Failed)] {
        let store = store();
        let mut lost = job("t");
        lost.options.retry = at_once(9);
        wait(store.insert(InsertBatch {
            now,
            jobs: vec![lost],
            records: vec![],
            request: None,
        }))
        .unwrap();
        let mut id = None;
        for death in 0..deaths {
            let later = now.plus(Duration::from_secs(death));
            wait(store.promote(later)).unwrap();
            claim_as_dead_node(&store, later);
            if death + 1 == deaths {
                break;
            }
            // What the next start does with it.
            let orphan = wait(store.orphans(NodeId("next".into()), 10))
                .unwrap()
                .remove(0);
            id = Some(orphan.id);
            let failure = offloop_job::Failure::new(FailureClass::Lost, "gone");
            let report = offloop_store::AttemptReport {
                node: orphan.node.clone(),
                lane: "cpu".into(),
                executor: "".into(),
                started_at: later,
                ended_at: later,
                wait: Duration::ZERO,
                usage: offloop_job::Usage::default(),
                failure: Some(failure),
                log: offloop_job::LogTail::default(),
            };
            let verdict = offloop_store::Verdict::Retry { due: later };
            let end = offloop_store::Settlement {
                id: orphan.id,
                lease: orphan.lease,
                verdict,
                report,
                records: vec![],
                follow: vec![],
            };
            wait(store.settle(later, vec![end])).unwrap();
        }
        let runtime = start(&store, "alive", Arc::new(|_| Ok(TaskOutput::none())));
        let page = wait(runtime.handle().jobs(offloop_store::ListRequest {
            now,
            filter: offloop_store::JobFilter::default(),
            limit: 10,
            cursor: None,
        }));
        let id = id.unwrap_or(page.unwrap().jobs[0].id);
        let end = end_of(runtime.handle(), id);
        assert_eq!(end.summary.state, want, "{deaths} deaths");
        if deaths == 3 {
            assert_eq!(end.summary.reason, Some(FinalReason::Poison));
        }
        shutdown(runtime);
    }
}

#[test]
fn a_job_past_its_expiry_is_ended_and_never_run() {
    let (run, starts) = waits_for_its_token();
    let runtime = start(&store(), "a", run);
    wait(
        runtime
            .handle()
            .set_paused(offloop_job::QueueName::default(), true),
    )
    .unwrap();
    let mut late = job("t");
    late.options.expires_at = Some(runtime.handle().now().plus(Duration::from_millis(30)));
    let id = enqueue(runtime.handle(), late);
    assert_eq!(
        end_of(runtime.handle(), id).summary.state,
        JobState::Expired
    );
    shutdown(runtime);
    assert!(starts.try_recv().is_err());
}

#[test]
fn a_wait_for_a_job_that_is_over_answers_at_once() {
    let runtime = start(&store(), "a", Arc::new(|_| Ok(TaskOutput::none())));
    let id = enqueue(runtime.handle(), job("t"));
    end_of(runtime.handle(), id);
    let job = wait(runtime.handle().wait_final(id, Duration::ZERO))
        .unwrap()
        .unwrap();
    assert_eq!(job.summary.state, JobState::Completed);
    shutdown(runtime);
}

#[test]
fn what_a_task_keeps_to_itself_is_shown_nowhere() {
    let store = store();
    let run = |context: &TaskContext| {
        context.log("the secret is s3cret");
        match &context.payload()[..] {
            b"\"s3cret fails\"" => Err(TaskError::invalid("no s3cret")),
            _ => Ok(TaskOutput::json("\"s3cret\"")),
        }
    };
    let lane = CpuLane::builder("cpu")
        .threads(1)
        .task(info("t"), Arc::new(run));
    let redact = offloop_runtime::Redact {
        payload: true,
        result: true,
        log: true,
    };
    let limits = offloop_runtime::TaskDefaults {
        redact,
        ..offloop_runtime::TaskDefaults::default()
    };
    let engine: Arc<dyn Engine> = Arc::clone(&store) as _;
    let runtime = RuntimeBuilder::new(engine, NodeId("n".into()))
        .lane(Arc::new(lane.build()))
        .defaults(name("t"), limits)
        .start()
        .unwrap();
    let handle = runtime.handle();
    let waiter = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for payload in ["\"s3cret\"", "\"s3cret fails\""] {
        let mut one = job("t");
        one.payload = payload.into();
        let outcomes = waiter.block_on(handle.enqueue(vec![one])).unwrap();
        let InsertOutcome::Created { id, .. } = outcomes[0] else {
            panic!("{outcomes:?}");
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let ended = runtime
            .block_on(handle.wait_final(id, SOON))
            .unwrap()
            .unwrap();
        assert!(ended.summary.state.is_final());
        assert_eq!(ended.attempts[0].log.written_bytes(), 21);
        let shown = format!("{ended:?}");
        assert!(
            shown.contains("[redacted]") && !shown.contains("s3cret"),
            "{shown}"
        );
    }
    let page = waiter.block_on(handle.jobs(offloop_store::ListRequest {
        filter: offloop_store::JobFilter::default(),
        limit: 10,
        cursor: None,
        now: handle.now(),
    }));
    assert!(!format!("{:?}", page.unwrap()).contains("s3cret"));
}
