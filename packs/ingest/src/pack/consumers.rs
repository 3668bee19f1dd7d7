//! The task `ingest-consume`: one endless job for each consumer and member, begun with the server.
//!
//! A job's key sees to it that there is no second one, on whichever node it runs. It ends when it is
//! cancelled, when the server goes down (handed back, no attempt spent), or when a person is needed: then
//! `comeback` has it tried again.
//!
//! Must never: hold up a shutdown for longer than batches need to land.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use offloop::job::{OnConflict, Tag};
use offloop::lane_io::IoLane;
use offloop::store::{InsertOutcome, JobFilter, ListRequest};
use offloop::{
    JobId, JobState, PackError, RuntimeHandle, Setup, TaskContext, TaskDefaults, TaskError,
    TaskInfo, TaskName, TaskOutput,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::comeback::{Again, Cause, Comeback, Member, TASK, WELL, job};
use super::outlets::Opener;
use super::view::chain;
use super::{IngestOptions, Shared, fail};
use crate::consume::{Consumer, ConsumerState, ConsumerStatus, Plan, start};

/// Of one attempt: then it begins anew, which costs its group a rebalance.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);
const TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// For batches to land, and a little.
const GRACE: Duration = Duration::from_secs(8);
const TICK: Duration = Duration::from_millis(250);
const TICKS_PER_NOTE: u32 = 20;
const SNOOZE: Duration = Duration::from_secs(1);
/// Between two checkpoints.
const SAY_EVERY: Duration = Duration::from_secs(1);

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

    /// For screens: with why one stands that does not run, and when it is tried next.
    pub(super) async fn views(&self, server: &RuntimeHandle) -> Vec<Value> {
        let mut views = Vec::new();
        for (member, status) in self.statuses() {
            let ago = status.stored_at.map(|at| at.elapsed().as_millis() as u64);
            let mut view = serde_json::to_value(&status).unwrap_or_default(); // texts and numbers
            view["member"] = member.into();
            view["since_stored_ms"] = ago.into();
            view["rate"] = ((status.rate * 10.0).round() / 10.0).into();
            view["next_try_ms"] = Value::Null;
            if matches!(status.state, ConsumerState::Stopped | ConsumerState::Failed) {
                let member = Member {
                    consumer: status.name,
                    member,
                };
                told_by_jobs(server, &member, &mut view).await;
            }
            views.push(view);
        }
        views
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

/// Of a member that does not run here: its last job says why, its next one when.
async fn told_by_jobs(server: &RuntimeHandle, member: &Member, view: &mut Value) {
    let (Ok(task), Ok(tag)) = (name(), Tag::parse(&member.key())) else {
        return;
    };
    let ask = ListRequest {
        now: server.now(),
        filter: JobFilter {
            task: Some(task),
            tags: vec![tag],
            ..JobFilter::default()
        },
        limit: 2,
        cursor: None,
    };
    let Ok(page) = server.jobs(ask).await else {
        return; // the store is busy; the rest of the view is true
    };
    let mut newest = page.jobs.into_iter();
    let Some(job) = newest.next() else {
        return;
    };
    view["job"] = job.id.to_string().into();
    let failure = match job.state {
        JobState::Failed => job.failure,
        JobState::Scheduled | JobState::Ready => {
            let wait = job.due_at.since(server.now()).as_millis() as u64;
            view["next_try_ms"] = wait.into();
            let last = newest.next().and_then(|last| last.failure);
            job.failure
                .or(last.filter(|_| Again::of(&job.tags).is_some()))
        }
        _ => None,
    };
    if let Some(failure) = failure {
        view["state"] = "failed".into();
        view["error"] = failure.message.to_string().into();
    }
}

/// Adds the task on a lane of its own, if there are consumers.
pub(super) fn install(shared: &Arc<Shared>, setup: &mut Setup<'_>) -> Result<(), PackError> {
    let members = members(&shared.options);
    if members.is_empty() {
        return Ok(());
    }
    let slots = u16::try_from(members.len()).unwrap_or(u16::MAX);
    let task = name()?;
    let info = TaskInfo {
        name: task.clone(),
        timeout: Some(TIMEOUT),
        about: "reads a topic into a table, for as long as the server runs".into(),
    };
    setup.end_hook(Arc::new(Comeback {
        task: task.clone(),
        members,
    }));
    let own = Arc::downgrade(shared);
    let lane = IoLane::builder(TASK)
        .slots(slots)
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
        for member in members_of(consumer) {
            let idle = watch::channel(ConsumerStatus::idle(consumer)).1;
            shared.consumers.known().insert(member, idle);
        }
        plans.insert(consumer.name().to_owned(), plan);
    }
    let _once = shared.consumers.plans.set(plans);
    let members = members(options);
    if members.is_empty() {
        return Ok(());
    }
    offloop::block_on(begin(server, &members))
}

fn members(options: &IngestOptions) -> Vec<Member> {
    options.consumers.iter().flat_map(members_of).collect()
}

fn members_of(consumer: &Consumer) -> impl Iterator<Item = Member> {
    (0..consumer.members).map(|member| Member {
        consumer: consumer.name().to_owned(),
        member,
    })
}

/// Makes the jobs of those members that have none.
async fn begin(server: &RuntimeHandle, members: &[Member]) -> Result<(), PackError> {
    let jobs = members
        .iter()
        .map(|member| job(member, None, OnConflict::Keep));
    let made = server.enqueue(jobs.collect::<Result<_, _>>()?).await;
    for (member, made) in members.iter().zip(made.map_err(fail)?) {
        if let InsertOutcome::Existing { id, .. } = made {
            look_at(server, member, id).await?;
        }
    }
    Ok(())
}

/// A job that was there. One that waits for a person is tried at once: somebody has started the server.
/// One that servers died under is not: a supervisor may have.
async fn look_at(server: &RuntimeHandle, member: &Member, id: JobId) -> Result<(), PackError> {
    let Some(waiting) = server.job(id).await.map_err(fail)?.map(|job| job.summary) else {
        return Ok(());
    };
    if waiting.state != JobState::Scheduled {
        return Ok(());
    }
    match Again::of(&waiting.tags).map(|again| again.cause) {
        Some(Cause::Stop) => {
            let now = job(member, None, OnConflict::Replace)?;
            server.enqueue(vec![now]).await.map(drop).map_err(fail)
        }
        Some(Cause::Death) => {
            let wait = waiting.due_at.since(server.now());
            tracing::warn!(consumer = %member.consumer, member = member.member, job = %id, ?wait, "servers died under this consumer, so it is tried again after a while; to have it at once, cancel that job and retry the one before it");
            Ok(())
        }
        None => Ok(()),
    }
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
    shared
        .consumers
        .known()
        .insert(member.clone(), told.clone());
    let mut mark = Mark::resumed(&context);
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
                mark.note(&context, &told.borrow());
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
        Err(error) => {
            let error = chain(&error);
            let Member { consumer, member } = member;
            tracing::error!(
                consumer,
                member,
                error,
                "a consumer needs a person; it is tried again by itself, GET /v1/ingest/consumers says when"
            );
            Err(TaskError::invalid(error))
        }
    }
}

