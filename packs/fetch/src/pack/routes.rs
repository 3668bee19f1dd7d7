//! Lists over HTTP: one JSON body, or lines that are made into jobs while they come.
//!
//! Must never: call anything. Jobs do.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::stream;
use http_body_util::BodyExt as _;
use offloop::RuntimeHandle;
use offloop::http::axum::Router;
use offloop::http::axum::body::Body;
use offloop::http::axum::extract::{Path, Request, State};
use offloop::http::axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use offloop::http::axum::routing::{get, post};
use offloop::http::{PackRoutes, Refusal, collect, key_of_request};
use offloop::job::limits::BATCH_JOBS_MAX;
use offloop::job::{GroupId, Tag};
use offloop::store::{Asked, PayloadProblem};
use offloop::wire::{FieldProblem, GroupView, Problem};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::sync::Semaphore;

use super::Shared;
use super::group::{Filling, Pattern, make, pack};
use crate::plan::{LINES_FIELDS, PLAN_FIELDS, WHOLE_FIELDS, list, lists_calls};
use crate::read::{Fields, Problems, read_call};
use crate::rule::Rule;

type Answer = Result<Response<Body>, Refusal>;

/// Of a list in one piece: a door's thread reads it. Longer ones come as lines.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Calls that are looked at before the door's other guests have a turn.
const AT_ONCE: usize = 128;
/// KiB of such lists that are read at a time.
const ROOM_KIB: usize = 64 << 10;
/// Of one line: a call with its body.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Calls of one group.
const CALLS_MAX: u64 = 1_000_000;
const CHUNK_DEFAULT: u64 = 100;
const CHUNK_MAX: u64 = 1_000;
/// Lines that cannot be are told so often; all are counted.
const ERRORS_TOLD: usize = 20;
/// Lists by lines at a time.
const LISTS_MAX: usize = 64;
const PIECE_BYTES: usize = 64 << 10;
const HOSTS_MAX: usize = 100;

#[derive(Clone, Debug)]
struct Door {
    shared: Arc<Shared>,
    server: RuntimeHandle,
    room: Arc<Semaphore>,
    lists: Arc<Semaphore>,
}

pub(super) fn routes(shared: Arc<Shared>, server: RuntimeHandle) -> PackRoutes {
    let door = Door {
        shared,
        server,
        room: Arc::new(Semaphore::new(ROOM_KIB)),
        lists: Arc::new(Semaphore::new(LISTS_MAX)),
    };
    let router = Router::new()
        .route("/v1/fetch", post(take).get(status))
        .route("/v1/fetch/bodies/{sha256}", get(body))
        .with_state(door);
    PackRoutes {
        name: "fetch".into(),
        router,
        page: None,
        // The file is in the binary, and a test reads it.
        openapi: serde_json::from_str(include_str!("openapi.json")).ok(),
        ..PackRoutes::default()
    }
}

fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// 422 with every problem.
fn invalid(problems: Vec<PayloadProblem>) -> Refusal {
    let detail = offloop::store::told(&problems);
    let errors = problems.into_iter();
    let errors = errors.map(|problem| FieldProblem::new(problem.pointer, problem.message));
    let errors: Vec<_> = errors.collect();
    Refusal::from(Problem {
        r#type: "urn:offloop:problem:invalid-body".into(),
        title: "The request cannot be as it is asked for".into(),
        status: 422,
        detail,
        field: errors.first().map(|error| error.pointer.clone()),
        errors,
        ..Problem::default()
    })
}

