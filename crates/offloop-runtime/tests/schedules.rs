//! Schedules in a running server: fired on time and once, held by their overlap rule, told when silent.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use offloop_job::{
    Event, EventKind, JobId, JobState, Missed, NodeId, Overlap, ScheduleEventKind, ScheduleName,
    ScheduleSpec, SilentWhy, TaskName, Timestamp, Timing,
};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::clock::Clock;
use offloop_runtime::{
    DeclaredSchedules, Runtime, RuntimeBuilder, RuntimeConfig, RuntimeHandle, ScheduleError,
    SchedulePut, Silence,
};
use offloop_store::{Engine, LedgerAsk, LedgerOutcome, LedgerRow, ScheduleRow};
use offloop_store_memory::{MemoryOptions, MemoryStore};

const SOON: Duration = Duration::from_secs(20);
const START_MS: u64 = 1_800_000_000_000;

/// A clock that somebody sets.
#[derive(Debug)]
struct SetClock(AtomicU64);

impl SetClock {
    fn set(&self, ms: u64) {
        self.0.store(START_MS + ms, Ordering::Release);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Acquire))
    }
}

/// A server whose task waits to be released, or to be stopped.
struct World {
    runtime: Runtime,
    clock: Arc<SetClock>,
    started: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
    wait: tokio::runtime::Runtime,
}

fn name(text: &str) -> ScheduleName {
    ScheduleName::parse(text).unwrap()
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(START_MS + ms)
}

/// Every ten seconds after its creation.
fn spec(overlap: Overlap) -> ScheduleSpec {
    ScheduleSpec {
        overlap,
        ..ScheduleSpec::new(
            TaskName::parse("t").unwrap(),
            Timing::Every(Duration::from_secs(10)),
        )
    }
}

impl World {
    fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new(MemoryOptions::default())))
    }

    fn on(engine: Arc<dyn Engine>) -> Self {
        let (started, starts) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let code = move |context: &TaskContext| {
            started.send(()).unwrap();
            while !context.should_stop() {
                let wait = Duration::from_millis(1);
                if released.lock().unwrap().recv_timeout(wait).is_ok() {
                    return Ok(TaskOutput::none());
                }
            }
            Err(TaskError::stopped())
        };
        let info = TaskInfo {
            name: TaskName::parse("t").unwrap(),
            timeout: None,
            about: "".into(),
        };
        let lane = CpuLane::builder("cpu")
            .threads(4)
            .task(info, Arc::new(code));
        let clock = Arc::new(SetClock(AtomicU64::new(START_MS)));
        let config = RuntimeConfig {
            tick: Duration::from_millis(5),
            ..RuntimeConfig::default()
        };
        let runtime = RuntimeBuilder::new(engine, NodeId("a".into()))
            .lane(Arc::new(lane.build()))
            .clock(Arc::clone(&clock) as Arc<dyn Clock>)
            .config(config)
            .start()
            .unwrap();
        let wait = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        Self {
            runtime,
            clock,
            started: starts,
            release,
            wait,
        }
    }

    fn handle(&self) -> &RuntimeHandle {
        self.runtime.handle()
    }

    fn put(&self, spec: ScheduleSpec) -> (ScheduleRow, SchedulePut) {
        self.wait
            .block_on(self.handle().put_schedule(name("s"), spec))
            .unwrap()
    }

    fn started(&self) {
        self.started
            .recv_timeout(SOON)
            .expect("a job was fired and began");
    }

    fn ledger(&self) -> Vec<LedgerRow> {
        let ask = LedgerAsk {
            name: name("s"),
            before: None,
            limit: 500,
        };
        let mut rows = self
            .wait
            .block_on(self.handle().ledger(ask))
            .unwrap()
            .rows
            .unwrap();
        rows.reverse();
        rows
    }

    /// The ledger once it has so many rows.
    fn rows(&self, count: usize) -> Vec<LedgerRow> {
        self.until(|| Some(self.ledger()).filter(|rows| rows.len() >= count))
    }

    /// Looks until it is there: each look is a question to the store.
    fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let began = std::time::Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(began.elapsed() < SOON, "it never came");
            self.wait
                .block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
        }
    }

    fn state(&self, id: JobId) -> JobState {
        self.wait
            .block_on(self.handle().job(id))
            .unwrap()
            .unwrap()
            .summary
            .state
    }

    fn row(&self) -> ScheduleRow {
        self.wait
            .block_on(self.handle().schedule(name("s")))
            .unwrap()
    }
}

