//! Signing in at the dashboard: a token for a cookie.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use serde::{Deserialize, Serialize};

use super::{Answer, empty, json};
use crate::auth::{COOKIE, SESSION, Shown};
use crate::body::collect;
use crate::door::Inner;
use crate::problem::{Kind, Refusal};
use crate::query::Query;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    token: String,
}

#[derive(Serialize)]
struct Session {
    /// Whether a token is needed here at all.
    needed: bool,
    signed_in: bool,
}

pub(super) async fn get(State(door): State<Arc<Inner>>, headers: HeaderMap, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let now = door.handle.now();
    let signed_in = door
        .keeper
        .as_ref()
        .is_none_or(|keeper| keeper.look(&headers, now) == Shown::Right);
    json(
        StatusCode::OK,
        &Session {
            needed: door.keeper.is_some(),
            signed_in,
        },
    )
}

pub(super) async fn post(State(door): State<Arc<Inner>>, request: Request) -> Answer {
    Query::none(request.uri())?;
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return Err(Kind::MediaType
            .say("send application/json: {\"token\": \"...\"}")
            .into());
    }
    let collected = collect(request.into_body(), 4 << 10, &door.collecting).await?;
    let Some(keeper) = &door.keeper else {
        return Ok(empty(StatusCode::NO_CONTENT));
    };
    let sign_in: SignIn = serde_json::from_slice(&collected.bytes).map_err(|_| {
        // Without the parser's words: they may quote the token.
        Refusal::from(Kind::InvalidJson.say("send {\"token\": \"...\"}"))
    })?;
    if !keeper.is_token(&sign_in.token) {
        let kind = if keeper.may_be_wrong() {
            Kind::Unauthorized
        } else {
            Kind::TooManyAttempts
        };
        return Err(kind.say("this token is not valid here").into());
    }
    let value = keeper.session(door.handle.now());
    cookie(&value, SESSION.as_secs())
}

pub(super) async fn delete(uri: Uri) -> Answer {
    Query::none(&uri)?;
    cookie("", 0)
}

/// Without `Secure`: the door speaks plain HTTP, and a TLS proxy in front may add it.
fn cookie(value: &str, seconds: u64) -> Result<Response<Body>, Refusal> {
    let text = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}");
    let value = HeaderValue::from_str(&text)
        .map_err(|_| Refusal::from(Kind::Internal.say("the sign-in could not be written")))?;
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}
