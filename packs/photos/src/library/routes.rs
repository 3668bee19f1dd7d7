//! What the pack answers over HTTP.
//!
//! Must never: wait for a scan, or open a file by anything but an id that it has checked.

use std::sync::Arc;

use bytes::Bytes;
use offloop::http::axum::Router;
use offloop::http::axum::body::Body;
use offloop::http::axum::extract::rejection::QueryRejection;
use offloop::http::axum::extract::{Path, Query, State};
use offloop::http::axum::http::request::Parts;
use offloop::http::axum::http::{Response, StatusCode, header};
use offloop::http::axum::response::IntoResponse;
use offloop::http::axum::routing::{get, post};
use offloop::http::{PackPage, PackRoutes, Refusal, mime, send_file};
use offloop::job::JobState;
use offloop::store::{InsertOutcome, JobFilter, ListRequest, RecordScan};
use offloop::{
    JobOptions, NewJob, NewJobExt, OnConflict, RuntimeHandle, Unique, UniqueKey, UniqueScope,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Library;
use super::rows::{Row, Status, id_of};
use super::scan::ScanRequest;

type Answer = Result<Response<Body>, Refusal>;

pub(crate) fn routes(library: Arc<Library>) -> PackRoutes {
    let router = Router::new()
        .route("/v1/photos/scan", post(scan))
        .route("/v1/photos/status", get(status))
        .route("/v1/photos", get(list))
        .route("/v1/photos/{id}/thumbnail", get(thumbnail))
        .with_state(library);
    PackRoutes {
        name: "photos".into(),
        router,
        page: Some(PackPage {
            title: "Photos",
            module: include_str!("page.js"),
        }),
        openapi: Some(openapi()),
        ..PackRoutes::default()
    }
}

fn openapi() -> Value {
    let answer = |about: &str| json!({ "description": about });
    json!({
        "/v1/photos/scan": { "post": {
            "summary": "Scan a folder of the server's machine; answers at once with the job",
            "requestBody": { "required": true, "content": { "application/json": { "schema": {
                "type": "object", "required": ["path"], "additionalProperties": false,
                "properties": { "path": { "type": "string", "description": "absolute" } } } } } },
            "responses": { "202": answer("the scan's job"), "422": answer("not a folder") } } },
        "/v1/photos/status": { "get": {
            "summary": "Both phases: counts, rate, time left, effective concurrency",
            "responses": { "200": answer("status") } } },
        "/v1/photos": { "get": {
            "summary": "Photos in path order",
            "parameters": [
                { "name": "status", "in": "query", "schema": { "type": "string" } },
                { "name": "limit", "in": "query", "schema": { "type": "integer", "minimum": 1, "maximum": 500 } },
                { "name": "cursor", "in": "query", "schema": { "type": "string" } }],
            "responses": { "200": answer("a page") } } },
        "/v1/photos/{id}/thumbnail": { "get": {
            "summary": "The thumbnail, a JPEG",
            "parameters": [
                { "name": "id", "in": "path", "required": true, "schema": { "type": "string" } },
                { "name": "size", "in": "query", "schema": { "enum": [160, 500] } }],
            "responses": { "200": answer("image/jpeg"), "404": answer("not converted") } } },
    })
}

fn server(library: &Library) -> Result<&RuntimeHandle, Refusal> {
    library
        .server()
        .map_err(|error| Refusal::unavailable(error.message))
}

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

async fn scan(State(library): State<Arc<Library>>, body: Bytes) -> Answer {
    let request: ScanRequest = serde_json::from_slice(&body).map_err(|error| {
        Refusal::invalid(
            "/path",
            format!("{error}; give {{\"path\": \"/a/folder\"}}"),
        )
    })?;
    if !request.path.starts_with('/') || request.path.contains('\0') {
        return Err(Refusal::invalid(
            "/path",
            "give the absolute path of a folder on the server's machine",
        ));
    }
    // One look at one directory entry: whether the scan can begin, said at the door.
    match std::fs::metadata(&request.path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Refusal::invalid("/path", "is not a folder")),
        Err(error) => {
            return Err(Refusal::invalid(
                "/path",
                format!("cannot be read: {error}"),
            ));
        }
    }
    let unique = UniqueKey::parse(&id_of(request.path.trim_end_matches('/').as_bytes()))
        .map_err(|error| Refusal::invalid("/path", error.to_string()))?;
    let mut options = JobOptions {
        queue: library.queue.clone(),
        priority: 1,
        ..JobOptions::default()
    };
    options.unique = Some(Unique {
        key: unique,
        scope: UniqueScope::UntilFinished,
        on_conflict: OnConflict::Keep,
    });
    let job = NewJob::of(library.names.scan.as_str(), &request)
        .map_err(|error| Refusal::invalid("/path", error.to_string()))?
        .with(options);
    let outcomes = server(&library)?
        .enqueue(vec![job])
        .await
        .map_err(Refusal::from)?;
    let (id, known) = match outcomes.into_iter().next() {
        Some(InsertOutcome::Created { id, .. }) => (id, false),
        Some(InsertOutcome::Existing { id, .. }) => (id, true),
        Some(InsertOutcome::Refused(refusal)) => {
            return Err(Refusal::unavailable(refusal.to_string()));
        }
        None => return Err(Refusal::unavailable("the store did not answer")),
    };
    let body = json!({ "job": id.to_string(), "path": request.path, "already_running": known });
    Ok(answer(StatusCode::ACCEPTED, &body))
}