fn told(rows: &[LedgerRow]) -> Vec<String> {
    let told = rows.iter().map(|row| {
        let due = row.due_at.since(at(0)).as_millis();
        match &row.outcome {
            LedgerOutcome::Fired { by_hand: true, .. } => "by hand".to_owned(),
            LedgerOutcome::Fired { .. } => format!("{due} fired"),
            LedgerOutcome::Skipped { reason, .. } => format!("{due} {reason}"),
        }
    });
    told.collect()
}

fn job(row: &LedgerRow) -> JobId {
    match row.outcome {
        LedgerOutcome::Fired { job, .. } => job,
        LedgerOutcome::Skipped { .. } => panic!("it was fired: {row:?}"),
    }
}

#[test]
fn a_due_time_becomes_a_job_that_runs_and_is_told_of() {
    let world = World::new();
    let mut events = world.handle().events(None);
    let (row, how) = world.put(spec(Overlap::Allow));
    assert_eq!(
        (how, row.next_due),
        (SchedulePut::Created, Some(at(10_000)))
    );
    assert_eq!(world.put(spec(Overlap::Allow)).1, SchedulePut::Unchanged);
    world.clock.set(10_007);
    world.started();
    let rows = world.rows(1);
    assert_eq!(told(&rows), ["10000 fired"]);
    assert_eq!(rows[0].late, Duration::from_millis(7));
    let id = job(&rows[0]);
    let shown = world
        .wait
        .block_on(world.handle().job(id))
        .unwrap()
        .unwrap();
    assert_eq!(shown.options.schedule.unwrap().due_at, at(10_000));
    let first = world.wait.block_on(events.next()).unwrap().unwrap();
    let first = first[0].job().unwrap();
    assert_eq!((first.kind, first.job), (EventKind::Enqueued, id));
    world.release.send(()).unwrap();
    let done = world
        .wait
        .block_on(world.handle().wait_final(id, SOON))
        .unwrap()
        .unwrap();
    assert_eq!(done.summary.state, JobState::Completed);
}

#[test]
fn one_that_waits_its_turn_begins_as_soon_as_the_job_has_ended() {
    let world = World::new();
    world.put(spec(Overlap::QueueOne));
    world.clock.set(10_000);
    world.started();
    world.clock.set(20_000);
    world.until(|| world.row().held);
    world.clock.set(30_000);
    assert_eq!(told(&world.rows(2)), ["10000 fired", "30000 overlap"]);
    world.clock.set(31_000);
    world.release.send(()).unwrap();
    world.started();
    let rows = world.rows(3);
    assert_eq!(told(&rows), ["10000 fired", "20000 fired", "30000 overlap"]);
    assert_eq!(rows[1].late, Duration::from_secs(11));
    assert_eq!(world.state(job(&rows[0])), JobState::Completed);
    assert_eq!(world.row().held, None);
}

#[test]
fn cancel_running_fires_only_when_the_old_job_is_gone() {
    let world = World::new();
    world.put(spec(Overlap::CancelRunning));
    world.clock.set(10_000);
    world.started();
    world.clock.set(20_000);
    world.started();
    let rows = world.rows(2);
    assert_eq!(told(&rows), ["10000 fired", "20000 fired"]);
    assert_eq!(world.state(job(&rows[0])), JobState::Cancelled);
    assert_eq!(world.state(job(&rows[1])), JobState::Running);
}

