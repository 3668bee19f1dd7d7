//! The task `ingest-consume`: one endless job for each consumer and member, begun with the server.
//!
//! A job's key sees to it that there is no second one, on whichever node it runs. It ends when it is
//! cancelled, when the server goes down (handed back, no attempt spent), or when a person is needed.
//!
//! Must never: hold up a shutdown for longer than batches need to land.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use offloop::job::{OnConflict, RetryPolicy, Unique, UniqueKey, UniqueScope};
use offloop::lane_io::IoLane;
use offloop::{
    JobOptions, NewJob, PackError, QueueName, RuntimeHandle, Setup, TaskContext, TaskDefaults,
    TaskError, TaskInfo, TaskName, TaskOutput,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::outlets::Opener;
use super::view::chain;
use super::{Shared, fail};
use crate::consume::{ConsumerState, ConsumerStatus, Plan, start};

const TASK: &str = "ingest-consume";
/// Of one attempt: then it begins anew, which costs its group a rebalance.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);
const TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// For batches to land, and a little.
const GRACE: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(250);
const TICKS_PER_NOTE: u32 = 20;
const SNOOZE: Duration = Duration::from_secs(1);
const ATTEMPTS: u16 = 20;

/// One member of a consumer's group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Member {
    consumer: String,
    member: u16,
}

/// The consumers of this process.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    plans: OnceLock<BTreeMap<String, Plan>>,
    /// Those that run here, or have run here last.
    known: Mutex<BTreeMap<Member, watch::Receiver<ConsumerStatus>>>,
}

impl Consumers {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Member, watch::Receiver<ConsumerStatus>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn statuses(&self) -> Vec<(u16, ConsumerStatus)> {
        let known = self.known();
        let status = |(of, told): (&Member, &watch::Receiver<ConsumerStatus>)| {
            (of.member, told.borrow().clone())
        };
        known.iter().map(status).collect()
    }

    /// For screens.
    pub(super) fn views(&self) -> Vec<Value> {
        let statuses = self.statuses();
        let view = |(member, status): &(u16, ConsumerStatus)| {
            let ago = status.stored_at.map(|at| at.elapsed().as_millis() as u64);
            let mut view = serde_json::to_value(status).unwrap_or_default(); // texts and numbers
            view["member"] = (*member).into();
            view["since_stored_ms"] = ago.into();
            view["rate"] = ((status.rate * 10.0).round() / 10.0).into();
            view
        };
        statuses.iter().map(view).collect()
    }

    /// Prometheus text.
    pub(super) fn figures(&self, out: &mut String) {
        type Figure = (
            &'static str,
            &'static str,
            &'static str,
            fn(&ConsumerStatus) -> f64,
        );
        let figures: [Figure; 6] = [
            (
                "rows_total",
                "counter",
                "Rows that a consumer has stored.",
                |status| status.stored as f64,
            ),
            (
                "rejected_total",
                "counter",
                "Messages that a consumer has refused.",
                |status| status.rejected as f64,
            ),
            (
                "restarts_total",
                "counter",
                "Times that a consumer began again.",
                |status| status.restarts as f64,
            ),
            (
                "missed_total",
                "counter",
                "Messages that a topic dropped before they were read.",
                |status| status.missed as f64,
            ),
            (
                "up",
                "gauge",
                "1 while a consumer is a member of its group.",
                |status| f64::from(u8::from(status.state == ConsumerState::Running)),
            ),
            (
                "lag",
                "gauge",
                "Messages that the topic has and the table does not, of this process' partitions.",
                |status| status.lag.map_or(f64::NAN, |lag| lag as f64),
            ),
        ];
        let statuses = self.statuses();
        if statuses.is_empty() {
            return;
        }
        for (name, kind, help, figure) in figures {
            let name = format!("offloop_ingest_consumer_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (member, status) in &statuses {
                let figure = figure(status);
                if !figure.is_nan() {
                    // Names hold no character that a label would escape.
                    let of = &status.name;
                    let _ = writeln!(
                        out,
                        "{name}{{consumer=\"{of}\",member=\"{member}\"}} {figure}"
                    );
                }
            }
        }
    }
}

fn name() -> Result<TaskName, PackError> {
    TaskName::parse(TASK).map_err(fail)
}

/// Adds the task on a lane of its own, if there are consumers.
pub(super) fn install(shared: &Arc<Shared>, setup: &mut Setup<'_>) -> Result<(), PackError> {
    let members: u16 = shared.options.consumers.iter().map(|of| of.members).sum();
    if members == 0 {
        return Ok(());
    }
    let task = name()?;
    let info = TaskInfo {
        name: task.clone(),
        timeout: Some(TIMEOUT),
        about: "reads a topic into a table, for as long as the server runs".into(),
    };
    let own = Arc::downgrade(shared);
    let lane = IoLane::builder(TASK)
        .slots(members)
        .grace(GRACE)
        .pulse(setup.pulse().clone())
        .task(
            info,
            Arc::new(move |context| Box::pin(consume(own.upgrade(), context))),
        );
    setup.lane(Arc::new(lane.build()));
    let defaults = TaskDefaults {
        snoozes_max: Some(u16::MAX),
        ..TaskDefaults::default()
    };
    setup.defaults(task, defaults);
    Ok(())
}

