//! Bodies into the spool: at once with `Prefer: respond-async`, or in parts.
//!
//! Parts are in the manner of draft-ietf-httpbis-resumable-upload-13 (interop version 10): POST makes an
//! upload, HEAD tells its offset, PATCH appends, DELETE takes it away; a connection that is lost costs what was
//! under way. What is told meanwhile is `interop`'s. Must never: answer an offset that is not on disk, or 202
//! before the whole body and its job are.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use offloop::http::Refusal;
use offloop::http::axum::body::Body;
use offloop::http::axum::extract::{Path, Request, State};
use offloop::http::axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use offloop::http::axum::response::IntoResponse as _;
use offloop::job::JobId;
use offloop::store::InsertOutcome;
use offloop::wire::Problem;
use serde_json::{Value, json};

use super::digest::{self, Given, Sums};
use super::interop::{self, Client};
use super::routes::{Door, text};
use super::source::Source;
use super::spool::{About, Part, SpoolError};
use super::view::{self, Answer};
use super::{Open, Shared, task};
use crate::load::{LoadAsk, LoadId};

pub(super) const COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
pub(super) const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const LIMIT: HeaderName = HeaderName::from_static("upload-limit");
/// Values of [`COMPLETE`].
const NOT_YET: HeaderValue = HeaderValue::from_static("?0");
const DONE: HeaderValue = HeaderValue::from_static("?1");
const AFTER: u64 = 5;

/// What a request for the spool says of itself.
pub(super) struct Asked {
    /// `None`: no part, but a whole body with `Prefer: respond-async`.
    complete: Option<bool>,
    length: Option<u64>,
    /// Digests of all that the parts bring.
    repr: Vec<Given>,
}

/// `None`: the body is to be stored while it comes.
pub(super) fn asked(headers: &HeaderMap, is_form: bool) -> Result<Option<Asked>, Refusal> {
    let complete = flag(headers)?;
    if complete.is_some() && is_form {
        let detail = "a form cannot be sent in parts; send the file itself";
        return Err(view::problem(view::MEDIA_TYPE, detail).into());
    }
    let prefer = headers.get_all("prefer").iter();
    let mut prefer = prefer.filter_map(|value| value.to_str().ok());
    let is_async = prefer.any(|value| {
        let mut words = value.split([',', ';']);
        words.any(|word| word.trim().eq_ignore_ascii_case("respond-async"))
    });
    if complete.is_none() && !is_async {
        return Ok(None);
    }
    let length = number(headers, &LENGTH)?;
    // Of a body that is not sent in parts it is looked at while the body comes.
    let repr = match complete {
        Some(_) => digest::given(headers, &digest::REPR)?,
        None => Vec::new(),
    };
    Ok(Some(Asked {
        complete,
        length,
        repr,
    }))
}

/// A boolean of RFC 9651.
fn flag(headers: &HeaderMap) -> Result<Option<bool>, Refusal> {
    match text(headers, &COMPLETE)? {
        None => Ok(None),
        Some("?1") => Ok(Some(true)),
        Some("?0") => Ok(Some(false)),
        Some(_) => Err(Refusal::parameter(COMPLETE.as_str(), "give ?1 or ?0")),
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Refusal> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| plain);
    let bad = || Refusal::parameter(name.as_str(), "give a whole number of bytes");
    number.map(Some).ok_or_else(bad)
}

pub(super) fn refused(error: &SpoolError) -> Refusal {
    let kind = match error {
        SpoolError::Full { .. } => ("spool-full", 507, "The spool is full"),
        SpoolError::DiskFull => view::DISK_FULL,
        SpoolError::TooMany | SpoolError::TenantFull { .. } | SpoolError::SendersFull { .. } => {
            view::TOO_MANY
        }
        SpoolError::Exists { .. } | SpoolError::Busy => view::CONFLICT,
        SpoolError::Unknown { .. } => return Refusal::not_found(error.to_string()),
        SpoolError::Io(_) => {
            tracing::error!(error = view::chain(error), "the spool failed");
            view::INTERNAL
        }
        SpoolError::Ending => ("shutting-down", 503, "The server is shutting down"),
    };
    let retry_after = matches!(kind.1, 429 | 503 | 507).then_some(AFTER);
    Problem {
        retry_after,
        ..view::problem(kind, error.to_string())
    }
    .into()
}

