//! Bodies that another pack has fetched: into the spool with their job, each name once.
//!
//! Must never: put a second body under a name whose first one has begun to be stored; rows of the two would
//! be mixed.

use std::sync::{Arc, Weak};

use offloop::job::JobId;
use offloop::store::{InsertOutcome, InsertRefusal};
use offloop::{Intake, IntakeError, Taking, WholeBody};

use super::spool::{About, SpoolError};
use super::view::chain;
use super::{Shared, task, tenant_problem, upload};
use crate::load::LoadId;
use crate::target::Target;

/// What the pack offers. Weak: the server holds its packs, and what is shared holds the server.
#[derive(Debug)]
pub(super) struct Taker(pub(super) Weak<Shared>);

fn refused(error: &dyn std::error::Error) -> IntakeError {
    IntakeError::Refused(chain(error))
}

fn of_spool(error: &SpoolError) -> IntakeError {
    match error {
        SpoolError::Full { .. }
        | SpoolError::TooMany
        | SpoolError::DiskFull
        | SpoolError::Busy
        | SpoolError::SendersFull { .. }
        | SpoolError::TenantFull { .. }
        | SpoolError::Ending => IntakeError::Full(error.to_string()),
        SpoolError::Exists { .. } | SpoolError::Unknown { .. } | SpoolError::Io(_) => {
            refused(error)
        }
    }
}

fn problem(shared: &Shared, target: &str) -> Option<String> {
    let known = shared.options.targets.iter().map(Target::name);
    let known: Vec<_> = known.collect();
    if known.contains(&target) {
        return None;
    }
    let known = known.join(", ");
    Some(format!(
        "is no target of [ingest.targets]; known are: {known}"
    ))
}

impl Intake for Taker {
    fn problem(&self, target: &str) -> Option<String> {
        self.0.upgrade().and_then(|shared| problem(&shared, target))
    }

    fn take<'a>(&'a self, body: WholeBody<'a>) -> Taking<'a> {
        Box::pin(async move {
            let shared = self.0.upgrade();
            let shared = shared.ok_or_else(|| of_spool(&SpoolError::Ending))?;
            take(&shared, body).await
        })
    }
}

async fn take(shared: &Arc<Shared>, body: WholeBody<'_>) -> Result<JobId, IntakeError> {
    let starting = || IntakeError::Full("the server is starting".into());
    let open = shared.open.get().ok_or_else(starting)?;
    let load = LoadId::parse(body.name).map_err(|error| refused(&error))?;
    if let Some(problem) = problem(shared, body.target) {
        return Err(IntakeError::Refused(format!("{:?} {problem}", body.target)));
    }
    if let Some(problem) = body.tenant.and_then(tenant_problem) {
        return Err(IntakeError::Refused(format!("the tenant: {problem}")));
    }
    let found = std::fs::metadata(body.file).map_err(|error| refused(&error))?;
    let most = shared.options.upload_bytes;
    if found.len() > most {
        let len = found.len();
        let message = format!("the body has {len} bytes; ingest.upload_limit is {most}");
        return Err(IntakeError::Refused(message));
    }
    let about = About {
        target: body.target.to_owned(),
        tenant: body.tenant.map(str::to_owned),
        length: Some(found.len()),
        // Should it have to be copied here, what is copied so far is swept when it is old.
        resumable: true,
        repr: Vec::new(),
    };
    let adopted = shared.spool.adopt(&load, &about, body.file).await;
    adopted.map_err(|error| of_spool(&error))?;
    let outcome = task::enqueue(shared, open, &load, &about).await;
    let outcome = outcome.map_err(|error| IntakeError::Full(error.to_string()))?;
    match outcome {
        Some(InsertOutcome::Created { id, .. }) => {
            // A small one may have ended meanwhile, which says more.
            if shared.history.get(&load).is_none() {
                let view = upload::waiting(&load, &about, id, found.len());
                shared.history.keep(&open.server, &load, view).await;
            }
            Ok(id)
        }
        // The same name for another tenant or target is the same body: it was taken as it was then.
        Some(
            InsertOutcome::Existing { id, .. }
            | InsertOutcome::Refused(InsertRefusal::IdempotencyMismatch { holder: id }),
        ) => {
            // What was stored under this name is what counts; this body was called for once more.
            if task::is_done(open, id).await
                && let Err(error) = shared.spool.remove(&load)
            {
                tracing::warn!(%error, %load, "a body that is stored cannot be taken away");
            }
            Ok(id)
        }
        // The body is in the spool: it is offered again, or gets its job at the next start.
        Some(InsertOutcome::Refused(refusal)) => Err(match refusal {
            InsertRefusal::QueueFull { .. }
            | InsertRefusal::Draining { .. }
            | InsertRefusal::NotAdmitted(_) => IntakeError::Full(refusal.to_string()),
            refusal => IntakeError::Refused(refusal.to_string()),
        }),
        None => Err(IntakeError::Full("the store did not answer".into())),
    }
}