#[test]
fn a_job_that_is_cancelled_by_hand_lets_the_waiting_one_go() {
    let world = World::new();
    world.put(spec(Overlap::QueueOne));
    world.clock.set(10_000);
    world.started();
    let first = job(&world.rows(1)[0]);
    world.clock.set(20_000);
    world.until(|| world.row().held);
    world.wait.block_on(world.handle().cancel(first)).unwrap();
    world.started();
    assert_eq!(told(&world.rows(2)), ["10000 fired", "20000 fired"]);
}

#[test]
fn a_pause_skips_and_a_trigger_fires_all_the_same() {
    let world = World::new();
    world.put(spec(Overlap::Skip));
    let pause = |paused| {
        world
            .wait
            .block_on(world.handle().pause_schedule(name("s"), paused))
    };
    assert!(pause(true).unwrap().spec.paused);
    world.clock.set(20_000);
    assert_eq!(told(&world.rows(2)), ["10000 paused", "20000 paused"]);
    let fired = world
        .wait
        .block_on(world.handle().trigger_schedule(name("s")))
        .unwrap();
    world.started();
    assert_eq!(world.state(job(&fired)), JobState::Running);
    assert!(!pause(false).unwrap().spec.paused);
    world.clock.set(30_000);
    let rows = world.rows(4);
    assert_eq!(
        told(&rows),
        ["10000 paused", "20000 paused", "by hand", "30000 overlap"]
    );
}

#[test]
fn two_triggers_in_one_millisecond_are_two_jobs() {
    let world = World::new();
    world.put(spec(Overlap::Allow));
    let trigger = || {
        world
            .wait
            .block_on(world.handle().trigger_schedule(name("s")))
            .unwrap()
    };
    let (one, other) = (job(&trigger()), job(&trigger()));
    assert_ne!(one, other);
    world.started();
    world.started();
}

#[test]
fn a_restart_fires_what_was_missed_by_the_rule_and_nothing_twice() {
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let world = World::on(Arc::clone(&store) as Arc<dyn Engine>);
    world.put(ScheduleSpec {
        missed: Missed::CatchUp { max: 2 },
        ..spec(Overlap::Allow)
    });
    world.clock.set(10_000);
    world.started();
    assert_eq!(told(&world.rows(1)), ["10000 fired"]);
    drop(world);
    let world = World::on(store);
    world.clock.set(45_000);
    world.started();
    world.started();
    let rows = world.rows(4);
    let want = ["10000 fired", "20000 missed", "30000 fired", "40000 fired"];
    assert_eq!(told(&rows), want);
}

#[test]
fn a_schedule_that_a_step_back_of_the_clock_silences_says_so_and_can_be_resumed() {
    let world = World::new();
    world.put(spec(Overlap::Allow));
    world.clock.set(3_600_000);
    let ahead = world.until(|| Some(world.row()).filter(|row| row.next_due > Some(at(3_600_000))));
    assert!(world.handle().silent_schedules().is_empty());
    world.clock.set(5_000);
    let next_due = ahead.next_due.unwrap();
    let silent = world.until(|| world.handle().silent_schedules().pop());
    assert_eq!(silent.why, Silence::Ahead { next_due });
    let resumed = world
        .wait
        .block_on(world.handle().pause_schedule(name("s"), false))
        .unwrap();
    assert_eq!(resumed.next_due, Some(at(10_000)));
    assert!(world.handle().silent_schedules().is_empty());
}

/// Alerts about schedules, in their order, up to the next one of a kind.
fn alerts(
    world: &World,
    events: &mut offloop_runtime::Events,
    last: fn(ScheduleEventKind) -> bool,
) -> Vec<ScheduleEventKind> {
    let mut told = Vec::new();
    world.wait.block_on(async {
        while !told.last().copied().is_some_and(last) {
            let next = tokio::time::timeout(SOON, events.next()).await;
            let batch = next.unwrap().unwrap().unwrap();
            told.extend(batch.iter().filter_map(|event| match &**event {
                Event::Schedule(event) => {
                    assert_eq!(event.schedule, name("s"));
                    Some(event.kind)
                }
                Event::Job(_) => None,
            }));
        }
    });
    told
}