/// A new body for the spool.
pub(super) async fn create(
    shared: &Arc<Shared>,
    ask: LoadAsk,
    asked: Asked,
    source: Source,
    client: Client,
) -> Answer {
    let whole = asked.complete != Some(false);
    // A form is longer than its file.
    let told = ask.bytes_total.filter(|_| whole && !source.is_form());
    if let (Some(asked), Some(told)) = (asked.length, told.filter(|_| asked.complete.is_some()))
        && asked != told
    {
        let detail = format!("Upload-Length says {asked} bytes, Content-Length {told}");
        return Err(other_length(detail).into());
    }
    let length = asked.length.or(told);
    let most = shared.options.upload_bytes;
    if let Some(length) = length.filter(|length| *length > most) {
        let detail = format!("{length} bytes are announced; ingest.upload_limit is {most}");
        return Err(view::problem(view::TOO_LARGE, detail).into());
    }
    let about = About {
        target: ask.target,
        tenant: ask.tenant,
        length,
        resumable: asked.complete.is_some(),
        repr: asked.repr,
    };
    let load = ask.load;
    let (own, name) = (Arc::clone(shared), load.clone());
    let part = to_its_end(async move { own.spool.create(&name, about).await }).await?;
    let part = part.map_err(|error| refused(&error))?;
    if part.about.resumable {
        let mut headers = HeaderMap::new();
        limits(shared, Duration::ZERO, &mut headers);
        client.created(&load, headers).await;
    }
    let mut response = append(shared, part, source, whole, client).await?;
    if response.status() == StatusCode::NO_CONTENT {
        *response.status_mut() = StatusCode::CREATED;
        if let Ok(path) = HeaderValue::from_str(&interop::path(&load)) {
            response.headers_mut().insert(header::LOCATION, path);
        }
        limits(shared, Duration::ZERO, response.headers_mut());
    }
    Ok(response)
}

/// What may be asked for with `OPTIONS`: that parts are taken here is told by how large all of them may be.
pub(super) async fn options(State(door): State<Door>) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let allow = HeaderValue::from_static("OPTIONS, POST");
    headers.insert(header::ALLOW, allow);
    limits(&door.shared, Duration::ZERO, headers);
    Ok(response)
}

/// Who is refused for a size is told what may be; and of a part, that it is the upload that is spoken of, not
/// what becomes of the file.
pub(super) fn refusing(shared: &Shared, in_parts: bool, answer: Answer) -> Answer {
    let refusal = match answer {
        Err(refusal) => refusal,
        answer => return answer,
    };
    let is_too_large = refusal.problem().status == view::TOO_LARGE.1;
    let mut response = refusal.into_response();
    if is_too_large {
        limits(shared, Duration::ZERO, response.headers_mut());
    }
    if in_parts {
        response.headers_mut().insert(COMPLETE, NOT_YET);
    }
    Ok(response)
}

/// `age`: since the upload grew.
fn limits(shared: &Shared, age: Duration, headers: &mut HeaderMap) {
    let (size, age) = (
        shared.options.upload_bytes,
        shared.options.parts_for.saturating_sub(age).as_secs(),
    );
    if let Ok(limit) = HeaderValue::from_str(&format!("max-size={size}, max-age={age}")) {
        headers.insert(LIMIT, limit);
    }
}

/// Why a body was not taken to its end.
enum Cut {
    Sender(Box<Problem>),
    Spool(SpoolError),
}

/// What is not to be left half done when a sender hangs up in the middle of it: whoever serves it then
/// forgets the handler.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(work).await;
    done.map_err(|_| refused(&SpoolError::Ending))
}