async fn take(State(door): State<Door>, request: Request) -> Answer {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let (parts, body) = request.into_parts();
    match kind.as_str() {
        "application/json" => take_whole(&door, &parts.headers, body).await,
        "application/x-ndjson" => {
            if parts.headers.contains_key("idempotency-key") {
                return Err(Refusal::parameter(
                    "idempotency-key",
                    "is for a list in one JSON body, which is made in one commit; leave it out",
                ));
            }
            let permit = Arc::clone(&door.lists).try_acquire_owned();
            let permit = permit.map_err(|_| {
                Refusal::unavailable(format!("{LISTS_MAX} lists are being read, the limit"))
            })?;
            // On a task of its own: a caller that hangs up must not leave half a list open.
            let made = tokio::spawn(async move {
                let made = take_lines(&door, body).await;
                drop(permit);
                made
            });
            made.await
                .unwrap_or_else(|_| Err(Refusal::unavailable("the list could not be taken in")))
        }
        _ => Err(Refusal::parameter(
            "content-type",
            "give application/json, or application/x-ndjson for a list by lines",
        )),
    }
}

/// What a list says of itself.
struct Head {
    jobs: Pattern,
    rule: Rule,
}

fn head(
    shared: &Shared,
    value: &Value,
    known: &'static [&'static str],
    problems: &mut Problems,
) -> Option<Head> {
    let fields = Fields::of(value, "", known, problems)?;
    let (on_result, settings) = list(&fields, shared.limits, problems);
    if let Some((pointer, problem)) = on_result.and_then(|kind| shared.taker(&kind)) {
        problems.say(pointer, problem);
    }
    let chunk = fields
        .number("chunk", 1, CHUNK_MAX, problems)
        .unwrap_or(CHUNK_DEFAULT);
    let group_key = fields.text("group_key", problems);
    let group_key = group_key.and_then(|text| {
        let tag = Tag::parse(text);
        tag.map_err(|error| problems.say("/group_key", error.to_string()))
            .ok()
    });
    let own = value.as_object()?.iter();
    let own = own.filter(|(name, _)| PLAN_FIELDS.contains(&name.as_str()) && !lists_calls(name));
    let jobs = Pattern {
        fields: own
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        chunk: chunk as usize,
        group_key,
    };
    Some(Head {
        jobs,
        rule: settings.rule,
    })
}

/// Everything is checked before anything is made.
async fn take_whole(door: &Door, headers: &HeaderMap, body: Body) -> Answer {
    let shared = &*door.shared;
    let collected = collect(body, BODY_BYTES_MAX, &door.room).await?;
    let mut problems = Problems::default();
    let value: Value = serde_json::from_slice(&collected.bytes)
        .map_err(|error| Refusal::invalid("", format!("is no JSON: {error}")))?;
    let request = key_of_request(headers, &collected.bytes)?;
    drop(collected);
    let head = head(shared, &value, WHOLE_FIELDS, &mut problems);
    let name = if value.get("urls").is_some() {
        "urls"
    } else {
        "requests"
    };
    if name == "urls" && value.get("requests").is_some() {
        problems.say("/urls", "is given beside requests; keep one of them");
    }
    let calls = value
        .get(name)
        .and_then(Value::as_array)
        .filter(|calls| !calls.is_empty());
    if calls.is_none() {
        problems.say(format!("/{name}"), "give a list of at least one call");
    }
    for (place, call) in calls.into_iter().flatten().enumerate() {
        if place.is_multiple_of(AT_ONCE) {
            tokio::task::yield_now().await;
        }
        read_call(
            call,
            &format!("/{name}/{place}"),
            &|url| shared.url(url),
            &mut problems,
        );
    }
    let (Some(head), Some(calls), true) = (head, calls, problems.is_empty()) else {
        return Err(invalid(problems.into_vec()));
    };
    let Head { jobs, rule } = head;
    let whole = pack(shared, jobs, calls);
    let jobs = whole.jobs.len();
    if jobs > BATCH_JOBS_MAX {
        let message = format!(
            "makes {jobs} jobs of this list; the most is {BATCH_JOBS_MAX}: give more calls to each, or the list as lines"
        );
        problems.say("/chunk", message);
        return Err(invalid(problems.into_vec()));
    }
    let made = make(&door.server, rule, request, whole.jobs).await?;
    let status = match made.asked {
        Asked::First => StatusCode::ACCEPTED,
        Asked::Again => StatusCode::OK,
        Asked::Otherwise => return Err(other_request(made.id)),
    };
    let lines = json!({"refused": 0, "errors": []});
    tell(
        door,
        made.id,
        status,
        json!({"calls": whole.calls, "jobs": jobs, "lines": lines}),
    )
    .await
}

