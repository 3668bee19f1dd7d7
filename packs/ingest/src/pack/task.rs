//! The task `ingest`: a body of the spool into its target, exactly once over restarts.
//!
//! What is stored is known by the target's notes alone, so an attempt begins with the body's first
//! byte and skips what they say. Must never: take a body away before all of it is stored.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use offloop::job::limits::ATTEMPTS_MAX;
use offloop::job::{IdempotencyKey, JobId, JobState, RetryPolicy, Tag};
use offloop::runtime::EnqueueError;
use offloop::store::{InsertOutcome, InsertRefusal};
use offloop::{JobOptions, NewJob, TaskContext, TaskError, TaskOutput};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::spool::About;
use super::view::{chain, status_view, summary_view};
use super::{Open, Shared};
use crate::load::{Feed, LoadAsk, LoadId, LoadRefused, PIECE_BYTES_MAX, Status, feed};

pub(super) const TASK: &str = "ingest";
pub(super) const QUEUE: &str = "ingest";
const TICK: Duration = Duration::from_secs(1);
/// Until a place is looked for again.
const PLACE_AFTER: Duration = Duration::from_secs(2);
/// As many as a job may have: each one goes on where the last one was, and what crashes without that is
/// set aside as poison.
const ATTEMPTS: u16 = ATTEMPTS_MAX;
/// Between two checkpoints.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Of a job of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    load: LoadId,
    target: String,
    #[serde(default)]
    tenant: Option<String>,
}

/// Makes the job of a whole body; the same body again is the same job.
pub(super) async fn enqueue(
    shared: &Shared,
    open: &Open,
    load: &LoadId,
    about: &About,
) -> Result<Option<InsertOutcome>, EnqueueError> {
    let payload = Payload {
        load: load.clone(),
        target: about.target.clone(),
        tenant: about.tenant.clone(),
    };
    let job = NewJob {
        task: shared.task.clone(),
        payload: serde_json::to_vec(&payload).unwrap_or_default().into(), // plain texts
        options: JobOptions {
            queue: shared.queue.clone(),
            // So that limits by key count it, and tenants have their turns.
            group_key: about
                .tenant
                .as_deref()
                .and_then(|tenant| Tag::parse(tenant).ok()),
            retry: RetryPolicy {
                max_attempts: ATTEMPTS,
                ..RetryPolicy::default()
            },
            ..JobOptions::default()
        },
        idempotency: IdempotencyKey::parse(&format!("ingest/{load}")).ok(),
    };
    Ok(open.server.enqueue(vec![job]).await?.into_iter().next())
}