/// Takes what comes; a whole body gets its job.
async fn append(
    shared: &Arc<Shared>,
    mut part: Part,
    mut source: Source,
    whole: bool,
    mut client: Client,
) -> Answer {
    let begun = part.offset;
    client.begins(begun);
    let taken = take(shared, &mut part, &mut source, &mut client).await;
    if let Err(cut) = taken {
        return Err(keep(part, begun, cut).await);
    }
    part.flush().await.map_err(|error| refused(&error))?;
    let offset = part.offset;
    if !whole {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        place(response.headers_mut(), offset, false);
        return Ok(response);
    }
    if let Some(length) = part.about.length.filter(|length| *length != offset) {
        let detail =
            format!("the body is complete with {offset} bytes, but {length} were announced");
        return Err(other_length(detail).into());
    }
    if !part.about.repr.is_empty() {
        let sums = Sums::new(part.about.repr.clone());
        let sums = part.sum(sums).await.map_err(|error| refused(&error))?;
        if let Err(mut problem) = sums.verify() {
            part.discard().await.map_err(|error| refused(&error))?;
            problem
                .detail
                .push_str("; the upload is dropped, nothing of it is loaded");
            // All of it was looked at: there is nothing to go on with.
            let mut response = Refusal::from(*problem).into_response();
            response.headers_mut().insert(COMPLETE, DONE);
            return Ok(response);
        }
    }
    // A body that is whole has its job: the next HEAD says that it is complete, and nobody sends it again.
    let own = Arc::clone(shared);
    let done = to_its_end(async move {
        let (load, about) = (part.load.clone(), part.about.clone());
        part.complete().await.map_err(|error| refused(&error))?;
        let open = own.open.get();
        let open = open.ok_or_else(|| refused(&SpoolError::Ending))?;
        accepted(&own, open, &load, &about, offset).await
    });
    done.await?
}

/// What a request leaves behind that was not taken to its end. `begun`: where it began.
async fn keep(mut part: Part, begun: u64, cut: Cut) -> Refusal {
    let mut problem = match cut {
        Cut::Spool(error) => refused(&error).problem().clone(),
        Cut::Sender(problem) => *problem,
    };
    let load = part.load.clone();
    if !part.about.resumable {
        if let Err(error) = part.discard().await {
            tracing::warn!(error = view::chain(&error), %load, "a body that was cut is taken away by the next sweep");
        }
        problem.detail.push_str("; nothing of it is kept or loaded");
        return problem.into();
    }
    if problem.r#type == OTHER_LENGTH {
        if let Err(error) = part.discard().await {
            tracing::warn!(error = view::chain(&error), %load, "an upload that is too long is taken away when it is old");
        }
        problem
            .detail
            .push_str("; the upload is dropped, nothing of it is loaded");
        return problem.into();
    }
    // Bytes that are not what their sender has are no part of the upload.
    let kept = if digest::is_mismatch(&problem) {
        part.rewind(begun).await
    } else {
        part.flush().await
    };
    let _ = match kept {
        Ok(()) => write!(
            problem.detail,
            "; {} bytes are kept: HEAD /v1/ingest/uploads/{load} tells how to go on",
            part.offset
        ),
        Err(error) => write!(problem.detail, "; {error}"),
    }; // a String takes everything
    problem.into()
}

const OTHER_LENGTH: &str =
    "https://iana.org/assignments/http-problem-types#inconsistent-upload-length";

fn other_length(detail: String) -> Problem {
    Problem {
        r#type: OTHER_LENGTH.into(),
        ..view::problem(("", 400, "The upload's length is another one"), detail)
    }
}

