//! Jobs that ask for cores or memory share what the node has; nothing is lost over it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use offloop_job::{JobId, JobOptions, JobState, NewJob, NodeId, TaskName};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{EnqueueError, Runtime, RuntimeBuilder, RuntimeConfig, ShutdownPlan};
use offloop_store::InsertOutcome;
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);
const GIB: u64 = 1 << 30;

#[derive(Default)]
struct Gate {
    go: AtomicBool,
    inside: AtomicU32,
    most: AtomicU32,
}

fn name(text: &str) -> TaskName {
    TaskName::parse(text).unwrap()
}

fn job(task: &str, memory: u64) -> NewJob {
    NewJob {
        task: name(task),
        payload: "{}".into(),
        options: JobOptions {
            memory_limit_bytes: (memory > 0).then_some(memory),
            ..JobOptions::default()
        },
        idempotency: None,
    }
}

/// Four threads; `held` runs until it is let go; 4 GiB and 4 cores for those who ask.
fn start(gate: &Arc<Gate>) -> Runtime {
    let info = |task: &str| TaskInfo {
        name: name(task),
        timeout: None,
        about: "".into(),
    };
    let gate = Arc::clone(gate);
    let held = move |context: &TaskContext| {
        let inside = gate.inside.fetch_add(1, Ordering::AcqRel) + 1;
        gate.most.fetch_max(inside, Ordering::AcqRel);
        while !gate.go.load(Ordering::Acquire) && !context.should_stop() {
            std::thread::yield_now();
        }
        gate.inside.fetch_sub(1, Ordering::AcqRel);
        Ok::<_, TaskError>(TaskOutput::none())
    };
    let lane = CpuLane::builder("cpu")
        .threads(4)
        .task(info("held"), Arc::new(held))
        .build();
    let other = CpuLane::builder("other")
        .threads(1)
        .task(info("brief"), Arc::new(|_| Ok(TaskOutput::none())))
        .build();
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    RuntimeBuilder::new(store, NodeId("n".into()))
        .lane(Arc::new(lane))
        .lane(Arc::new(other))
        .config(RuntimeConfig {
            admission_cores: Some(4),
            admission_memory_bytes: Some(4 * GIB),
            ..RuntimeConfig::default()
        })
        .start()
        .unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let look = async {
        while !check().await {
            tokio::task::yield_now().await;
        }
    };
    let soon = tokio::time::timeout(SOON, look).await;
    soon.unwrap_or_else(|_| panic!("never happened: {what}"));
}

async fn added(runtime: &Runtime, jobs: Vec<NewJob>) -> Vec<JobId> {
    let outcomes = runtime.handle().enqueue(jobs).await.unwrap().into_iter();
    let ids = outcomes.map(|outcome| match outcome {
        InsertOutcome::Created { id, .. } => id,
        other => panic!("{other:?}"),
    });
    ids.collect()
}

async fn add(runtime: &Runtime, job: NewJob) -> JobId {
    added(runtime, vec![job]).await[0]
}

async fn is(runtime: &Runtime, id: JobId, state: JobState) -> bool {
    let job = runtime.handle().job(id).await.unwrap().unwrap();
    job.summary.state == state
}

#[test]
fn memory_that_jobs_ask_for_is_never_given_twice() {
    run(async {
        let gate = Arc::new(Gate::default());
        let runtime = start(&gate);
        let mut jobs = Vec::new();
        for _ in 0..3 {
            jobs.push(add(&runtime, job("held", 2 * GIB)).await);
        }
        until("two run", async || gate.inside.load(Ordering::Acquire) == 2).await;
        let brief = add(&runtime, job("brief", 0)).await;
        until("another lane is not held up", async || {
            is(&runtime, brief, JobState::Completed).await
        })
        .await;
        gate.go.store(true, Ordering::Release);
        for id in jobs {
            until("all end", async || {
                is(&runtime, id, JobState::Completed).await
            })
            .await;
        }
        assert_eq!(gate.most.load(Ordering::Acquire), 2);
    });
}

#[test]
fn a_held_job_is_cancelled_and_handed_back_as_any_other() {
    run(async {
        let gate = Arc::new(Gate::default());
        let runtime = start(&gate);
        let first = add(&runtime, job("held", 3 * GIB)).await;
        until("it runs", async || gate.inside.load(Ordering::Acquire) == 1).await;
        let both = vec![job("held", 3 * GIB), job("held", 3 * GIB)];
        let ids = added(&runtime, both).await; // in one commit, so in one claim
        let (cancelled, waiting) = (ids[0], ids[1]);
        until("both are claimed", async || {
            is(&runtime, waiting, JobState::Running).await
                && is(&runtime, cancelled, JobState::Running).await
        })
        .await;
        runtime.handle().cancel(cancelled).await.unwrap();
        until("it is cancelled", async || {
            is(&runtime, cancelled, JobState::Cancelled).await
        })
        .await;
        assert!(is(&runtime, first, JobState::Running).await);
        let handle = runtime.handle().clone();
        let (_force, forced) = tokio::sync::oneshot::channel();
        let plan = ShutdownPlan {
            drain: Duration::from_millis(100),
            stop: Duration::from_secs(5),
        };
        let report = runtime.shutdown(plan, forced).await;
        assert!(report.settled, "{report:?}");
        assert_eq!(
            report.handed_back, 1,
            "the first ended by itself: {report:?}"
        );
        assert_eq!(gate.most.load(Ordering::Acquire), 1);
        drop(handle);
    });
}

#[test]
fn what_can_never_fit_is_refused_by_its_name() {
    run(async {
        let runtime = start(&Arc::new(Gate::default()));
        let mut wide = job("held", 0);
        wide.options.cores = 5;
        for (job, field) in [
            (wide, "cores"),
            (job("held", 4 * GIB + 1), "memory_limit_bytes"),
        ] {
            let refused = runtime.handle().enqueue(vec![job]).await;
            let Err(EnqueueError::Options(problems)) = refused else {
                panic!("{refused:?}")
            };
            assert_eq!(problems[0].field, field);
        }
    });
}
