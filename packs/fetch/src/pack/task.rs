//! One job of the task `fetch`: its calls, what is kept of them, and its result.
//!
//! Must never: call again what a row says is done, or say that it is done before the row is on disk.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use offloop::job::Tag;
use offloop::runtime::EnqueueError;
use offloop::{JobId, RecordWrite, TaskContext, TaskError, TaskOutput};
use serde_json::{Value, json};

use super::Shared;
use super::hand::{Handed, into_ingest, load_name, to_task};
use super::rows::{Row, gone, load, sweep};
use crate::call::{Cause, Done, Failure};
use crate::plan::{OnResult, Plan, read_plan};
use crate::runner::Runner;
use crate::show::{done_json, summary_json};

/// Ends that wait for the disk; while so many do, no more are asked for.
const UNSAVED_MAX: usize = 256;
/// Those whose bodies lie on disk until they are handed on.
const UNSAVED_LOADS_MAX: usize = 16;
const TICK: Duration = Duration::from_millis(200);
/// When to hand answers on again that a queue had no room for.
const HAND_ON_WAIT: Duration = Duration::from_secs(1);
/// Of a result, which may have 1 MiB.
const RESULT_BYTES: usize = 900 << 10;
/// A body's part in it: shared out among the calls, and no more than this.
const INLINE_BYTES_MAX: usize = 32 << 10;
const INLINE_BYTES_ALL: usize = 640 << 10;
/// Of a body that is told while the job runs.
const TOLD_BYTES_MAX: usize = 8 << 10;
/// Failures in a result or a message.
const FAILURES_MAX: usize = 100;
const FAILURES_TOLD: usize = 5;

type Saving = Pin<Box<dyn Future<Output = Result<Saved, EnqueueError>> + Send>>;

/// What a save came to.
struct Saved {
    rows: Vec<Row>,
    handed: Handed,
}

pub(super) async fn fetch(
    shared: Arc<Shared>,
    context: TaskContext,
) -> Result<TaskOutput, TaskError> {
    let plan = read_plan(context.payload(), shared.limits, &|url| shared.url(url));
    let plan = plan.map_err(|problems| {
        let told = offloop::store::told(&problems);
        TaskError::invalid(format!("the payload does not fit the task: {told}"))
    })?;
    Job::begin(shared, context, plan).await?.run().await
}

struct Job {
    shared: Arc<Shared>,
    context: TaskContext,
    on_result: OnResult,
    /// The job's `group_key`: the account that its loads count against.
    tenant: Option<Tag>,
    runner: Runner,
    total: u64,
    /// Bytes of a body in a row.
    inline: Option<usize>,
    unsaved: Vec<Done>,
    saved: BTreeMap<u64, Row>,
    saving: Option<Saving>,
    hand_on_at: Option<tokio::time::Instant>,
    list_over: bool,
}

impl Job {
    async fn begin(
        shared: Arc<Shared>,
        context: TaskContext,
        plan: Plan,
    ) -> Result<Self, TaskError> {
        let job = context.work().job;
        if shared.sweeps_now()
            && let Err(error) = sweep(shared.server()?, &shared.rows).await
        {
            tracing::warn!(%error, "rows of jobs that are gone could not be taken away");
        }
        let tenant = match plan.on_result {
            OnResult::Ingest(_) => tenant(&shared, job).await?,
            _ => None,
        };
        let earlier = load(shared.server()?, &shared.rows, job).await;
        let earlier = earlier.map_err(|error| TaskError::error(error.to_string()))?;
        let done: HashSet<u64> = earlier.iter().map(|row| row.index).collect();
        let total = plan.calls.len() as u64;
        let left: Vec<_> = (0..)
            .zip(plan.calls)
            .filter(|(index, _)| !done.contains(index))
            .collect();
        let source = futures_util::stream::iter(left).boxed();
        let mut runner = Runner::new(shared.client.clone(), plan.settings, source);
        for row in &earlier {
            runner.recall(row.status, row.cause, row.bytes);
        }
        if !earlier.is_empty() {
            context.log(&format!(
                "{} of {total} calls were done before",
                earlier.len()
            ));
        }
        let part = INLINE_BYTES_ALL / plan_len(total);
        Ok(Self {
            inline: (plan.on_result == OnResult::Inline).then_some(part.min(INLINE_BYTES_MAX)),
            shared,
            context,
            on_result: plan.on_result,
            tenant,
            runner,
            total,
            unsaved: Vec::new(),
            saved: earlier.into_iter().map(|row| (row.index, row)).collect(),
            saving: None,
            hand_on_at: None,
            list_over: false,
        })
    }