/// As for groups: the key is another body's.
fn other_request(group: GroupId) -> Refusal {
    let detail =
        format!("Idempotency-Key: was used for group {group} with another body; use a new key");
    Refusal::from(Problem {
        r#type: "urn:offloop:problem:idempotency-mismatch".into(),
        title: "The Idempotency-Key belongs to another request".into(),
        status: 422,
        detail,
        ..Problem::default()
    })
}

async fn begin(door: &Door, head: Head) -> Result<Filling<'_>, Refusal> {
    Filling::begin(&door.shared, &door.server, head.jobs, head.rule).await
}

async fn finish(door: &Door, mut filling: Filling<'_>, errors: Vec<Value>, refused: u64) -> Answer {
    if let Err(refusal) = filling.finish().await {
        filling.give_up().await;
        return Err(refusal);
    }
    let lines = json!({"refused": refused, "errors": errors});
    let rest = json!({"calls": filling.taken, "jobs": filling.jobs, "lines": lines});
    tell(door, filling.id, StatusCode::ACCEPTED, rest).await
}

/// A group as it is now, and what became of its list.
async fn tell(door: &Door, id: GroupId, status: StatusCode, mut rest: Value) -> Answer {
    let group = door.server.group(id).await?;
    let group = group.ok_or_else(|| Refusal::not_found("the group was pruned already"))?;
    rest["group"] = serde_json::to_value(GroupView::from(&group)).unwrap_or_default();
    let mut response = answer(status, &rest);
    if let Ok(path) = HeaderValue::from_str(&format!("/v1/groups/{id}")) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    Ok(response)
}

/// The first line says what the list is, each further one is a call.
async fn take_lines(door: &Door, body: Body) -> Answer {
    let mut lines = Lines {
        body,
        held: BytesMut::new(),
        is_over: false,
        number: 0,
    };
    let mut problems = Problems::default();
    let first = lines.next().await?.unwrap_or_default();
    let value: Value = serde_json::from_slice(&first)
        .map_err(|error| Refusal::invalid("", format!("the first line is no JSON: {error}")))?;
    let head = head(&door.shared, &value, LINES_FIELDS, &mut problems);
    let (Some(head), true) = (head, problems.is_empty()) else {
        return Err(invalid(problems.into_vec()));
    };
    let mut filling = begin(door, head).await?;
    let mut errors = Vec::new();
    let mut refused = 0;
    match fill(door, &mut lines, &mut filling, &mut errors, &mut refused).await {
        Ok(()) if filling.has_calls() => finish(door, filling, errors, refused).await,
        Ok(()) => {
            filling.give_up().await;
            let told = errors.first().map(ToString::to_string).unwrap_or_default();
            Err(Refusal::invalid(
                "",
                format!("no line of the list is a call. {told}"),
            ))
        }
        Err(refusal) => {
            filling.give_up().await;
            Err(refusal)
        }
    }
}

