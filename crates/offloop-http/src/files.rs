//! A file as an answer, however long it is: read as it is sent, by ranges, with validators.
//!
//! The path is the server's own, never a caller's.

use std::io::ErrorKind;
use std::path::Path;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use mime::Mime;
use tower_http::services::ServeFile;

use crate::problem::{Kind, Refusal};

/// Answers `GET` and `HEAD` with a file: `Range` (one range; 206 or 416), a strong `ETag` of its
/// length and time, `Last-Modified`, and what is conditional on them (304, 412, `If-Range`).
/// Caches must ask again each time.
///
/// - Errors: 404 with `missing` where there is no such file; 500 where it cannot be read.
pub async fn send_file(
    path: &Path,
    mime: &Mime,
    mut request: Parts,
    missing: &str,
) -> Result<Response<Body>, Refusal> {
    let send = async |request: Parts| {
        let mut file = ServeFile::new_with_mime(path, mime);
        let request = Request::from_parts(request, Body::empty());
        let sent = file.try_call(request).await;
        sent.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Kind::NotFound.say(missing),
            _ => {
                tracing::error!(%error, path = %path.display(), "a file cannot be sent");
                Kind::Internal.say("the file cannot be read")
            }
        })
    };
    let mut response = match continued(&request) {
        None => send(request).await?,
        Some(continued) => match send(continued).await? {
            other if other.status() == StatusCode::PRECONDITION_FAILED => {
                request.headers.remove(header::RANGE);
                send(request).await?
            }
            part => part,
        },
    };
    let again = HeaderValue::from_static("private, no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, again);
    Ok(response.map(Body::new))
}

/// A range of what the caller has the beginning of: `If-Range` as the condition that tower-http
/// knows. Where it fails the whole file is meant.
fn continued(request: &Parts) -> Option<Parts> {
    let known = request.headers.get(header::IF_RANGE)?.clone();
    request.headers.get(header::RANGE)?;
    let is_tag = known.as_bytes().ends_with(b"\"");
    let mut request = request.clone();
    let condition = if is_tag {
        header::IF_MATCH
    } else {
        header::IF_UNMODIFIED_SINCE
    };
    request.headers.insert(condition, known);
    Some(request)
}
