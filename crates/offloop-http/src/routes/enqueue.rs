//! `POST /v1/jobs`: one job in, durable before the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use offloop_job::{JobId, NewJob};
use offloop_store::{InsertOutcome, InsertRefusal, NotAdmittedWhy};
use offloop_wire::{FieldProblem, JobReader, JobView, new_job_json};

use super::call::tell_pressure;
use super::{Answer, bulk, json, json_bytes, location, no_job, request_key, wait};
use crate::body::collect;
use crate::door::{Inner, is_set};
use crate::problem::{Kind, Refusal, of_body, of_refusal};
use crate::query::Query;

/// What the body is.
pub(super) enum Media {
    One,
    Many,
}

pub(super) fn media(headers: &HeaderMap) -> Result<Media, Refusal> {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    match essence {
        "application/json" => Ok(Media::One),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Media::Many),
        other => {
            let detail = format!(
                "the body's Content-Type is {:?}; send application/json for one job or application/x-ndjson for many",
                &other[..other.floor_char_boundary(64)]
            );
            Err(Kind::MediaType.say(detail).into())
        }
    }
}

pub(super) async fn post_jobs(State(door): State<Arc<Inner>>, request: Request) -> Answer {
    match media(request.headers())? {
        Media::One => one(&door, request).await,
        Media::Many => bulk::post_many(door, request, None).await,
    }
}

async fn one(door: &Inner, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let patience = patience(&parts.uri)?;
    let collected = collect(body, door.config.job_bytes_max, &door.collecting).await?;
    let text = &collected.bytes;
    let now = door.handle.now();
    let mut asked = JobReader::new()
        .read(text, 0..text.len(), now)
        .map_err(|error| of_body(error, Kind::InvalidJob))?;
    take_key(&mut asked, &parts.headers)?;
    let wait = wait::asked(&parts.headers);
    if wait.is_some() && door.handle.keep_of(&asked) == Some(Duration::ZERO) {
        // Its caller waits from before it is there, though nobody could see that at its end.
        asked.options.keep = Some(KEEP_FOR_CALLER);
    }

    let outcome = put(door, &asked, patience).await?;
    drop(collected);
    answered(door, &asked, outcome, wait).await
}

/// Takes a member of a group in and shows it.
pub(super) async fn taken_in(door: &Inner, job: NewJob) -> Answer {
    let outcome = put(door, &job, None).await?;
    answered(door, &job, outcome, None).await
}

async fn answered(
    door: &Inner,
    asked: &NewJob,
    outcome: Option<InsertOutcome>,
    wait: Option<Duration>,
) -> Answer {
    let now = door.handle.now();
    let id = match outcome {
        Some(InsertOutcome::Created { id, state, .. }) => {
            if wait.is_none() {
                let due_at = asked.options.due(now);
                let wait = door.handle.estimated_wait(&asked.task).await;
                let begins = wait.map(|wait| due_at.max(now.plus(wait)));
                let body = new_job_json(id, state, asked, due_at, begins);
                let mut response = json_bytes(StatusCode::CREATED, body);
                tell_pressure(&mut response, door.handle.job_pressure(&asked.task).await);
                response
                    .headers_mut()
                    .insert(header::LOCATION, location(id));
                return Ok(response);
            }
            id
        }
        Some(InsertOutcome::Existing { id, .. }) => id,
        Some(InsertOutcome::Refused(refusal)) => {
            let mut problem = of_refusal(&refusal);
            if let InsertRefusal::QueueFull { limit, .. } = &refusal {
                let drained = door.handle.drain_time(&asked.task, *limit);
                problem.retry_after = Some(drained.as_secs() + 1); // whole seconds, up
            }
            return Err(problem.into());
        }
        None => return Err(Kind::Internal.say("the store answered nothing").into()),
    };
    if let Some(within) = wait {
        return answer_or_ticket(door, id, within).await;
    }
    let job = door.handle.job(id).await?.ok_or_else(|| no_job(id))?;
    let mut response = json(StatusCode::OK, &JobView::from(&job))?;
    response
        .headers_mut()
        .insert(header::LOCATION, location(id));
    Ok(response)
}

/// What a producer wants when there is no room: to be refused at once (`on_full=refuse`, the default), or
/// to be held until there is, at most this long (`on_full=wait`).
fn patience(uri: &Uri) -> Result<Option<Duration>, Refusal> {
    let query = Query::read(uri, &["on_full"])?;
    let read = |text: &str| match text {
        "refuse" => Ok(None),
        "wait" => Ok(Some(wait::WAIT_MAX)),
        other => Err(format!(
            "is {other:?}; give refuse or wait (at most {:?})",
            wait::WAIT_MAX
        )),
    };
    query.with("on_full", read).map(Option::flatten)
}

/// A result that is not to be kept is kept so long for a caller who waits for it.
const KEEP_FOR_CALLER: Duration = Duration::from_secs(60);
/// Between two tries of a producer that waits; an estimate is as old.
const PAUSE: Duration = Duration::from_millis(50);

/// Takes a copy of the job in (its maker answers by it), or says why not once patience is at its end.
async fn put(
    door: &Inner,
    job: &NewJob,
    patience: Option<Duration>,
) -> Result<Option<InsertOutcome>, Refusal> {
    let until = patience.map(|patience| Instant::now() + patience);
    let mut closing = door.closing.subscribe();
    loop {
        let outcome = door
            .handle
            .enqueue(vec![job.clone()])
            .await?
            .into_iter()
            .next();
        let full = match &outcome {
            Some(InsertOutcome::Refused(InsertRefusal::QueueFull { .. })) => true,
            Some(InsertOutcome::Refused(InsertRefusal::NotAdmitted(refused))) => {
                // To wait does not help a job that is late already.
                !matches!(refused.why, NotAdmittedWhy::Deadline { .. })
            }
            _ => false,
        };
        if !full || until.is_none_or(|until| Instant::now() >= until) {
            return Ok(outcome);
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = is_set(&mut closing) => return Ok(outcome),
        }
    }
}

/// The header's key; the body may give the same, not another.
fn take_key(job: &mut NewJob, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(key) = request_key::key(headers)? else {
        return Ok(());
    };
    if job.idempotency.as_ref().is_some_and(|own| *own != key) {
        let detail = "is not the same as the header Idempotency-Key; send one of them";
        let mut problem = Kind::InvalidJob.say(format!("idempotency_key {detail}"));
        problem.errors = vec![FieldProblem::new("/idempotency_key", detail)];
        return Err(problem.into());
    }
    job.idempotency = Some(key);
    Ok(())
}

/// 200 with the job if it is final in time, else 202.
async fn answer_or_ticket(door: &Inner, id: JobId, within: std::time::Duration) -> Answer {
    let mut closing = door.closing.subscribe();
    // It is in: with no place to wait it is a ticket at once.
    let place = wait::place(door);
    let within = if place.is_some() {
        within
    } else {
        Duration::ZERO
    };
    let job = tokio::select! {
        job = door.handle.wait_final(id, within) => job?,
        () = is_set(&mut closing) => door.handle.job(id).await?,
    };
    let job = job.ok_or_else(|| no_job(id))?;
    let done = job.summary.state.is_final();
    let status = if done {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut response = json(status, &JobView::from(&job))?;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location(id));
    let applied = format!("wait={}", within.as_secs());
    if let Ok(applied) = HeaderValue::from_str(&applied) {
        headers.insert("preference-applied", applied);
    }
    Ok(response)
}
