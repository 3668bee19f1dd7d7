//! Answers in fewer bytes, for those who ask: zstd or gzip, made while they are sent.
//!
//! What a stream has given so far is flushed whenever it has no more at once, so an event arrives
//! when it happens. Must never: touch an answer whose bytes are asked for by range, one that a
//! route marked `no-store` or `no-transform`, or hold more encoders than their bound.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{
    Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::CompressionLevel;
use tower_http::compression::Compression;
use tower_http::compression::predicate::{And, Predicate as _, SizeAbove};
use tower_service::Service as _;

/// Encoders at a time; zstd's has 1.3 MiB. Who comes later gets the answer as it is.
const ENCODERS_MAX: usize = 32;
/// A shorter answer gains nothing.
const BYTES_MIN: u64 = 1024;

type Rule = And<SizeAbove, fn(StatusCode, Version, &HeaderMap, &Extensions) -> bool>;

/// The routes, and the same with encoded answers.
#[derive(Clone)]
pub(crate) struct Encoding {
    plain: Router,
    encoded: Compression<Router, Rule>,
    encoders: Arc<Semaphore>,
}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoding").finish_non_exhaustive()
    }
}

impl Encoding {
    pub(crate) fn new(routes: Router) -> Self {
        let rule: Rule = SizeAbove::new(BYTES_MIN).and(gains as fn(_, _, &_, &_) -> _);
        Self {
            encoded: Compression::new(routes.clone())
                .quality(CompressionLevel::Fastest)
                .compress_when(rule),
            plain: routes,
            encoders: Arc::new(Semaphore::new(ENCODERS_MAX)),
        }
    }

    /// The answer, and its place among the encoders if it has one.
    pub(crate) async fn call(
        &mut self,
        request: Request<Body>,
    ) -> Result<(Response<Body>, Option<OwnedSemaphorePermit>), Infallible> {
        let asks = request.headers().contains_key(header::ACCEPT_ENCODING);
        let place = asks.then(|| Arc::clone(&self.encoders).try_acquire_owned());
        let Some(Ok(place)) = place else {
            return Ok((self.plain.call(request).await?, None));
        };
        let mut response = self.encoded.call(request).await?.map(Body::new);
        let is_encoded = response.headers().contains_key(header::CONTENT_ENCODING);
        if is_encoded {
            weaken(response.headers_mut());
        }
        Ok((response, is_encoded.then_some(place)))
    }
}

/// Text, and not forbidden.
fn gains(status: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    let text = |name| {
        let value: Option<&HeaderValue> = headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    };
    let kept = text(header::CACHE_CONTROL);
    let kind = text(header::CONTENT_TYPE);
    let kind = kind.split(';').next().unwrap_or(kind).trim_end();
    status.is_success()
        && !kept.contains("no-store")
        && !kept.contains("no-transform")
        && (kind.starts_with("text/")
            || kind.ends_with("json")
            || matches!(kind, "application/javascript" | "image/svg+xml"))
}

/// Other bytes than the validator was made of (RFC 9110, 8.8.3).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(header::ETAG) else {
        return;
    };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    let weak = [b"W/", tag.as_bytes()].concat();
    if let Ok(weak) = HeaderValue::from_bytes(&weak) {
        headers.insert(header::ETAG, weak);
    }
}
