//! Groups: made with their members, filled while open, sealed, cancelled, shown.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt as _};
use http_body_util::BodyExt as _;
use offloop_job::limits::PAGE_ROWS_MAX;
use offloop_job::{GroupId, GroupState, NewGroup};
use offloop_store::{
    Asked, GroupChange, GroupListRequest, InsertOutcome, InsertRefusal, MemberRequest,
};
use offloop_wire::{BulkSummary, FlowJob, GroupList, GroupView, JobReader, MemberRow, read_group};
use serde::Serialize;

use super::enqueue::{Media, media};
use super::flows::flow_job;
use super::limits::BY_API;
use super::request_key::{key, request_key};
use super::{Answer, bulk, json};
use crate::body::{self, collect};
use crate::door::Inner;
use crate::problem::{Kind, Refusal, of_body, of_enqueue, of_refusal};
use crate::query::Query;

const LIMIT_DEFAULT: u16 = 50;

/// A group as it was made, and what became of lines that were not taken in.
#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    group: GroupView,
    #[serde(flatten)]
    rest: Rest,
}

/// What became of the members that came with it, where not all were taken in.
#[derive(Default, Serialize)]
struct Rest {
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<Vec<FlowJob>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines: Option<BulkSummary>,
}

pub(super) async fn create(State(door): State<Arc<Inner>>, request: Request) -> Answer {
    let media = media(request.headers())?;
    Query::none(request.uri())?;
    match media {
        Media::One => {
            let (parts, body) = request.into_parts();
            create_whole(&door, &parts.headers, body).await
        }
        Media::Many => {
            if key(request.headers())?.is_some() {
                let detail = "the header Idempotency-Key is for a group in one JSON body; give each line a \
                              key of its own (`idempotency_key`)";
                return Err(Kind::InvalidParameter.say(detail).into());
            }
            // On a task of its own: a caller that hangs up must not leave half a group open.
            let made = tokio::spawn(create_by_lines(door, request.into_body())).await;
            made.unwrap_or_else(|_| Err(Kind::Internal.say("the group could not be made").into()))
        }
    }
}

/// One commit. 207 if some members were not taken in (their queue is full, their unique key is
/// held): the group is made of the others. 200 with the group as it is now if its key says that it was
/// made before.
async fn create_whole(door: &Inner, headers: &HeaderMap, body: Body) -> Answer {
    let limit = door.config.group_bytes_max();
    let collected = collect(body, limit, &door.collecting).await?;
    let now = door.handle.now();
    let (mut group, jobs) = read_group(&mut JobReader::new(), &collected.bytes, now, false)
        .map_err(|error| of_body(error, Kind::InvalidBody))?;
    check_then(door, &group)?;
    group.request = request_key(headers, &collected.bytes)?;
    let made = door.handle.create_group(group, jobs).await?;
    drop(collected);
    match made.asked {
        Asked::First => {}
        Asked::Again => return answer(door, made.id, Rest::default(), StatusCode::OK).await,
        Asked::Otherwise => {
            let detail = format!(
                "Idempotency-Key: was used for group {} with another body; use a new key",
                made.id
            );
            return Err(Kind::IdempotencyMismatch.say(detail).into());
        }
    }
    let is_refused = |outcome: &InsertOutcome| !matches!(outcome, InsertOutcome::Created { .. });
    if !made.members.iter().any(is_refused) {
        return answer(door, made.id, Rest::default(), StatusCode::CREATED).await;
    }
    let refusals = made.members.iter().find_map(|outcome| match outcome {
        InsertOutcome::Refused(refusal) => Some(refusal),
        _ => None,
    });
    if let (None, Some(first)) = (door.handle.group(made.id).await?, refusals) {
        return Err(of_refusal(first).into());
    }
    let jobs = made.members.iter().map(|outcome| flow_job(outcome, None));
    let rest = Rest {
        jobs: Some(jobs.collect()),
        lines: None,
    };
    answer(door, made.id, rest, StatusCode::MULTI_STATUS).await
}

/// The follow-up is checked as any job is.
fn check_then(door: &Inner, group: &NewGroup) -> Result<(), Refusal> {
    let Some(then) = &group.then else {
        return Ok(());
    };
    door.handle.check(&then.job).map_err(|error| {
        let mut problem = of_enqueue(&error);
        problem.detail = format!("then: {}", problem.detail);
        problem.field = problem.field.map(|field| format!("/then/job{field}"));
        for error in &mut problem.errors {
            error.pointer = format!("/then/job{}", error.pointer);
        }
        Refusal::from(problem)
    })
}

/// The first line is the group, each further one a member. It is held until the last of them is in;
/// a body that breaks off cancels it.
async fn create_by_lines(door: Arc<Inner>, mut body: Body) -> Answer {
    let (head, rest) = first_line(&mut body, door.config.job_bytes_max).await?;
    let now = door.handle.now();
    let (mut group, _) = read_group(&mut JobReader::new(), &head, now, true)
        .map_err(|error| of_body(error, Kind::InvalidBody))?;
    check_then(&door, &group)?;
    let hold = std::mem::replace(&mut group.hold, true);
    let id = door.handle.create_group(group, Vec::new()).await?.id;
    let first = stream::once(async move { Ok::<_, axum::Error>(rest) });
    let rest = Body::from_stream(first.chain(body.into_data_stream()));
    let (summary, whole) = bulk::members(Arc::clone(&door), rest, id).await?;
    if !whole || (summary.accepted == 0 && !hold) {
        door.handle.cancel_group(id, None).await?;
        let broken = summary.errors.into_iter().next_back();
        let mut problem = match broken {
            Some(broken) => broken.error,
            None => Kind::InvalidBody.say("the group has no member"),
        };
        problem.detail = format!("{}; the group {id} was cancelled", problem.detail);
        return Err(problem.into());
    }
    if !hold {
        door.handle.seal_group(id, None).await?;
    }
    let rest = Rest {
        jobs: None,
        lines: Some(summary),
    };
    answer(&door, id, rest, StatusCode::CREATED).await
}

