//! Every end is asked about, whichever way it came.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    EndStates, JobId, JobOptions, JobState, NewJob, NodeId, OnConflict, OptionProblem, TaskName,
    Unique, UniqueKey, UniqueScope, Webhook,
};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{EndHook, EndedJob, Runtime, RuntimeBuilder, RuntimeConfig};
use offloop_store::{EndIdle, Engine, IdleEnd, InsertOutcome};
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);

/// A job of task `told` follows each end of another one, so much later.
#[derive(Debug)]
struct Tells(Option<Duration>);

impl EndHook for Tells {
    fn problem(&self, _: &NewJob) -> Option<OptionProblem> {
        None
    }

    fn follow(&self, end: &EndedJob<'_>) -> Vec<NewJob> {
        if end.task.as_str() == "told" {
            return Vec::new();
        }
        let mut job = new("told", format!("\"{} {}\"", end.id, end.state));
        job.options.run_at = self.0.map(|later| end.at.plus(later));
        vec![job]
    }
}

fn new(task: &str, payload: String) -> NewJob {
    NewJob {
        task: TaskName::parse(task).unwrap(),
        payload: Bytes::from(payload),
        options: JobOptions::default(),
        idempotency: None,
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

struct World {
    store: Arc<MemoryStore>,
    runtime: Runtime,
    told: mpsc::Receiver<String>,
    started: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

/// `told` says what it was told; `snoozes` asks for another time once it is released.
fn world() -> World {
    world_of(Tells(None))
}

fn world_of(hook: Tells) -> World {
    let (tell, told) = mpsc::channel();
    let (start, started) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let info = |name: &str| TaskInfo {
        name: TaskName::parse(name).unwrap(),
        timeout: None,
        about: "".into(),
    };
    let says = move |context: &TaskContext| {
        let text = String::from_utf8_lossy(context.payload()).into_owned();
        tell.send(text.trim_matches('"').to_owned()).unwrap();
        Ok(TaskOutput::none())
    };
    let snoozes = move |_: &TaskContext| {
        start.send(()).unwrap();
        let released = released.lock().unwrap().recv_timeout(SOON);
        released.map_err(|_| TaskError::error("nobody came"))?;
        Err(TaskError::snooze(Duration::from_secs(3600)))
    };
    let lane = CpuLane::builder("cpu")
        .threads(2)
        .task(info("told"), Arc::new(says))
        .task(info("snoozes"), Arc::new(snoozes))
        .build();
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let config = RuntimeConfig {
        tick: Duration::from_millis(20),
        ..RuntimeConfig::default()
    };
    let engine: Arc<dyn Engine> = Arc::clone(&store) as _;
    let runtime = RuntimeBuilder::new(engine, NodeId("a".into()))
        .lane(Arc::new(lane))
        .end_hook(Arc::new(hook))
        .config(config)
        .start()
        .unwrap();
    World {
        store,
        runtime,
        told,
        started,
        release,
    }
}

impl World {
    fn add(&self, job: NewJob) -> JobId {
        match wait(self.runtime.handle().enqueue(vec![job])).unwrap()[0] {
            InsertOutcome::Created { id, .. } => id,
            ref other => panic!("not created: {other:?}"),
        }
    }

    fn told(&self) -> String {
        self.told.recv_timeout(SOON).expect("somebody was asked")
    }
}

#[test]
fn the_end_of_a_job_that_another_one_replaces_is_not_passed_over_in_silence() {
    let world = world();
    let asked = || {
        let mut job = new("snoozes", "null".into());
        job.options.run_at = Some(world.runtime.handle().now().plus(Duration::from_secs(3600)));
        job.options.unique = Some(Unique {
            key: UniqueKey::parse("k").unwrap(),
            scope: UniqueScope::UntilFinished,
            on_conflict: OnConflict::Replace,
        });
        job
    };
    let first = world.add(asked());
    let second = world.add(asked());
    assert_eq!(world.told(), format!("{first} cancelled"));
    let third = world.add(asked());
    assert_eq!(world.told(), format!("{second} cancelled"));
    wait(world.runtime.handle().cancel(third)).unwrap();
    assert_eq!(world.told(), format!("{third} cancelled"));
}

#[test]
fn whoever_waits_for_a_job_hears_of_a_cancel_that_meets_its_snooze() {
    let world = world();
    let id = world.add(new("snoozes", "null".into()));
    world.started.recv_timeout(SOON).unwrap();
    // As another node's cancel: on record, and its notice not here yet.
    let end = EndIdle {
        id,
        why: IdleEnd::Cancel,
        records: vec![],
        follow: vec![],
    };
    let now = world.runtime.handle().now();
    wait(offloop_store::JobStore::end_idle(
        &*world.store,
        now,
        vec![end],
    ))
    .unwrap();
    world.release.send(()).unwrap();
    let job = wait(world.runtime.handle().wait_final(id, SOON))
        .unwrap()
        .unwrap();
    assert_eq!(job.summary.state, JobState::Cancelled);
    assert_eq!(world.told(), format!("{id} cancelled"));
}

/// Nothing else would have the keeper look for scheduled jobs.
#[test]
fn what_follows_an_end_later_is_run_at_its_time_whoever_ended_the_job() {
    let world = world_of(Tells(Some(Duration::from_millis(40))));
    let mut job = new("snoozes", "null".into());
    job.options.retry.max_attempts = 1;
    let failed = world.add(job.clone());
    world.started.recv_timeout(SOON).unwrap();
    drop(world.release); // it fails
    let told = world.told.recv_timeout(SOON);
    assert_eq!(told, Ok(format!("{failed} failed")));
}

#[test]
fn what_follows_a_cancel_later_is_run_at_its_time() {
    let world = world_of(Tells(Some(Duration::from_millis(40))));
    let mut job = new("snoozes", "null".into());
    job.options.run_at = Some(world.runtime.handle().now().plus(Duration::from_secs(3600)));
    let id = world.add(job);
    wait(world.runtime.handle().cancel(id)).unwrap();
    assert_eq!(world.told(), format!("{id} cancelled"));
}

/// One that only makes jobs of its own brings nobody a webhook: it would be taken and never sent.
#[test]
fn a_webhook_is_refused_although_somebody_else_is_asked_at_each_end() {
    let world = world();
    let mut job = new("told", "null".into());
    job.options.webhook = Some(Box::new(Webhook {
        url: "https://example.org/".into(),
        on: EndStates::ALL,
        secret: None,
    }));
    let refused = wait(world.runtime.handle().enqueue(vec![job])).unwrap_err();
    assert!(refused.to_string().contains("webhook"), "{refused}");
}