async fn status(State(library): State<Arc<Library>>) -> Answer {
    let server = server(&library)?;
    let counted = server
        .record_counts(library.names.collection.clone())
        .await
        .map_err(Refusal::from)?;
    let converting = library.converting_now().len() as u64;
    let of = |status: Status| {
        let found = counted
            .iter()
            .find(|count| count.label.as_str() == status.as_str());
        found.map_or(0, |count| count.count)
    };
    let pending = of(Status::Pending).saturating_sub(converting);
    let rate = library.rate();
    let open = pending + converting;
    let eta_ms = (rate > 0.0 && open > 0).then(|| (open as f64 / rate * 1000.0) as u64);
    let body = json!({
        "scan": last_scan(&library, server).await?,
        "counts": {
            "PENDING_CONVERSION": pending,
            "CONVERTING": converting,
            "DONE": of(Status::Done),
            "FAILED": of(Status::Failed),
            "MISSING": of(Status::Missing),
        },
        "rate": (rate * 100.0).round() / 100.0,
        "eta_ms": eta_ms,
        "concurrency": library.concurrency,
        "memory_bytes": library.gate.total(),
        "converter": match library.converter {
            super::Converter::Builtin => "builtin",
            super::Converter::Magick => "magick",
        },
    });
    Ok(answer(StatusCode::OK, &body))
}

/// The newest scan: its state and what it has seen.
async fn last_scan(library: &Library, server: &RuntimeHandle) -> Result<Value, Refusal> {
    let filter = JobFilter {
        task: Some(library.names.scan.clone()),
        ..JobFilter::default()
    };
    let ask = ListRequest {
        now: server.now(),
        filter,
        limit: 1,
        cursor: None,
    };
    let page = server.jobs(ask).await.map_err(Refusal::from)?;
    let Some(newest) = page.jobs.first() else {
        return Ok(json!({ "state": "none" }));
    };
    let Some(job) = server.job(newest.id).await.map_err(Refusal::from)? else {
        return Ok(json!({ "state": "none" }));
    };
    let seen = match job.summary.state {
        JobState::Completed => job.result.as_ref(),
        _ => job.progress.as_ref().map(|progress| &progress.note),
    };
    let mut seen: Value = seen
        .and_then(|text| serde_json::from_slice(text).ok())
        .unwrap_or_else(|| json!({}));
    let request: Value = serde_json::from_slice(&job.payload).unwrap_or_default();
    seen["state"] = job.summary.state.as_str().into();
    seen["job"] = job.summary.id.to_string().into();
    seen["path"] = request["path"].clone();
    if let Some(failure) = &job.summary.failure {
        seen["message"] = failure.message.as_ref().into();
    }
    let until = job.summary.finished_at.unwrap_or_else(|| server.now());
    if let Some(started) = job.summary.started_at {
        let elapsed = until.since(started);
        seen["elapsed_ms"] = (elapsed.as_millis() as u64).into();
        let files = seen["files"].as_f64().unwrap_or(0.0);
        seen["rate"] = (files / elapsed.as_secs_f64().max(0.001)).round().into();
    }
    Ok(seen)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    status: Option<String>,
    limit: Option<u16>,
    cursor: Option<String>,
}