async fn take(
    shared: &Shared,
    part: &mut Part,
    source: &mut Source,
    client: &mut Client,
) -> Result<(), Cut> {
    let sender = |problem| Err(Cut::Sender(Box::new(problem)));
    let most = shared.options.upload_bytes;
    let mut wanted = part.wanted.clone();
    loop {
        let next = tokio::select! {
            next = source.next() => next,
            _ = wanted.wait_for(|wanted| *wanted) => {
                let detail = "another request has taken this upload over";
                return sender(view::problem(view::CONFLICT, detail));
            }
        };
        let data = match next {
            Err(problem) => return Err(Cut::Sender(problem)),
            Ok(None) => return Ok(()),
            Ok(Some(data)) => data,
        };
        let offset = part.offset + data.len() as u64;
        if offset > most {
            let detail = format!("the body is over {most} bytes, ingest.upload_limit");
            return sender(view::problem(view::TOO_LARGE, detail));
        }
        if let Some(length) = part.about.length.filter(|length| offset > *length) {
            let detail = format!("the body is over {length} bytes, which were announced");
            return sender(other_length(detail));
        }
        part.write(data).await.map_err(Cut::Spool)?;
        client.grown(part).await.map_err(Cut::Spool)?;
    }
}

fn place(headers: &mut HeaderMap, offset: u64, complete: bool) {
    headers.insert(OFFSET, HeaderValue::from(offset));
    headers.insert(COMPLETE, if complete { DONE } else { NOT_YET });
    headers.insert(interop::VERSION, interop::CURRENT);
}

/// A load whose body is in the spool and whose job has not begun.
pub(super) fn waiting(load: &LoadId, about: &About, job: JobId, bytes: u64) -> Value {
    json!({
        "load": load, "target": about.target, "tenant": about.tenant, "state": "waiting",
        "job": job.to_string(), "bytes": 0, "bytes_total": bytes, "rows": 0, "stored": 0,
        "rejected": 0, "rate": 0.0, "elapsed_ms": 0,
    })
}

/// The whole body is on disk: its job is made, then it is acknowledged.
async fn accepted(
    shared: &Shared,
    open: &Open,
    load: &LoadId,
    about: &About,
    bytes: u64,
) -> Answer {
    let outcome = task::enqueue(shared, open, load, about).await?;
    let is_known = matches!(outcome, Some(InsertOutcome::Existing { .. }));
    let job = match outcome {
        Some(InsertOutcome::Refused(refusal)) => {
            let detail = format!("{refusal}; the body is kept, its job is made at the next start");
            return Err(Refusal::unavailable(detail));
        }
        outcome => outcome.and_then(|outcome| outcome.job()),
    };
    let Some(job) = job else {
        return Err(Refusal::unavailable("the store did not answer"));
    };
    let mut view = waiting(load, about, job, bytes);
    let known = shared.history.get(load);
    if is_known && task::is_done(open, job).await {
        // All of it is stored: its job comes no more.
        if let Err(error) = shared.spool.remove(load) {
            tracing::warn!(%error, %load, "a body that is stored cannot be taken away");
        }
        view = known.unwrap_or(view);
    } else if known.is_none_or(|known| known["job"] != view["job"]) {
        // Of a small one, or of one that is asked for once more, more is known by now.
        shared.history.keep(&open.server, load, view.clone()).await;
    }
    view["status"] = format!("/v1/ingest/loads/{load}").into();
    let mut response = view::answer(StatusCode::ACCEPTED, &view);
    let headers = response.headers_mut();
    place(headers, bytes, true);
    let applied = HeaderValue::from_static("respond-async");
    headers.insert(HeaderName::from_static("preference-applied"), applied);
    if let Ok(path) = HeaderValue::from_str(&format!("/v1/jobs/{job}")) {
        headers.insert(header::LOCATION, path);
    }
    Ok(response)
}

fn load_id(text: &str) -> Result<LoadId, Refusal> {
    LoadId::parse(text).map_err(|error| Refusal::not_found(error.to_string()))
}