/// Bodies that a crash has left without their job, or behind it.
pub(super) async fn recover(shared: &Shared, open: &Open) -> Result<(), String> {
    let whole = shared.spool.all_whole();
    for load in whole.map_err(|error| format!("the spool cannot be read: {error}"))? {
        let Ok(about) = shared.spool.about(&load) else {
            tracing::warn!(%load, "a body of the spool does not say what it is for; it goes when it is old");
            continue;
        };
        let outcome = enqueue(shared, open, &load, &about).await;
        match outcome.map_err(|error| error.to_string())? {
            // Or under a key that an older version made of less.
            Some(
                InsertOutcome::Existing { id, .. }
                | InsertOutcome::Refused(InsertRefusal::IdempotencyMismatch { holder: id }),
            ) => {
                if !is_done(open, id).await {
                    continue;
                }
                if let Err(error) = shared.spool.remove(&load) {
                    tracing::warn!(%error, %load, "a body that is stored cannot be taken away");
                }
            }
            Some(InsertOutcome::Refused(refusal)) => {
                tracing::warn!(%load, %refusal, "a body of the spool has no job; the next start tries again");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes bodies away that nobody came for, now and then every `every`, until the server ends.
pub(super) async fn sweeper(shared: Weak<Shared>, every: Duration) {
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let Some(open) = shared.open.get() else {
            continue;
        };
        if let Err(error) = sweep(&shared, open).await {
            tracing::warn!(%error, "the spool cannot be swept");
        }
    }
}

async fn sweep(shared: &Arc<Shared>, open: &Open) -> std::io::Result<()> {
    let mut needed = HashSet::new();
    for load in shared.spool.old()? {
        if waits(shared, open, &load).await {
            needed.insert(load);
        }
    }
    let own = Arc::clone(shared);
    let hand = shared.spool.hand();
    let swept = hand.ask(move |()| own.spool.sweep(&|load| needed.contains(load)));
    swept.await.unwrap_or(Ok(())) // the server ends
}

/// Whether the body's job is still to come.
async fn waits(shared: &Shared, open: &Open, load: &LoadId) -> bool {
    let Some(view) = shared.history.get(load) else {
        return false;
    };
    let Some(Ok(id)) = view["job"].as_str().map(str::parse::<JobId>) else {
        return false;
    };
    match open.server.job(id).await {
        Ok(job) => job.is_some_and(|job| !job.summary.state.is_final()),
        Err(_busy) => true,
    }
}

/// Of a load that waits: its job may have ended without it (cancelled, or set aside when three servers
/// had died under it before it got on), and that is what is told then.
pub(super) async fn told_by_job(open: &Open, view: &mut Value) {
    let Some(Ok(id)) = view["job"].as_str().map(str::parse::<JobId>) else {
        return;
    };
    let Ok(Some(job)) = open.server.job(id).await else {
        return;
    };
    let state = job.summary.state;
    let result = job.result.filter(|_| state == JobState::Completed);
    let result = result.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    if let (Some(Value::Object(result)), Some(view)) = (result, view.as_object_mut()) {
        view.extend(result);
        view.insert("state".into(), "stored".into());
        return;
    }
    if state.is_final() && state != JobState::Completed {
        let why = job
            .summary
            .failure
            .map(|failure| failure.message.to_string());
        let why = why.unwrap_or_else(|| state.as_str().to_owned());
        view["state"] = "failed".into();
        view["error"] = format!("its job {id} ended: {why}; retry that to go on").into();
    }
}

pub(super) async fn is_done(open: &Open, id: JobId) -> bool {
    let found = open.server.job(id).await.ok().flatten();
    found.is_some_and(|job| job.summary.state == JobState::Completed)
}

pub(super) async fn ingest(
    shared: Option<Arc<Shared>>,
    context: TaskContext,
) -> Result<TaskOutput, TaskError> {
    // Before the server runs, and behind its end, another attempt comes.
    let shared = shared.ok_or_else(|| TaskError::snooze(TICK))?;
    let payload: Payload = serde_json::from_slice(context.payload())
        .map_err(|error| TaskError::invalid(format!("the payload is no body's: {error}")))?;
    let Some(open) = shared.open.get() else {
        return Err(TaskError::snooze(TICK));
    };
    let path = shared.spool.whole(&payload.load);
    let bytes_total = std::fs::metadata(&path).ok().map(|about| about.len());
    let load = open.loader.load(LoadAsk {
        load: payload.load.clone(),
        target: payload.target,
        tenant: payload.tenant,
        bytes_total,
    });
    let load = load.map_err(|refused| match refused {
        LoadRefused::UnknownTarget { .. } => TaskError::invalid(refused.to_string()),
        _ => TaskError::snooze(PLACE_AFTER),
    })?;
    let stop = Arc::new(AtomicBool::new(false));
    let (to, from) = feed();
    read(path, to, Arc::clone(&stop))?;
    let status = load.watch();
    let (mut mark, mut changed) = (Mark::resumed(&context), status.clone());
    let mut running = pin!(load.run(from));
    let mut ticks = tokio::time::interval(TICK);
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            Ok(()) = changed.changed(), if mark.is_due() => mark.note(&context, &changed),
            _ = ticks.tick() => {
                context.progress(status_view(&status.borrow()).to_string())?;
                if context.should_stop() {
                    stop.store(true, Ordering::Release);
                }
            }
        }
    };
    let job = Some(context.work().job);
    shared
        .remember(&open.loader, &open.server, &payload.load, job)
        .await;
    match ended {
        Ok(summary) => {
            if let Err(error) = shared.spool.remove(&payload.load) {
                tracing::warn!(%error, load = %payload.load, "a body that is stored cannot be taken away");
            }
            let rows = status.borrow().rows_in;
            Ok(TaskOutput::json(summary_view(&summary, rows).to_string()))
        }
        Err(_) if context.should_stop() => Err(TaskError::stopped()),
        Err(failed) => {
            let message = format!(
                "{}; stored: {}",
                chain(&failed.error),
                failed.summary.stored_text()
            );
            Err(if failed.error.retry_helps() {
                TaskError::error(message)
            } else {
                TaskError::invalid(message)
            })
        }
    }
}

/// Says how far the load has come, for those who count what its server dies of. Where to go on is the
/// target's word, not this one's.
struct Mark {
    /// Rows behind the load when it was said last.
    rows: u64,
    due: Instant,
}

impl Mark {
    fn resumed(context: &TaskContext) -> Self {
        let last = context.resumed();
        let last = last.and_then(|text| serde_json::from_slice::<Value>(text).ok());
        let rows = last.and_then(|last| last["rows"].as_u64());
        Self {
            rows: rows.unwrap_or(0),
            due: Instant::now(),
        }
    }

    fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    fn note(&mut self, context: &TaskContext, status: &watch::Receiver<Status>) {
        let rows = {
            let status = status.borrow();
            status.rows_stored + status.rows_rejected
        };
        if rows > self.rows {
            // Nobody waits for it: one that is lost is said again.
            let _saving = context.checkpoint(json!({ "rows": rows }).to_string());
            self.rows = rows;
            self.due = Instant::now() + NOTE_EVERY;
        }
    }
}

/// Reads the body on a thread of its own: a disk may take its time.
fn read(path: PathBuf, to: Feed, stop: Arc<AtomicBool>) -> Result<(), TaskError> {
    let work = move || {
        let reason = match std::fs::File::open(&path) {
            Err(error) => format!("the body is not in the spool: {error}"),
            Ok(mut file) => {
                let mut buffer = vec![0; PIECE_BYTES_MAX];
                loop {
                    if stop.load(Ordering::Acquire) {
                        break "the job was stopped".into();
                    }
                    match file.read(&mut buffer) {
                        Ok(0) => {
                            let _ended = to.end_blocking(); // a load that has ended says why itself
                            return;
                        }
                        Ok(len) => {
                            let piece = Bytes::copy_from_slice(&buffer[..len]);
                            if to.send_blocking(piece).is_err() {
                                return;
                            }
                        }
                        Err(error) => break format!("the body cannot be read: {error}"),
                    }
                }
            }
        };
        offloop::block_on(to.cut(reason));
    };
    let thread = std::thread::Builder::new().name("ingest-read".into());
    let begun = thread.spawn(work);
    begun
        .map(drop)
        .map_err(|error| TaskError::error(format!("cannot start a thread: {error}")))
}