    async fn run(mut self) -> Result<TaskOutput, TaskError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.begin_save();
            let stops = self.context.should_stop();
            if self.saving.is_none() && (stops || self.list_over && self.unsaved.is_empty()) {
                break;
            }
            let most = match self.on_result {
                OnResult::Ingest(_) => UNSAVED_LOADS_MAX,
                _ => UNSAVED_MAX,
            };
            let room = !stops && !self.list_over && self.unsaved.len() < most;
            tokio::select! {
                saved = save(&mut self.saving) => self.saved(saved)?,
                done = self.runner.next(), if room => match done {
                    Some(done) => self.done(done).await,
                    None => self.list_over = true,
                },
                _ = ticks.tick() => self.tick()?,
            }
        }
        if self.context.should_stop() {
            return Err(TaskError::stopped());
        }
        self.result().await
    }

    fn tick(&self) -> Result<(), TaskError> {
        let tally = self.runner.tally();
        let note = json!({"done": tally.done(), "total": self.total, "failed": tally.failed});
        self.context.progress(note.to_string())
    }

    /// One end: told to whoever listens, and put in line for the disk.
    async fn done(&mut self, mut done: Done) {
        if self.on_result == OnResult::Store
            && let Ok(answer) = &mut done.outcome
            && let (Some(sha256), Some(file)) = (&answer.sha256, answer.file.take())
        {
            let kept = self.shared.files.keep(sha256, file).await;
            if let Err(error) = kept {
                self.runner.spoil(Cause::Storage, answer.body_bytes);
                done.outcome = Err(Failure::for_good(Cause::Storage, error.to_string()));
            }
        }
        let told = self.inline.map(|_| TOLD_BYTES_MAX);
        let told = done_json(&done, told).to_string();
        // Escapes may make it too long: then it goes without its body.
        if self.context.partial(told).is_err() {
            let _ = self.context.partial(done_json(&done, None).to_string()); // nobody is lost
        }
        self.unsaved.push(done);
    }

    /// At most one write is under way: what comes meanwhile goes together with the next.
    fn begin_save(&mut self) {
        let waits = self
            .hand_on_at
            .is_some_and(|at| at > tokio::time::Instant::now());
        if self.saving.is_some() || self.unsaved.is_empty() || waits {
            return;
        }
        let batch = std::mem::take(&mut self.unsaved);
        let shared = Arc::clone(&self.shared);
        let job = self.context.work().job;
        let (inline, on_result) = (self.inline, self.on_result.clone());
        let tenant = self.tenant.clone();
        self.saving = Some(Box::pin(async move {
            let server = shared.server().map_err(|_| EnqueueError::ShuttingDown)?;
            let mut handed = match &on_result {
                OnResult::Task(task) => to_task(server, task, job, batch).await?,
                OnResult::Ingest(target) => {
                    let tenant = tenant.as_ref().map(Tag::as_str);
                    into_ingest(&shared.intake, target, tenant, job, batch).await
                }
                _ => Handed::keeping(batch),
            };
            let kept = std::mem::take(&mut handed.kept).into_iter();
            let row = |(done, load_job): (Done, Option<JobId>)| {
                let load = load_job.map(|load_job| (load_name(job, done.index), load_job));
                Row::of(&done, inline, load.as_ref())
            };
            let rows: Vec<_> = kept.map(row).collect();
            let writes = rows.iter().filter_map(|row| row.write(&shared.rows, job));
            server.write_records(writes.collect()).await?;
            Ok(Saved { rows, handed })
        }));
    }

    fn saved(&mut self, saved: Result<Saved, EnqueueError>) -> Result<(), TaskError> {
        self.saving = None;
        let saved = saved.map_err(|error| {
            TaskError::error(format!("what is done could not be kept: {error}"))
        })?;
        self.saved
            .extend(saved.rows.into_iter().map(|row| (row.index, row)));
        self.hand_on_at = None;
        for bytes in saved.handed.spoilt {
            self.runner.spoil(Cause::Storage, bytes);
        }
        if !saved.handed.back.is_empty() {
            self.unsaved.extend(saved.handed.back);
            self.hand_on_at = Some(tokio::time::Instant::now() + HAND_ON_WAIT);
        }
        Ok(())
    }

    async fn result(self) -> Result<TaskOutput, TaskError> {
        let job = self.context.work().job;
        let failed: Vec<_> = self
            .saved
            .values()
            .filter(|row| row.cause.is_some())
            .collect();
        if !self.runner.verdict() {
            // Another attempt calls again what failed, and nothing else.
            let writes = failed
                .iter()
                .map(|row| gone(&self.shared.rows, job, row.index));
            let written = self.shared.server()?.write_records(writes.collect()).await;
            written.map_err(|error| TaskError::error(error.to_string()))?;
            let told: Vec<_> = failed
                .iter()
                .take(FAILURES_TOLD)
                .map(|row| told(row))
                .collect();
            let (count, total) = (failed.len(), self.total);
            let message = format!("{count} of {total} calls failed: {}", told.join("; "));
            return Err(TaskError::error(message));
        }
        let mut summary = summary_json(self.runner.tally(), &self.shared.client, true);
        summary.insert("total".into(), self.total.into());
        summary.insert("rule".into(), self.runner.rule().as_str().into());
        let failures = failed.iter().take(FAILURES_MAX).map(|row| value(row));
        summary.insert("failures".into(), failures.collect::<Vec<_>>().into());
        let (results, omitted) = self.results(Value::from(summary.clone()).to_string().len());
        summary.insert("results".into(), results.into());
        summary.insert("results_omitted".into(), omitted.into());
        let gone = |row: &Row| gone(&self.shared.rows, job, row.index);
        let records: Vec<RecordWrite> = self.saved.values().map(gone).collect();
        Ok(TaskOutput {
            result: Some(Value::from(summary).to_string().into()),
            records,
        })
    }

    /// As many as fit, in the order of the list, and how many do not.
    fn results(&self, taken: usize) -> (Vec<Value>, u64) {
        let mut room = RESULT_BYTES.saturating_sub(taken);
        let mut results = Vec::new();
        let good = self.saved.values().filter(|row| row.cause.is_none());
        let mut omitted = 0;
        for row in good {
            if row.text.len() + 1 > room {
                omitted += 1;
                continue;
            }
            room -= row.text.len() + 1;
            results.push(value(row));
        }
        (results, omitted)
    }
}

/// On whose account the job runs. Not known is not the same as nobody's: another attempt asks again.
async fn tenant(shared: &Shared, job: JobId) -> Result<Option<Tag>, TaskError> {
    let found = shared.server()?.job(job).await;
    let found = found.map_err(|error| TaskError::error(error.to_string()))?;
    Ok(found.and_then(|found| found.options.group_key.clone()))
}

const fn plan_len(total: u64) -> usize {
    if total == 0 { 1 } else { total as usize }
}

fn value(row: &Row) -> Value {
    serde_json::from_str(&row.text).unwrap_or_default() // it was written here
}

fn told(row: &Row) -> String {
    let value = value(row);
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    format!("{} {}", text("url"), text("message"))
}

/// Waits for ever where nothing is being saved. Dropped before its answer, it loses nothing.
async fn save(saving: &mut Option<Saving>) -> Result<Saved, EnqueueError> {
    match saving {
        Some(saving) => saving.as_mut().await,
        None => std::future::pending().await,
    }
}
