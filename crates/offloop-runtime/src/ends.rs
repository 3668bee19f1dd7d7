//! What follows a job's end: jobs that a pack wants taken in by the commit that ends it.
//!
//! Must never: be asked by anybody but those who end jobs, or look into a payload.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use offloop_job::{
    Failure, FinalReason, JobId, JobOptions, JobState, NewJob, OptionProblem, RecordWrite,
    TaskName, Timestamp,
};
use offloop_store::{Claimed, EndIdle, IdleEnd, Settlement, StoreError, Verdict};

use crate::config::Redact;
use crate::handle::Shared;
use crate::hooks::FinalEnd;

/// A job that will not run again, however it ended.
#[derive(Clone, Debug)]
pub struct EndedJob<'a> {
    pub id: JobId,
    pub task: &'a TaskName,
    pub options: &'a JobOptions,
    /// A final one.
    pub state: JobState,
    pub at: Timestamp,
    /// Attempts that were spent.
    pub attempt: u16,
    /// Why it failed for good.
    pub reason: Option<FinalReason>,
    pub failure: Option<&'a Failure>,
    pub result: Option<&'a Bytes>,
    /// Its task keeps payloads to itself: the failure's message may quote one.
    pub private_payload: bool,
    pub private_result: bool,
}

/// Makes jobs that follow the ends of others. Pure: it is called on the keeper's thread, and may be
/// called again if the commit fails.
pub trait EndHook: Send + Sync + fmt::Debug {
    /// Whether it brings webhooks to their receivers.
    fn delivers(&self) -> bool {
        false
    }

    /// What is wrong with what a new job wants of it, before it is taken in.
    fn problem(&self, job: &NewJob) -> Option<OptionProblem>;

    /// Jobs to take in with this end.
    fn follow(&self, end: &EndedJob<'_>) -> Vec<NewJob>;
}

/// What is wrong with the job's webhook: nobody here delivers any, or its own hook says so.
pub(crate) fn problem(hooks: &[Arc<dyn EndHook>], job: &NewJob) -> Option<OptionProblem> {
    if job.options.webhook.is_some() && !hooks.iter().any(|hook| hook.delivers()) {
        return Some(OptionProblem {
            field: "webhook",
            message: "nobody here delivers any; set `secrets` under [packs.webhooks]".into(),
        });
    }
    hooks.iter().find_map(|hook| hook.problem(job))
}

/// What of the task's jobs is not for others.
fn private(shared: &Shared, task: &TaskName) -> Redact {
    let defaults = shared.defaults_of(task);
    let redact = defaults.redact;
    Redact {
        payload: redact.payload || defaults.sealed,
        result: redact.result || defaults.sealed,
        ..redact
    }
}

fn follow(shared: &Shared, end: &EndedJob<'_>) -> Vec<NewJob> {
    let hooks = shared.end_hooks.iter();
    hooks.flat_map(|hook| hook.follow(end)).collect()
}

/// Adds what follows to a settlement that ends its job.
pub(crate) fn settled(shared: &Shared, claimed: &Claimed, end: &mut Settlement, now: Timestamp) {
    let state = end.verdict.step().edge().1;
    if shared.end_hooks.is_empty() || !state.is_final() {
        return;
    }
    let private = private(shared, &claimed.task);
    let (reason, result) = match &end.verdict {
        Verdict::Completed { result } => (None, result.as_ref()),
        Verdict::GiveUp { reason } => (Some(*reason), None),
        _ => (None, None),
    };
    let ended = EndedJob {
        id: claimed.id,
        task: &claimed.task,
        options: &claimed.options,
        state,
        at: now,
        attempt: claimed.history.attempt,
        reason,
        failure: end.report.failure.as_ref(),
        result,
        private_payload: private.payload,
        private_result: private.result,
    };
    let jobs = follow(shared, &ended);
    end.follow.extend(jobs);
}

/// The end of a job that no executor has, with what packs add to it.
pub(crate) async fn end_idle(
    shared: &Shared,
    id: JobId,
    task: &TaskName,
    payload: &Bytes,
    why: IdleEnd,
    now: Timestamp,
) -> Result<EndIdle, StoreError> {
    let state = why.step().edge().1;
    let (records, follow) = added(shared, id, task, payload, state, now).await?;
    Ok(EndIdle {
        id,
        why,
        records,
        follow,
    })
}

/// What packs add to the end of a job that no executor had: their rows, and what follows.
pub(crate) async fn added(
    shared: &Shared,
    id: JobId,
    task: &TaskName,
    payload: &Bytes,
    state: JobState,
    at: Timestamp,
) -> Result<(Vec<RecordWrite>, Vec<NewJob>), StoreError> {
    let records = shared.final_records(&FinalEnd {
        id,
        task,
        payload,
        state,
        failure: None,
    });
    let job = if shared.end_hooks.is_empty() {
        None
    } else {
        shared.engine.job(id).await?
    };
    let Some(job) = job else {
        return Ok((records, Vec::new()));
    };
    let private = private(shared, task);
    let ended = EndedJob {
        id,
        task,
        options: &job.options,
        state,
        at,
        attempt: job.summary.attempt,
        reason: None,
        failure: job.summary.failure.as_ref(),
        result: None,
        private_payload: private.payload,
        private_result: private.result,
    };
    let jobs = follow(shared, &ended);
    // Of an end that comes by the keeper, the keeper knows it itself.
    for due in jobs.iter().filter_map(|job| job.options.run_at) {
        shared.due_at(due);
    }
    Ok((records, jobs))
}
