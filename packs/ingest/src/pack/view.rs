//! Loads as JSON, and their ends as answers.
//!
//! Must never: say less than what is stored, or tell where a target is.

use std::error::Error;
use std::fmt::Write as _;

use offloop::http::Refusal;
use offloop::http::axum::body::Body;
use offloop::http::axum::http::{HeaderValue, Response, StatusCode, header};
use offloop::wire::Problem;
use serde_json::{Value, json};

use super::digest;
use crate::decode::DecodeError;
use crate::load::{LoadError, LoadFailed, LoadRefused, Phase, Status, Summary};
use crate::sink::SinkError;
use crate::target::{Header, Kind, OnBadRow, Sink, Target};

pub(super) type Answer = Result<Response<Body>, Refusal>;

/// Seconds after which a place may be free.
const PLACE_AFTER: u64 = 5;
const TARGET_AFTER: u64 = 10;

pub(super) fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    with_type(status, value, "application/json")
}

fn with_type(status: StatusCode, value: &Value, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A problem of the pack's own: name, status, title.
pub(super) fn problem(
    (name, status, title): (&str, u16, &str),
    detail: impl Into<String>,
) -> Problem {
    Problem {
        r#type: format!("urn:offloop:problem:{name}"),
        title: title.into(),
        status,
        detail: detail.into(),
        ..Problem::default()
    }
}

pub(super) const TOO_LARGE: (&str, u16, &str) = ("too-large", 413, "The body is over its limit");
pub(super) const TOO_MANY: (&str, u16, &str) = ("too-many", 429, "Too many of these are under way");
pub(super) const TOO_SLOW: (&str, u16, &str) = ("too-slow", 408, "The body came too slowly");
pub(super) const BODY_CUT: (&str, u16, &str) = ("body-cut", 400, "The body ended before its end");
pub(super) const MEDIA_TYPE: (&str, u16, &str) =
    ("media-type", 415, "The body's type is not taken here");
pub(super) const CONFLICT: (&str, u16, &str) =
    ("load-conflict", 409, "The load is not in a state for that");
pub(super) const DISK_FULL: (&str, u16, &str) = ("disk-full", 507, "The disk is full");
pub(super) const INTERNAL: (&str, u16, &str) = ("internal", 500, "The server failed");
const INVALID: (&str, u16, &str) = (
    "invalid-body",
    422,
    "The request cannot be as it is asked for",
);

/// A load that cannot begin.
pub(super) fn refused(error: &LoadRefused) -> Refusal {
    let detail = error.to_string();
    let problem = match error {
        LoadRefused::UnknownTarget { .. } => return Refusal::not_found(detail),
        LoadRefused::Running { .. } => problem(CONFLICT, detail),
        LoadRefused::Full { .. } | LoadRefused::TenantFull { .. } => Problem {
            retry_after: Some(PLACE_AFTER),
            ..problem(TOO_MANY, detail)
        },
    };
    problem.into()
}

/// An error with what it comes from.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            let _ = write!(text, ": {told}");
        }
        cause = error.source();
    }
    text
}

fn is_full(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::StorageFull
}

/// What kind of problem ended a load.
fn kind_of(error: &LoadError) -> ((&'static str, u16, &'static str), Option<u64>) {
    let unusable = ("target-unusable", 503, "The target cannot be written");
    match error {
        LoadError::Cut { .. } => (BODY_CUT, None),
        LoadError::Decode(DecodeError::TooLong { .. }) => (TOO_LARGE, None),
        LoadError::Decode(_) | LoadError::Read(_) | LoadError::Sink(SinkError::BadRow { .. }) => {
            (INVALID, None)
        }
        LoadError::Sink(error) => match error {
            SinkError::TakenOver => (CONFLICT, None),
            SinkError::RejectFile { cause } | SinkError::File { cause, .. } if is_full(cause) => {
                (DISK_FULL, Some(TARGET_AFTER))
            }
            SinkError::RejectFile { .. } | SinkError::File { .. } => (INTERNAL, None),
            SinkError::Unreachable { .. } => (unusable, Some(TARGET_AFTER)),
            SinkError::Ended => {
                let ending = ("shutting-down", 503, "The server is shutting down");
                (ending, Some(TARGET_AFTER))
            }
            _ => (unusable, None),
        },
    }
}

