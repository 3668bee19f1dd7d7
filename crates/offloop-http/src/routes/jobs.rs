//! Looking at jobs: pages, one, its log.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use bytes::{BufMut as _, BytesMut};
use offloop_job::limits::PAGE_ROWS_MAX;
use offloop_store::ListRequest;
use offloop_wire::{JobList, JobView};

use super::{Answer, filter, job_id, json, no_job, wait};
use crate::door::{Inner, is_set};
use crate::problem::Kind;
use crate::query::Query;

const LIMIT_DEFAULT: u16 = 50;

pub(super) async fn list(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    let query = Query::read_with(&uri, &filter::with(&["limit", "cursor"]), &filter::MANY)?;
    let filter = filter::read(&query, door.handle.now())?;
    let limit = query.limit(LIMIT_DEFAULT, PAGE_ROWS_MAX)?;
    let cursor = query.engine_cursor()?;
    let now = door.handle.now();
    let page = door
        .handle
        .jobs(ListRequest {
            now,
            filter,
            limit,
            cursor,
        })
        .await?;
    let body = JobList {
        jobs: page.jobs.iter().map(JobView::from).collect(),
        next_cursor: page.next.map(|cursor| cursor.0.into()),
    };
    json(StatusCode::OK, &body)
}

/// `wait_ms=N` or `Prefer: wait=N` (seconds) waits for the end.
pub(super) async fn one(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let query = Query::read(&uri, &["wait_ms"])?;
    let id = job_id(&id)?;
    let job = match wait::asked_by(&query)?.or(wait::asked(&headers)) {
        None => door.handle.job(id).await?,
        Some(within) => {
            let _place = wait::place(&door).ok_or_else(|| wait::no_place(&door))?;
            let mut closing = door.closing.subscribe();
            tokio::select! {
                job = door.handle.wait_final(id, within) => job?,
                () = is_set(&mut closing) => door.handle.job(id).await?,
            }
        }
    };
    let job = job.ok_or_else(|| no_job(id))?;
    json(StatusCode::OK, &JobView::from(&job))
}

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Output of one attempt, the last one unless another is named.
pub(super) async fn logs(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    let query = Query::read(&uri, &["attempt"])?;
    let number: Option<u16> = query.parsed("attempt")?;
    let id = job_id(&id)?;
    let job = door.handle.job(id).await?.ok_or_else(|| no_job(id))?;
    let mut attempts = job.attempts.iter().rev();
    let attempt = match number {
        None => attempts.next(),
        Some(number) => Some(
            attempts
                .find(|attempt| attempt.number == number)
                .ok_or_else(|| {
                    Kind::NotFound.say(format!("attempt {number} of job {id} is not on record"))
                })?,
        ),
    };
    let mut text = BytesMut::new();
    if let Some(log) = attempt.map(|attempt| &attempt.log) {
        text.put_slice(&log.head);
        if log.dropped_bytes > 0 {
            let gap = format!("\n... {} bytes are not kept ...\n", log.dropped_bytes);
            text.put_slice(gap.as_bytes());
        }
        text.put_slice(&log.tail);
    }
    // Bytes as the task wrote them: not always UTF-8, never a page (nosniff).
    let mut response = Response::new(Body::from(text.freeze()));
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    Ok(response)
}
