//! Answers that go on: as jobs of another task, or as loads into a target.
//!
//! What they become is on disk before the row that says that the call is done, under a name that finds it
//! again: a crash in between calls once more, and nothing is handed on twice.
//!
//! Must never: give an answer that there is no room for up; it comes back and waits.

use futures_util::StreamExt as _;
use offloop::runtime::EnqueueError;
use offloop::store::{InsertOutcome, InsertRefusal};
use offloop::{IntakeError, IntakeSlot, JobId, NewJob, RuntimeHandle, TaskName, WholeBody};
use serde_json::json;

use crate::call::{Cause, Done, Failure};
use crate::show::done_json;

/// Bodies on their way to the disk at a time: each waits for flushes, which others can share.
const LOADS_AT_ONCE: usize = 8;

/// What became of answers that were handed on.
#[derive(Default)]
pub(super) struct Handed {
    /// With the job that goes on with its body, where one does.
    pub(super) kept: Vec<(Done, Option<JobId>)>,
    /// Who takes them had no room for them.
    pub(super) back: Vec<Done>,
    /// Bytes of bodies that are not taken.
    pub(super) spoilt: Vec<u64>,
}

impl Handed {
    /// These are done as they are.
    pub(super) fn keeping(done: Vec<Done>) -> Self {
        Self {
            kept: done.into_iter().map(|done| (done, None)).collect(),
            ..Self::default()
        }
    }

    fn of_failed(batch: Vec<Done>) -> (Vec<Done>, Self) {
        let (good, kept): (_, Vec<_>) = batch.into_iter().partition(|done| done.outcome.is_ok());
        (good, Self::keeping(kept))
    }

    /// Its call succeeded, and what came is of no use to who was to have it.
    fn spoil(&mut self, mut done: Done, message: String) {
        let bytes = done.outcome.as_ref().map_or(0, |answer| answer.body_bytes);
        self.spoilt.push(bytes);
        done.outcome = Err(Failure::for_good(Cause::Storage, message));
        self.kept.push((done, None));
    }
}

/// Makes a job of each success.
pub(super) async fn to_task(
    server: &RuntimeHandle,
    task: &TaskName,
    job: JobId,
    batch: Vec<Done>,
) -> Result<Handed, EnqueueError> {
    let (good, mut handed) = Handed::of_failed(batch);
    let jobs = good.iter().map(|done| one(task, job, done));
    let outcomes = server.enqueue(jobs.collect()).await?;
    for (done, outcome) in good.into_iter().zip(outcomes) {
        match outcome {
            // A job of that key is there: this call was made before, and its answer handed on.
            InsertOutcome::Created { .. }
            | InsertOutcome::Existing { .. }
            | InsertOutcome::Refused(InsertRefusal::IdempotencyMismatch { .. }) => {
                handed.kept.push((done, None));
            }
            InsertOutcome::Refused(
                InsertRefusal::QueueFull { .. }
                | InsertRefusal::Draining { .. }
                | InsertRefusal::NotAdmitted(_),
            ) => handed.back.push(done),
            InsertOutcome::Refused(refusal) => {
                handed.spoil(done, format!("{task} does not take the answer: {refusal}"));
            }
        }
    }
    Ok(handed)
}

fn one(task: &TaskName, job: JobId, done: &Done) -> NewJob {
    let payload =
        json!({"fetch_job": job.to_string(), "answer": done_json(done, Some(usize::MAX))});
    NewJob {
        task: task.clone(),
        payload: payload.to_string().into(),
        options: offloop::JobOptions::default(),
        idempotency: offloop::job::IdempotencyKey::parse(&format!("fetch/{job}/{}", done.index))
            .ok(),
    }
}

/// What the body of a call becomes: the same load in each attempt of the job.
pub(super) fn load_name(job: JobId, index: u64) -> String {
    format!("fetch-{job}-{index}")
}

/// Gives each success's body to whoever has the target. `tenant`: on whose account.
pub(super) async fn into_ingest(
    slot: &IntakeSlot,
    target: &str,
    tenant: Option<&str>,
    job: JobId,
    batch: Vec<Done>,
) -> Handed {
    let (good, mut handed) = Handed::of_failed(batch);
    let taken = good.into_iter().map(|done| async move {
        let file = done
            .outcome
            .as_ref()
            .ok()
            .and_then(|answer| answer.file.as_ref());
        let taken = match (slot.get(), file) {
            (Some(intake), Some(file)) => {
                let name = load_name(job, done.index);
                let body = WholeBody {
                    name: &name,
                    target,
                    tenant,
                    file: file.path(),
                };
                intake.take(body).await
            }
            _ => Err(IntakeError::Refused("nobody takes bodies here".into())),
        };
        (done, taken)
    });
    let mut taken = futures_util::stream::iter(taken).buffer_unordered(LOADS_AT_ONCE);
    while let Some((mut done, taken)) = taken.next().await {
        match taken {
            Ok(load_job) => {
                // What is left of the draft, and its part of the bound, go now.
                if let Ok(answer) = &mut done.outcome {
                    answer.file = None;
                }
                handed.kept.push((done, Some(load_job)));
            }
            Err(IntakeError::Full(_)) => handed.back.push(done),
            Err(refused) => {
                handed.spoil(done, format!("ingest does not take the body: {refused}"));
            }
        }
    }
    handed
}