async fn fill(
    door: &Door,
    lines: &mut Lines,
    filling: &mut Filling<'_>,
    errors: &mut Vec<Value>,
    refused: &mut u64,
) -> Result<(), Refusal> {
    let shared = &*door.shared;
    let mut calls = 0;
    while let Some(line) = lines.next().await? {
        if lines.number.is_multiple_of(AT_ONCE as u64) {
            tokio::task::yield_now().await;
        }
        let mut problems = Problems::default();
        let value = read_text(&line, &mut problems);
        let call = value.filter(|value| {
            read_call(value, "", &|url| shared.url(url), &mut problems).is_some()
                && problems.is_empty()
        });
        let Some(call) = call else {
            *refused += 1;
            if errors.len() < ERRORS_TOLD {
                let problems = problems.into_vec().into_iter();
                let told = problems
                    .map(|problem| json!({"pointer": problem.pointer, "detail": problem.message}));
                errors.push(json!({"line": lines.number, "errors": told.collect::<Vec<_>>()}));
            }
            continue;
        };
        calls += 1;
        if calls > CALLS_MAX {
            return Err(Refusal::invalid(
                "",
                format!("a list has at most {CALLS_MAX} calls"),
            ));
        }
        filling.add(call, line.len()).await?;
    }
    Ok(())
}

fn read_text(line: &[u8], problems: &mut Problems) -> Option<Value> {
    if !line.starts_with(b"{") && !line.starts_with(b"\"") {
        let text = std::str::from_utf8(line).ok();
        if text.is_none() {
            problems.say("", "is no UTF-8");
        }
        return text.map(Value::from);
    }
    let read = serde_json::from_slice(line);
    read.map_err(|error| problems.say("", format!("is no JSON: {error}")))
        .ok()
}

/// Lines of a body, none longer than its limit; blank ones are passed over.
struct Lines {
    body: Body,
    held: BytesMut,
    is_over: bool,
    number: u64,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<BytesMut>, Refusal> {
        let mut looked = 0;
        loop {
            let end = self.held[looked..].iter().position(|byte| *byte == b'\n');
            let line = match end {
                Some(end) => Some(self.held.split_to(looked + end + 1)),
                None if self.is_over && !self.held.is_empty() => Some(self.held.split()),
                None if self.is_over => return Ok(None),
                None => None,
            };
            if let Some(line) = line {
                self.number += 1;
                looked = 0;
                let text = line.trim_ascii();
                if !text.is_empty() {
                    return Ok(Some(BytesMut::from(text)));
                }
                continue;
            }
            looked = self.held.len();
            if looked > LINE_BYTES_MAX {
                let what = format!("line {} is over {LINE_BYTES_MAX} bytes", self.number + 1);
                return Err(Refusal::invalid("", what));
            }
            match self.body.frame().await {
                None => self.is_over = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => {
                    let what = "the body broke off; the group that it was making is cancelled";
                    return Err(Refusal::invalid("", what));
                }
            }
        }
    }
}

/// What the pack knows of hosts.
async fn status(State(door): State<Door>) -> Answer {
    let client = &door.shared.client;
    let breakers = client.tripped(HOSTS_MAX).into_iter().map(|tripped| {
        json!({"host": &*tripped.origin, "opened": tripped.opened,
            "state": format!("{:?}", tripped.state).to_lowercase()})
    });
    let (open, most) = client.open_connections();
    let body = json!({
        "connections_made": client.connections(),
        "connections_open": open,
        "connections_max": most,
        "connections_idle": client.idle_connections(),
        "calls_on_used_connections": client.reused(),
        "breakers": breakers.collect::<Vec<_>>(),
    });
    Ok(answer(StatusCode::OK, &body))
}

/// A stored body, piece by piece.
async fn body(State(door): State<Door>, Path(name): Path<String>) -> Answer {
    let none = || Refusal::not_found("no body of that SHA-256 is stored here, or not any more");
    let path = door.shared.files.path(&name).ok_or_else(none)?;
    let file = tokio::fs::File::open(path).await.map_err(|_| none())?;
    let length = file.metadata().await.map_err(|_| none())?.len();
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = file.read_buf(&mut piece).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (piece.freeze(), file)))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    // Somebody else wrote it: no browser is to take it for more than bytes.
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    let attachment = HeaderValue::from_static("attachment");
    headers.insert(header::CONTENT_DISPOSITION, attachment);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{name}\"")) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}