impl ListQuery {
    /// Status, page size, place.
    fn read(&self) -> Result<(Option<Status>, usize, Option<Bytes>), Refusal> {
        let read_status = |name: &String| {
            Status::from_name(name).ok_or_else(|| {
                let known = Status::ALL.map(Status::as_str).join(", ");
                Refusal::parameter("status", format!("{name:?} is not one of {known}"))
            })
        };
        let read_cursor = |text: &String| {
            let made_elsewhere = "was not made by this list; start again without it";
            decode_cursor(text).ok_or_else(|| Refusal::parameter("cursor", made_elsewhere))
        };
        let limit = usize::from(self.limit.unwrap_or(50));
        if limit == 0 || limit > 500 {
            return Err(Refusal::parameter("limit", "give 1 to 500"));
        }
        let status = self.status.as_ref().map(read_status).transpose()?;
        Ok((
            status,
            limit,
            self.cursor.as_ref().map(read_cursor).transpose()?,
        ))
    }
}

/// A page is found by looking at this many rows at most, so that it is always quick.
const ROWS_LOOKED_AT_MAX: usize = 10_000;

async fn list(
    State(library): State<Arc<Library>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|error| Refusal::parameter("query", error.body_text()))?;
    let (wanted, limit, mut after) = query.read()?;
    let server = server(&library)?;
    let converting = library.converting_now();
    // Rows that convert now are kept as pending ones.
    let label = match wanted {
        Some(Status::Converting) => Some(Status::Pending),
        other => other,
    };
    let (mut photos, mut looked_at) = (Vec::new(), 0);
    let next = loop {
        let page = server
            .records(RecordScan {
                collection: library.names.collection.clone(),
                label: label.map(|status| library.names.label(status).clone()),
                after,
                limit: (limit - photos.len()) as u32,
            })
            .await
            .map_err(Refusal::from)?;
        looked_at += page.records.len();
        for record in page.records {
            let Ok(row) = serde_json::from_slice::<Row>(&record.value) else {
                continue;
            };
            let stored = Status::from_name(record.label.as_str()).unwrap_or(Status::Failed);
            let now = stored == Status::Pending && converting.contains(&record.key);
            let status = if now { Status::Converting } else { stored };
            if wanted.is_none_or(|wanted| wanted == status) {
                photos.push(photo(&row, status));
            }
        }
        match page.next {
            Some(next) if photos.len() < limit && looked_at < ROWS_LOOKED_AT_MAX => {
                after = Some(next);
            }
            other => break other,
        }
    };
    let next = next.map(|key| encode_cursor(&key));
    Ok(answer(
        StatusCode::OK,
        &json!({ "photos": photos, "next_cursor": next }),
    ))
}

fn photo(row: &Row, status: Status) -> Value {
    let mut photo = serde_json::to_value(row).unwrap_or_default();
    photo["id"] = row.id().into();
    photo["status"] = status.as_str().into();
    photo["path"] = String::from_utf8_lossy(&row.key()).into();
    if let Some(map) = photo.as_object_mut() {
        map.remove("root");
    }
    photo
}

fn encode_cursor(key: &[u8]) -> String {
    use std::fmt::Write as _;
    key.iter()
        .fold(String::with_capacity(key.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn decode_cursor(text: &str) -> Option<Bytes> {
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() || text.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
        .collect();
    bytes.map(Bytes::from)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThumbnailQuery {
    size: Option<u32>,
}

async fn thumbnail(
    State(library): State<Arc<Library>>,
    Path(id): Path<String>,
    query: Result<Query<ThumbnailQuery>, QueryRejection>,
    parts: Parts,
) -> Answer {
    let Query(query) = query.map_err(|error| Refusal::parameter("query", error.body_text()))?;
    let size = query.size.unwrap_or(500);
    if !matches!(size, 160 | 500) {
        return Err(Refusal::parameter("size", "give 160 or 500"));
    }
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.len() != 32 || !id.bytes().all(hex) {
        return Err(Refusal::not_found("a photo's id has 32 hexadecimal digits"));
    }
    let path = library.thumbs.path(&id, size);
    let missing = "no thumbnail: the photo is unknown or was not converted";
    send_file(&path, &mime::IMAGE_JPEG, parts, missing).await
}