/// Says how far the consumer has come, for those who count what its server dies of. Where to go on is the
/// table's word, not this one's.
struct Mark {
    /// What earlier attempts had passed; what was said last.
    before: Passed,
    said: Passed,
    /// Since when it has been a member, of this attempt.
    joined: Option<Instant>,
    due: Instant,
}

/// Counted over all attempts of the job.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Passed {
    messages: u64,
    /// Times that it was a member for so long without an end.
    well: u64,
}

impl Mark {
    fn resumed(context: &TaskContext) -> Self {
        let before = context.resumed();
        let before = before.and_then(|text| serde_json::from_slice(text).ok());
        let before = before.unwrap_or_default();
        Self {
            before,
            said: before,
            joined: None,
            due: Instant::now(),
        }
    }

    fn note(&mut self, context: &TaskContext, status: &ConsumerStatus) {
        self.joined = match status.state {
            ConsumerState::Running => self.joined.or_else(|| Some(Instant::now())),
            _ => None,
        };
        let well = self
            .joined
            .map_or(0, |since| since.elapsed().as_secs() / WELL.as_secs());
        let passed = Passed {
            messages: self.before.messages + status.stored + status.rejected,
            well: self.said.well.max(self.before.well + well),
        };
        if passed != self.said && self.due <= Instant::now() {
            self.due = Instant::now() + SAY_EVERY;
            // Nobody waits for it: one that is lost is said again.
            let text = serde_json::to_vec(&passed).unwrap_or_default(); // numbers
            let _saving = context.checkpoint(text);
            self.said = passed;
        }
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
