//! Orders about one job: cancel, retry, forget.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use offloop_job::{JobId, JobState};
use offloop_runtime::CancelOutcome;
use offloop_store::{DeleteOutcome, ReviveOutcome};
use offloop_wire::JobView;

use super::{Answer, empty, job_id, json, no_job};
use crate::door::Inner;
use crate::problem::{Kind, Refusal};
use crate::query::Query;

async fn shown(door: &Inner, id: JobId, status: StatusCode) -> Answer {
    let job = door.handle.job(id).await?.ok_or_else(|| no_job(id))?;
    json(status, &JobView::from(&job))
}

fn conflict(detail: String) -> Refusal {
    Kind::Conflict.say(detail).into()
}

/// 200 once it is cancelled, 202 while its executor is being stopped.
pub(super) async fn cancel(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let id = job_id(&id)?;
    match door.handle.cancel(id).await? {
        CancelOutcome::Cancelled | CancelOutcome::AlreadyFinal(JobState::Cancelled) => {
            shown(&door, id, StatusCode::OK).await
        }
        CancelOutcome::Stopping => shown(&door, id, StatusCode::ACCEPTED).await,
        CancelOutcome::AlreadyFinal(state) => Err(conflict(format!(
            "job {id} is {state} already; there is nothing to cancel"
        ))),
        CancelOutcome::Unknown => Err(no_job(id)),
    }
}

/// Another life for a job that failed, was cancelled or expired.
pub(super) async fn retry(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let id = job_id(&id)?;
    match door.handle.retry(id).await? {
        ReviveOutcome::Revived { .. } => shown(&door, id, StatusCode::OK).await,
        ReviveOutcome::NotRevivable(state) => Err(conflict(format!(
            "job {id} is {state}; only a failed, cancelled or expired one can be retried"
        ))),
        ReviveOutcome::UniqueConflict { holder } => {
            let detail = format!("job {holder} holds the unique key of job {id} now");
            let mut problem = Kind::UniqueConflict.say(detail);
            problem.job = Some(holder.to_string());
            Err(problem.into())
        }
        ReviveOutcome::Counted { group } => Err(conflict(format!(
            "job {id} is a member of group {group}, which is open and has counted its end; add a new job to the group, or retry this one when the group is decided"
        ))),
        ReviveOutcome::Unknown => Err(no_job(id)),
    }
}

/// Forgets a final job.
pub(super) async fn forget(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let id = job_id(&id)?;
    match door.handle.delete(id).await? {
        DeleteOutcome::Deleted => Ok(empty(StatusCode::NO_CONTENT)),
        DeleteOutcome::NotFinal(state) => Err(conflict(format!(
            "job {id} is {state}; cancel it first, then delete it"
        ))),
        DeleteOutcome::Unknown => Err(no_job(id)),
    }
}
