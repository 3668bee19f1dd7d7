//! Flows: several jobs at once that wait for each other, and what a job is handed of those that it
//! waited for.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use offloop_store::{InsertOutcome, SameAs};
use offloop_wire::{FlowJob, FlowView, InputRow, InputsView, JobReader, read_flow};

use super::request_key::request_key;
use super::{Answer, job_id, json, no_job};
use crate::body::collect;
use crate::door::Inner;
use crate::problem::{Kind, of_body, of_enqueue, of_refusal};
use crate::query::Query;

/// One commit, each job behind those that it waits for. The answer is in the order of the request;
/// 207 if some were not taken in (a unique key that is held), with whoever waits for them. 200 if its key
/// says that all of it was made before.
pub(super) async fn create(State(door): State<Arc<Inner>>, request: Request) -> Answer {
    Query::none(request.uri())?;
    let limit = door.config.group_bytes_max();
    let (parts, body) = request.into_parts();
    let collected = collect(body, limit, &door.collecting).await?;
    let now = door.handle.now();
    let flow = read_flow(&mut JobReader::new(), &collected.bytes, now)
        .map_err(|error| of_body(error, Kind::InvalidBody))?;
    for (job, (place, _)) in flow.jobs.iter().zip(&flow.places) {
        if let Err(error) = door.handle.check(job) {
            let mut problem = of_enqueue(&error);
            problem.detail = format!("job {place}: {}", problem.detail);
            problem.field = problem.field.map(|field| format!("/jobs/{place}{field}"));
            for error in &mut problem.errors {
                error.pointer = format!("/jobs/{place}{}", error.pointer);
            }
            return Err(problem.into());
        }
    }
    let outcomes = match request_key(&parts.headers, &collected.bytes)? {
        Some(request) => door.handle.enqueue_once(flow.jobs, request).await?,
        None => door.handle.enqueue(flow.jobs).await?,
    };
    drop(collected);
    let refused = |outcome: &InsertOutcome| matches!(outcome, InsertOutcome::Refused(_));
    if let Some(InsertOutcome::Refused(first)) = outcomes.first()
        && outcomes.iter().all(refused)
    {
        return Err(of_refusal(first).into());
    }
    let before = |outcome: &InsertOutcome| {
        let same = SameAs::IdempotencyKey;
        matches!(outcome, InsertOutcome::Existing { same: how, .. } if *how == same)
    };
    let status = if outcomes.iter().any(refused) {
        StatusCode::MULTI_STATUS
    } else if outcomes.iter().all(before) {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut jobs: Vec<(usize, FlowJob)> = outcomes
        .iter()
        .zip(flow.places)
        .map(|(outcome, (place, name))| (place, flow_job(outcome, name)))
        .collect();
    jobs.sort_by_key(|job| job.0);
    let jobs = jobs.into_iter().map(|job| job.1).collect();
    json(status, &FlowView { jobs })
}

pub(super) fn flow_job(outcome: &InsertOutcome, name: Option<Box<str>>) -> FlowJob {
    let name = name.map(String::from);
    match outcome {
        InsertOutcome::Created { id, state, .. } => FlowJob {
            name,
            id: Some(id.to_string()),
            state: Some(state.as_str().into()),
            ..FlowJob::default()
        },
        InsertOutcome::Existing { id, .. } => FlowJob {
            name,
            existing: Some(id.to_string()),
            ..FlowJob::default()
        },
        InsertOutcome::Refused(refusal) => FlowJob {
            name,
            error: Some(of_refusal(refusal)),
            ..FlowJob::default()
        },
    }
}

pub(super) async fn inputs(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let id = job_id(&id)?;
    let inputs = door.handle.inputs(id).await?.ok_or_else(|| no_job(id))?;
    let inputs = inputs.iter().map(InputRow::from).collect();
    json(StatusCode::OK, &InputsView { inputs })
}