/// Opens the places, and begins the jobs that are not there yet.
pub(super) fn open(
    shared: &Shared,
    opener: &mut Opener,
    server: &RuntimeHandle,
) -> Result<(), PackError> {
    let options = &shared.options;
    let mut plans = BTreeMap::new();
    let mut jobs = Vec::new();
    for consumer in &options.consumers {
        let wrong =
            |problem: String| fail(format!("ingest.consumers.{}: {problem}", consumer.name()));
        let mut targets = options.targets.iter();
        let target = targets.find(|target| target.name() == consumer.target());
        let target = target.ok_or_else(|| wrong("its target is not declared".into()))?;
        let kafka = options.kafka.clone();
        let plan = Plan {
            consumer: consumer.clone(),
            target: target.clone(),
            outlet: opener.open(target).map_err(wrong)?,
            kafka: kafka.ok_or_else(|| wrong("the brokers of Kafka are not configured".into()))?,
            runtime: match shared.threads.handle() {
                Some(threads) => threads.clone(),
                None => return Err(wrong("its threads have ended".into())),
            },
        };
        plans.insert(consumer.name().to_owned(), plan);
        for member in 0..consumer.members {
            jobs.push(job(consumer.name(), member)?);
        }
    }
    let _once = shared.consumers.plans.set(plans);
    if !jobs.is_empty() {
        offloop::block_on(server.enqueue(jobs)).map_err(fail)?;
    }
    Ok(())
}

fn job(consumer: &str, member: u16) -> Result<NewJob, PackError> {
    let key = UniqueKey::parse(&format!("{consumer}/{member}")).map_err(fail)?;
    let payload = Member {
        consumer: consumer.to_owned(),
        member,
    };
    Ok(NewJob {
        task: name()?,
        payload: serde_json::to_vec(&payload).unwrap_or_default().into(), // plain texts
        options: JobOptions {
            queue: QueueName::parse(TASK).map_err(fail)?,
            retry: RetryPolicy {
                max_attempts: ATTEMPTS,
                ..RetryPolicy::default()
            },
            unique: Some(Unique {
                key,
                scope: UniqueScope::UntilFinished,
                on_conflict: OnConflict::Keep,
            }),
            ..JobOptions::default()
        },
        idempotency: None,
    })
}

async fn consume(
    shared: Option<Arc<Shared>>,
    context: TaskContext,
) -> Result<TaskOutput, TaskError> {
    // Before the server runs, and behind its end, another attempt comes.
    let shared = shared.ok_or_else(|| TaskError::snooze(SNOOZE))?;
    let member: Member = serde_json::from_slice(context.payload())
        .map_err(|error| TaskError::invalid(format!("the payload is no consumer's: {error}")))?;
    let (Some(open), Some(plans)) = (shared.open.get(), shared.consumers.plans.get()) else {
        return Err(TaskError::snooze(SNOOZE));
    };
    let Some(plan) = plans.get(&member.consumer) else {
        let message = format!("no consumer `{}` is declared here", member.consumer);
        return Err(TaskError::invalid(message));
    };
    let running = start(plan.clone());
    let mut running =
        running.map_err(|error| TaskError::error(format!("cannot start a thread: {error}")))?;
    let told = running.watch();
    shared.consumers.known().insert(member, told.clone());
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    let mut tick = 0_u32;
    let ended = loop {
        tokio::select! {
            ended = running.ended() => break ended,
            _ = ticks.tick() => {
                if tick.is_multiple_of(TICKS_PER_NOTE) {
                    context.progress(note(&told.borrow()).to_string())?;
                }
                tick = tick.wrapping_add(1);
                if context.should_stop() || open.server.is_closing() || begun.elapsed() > LIFE {
                    running.stop();
                }
            }
        }
    };
    match ended {
        Ok(()) if context.should_stop() => Err(TaskError::stopped()),
        Ok(()) => Err(TaskError::snooze(SNOOZE)),
        Err(error) => Err(TaskError::invalid(chain(&error))),
    }
}

/// Without the partitions, which may be many.
fn note(status: &ConsumerStatus) -> Value {
    let error = status.error.as_ref();
    json!({
        "state": status.state,
        "stored": status.stored,
        "rejected": status.rejected,
        "lag": status.lag,
        "partitions": status.partitions.len(),
        "error": error.map(|error| error.chars().take(500).collect::<String>()),
    })
}
