//! Jobs that take long: they keep their place over every kind of end, and may ask for a later time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::SNOOZE_MIN;
use offloop_job::{
    Backoff, BackoffKind, EventKind, FailureClass, Job, JobId, JobOptions, JobState, NewJob,
    NodeId, RetryPolicy, TaskName, Timestamp,
};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_lane_io::{IoFuture, IoLane};
use offloop_runtime::clock::Clock;
use offloop_runtime::{Runtime, RuntimeBuilder, RuntimeConfig, TaskDefaults};
use offloop_store::InsertOutcome;
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);

/// A clock that somebody sets.
#[derive(Debug)]
struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Acquire))
    }
}

struct Server {
    runtime: Runtime,
    clock: Arc<SetClock>,
    wait: tokio::runtime::Runtime,
}

fn info() -> TaskInfo {
    TaskInfo {
        name: TaskName::parse("t").unwrap(),
        timeout: None,
        about: "".into(),
    }
}

type Run = dyn Fn(&TaskContext) -> Result<TaskOutput, TaskError> + Send + Sync;

fn on_cpu(run: Arc<Run>) -> Server {
    let lane = CpuLane::builder("cpu").threads(2).task(info(), run).build();
    serve(|builder| builder.lane(Arc::new(lane)))
}

fn serve(lane: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder) -> Server {
    let store = MemoryStore::new(MemoryOptions::default());
    let clock = Arc::new(SetClock(AtomicU64::new(1_700_000_000_000)));
    let defaults = TaskDefaults {
        snoozes_max: Some(3),
        ..TaskDefaults::default()
    };
    let builder = RuntimeBuilder::new(Arc::new(store), NodeId("a".into()))
        .defaults(info().name, defaults)
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .config(RuntimeConfig {
            tick: Duration::from_millis(5),
            ..RuntimeConfig::default()
        });
    Server {
        runtime: lane(builder).start().unwrap(),
        clock,
        wait: tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap(),
    }
}

impl Server {
    fn enqueue(&self, max_attempts: u16) -> JobId {
        let backoff = Backoff {
            kind: BackoffKind::Fixed,
            base: Duration::ZERO,
            cap: Duration::ZERO,
            jitter_percent: 0,
        };
        let job = NewJob {
            task: info().name,
            payload: Bytes::from_static(b"{}"),
            options: JobOptions {
                retry: RetryPolicy {
                    max_attempts,
                    backoff,
                    by_class: Vec::new(),
                },
                ..JobOptions::default()
            },
            idempotency: None,
        };
        let outcome = self.runtime.handle().enqueue(vec![job]);
        match self.wait.block_on(outcome).unwrap().remove(0) {
            InsertOutcome::Created { id, .. } => id,
            other => panic!("not created: {other:?}"),
        }
    }

    fn end_of(&self, id: JobId) -> Job {
        let job = self.runtime.handle().wait_final(id, SOON);
        let job = self.wait.block_on(job).unwrap().unwrap();
        assert!(job.summary.state.is_final(), "{job:?}");
        job
    }
}

/// Seven steps; fails after each one, and must never do one twice.
#[test]
fn a_retry_goes_on_from_the_last_checkpoint_on_the_cpu_lane() {
    let done = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&done);
    let server = on_cpu(Arc::new(move |ctx| {
        let from = ctx.resumed().map_or(0, |data| data[0] - b'0');
        if from == 7 {
            return Ok(TaskOutput::none());
        }
        seen.lock().unwrap().push(from);
        ctx.checkpoint(vec![b'0' + from + 1]).wait()?;
        Err(TaskError::error("one step at a time"))
    }));
    let job = server.end_of(server.enqueue(8));
    assert_eq!(job.summary.state, JobState::Completed, "{job:?}");
    assert_eq!(*done.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(job.checkpoint, None, "a completed job has none");
}

#[test]
fn a_future_awaits_its_checkpoint_and_finds_it_again() {
    let code = |ctx: TaskContext| -> IoFuture {
        Box::pin(async move {
            if let Some(left) = ctx.resumed() {
                return Ok(TaskOutput::json(left.clone()));
            }
            ctx.checkpoint("\"one\"").await?;
            ctx.checkpoint("\"two\"").await?;
            panic!("in the middle of it");
        })
    };
    let lane = IoLane::builder("io").task(info(), Arc::new(code)).build();
    let server = serve(|builder| builder.lane(Arc::new(lane)));
    let job = server.end_of(server.enqueue(2));
    assert_eq!(job.result.as_deref(), Some(&b"\"two\""[..]), "{job:?}");
}