/// The first line that is not blank, and what came behind it.
async fn first_line(body: &mut Body, limit: usize) -> Result<(Bytes, Bytes), Refusal> {
    let mut held = BytesMut::new();
    loop {
        let start = held
            .iter()
            .position(|byte| !byte.is_ascii_whitespace())
            .unwrap_or(held.len());
        let _ = held.split_to(start);
        if let Some(end) = memchr::memchr(b'\n', &held) {
            let head = held.split_to(end + 1).freeze();
            return Ok((head, held.freeze()));
        }
        if held.len() > limit {
            let detail = format!("the first line is over {limit} bytes, the limit");
            return Err(Kind::TooLarge.say(detail).into());
        }
        match body.frame().await {
            None => return Ok((held.freeze(), Bytes::new())),
            Some(Err(error)) => return Err(body::refusal(&error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    held.extend_from_slice(&data);
                }
            }
        }
    }
}

async fn answer(door: &Inner, id: GroupId, rest: Rest, status: StatusCode) -> Answer {
    let group = door.handle.group(id).await?.ok_or_else(|| no_group(id))?;
    let made = Made {
        group: GroupView::from(&group),
        rest,
    };
    let mut response = json(status, &made)?;
    if let Ok(path) = HeaderValue::from_str(&format!("/v1/groups/{id}")) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    Ok(response)
}

/// Members for an open group: one, or many as lines.
pub(super) async fn add(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    request: Request,
) -> Answer {
    let id = group_id(&id)?;
    if let Media::Many = media(request.headers())? {
        let group = door.handle.group(id).await?.ok_or_else(|| no_group(id))?;
        if group.state != GroupState::Open {
            let state = group.state;
            let refusal = InsertRefusal::GroupDecided { group: id, state };
            return Err(of_refusal(&refusal).into());
        }
        return bulk::post_many(door, request, Some(id)).await;
    }
    Query::none(request.uri())?;
    let collected = collect(
        request.into_body(),
        door.config.job_bytes_max,
        &door.collecting,
    )
    .await?;
    let text = &collected.bytes;
    let mut job = JobReader::new()
        .read(text, 0..text.len(), door.handle.now())
        .map_err(|error| of_body(error, Kind::InvalidJob))?;
    job.options.group = Some(id);
    super::enqueue::taken_in(&door, job).await
}

pub(super) async fn list(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    let query = Query::read(&uri, &["state", "limit", "cursor"])?;
    let state = query.with("state", |text| {
        GroupState::from_name(text).ok_or_else(|| {
            let known = GroupState::ALL.map(GroupState::as_str).join(", ");
            format!("is {text:?}; known are {known}")
        })
    })?;
    let limit = query.limit(LIMIT_DEFAULT, PAGE_ROWS_MAX)?;
    let cursor = query.engine_cursor()?;
    let page = door
        .handle
        .groups(GroupListRequest {
            state,
            limit,
            cursor,
        })
        .await?;
    let body = GroupList {
        groups: page.groups.iter().map(GroupView::from).collect(),
        next_cursor: page.next.map(|cursor| cursor.0.into()),
    };
    json(StatusCode::OK, &body)
}

pub(super) async fn one(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    let id = group_id(&id)?;
    let query = Query::read(&uri, &["limit", "cursor"])?;
    let limit = query.limit(LIMIT_DEFAULT, PAGE_ROWS_MAX)?;
    let cursor = query.engine_cursor()?;
    let group = door.handle.group(id).await?.ok_or_else(|| no_group(id))?;
    let members = door
        .handle
        .members(MemberRequest {
            group: id,
            limit,
            cursor,
        })
        .await?;
    let view = GroupView {
        members: Some(members.members.iter().map(MemberRow::from).collect()),
        next_cursor: members.next.map(|cursor| cursor.0.into()),
        ..GroupView::from(&group)
    };
    json(StatusCode::OK, &view)
}

pub(super) async fn seal(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let id = group_id(&id)?;
    let change = door.handle.seal_group(id, Some(BY_API)).await?;
    changed(&door, id, change).await
}

pub(super) async fn cancel(
    State(door): State<Arc<Inner>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    Query::none(&uri)?;
    let id = group_id(&id)?;
    let change = door.handle.cancel_group(id, Some(BY_API)).await?;
    changed(&door, id, change).await
}

async fn changed(door: &Inner, id: GroupId, change: GroupChange) -> Answer {
    match change {
        GroupChange::Done(_) => answer(door, id, Rest::default(), StatusCode::OK).await,
        GroupChange::Decided(state) => {
            let detail = format!("group {id} is {state} already; a decision stands");
            Err(Kind::GroupClosed.say(detail).into())
        }
        GroupChange::Unknown => Err(no_group(id)),
    }
}

fn group_id(text: &str) -> Result<GroupId, Refusal> {
    text.parse().map_err(|error: offloop_job::ParseJobIdError| {
        Kind::NotFound
            .say(format!("no group has that id: {error}"))
            .into()
    })
}

fn no_group(id: GroupId) -> Refusal {
    let detail = format!("group {id} is not here: it never was, or it was pruned");
    Kind::NotFound.say(detail).into()
}
