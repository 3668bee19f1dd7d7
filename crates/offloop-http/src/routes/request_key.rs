//! The header `Idempotency-Key`: a request that comes twice is done once.

use axum::http::HeaderMap;
use offloop_job::{IdempotencyKey, RequestKey};
use sha2::{Digest as _, Sha256};

use crate::problem::{Kind, Refusal};

/// The key, if there is one.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    // A structured-field string is quoted; a bare one is what most clients send.
    let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
    let key = IdempotencyKey::parse(text)
        .map_err(|error| Kind::InvalidJob.say(format!("the header Idempotency-Key {error}")))?;
    Ok(Some(key))
}

/// The key of a request for several jobs. The same body is the same request, byte for byte.
pub fn request_key(headers: &HeaderMap, body: &[u8]) -> Result<Option<RequestKey>, Refusal> {
    let Some(key) = key(headers)? else {
        return Ok(None);
    };
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&Sha256::digest(body)[..16]);
    Ok(Some(RequestKey { key, fingerprint }))
}