/// A load that ended early, as an answer: why, and exactly what is stored.
///
/// `why`: what the door knows better than the load, such as that the sender was too slow.
pub(super) fn failed(failed: &LoadFailed, rows: u64, why: Option<Problem>) -> Response<Body> {
    let LoadFailed { error, summary } = failed;
    let known = why.filter(|_| matches!(error, LoadError::Cut { .. }));
    let mut found = known.unwrap_or_else(|| {
        let (kind, retry_after) = kind_of(error);
        Problem {
            retry_after,
            ..problem(kind, chain(error))
        }
    });
    let _ = write!(found.detail, "; stored: {}", summary.stored_text());
    if digest::is_mismatch(&found) {
        // Going on would keep rows of a body that was not the sender's.
        found.detail.push_str("; those rows are of a body that is not what its sender has; send it with Prefer: respond-async, and none are stored before the digest fits");
    } else if error.retry_helps() {
        let _ = write!(
            found.detail,
            "; send all of it again with ?load={} to go on from there",
            summary.load
        );
    }
    let mut value = serde_json::to_value(&found).unwrap_or_default(); // texts and numbers
    if let (Some(to), Value::Object(of)) = (value.as_object_mut(), summary_view(summary, rows)) {
        to.extend(of);
    }
    let status = StatusCode::from_u16(found.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(status, &value, "application/problem+json");
    if let Some(seconds) = found.retry_after {
        let seconds = HeaderValue::from(seconds);
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

fn rejects_path(load: impl std::fmt::Display) -> String {
    format!("/v1/ingest/loads/{load}/rejects")
}

/// What a load did. `rows`: looked at in this run.
pub(super) fn summary_view(summary: &Summary, rows: u64) -> Value {
    json!({
        "load": summary.load,
        "target": summary.target,
        "stored": summary.rows_stored,
        "rejected": summary.rows_rejected,
        "bytes": summary.bytes_in,
        "rows": rows,
        "stored_to": summary.stored_to,
        "stored_to_row": summary.stored_to_row,
        "stored_beyond": summary.stored_beyond,
        "resumed_at": summary.resumed_at,
        "was_stored": summary.was_stored,
        "rejects": summary.rejects.as_ref().map(|_| rejects_path(&summary.load)),
        "elapsed_ms": summary.elapsed.as_millis() as u64,
    })
}

pub(super) const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stored => "stored",
        Phase::Failed => "failed",
    }
}

/// A load as it stands.
pub(super) fn status_view(status: &Status) -> Value {
    let runs = matches!(status.phase, Phase::Starting | Phase::Running);
    let rejects = (status.rows_rejected > 0).then(|| rejects_path(&status.load));
    json!({
        "load": status.load,
        "target": status.target,
        "tenant": status.tenant,
        "state": phase(status.phase),
        "bytes": status.bytes_in,
        "bytes_total": status.bytes_total,
        "rows": status.rows_in,
        "stored": status.rows_stored,
        "rejected": status.rows_rejected,
        "in_flight": status.in_flight,
        "resumed_at": status.resumed_at,
        "rate": (status.rate() * 10.0).round() / 10.0,
        "eta_ms": status.eta().filter(|_| runs).map(|eta| eta.as_millis() as u64),
        "elapsed_ms": status.elapsed().as_millis() as u64,
        "error": status.error,
        "rejects": rejects,
    })
}

/// A declaration without its place.
pub(super) fn target_view(target: &Target) -> Value {
    let columns = target.columns().iter().map(|column| {
        json!({
            "name": column.name, "from": column.from, "type": type_text(column.kind),
            "null": column.null, "required": column.required, "max_bytes": column.max_bytes,
        })
    });
    let format = target.format();
    let byte = |byte: u8| char::from(byte).to_string();
    json!({
        "name": target.name(),
        "sink": match target.sink() {
            Sink::Sqlite { .. } => "sqlite",
            Sink::Postgres { .. } => "postgres",
            Sink::Kafka { .. } => "kafka",
            Sink::Ndjson { .. } => "ndjson",
            Sink::Jobs { .. } => "jobs",
        },
        "columns": columns.collect::<Vec<_>>(),
        "key": target.key().map(|at| target.columns()[at].name.clone()),
        "header": match format.header {
            Header::Present { .. } => "present",
            Header::Absent => "none",
            Header::Skip => "skip",
        },
        "delimiter": byte(format.delimiter),
        "quote": format.quote.map(byte),
        "encoding": format.encoding,
        "compression": format.compression,
        "on_bad_row": match target.on_bad_row() {
            OnBadRow::Reject => json!("reject"),
            OnBadRow::StopAfter(0) => json!("stop"),
            OnBadRow::StopAfter(most) => json!({ "stop_after": most }),
        },
        "post": format!("/v1/ingest/{}", target.name()),
    })
}

fn type_text(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Int { bits } => format!("int{}", bits / 8),
        Kind::Float => "float".into(),
        Kind::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        Kind::Bool => "bool".into(),
        Kind::Date => "date".into(),
        Kind::Timestamp => "timestamp".into(),
        Kind::Uuid => "uuid".into(),
        Kind::Json => "json".into(),
        Kind::Bytes => "bytes".into(),
    }
}
