//! What the pack answers over HTTP.
//!
//! A door's thread collects the body, leaves it at the desk, and waits. Must never: parse a body,
//! run a cipher, or look at the key folder.

use std::sync::Arc;
use std::time::Duration;

use offloop::http::axum::Router;
use offloop::http::axum::body::Body;
use offloop::http::axum::extract::{Request as HttpRequest, State};
use offloop::http::axum::http::{HeaderValue, Response, Uri, header};
use offloop::http::axum::routing::{get, post};
use offloop::http::{PackPage, PackRoutes, Refusal, collect};
use offloop::{CallAsk, RuntimeHandle};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::tickets::{Request, Told};
use super::{Shared, raw};
use crate::body::BODY_BYTES_MAX;
use crate::error::{Kind, VaultError};
use crate::keys::{Key, KeyName, Material};
use crate::ops::{Op, Reply};

type Answer = Result<Response<Body>, Refusal>;

/// KiB of bodies that are being collected or wait, beyond 16 KiB each.
const ROOM_KIB: usize = 128 << 10;
/// After its own call has ended, a request may still be in the company of another.
const COMPANY_WAIT: Duration = Duration::from_secs(30);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What handlers share.
#[derive(Clone, Debug)]
struct Door {
    shared: Arc<Shared>,
    server: RuntimeHandle,
    room: Arc<Semaphore>,
}

pub(super) fn routes(shared: Arc<Shared>, server: RuntimeHandle) -> PackRoutes {
    let door = Door {
        shared,
        server,
        room: Arc::new(Semaphore::new(ROOM_KIB)),
    };
    let mut router = Router::new()
        .route("/v1/vault/keys", get(keys))
        .route("/v1/vault/keys/reload", post(reload));
    for op in Op::ALL {
        let handler = move |state: State<Door>, request: HttpRequest| serve(op, state, request);
        router = router.route(&format!("/v1/vault/{}", op.name()), post(handler));
    }
    PackRoutes {
        name: "vault".into(),
        router: router.with_state(door),
        page: Some(PackPage {
            title: "Vault",
            module: include_str!("page.js"),
        }),
        // The file is in the binary, and a test reads it.
        openapi: serde_json::from_str(include_str!("openapi.json")).ok(),
        ..PackRoutes::default()
    }
}

async fn serve(op: Op, State(door): State<Door>, request: HttpRequest) -> Answer {
    let (parts, body) = request.into_parts();
    let raw = if raw::is_octets(op, &parts.headers)? {
        Some(raw::ask(op, &parts.uri, &parts.headers)?)
    } else {
        raw::no_query(&parts.uri)?;
        None
    };
    let body = collect(body, BODY_BYTES_MAX, &door.room).await?;
    let put = door.shared.desk.put(op, Request { body, raw });
    let (place, told) =
        put.map_err(|_| Refusal::unavailable("the system gives no random bytes"))?;
    let task = door.shared.names.of(op).clone();
    let call = door.server.call(CallAsk::new(task, place.ticket.payload()));
    tokio::select! {
        biased;
        ended = call => { ended?; }
        // Another's run has it: it leaves the line, and makes room there for those who wait.
        () = place.ticket.joined() => {}
    }
    let told = tokio::time::timeout(COMPANY_WAIT, told).await;
    let told: Told = told.map_err(|_| silent())?.map_err(|_| silent())?;
    Ok(answer(told?))
}

/// A run that ended without a word, or is as good as lost.
fn silent() -> Refusal {
    let detail = "the run ended without an answer; the server's log says why";
    VaultError::new(Kind::Internal, "", detail).into()
}

fn answer(reply: Reply) -> Response<Body> {
    match reply {
        Reply::Json(json) => respond(JSON, json),
        Reply::Raw(bytes, told) => {
            let mut response = respond(OCTETS, bytes.take());
            for (name, value) in told {
                // Names of keys, numbers, names of schemes: plain ASCII.
                if let Ok(value) = HeaderValue::from_str(&value) {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
    }
}

fn respond(kind: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn version_rows(name: &KeyName, key: &Key) -> Vec<Value> {
    let active = key.active().map(|version| version.number);
    let row = |version: &crate::keys::Version| {
        let state = match version.retired {
            true => "retired",
            false if Some(version.number) == active => "active",
            false => "older",
        };
        let public = match &version.material {
            Material::Seal(_) => None,
            Material::Sign(key) => {
                let line = pem_rfc7468::LineEnding::LF;
                pem_rfc7468::encode_string("PUBLIC KEY", line, key.spki()).ok()
            }
        };
        json!({
            "name": name.as_str(),
            "version": version.number,
            "state": state,
            "algorithm": version.material.algorithm(),
            "public_key": public,
        })
    };
    key.versions.iter().map(row).collect()
}

/// Versions of every key, without a secret.
async fn keys(State(door): State<Door>, uri: Uri) -> Answer {
    raw::no_query(&uri)?;
    let shared = &door.shared;
    let ring = &shared.vault.keys;
    if ring.folder().is_some() {
        let task = shared.names.reload.clone();
        // A look by a lane's thread; what is in force is told in any case.
        let _ = door.server.call(CallAsk::new(task, "null")).await;
    }
    let (set, loads, problem) = ring.known().unwrap_or_default();
    let rows = set.iter().flat_map(|(name, key)| version_rows(name, key));
    let body = json!({
        "keys": rows.collect::<Vec<_>>(),
        "folder": ring.folder().map(|folder| folder.display().to_string()),
        "loads": loads,
        "problem": problem,
        "passwords": {
            "memory_bytes": shared.vault.memory.total(),
            "run_together": shared.desk.shared(),
        },
    });
    Ok(respond(JSON, body.to_string()))
}

/// Looks at the folder now instead of within a second.
async fn reload(State(door): State<Door>, uri: Uri) -> Answer {
    raw::no_query(&uri)?;
    if let Some(refused) = door.shared.vault.keys.refusal() {
        return Err(refused.into());
    }
    let task = door.shared.names.reload.clone();
    let done = door.server.call(CallAsk::new(task, "null")).await?;
    Ok(respond(JSON, done.result.unwrap_or_default()))
}