/// How far an upload has come. Who writes it now lets go first: a connection that is lost may not
/// know it yet.
pub(super) async fn head(State(door): State<Door>, Path(load): Path<String>) -> Answer {
    let load = load_id(&load)?;
    let shared = &door.shared;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    limits(shared, shared.spool.age(&load), headers);
    let length = if let Ok(whole) = std::fs::metadata(shared.spool.whole(&load)) {
        place(headers, whole.len(), true);
        Some(whole.len())
    } else {
        let part = shared.spool.resume(&load).await;
        let part = part.map_err(|error| refused(&error))?;
        part.flush().await.map_err(|error| refused(&error))?;
        place(headers, part.offset, false);
        part.about.length
    };
    if let Some(length) = length {
        headers.insert(LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

pub(super) async fn patch(
    State(door): State<Door>,
    Path(load): Path<String>,
    request: Request,
) -> Answer {
    let patched = grown(&door, &load, request).await;
    refusing(&door.shared, true, patched)
}

async fn grown(door: &Door, load: &str, request: Request) -> Answer {
    let (open, load) = (door.open()?, load_id(load)?);
    let shared = &door.shared;
    let (mut parts, body) = request.into_parts();
    let kind = text(&parts.headers, &header::CONTENT_TYPE)?;
    if kind != Some("application/partial-upload") {
        let detail = "a part is sent as application/partial-upload";
        return Err(view::problem(view::MEDIA_TYPE, detail).into());
    }
    let needed = |name: &HeaderName| Refusal::parameter(name.as_str(), "is missing");
    let complete = flag(&parts.headers)?.ok_or_else(|| needed(&COMPLETE))?;
    let offset = number(&parts.headers, &OFFSET)?.ok_or_else(|| needed(&OFFSET))?;
    let content = number(&parts.headers, &header::CONTENT_LENGTH)?;
    if let Ok(whole) = std::fs::metadata(shared.spool.whole(&load)) {
        if offset != whole.len() {
            return Ok(mismatch(whole.len(), offset));
        }
        if content != Some(0) || !complete {
            let detail = "the upload is complete; nothing can be added to it";
            return Err(other_length(detail.into()).into());
        }
        // The answer that it had was lost on its way.
        let about = shared.spool.about(&load).map_err(|error| refused(&error))?;
        return accepted(shared, open, &load, &about, offset).await;
    }
    let part = shared.spool.resume(&load).await;
    let mut part = part.map_err(|error| refused(&error))?;
    if part.offset != offset {
        return Ok(mismatch(part.offset, offset));
    }
    // Whatever tells the length of all of it tells the same.
    let by_content = content.filter(|_| complete);
    let by_content = by_content.map(|content| offset.saturating_add(content));
    for length in [number(&parts.headers, &LENGTH)?, by_content]
        .into_iter()
        .flatten()
    {
        match part.about.length {
            Some(known) if known != length => {
                let detail = format!("{length} bytes are announced now, {known} were before");
                return Err(other_length(detail).into());
            }
            Some(_) => {}
            None => part
                .announce(length)
                .await
                .map_err(|error| refused(&error))?,
        }
    }
    let source = Source::new(body, &parts.headers, &shared.options)?;
    let client = Client::of(&mut parts);
    append(shared, part, source, complete, client).await
}

fn mismatch(expected: u64, provided: u64) -> Response<Body> {
    let body = json!({
        "type": "https://iana.org/assignments/http-problem-types#mismatching-upload-offset",
        "title": "The upload is at another offset", "status": 409,
        "detail": format!("the upload has {expected} bytes; go on there"),
        "expected-offset": expected, "provided-offset": provided,
    });
    let mut response = view::answer(StatusCode::CONFLICT, &body);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/problem+json");
    headers.insert(header::CONTENT_TYPE, kind);
    place(headers, expected, false);
    response
}

pub(super) async fn delete(State(door): State<Door>, Path(load): Path<String>) -> Answer {
    let load = load_id(&load)?;
    let spool = &door.shared.spool;
    if spool.whole(&load).exists() {
        let detail = "the upload is complete and has a job; cancel that";
        return Err(view::problem(view::CONFLICT, detail).into());
    }
    let part = spool.resume(&load).await.map_err(|error| refused(&error))?;
    part.discard().await.map_err(|error| refused(&error))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// How long a part may stay as it is.
pub(super) const PARTS_FOR: Duration = Duration::from_secs(24 * 3_600);