#[test]
fn a_failed_job_keeps_its_checkpoint_and_its_next_life_goes_on_from_it() {
    let server = on_cpu(Arc::new(|ctx| {
        if let Some(left) = ctx.resumed() {
            return Ok(TaskOutput::json(left.clone()));
        }
        ctx.checkpoint("[4]").wait()?;
        Err(TaskError::invalid("no retry helps"))
    }));
    let id = server.enqueue(1);
    let failed = server.end_of(id);
    assert_eq!(failed.summary.state, JobState::Failed);
    assert_eq!(failed.checkpoint.as_deref(), Some(&b"[4]"[..]));
    server
        .wait
        .block_on(server.runtime.handle().retry(id))
        .unwrap();
    let job = server.end_of(id);
    assert_eq!(job.result.as_deref(), Some(&b"[4]"[..]), "{job:?}");
}

#[test]
fn a_checkpoint_over_its_limit_fails_by_name_and_the_one_before_stays() {
    let server = on_cpu(Arc::new(|ctx| {
        ctx.checkpoint("[1]").wait()?;
        ctx.checkpoint(vec![b'1'; (64 << 10) + 1]).wait()?;
        Ok(TaskOutput::none())
    }));
    let job = server.end_of(server.enqueue(1));
    let failure = job.summary.failure.unwrap();
    assert!(
        failure.message.contains("65537 bytes"),
        "{}",
        failure.message
    );
    assert_eq!(job.checkpoint.as_deref(), Some(&b"[1]"[..]));
}

/// The clock is moved on at each snooze, so that nobody waits.
fn snoozing(server: &Server, id: JobId) -> (Job, Vec<EventKind>) {
    let mut events = server
        .runtime
        .handle()
        .events(Some(offloop_runtime::EventCursor {
            epoch: server.runtime.handle().events(None).cursor().epoch,
            position: 0,
        }));
    let mut kinds = Vec::new();
    server.wait.block_on(async {
        loop {
            let batch = tokio::time::timeout(SOON, events.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let batch = batch.iter().filter_map(|event| event.job());
            for event in batch.filter(|event| event.job == id) {
                kinds.push(event.kind);
                if let EventKind::Snoozed { due_at } = event.kind {
                    server.clock.0.store(due_at.as_millis(), Ordering::Release);
                }
                if event.kind.is_final() {
                    return;
                }
            }
        }
    });
    (server.end_of(id), kinds)
}

#[test]
fn a_snooze_spends_no_attempt_and_comes_back_at_its_time() {
    let runs = AtomicU64::new(0);
    let server = on_cpu(Arc::new(move |ctx| {
        assert_eq!(ctx.work().attempt, 1);
        match runs.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Err(TaskError::snooze(Duration::from_secs(90))),
            _ => Ok(TaskOutput::none()),
        }
    }));
    let id = server.enqueue(1);
    let began = server.clock.now();
    let (job, kinds) = snoozing(&server, id);
    assert_eq!(job.summary.state, JobState::Completed, "{job:?}");
    assert_eq!((job.summary.attempt, job.summary.snoozes), (1, 2));
    assert_eq!((job.attempts.len(), &job.summary.failure), (1, &None));
    assert_eq!(server.clock.now().since(began), Duration::from_secs(180));
    let snoozed = |kind: &&EventKind| matches!(kind, EventKind::Snoozed { .. });
    assert_eq!(kinds.iter().filter(snoozed).count(), 2, "{kinds:?}");
}

#[test]
fn a_job_that_snoozes_for_ever_fails_and_says_so() {
    let server = on_cpu(Arc::new(|_| Err(TaskError::snooze(SNOOZE_MIN))));
    let (job, kinds) = snoozing(&server, server.enqueue(1));
    assert_eq!(job.summary.state, JobState::Failed, "{kinds:?}");
    let failure = job.summary.failure.unwrap();
    assert_eq!(failure.class, FailureClass::Error);
    assert!(
        failure.message.contains("4 times in a row"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.contains("limit is 3"),
        "{}",
        failure.message
    );
}
