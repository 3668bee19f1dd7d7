//! Jobs that are not worth taking in are refused at the door, with the estimate, and nothing else is.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use offloop_job::{JobOptions, NewJob, NodeId, TaskName};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{Pressure, Runtime, RuntimeBuilder, TaskDefaults};
use offloop_store::{InsertOutcome, InsertRefusal, NotAdmittedWhy};
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);

fn name(text: &str) -> TaskName {
    TaskName::parse(text).unwrap()
}

fn job(task: &str) -> NewJob {
    NewJob {
        task: name(task),
        payload: "{}".into(),
        options: JobOptions::default(),
        idempotency: None,
    }
}

/// One thread, and a task `held` that runs until it is let go; `brief` runs 20 ms.
fn start(go: &Arc<AtomicBool>, limits: TaskDefaults) -> Runtime {
    let info = |task: &str| TaskInfo {
        name: name(task),
        timeout: None,
        about: "".into(),
    };
    let go = Arc::clone(go);
    let held = move |context: &TaskContext| {
        while !go.load(Ordering::Acquire) && !context.should_stop() {
            std::thread::yield_now();
        }
        Ok::<_, TaskError>(TaskOutput::none())
    };
    let brief = |_: &TaskContext| {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        Ok(TaskOutput::none())
    };
    let lane = CpuLane::builder("cpu")
        .threads(1)
        .task(info("held"), Arc::new(held))
        .task(info("brief"), Arc::new(brief))
        .build();
    let store = Arc::new(MemoryStore::new(MemoryOptions {
        id_seed: 1,
        queue_jobs_max: 100_000,
    }));
    RuntimeBuilder::new(store, NodeId("n".into()))
        .lane(Arc::new(lane))
        .defaults(name("held"), limits)
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

fn refused(outcome: &InsertOutcome) -> Option<NotAdmittedWhy> {
    match outcome {
        InsertOutcome::Refused(InsertRefusal::NotAdmitted(refused)) => Some(refused.why.clone()),
        _ => None,
    }
}

#[test]
fn a_task_never_has_more_jobs_in_line_than_its_limit_however_many_ask_at_once() {
    let go = Arc::new(AtomicBool::new(false));
    let limits = TaskDefaults {
        max_queued: Some(10),
        ..TaskDefaults::default()
    };
    let runtime = start(&go, limits);
    run(async {
        let handle = runtime.handle();
        handle.enqueue(vec![job("held")]).await.unwrap();
        until("it runs", async || {
            handle.queues().await.unwrap()[0].counts.running == 1
        })
        .await;
        let asks: Vec<_> = (0..8)
            .map(|_| {
                let handle = handle.clone();
                tokio::spawn(async move {
                    let mut taken = 0;
                    for _ in 0..5 {
                        let outcomes = handle.enqueue(vec![job("held")]).await.unwrap();
                        taken += usize::from(refused(&outcomes[0]).is_none());
                    }
                    taken
                })
            })
            .collect();
        let mut taken = 0;
        for ask in asks {
            taken += ask.await.unwrap();
        }
        assert_eq!(taken, 10);
        assert_eq!(handle.job_pressure(&name("held")).await, Pressure::Full);
        // Others are not touched, and keep their places in a batch.
        let batch = vec![job("brief"), job("held"), job("brief")];
        let outcomes = handle.enqueue(batch).await.unwrap();
        let seen: Vec<_> = outcomes.iter().map(|one| refused(one).is_some()).collect();
        assert_eq!(seen, [false, true, false]);
        go.store(true, Ordering::Release);
        until("there is room again", async || {
            refused(&handle.enqueue(vec![job("held")]).await.unwrap()[0]).is_none()
        })
        .await;
    });
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_with_the_estimate_and_others_are_taken() {
    let go = Arc::new(AtomicBool::new(true));
    let runtime = start(&go, TaskDefaults::default());
    run(async {
        let handle = runtime.handle();
        let brief = name("brief");
        assert_eq!(handle.estimated_wait(&brief).await, Some(Duration::ZERO));
        handle.enqueue(vec![job("brief")]).await.unwrap();
        until("one ran", async || {
            let counts = handle.queues().await.unwrap();
            counts
                .iter()
                .all(|queue| queue.counts.running + queue.counts.ready == 0)
        })
        .await;
        // Nothing is known of `held`: while it runs nothing is known of what comes after it.
        go.store(false, Ordering::Release);
        handle.enqueue(vec![job("held")]).await.unwrap();
        until("the estimate has seen that it runs", async || {
            handle.estimated_wait(&brief).await.is_none()
        })
        .await;
        let by = |ms| {
            let mut job = job("brief");
            job.options.deadline = Some(handle.now().plus(Duration::from_millis(ms)));
            vec![job]
        };
        let outcome = handle.enqueue(by(30)).await.unwrap();
        assert!(
            refused(&outcome[0]).is_none(),
            "an estimate that rests on nothing"
        );
        go.store(true, Ordering::Release);
        until("it ended", async || {
            let counts = handle.queues().await.unwrap();
            counts
                .iter()
                .all(|queue| queue.counts.running + queue.counts.ready == 0)
        })
        .await;
        handle.enqueue(vec![job("brief"); 100]).await.unwrap();
        let mut wait = Duration::ZERO;
        until("it is seen that they wait", async || {
            wait = handle.estimated_wait(&brief).await.unwrap_or_default();
            wait > Duration::from_millis(500)
        })
        .await;
        let outcome = handle.enqueue(by(100)).await.unwrap();
        let Some(NotAdmittedWhy::Deadline { typical, .. }) = refused(&outcome[0]) else {
            panic!("{outcome:?}");
        };
        assert!(typical >= Duration::from_millis(15), "{typical:?}");
        let outcome = handle.enqueue(by(600_000)).await.unwrap();
        assert!(refused(&outcome[0]).is_none(), "{outcome:?}");
    });
}

#[test]
fn a_limit_in_time_follows_what_the_jobs_take() {
    let go = Arc::new(AtomicBool::new(true));
    let limits = TaskDefaults {
        max_wait: Some(Duration::from_millis(200)),
        ..TaskDefaults::default()
    };
    let runtime = start(&go, limits);
    run(async {
        let handle = runtime.handle();
        handle
            .enqueue(vec![job("held"), job("brief")])
            .await
            .unwrap();
        until("both ran", async || {
            let counts = handle.queues().await.unwrap();
            counts
                .iter()
                .all(|queue| queue.counts.running + queue.counts.ready == 0)
        })
        .await;
        handle.enqueue(vec![job("brief"); 20]).await.unwrap();
        let outcome = handle.enqueue(vec![job("held")]).await.unwrap();
        assert!(
            matches!(refused(&outcome[0]), Some(NotAdmittedWhy::Wait { .. })),
            "{outcome:?}"
        );
        until("they are through", async || {
            refused(&handle.enqueue(vec![job("held")]).await.unwrap()[0]).is_none()
        })
        .await;
    });
}