#[test]
fn a_silence_is_an_alert_once_and_its_end_another() {
    let world = World::new();
    let mut events = world.handle().events(None);
    world.put(ScheduleSpec {
        // A clock that leaps forward is noticed by this look or by the loop, whichever is first.
        alert_after: Duration::from_secs(86_400),
        ..spec(Overlap::Allow)
    });
    for high in [3_600_000, 7_200_000] {
        world.clock.set(high);
        let ahead = world.until(|| Some(world.row()).filter(|row| row.next_due > Some(at(high))));
        world.clock.set(5_000);
        let silent = |kind| matches!(kind, ScheduleEventKind::Silent { .. });
        let want = ScheduleEventKind::Silent {
            why: SilentWhy::ClockWentBack,
            due_at: ahead.next_due,
            late: Duration::ZERO,
        };
        assert_eq!(alerts(&world, &mut events, silent), [want]);
        let resume = world.handle().pause_schedule(name("s"), false);
        world.wait.block_on(resume).unwrap();
        let back = |kind| kind == ScheduleEventKind::Back;
        let told = alerts(&world, &mut events, back);
        assert_eq!(
            told,
            [ScheduleEventKind::Back],
            "and not of the silence again"
        );
    }
}

#[test]
fn declared_schedules_follow_the_configuration_and_others_stay() {
    let world = World::new();
    let reconcile = |declared: Vec<(ScheduleName, ScheduleSpec)>| {
        world
            .wait
            .block_on(world.handle().reconcile_schedules(declared))
            .unwrap()
    };
    let report = |created, changed, deleted| DeclaredSchedules {
        created,
        changed,
        deleted,
    };
    world.put(spec(Overlap::Allow));
    let declared = |overlap| (name("nightly"), spec(overlap));
    assert_eq!(reconcile(vec![declared(Overlap::Skip)]), report(1, 0, 0));
    world.clock.set(4_000);
    assert_eq!(reconcile(vec![declared(Overlap::Skip)]), report(0, 0, 0));
    let find = || {
        world
            .wait
            .block_on(world.handle().schedule(name("nightly")))
    };
    let before = find().unwrap();
    world
        .wait
        .block_on(world.handle().pause_schedule(name("nightly"), true))
        .unwrap();
    assert_eq!(reconcile(vec![declared(Overlap::Allow)]), report(0, 1, 0));
    let after = find().unwrap();
    assert!(after.spec.paused, "who paused it by hand finds it paused");
    assert_eq!(
        (after.next_due, after.created_at),
        (before.next_due, before.created_at)
    );
    let put = world
        .handle()
        .put_schedule(name("nightly"), spec(Overlap::Allow));
    let refused = world.wait.block_on(put);
    assert!(matches!(refused, Err(ScheduleError::Declared { .. })));
    assert_eq!(reconcile(vec![]), report(0, 0, 1));
    assert!(matches!(find(), Err(ScheduleError::Unknown { .. })));
    assert_eq!(
        world.row().spec.overlap,
        Overlap::Allow,
        "the other one is untouched"
    );
}

#[test]
fn what_could_never_be_taken_in_is_refused_when_it_is_put() {
    let world = World::new();
    let unknown = ScheduleSpec {
        task: TaskName::parse("nobody").unwrap(),
        ..spec(Overlap::Allow)
    };
    let put = |spec| {
        world
            .wait
            .block_on(world.handle().put_schedule(name("s"), spec))
    };
    let error = put(unknown).unwrap_err().to_string();
    assert!(
        error.contains("`nobody` is not declared here; declared are `t`"),
        "{error}"
    );
    let never = ScheduleSpec {
        timing: Timing::Cron("0 0 30 2 *".into()),
        timezone: "Mars/Olympus".into(),
        ..spec(Overlap::Allow)
    };
    let Err(ScheduleError::Spec(problems)) = put(never) else {
        panic!("it is refused by its fields");
    };
    let fields: Vec<_> = problems.iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["timezone", "cron"]);
}
