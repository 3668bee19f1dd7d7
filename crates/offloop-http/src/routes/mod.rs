//! Every route, in one table. The open ones hold nothing that a token guards.

mod act;
mod bulk;
mod call;
mod enqueue;
mod events;
mod filter;
mod flows;
mod groups;
mod health;
mod jobs;
mod limits;
mod lines;
mod modes;
pub(crate) mod openapi;
mod pages;
mod pulse;
mod queues;
mod request_key;
mod schedules;
mod session;
mod stream;
mod sweep;
mod usage;
mod wait;
mod work;

pub use request_key::request_key as key_of_request;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri, header};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use offloop_job::JobId;
use serde::Serialize;

use crate::auth;
use crate::door::Inner;
use crate::mark::MarkRoutes;
use crate::problem::{Kind, Refusal};

/// What handlers answer.
type Answer = Result<Response<Body>, Refusal>;

/// The router of the door, with the packs' routes under the same guard.
pub(crate) fn all(door: &Arc<Inner>, packs: Vec<Router>) -> Router {
    let guarded = work().merge(rules()).merge(views());
    let mut guarded = guarded.with_state(Arc::clone(door));
    for pack in packs {
        guarded = guarded.merge(pack);
    }
    let marked = MarkRoutes::default();
    let mut guarded = guarded
        .route_layer(marked.clone())
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method);
    if door.keeper.is_some() {
        let require = axum::middleware::from_fn_with_state(Arc::clone(door), auth::require);
        guarded = guarded.layer(require);
    }
    let open = Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route(
            "/session",
            get(session::get)
                .post(session::post)
                .merge(delete(session::delete)),
        )
        .route("/", get(pages::index))
        .route("/assets/{file}", get(pages::asset))
        .route("/packs/{file}", get(pages::pack))
        .route_layer(marked)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::clone(door));
    guarded.merge(open)
}

/// Jobs and calls: what is to be done, by whom, and what came of it.
fn work() -> Router<Arc<Inner>> {
    Router::new()
        .route("/v1/jobs", post(enqueue::post_jobs).get(jobs::list))
        .route("/v1/jobs/retry", post(sweep::retry))
        .route("/v1/jobs/delete", post(sweep::delete))
        .route("/v1/jobs/export", get(sweep::export))
        .route("/v1/jobs/{id}", get(jobs::one).delete(act::forget))
        .route("/v1/jobs/{id}/logs", get(jobs::logs))
        .route("/v1/jobs/{id}/events", get(stream::events))
        .route("/v1/jobs/{id}/cancel", post(act::cancel))
        .route("/v1/jobs/{id}/retry", post(act::retry))
        .route("/v1/jobs/{id}/inputs", get(flows::inputs))
        .route("/v1/flows", post(flows::create))
        .route("/v1/groups", post(groups::create).get(groups::list))
        .route("/v1/groups/{id}", get(groups::one))
        .route("/v1/groups/{id}/jobs", post(groups::add))
        .route("/v1/groups/{id}/seal", post(groups::seal))
        .route("/v1/groups/{id}/cancel", post(groups::cancel))
        .route("/v1/call/{task}", post(call::call))
        .route("/v1/work", get(work::view))
        .route("/v1/work/claim", post(work::claim))
        .route("/v1/work/watch", post(work::watch))
        .route("/v1/work/{id}/extend", post(work::extend))
        .route("/v1/work/{id}/settle", post(work::settle))
}

/// What operators set at run time.
fn rules() -> Router<Arc<Inner>> {
    Router::new()
        .route("/v1/queues/{name}/pause", post(modes::pause_queue))
        .route("/v1/queues/{name}/resume", post(modes::resume_queue))
        .route("/v1/queues/{name}/drain", post(modes::drain_queue))
        .route("/v1/tasks/{name}/pause", post(modes::pause_task))
        .route("/v1/tasks/{name}/resume", post(modes::resume_task))
        .route("/v1/tasks/{name}/drain", post(modes::drain_task))
        .route("/v1/schedules", get(schedules::list))
        .route("/v1/schedules/preview", post(schedules::preview))
        .route(
            "/v1/schedules/{name}",
            get(schedules::one)
                .put(schedules::put)
                .merge(delete(schedules::forget)),
        )
        .route("/v1/schedules/{name}/ledger", get(schedules::ledger))
        .route("/v1/schedules/{name}/next", get(schedules::next))
        .route("/v1/schedules/{name}/trigger", post(schedules::trigger))
        .route("/v1/schedules/{name}/pause", post(schedules::pause))
        .route("/v1/schedules/{name}/resume", post(schedules::resume))
        .route("/v1/limits", get(limits::list))
        .route(
            "/v1/limits/{*target}",
            get(limits::one).put(limits::put).delete(limits::remove),
        )
        .route("/v1/audit", get(limits::audit))
}

/// What is seen of the server.
fn views() -> Router<Arc<Inner>> {
    Router::new()
        .route("/v1/tasks", get(queues::tasks))
        .route("/v1/queues", get(queues::queues))
        .route("/v1/usage", get(usage::usage))
        .route("/v1/nodes", get(queues::nodes))
        .route("/v1/pulse", get(pulse::get))
        .route("/v1/events", get(events::events))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::get))
        .route("/packs.json", get(pages::packs))
}

async fn not_found(uri: Uri) -> Refusal {
    let path = &uri.path()[..uri.path().floor_char_boundary(128)];
    Kind::NotFound
        .say(format!(
            "no route is {path:?}; GET /openapi.json lists them"
        ))
        .into()
}

async fn wrong_method(method: Method) -> Refusal {
    let name = &method.as_str()[..method.as_str().floor_char_boundary(32)];
    Kind::Method
        .say(format!(
            "{name} is not taken here; the Allow header names what is"
        ))
        .into()
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// JSON that is written already.
fn json_bytes(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    match serde_json::to_vec(body) {
        Ok(bytes) => Ok(json_bytes(status, bytes)),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            Err(Kind::Internal.say("the answer could not be written").into())
        }
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// `/v1/jobs/{id}`.
fn location(id: JobId) -> HeaderValue {
    let mut path = Vec::with_capacity(45);
    path.extend_from_slice(b"/v1/jobs/");
    path.extend_from_slice(id.encode(&mut [0; 36]).as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(path))
        .unwrap_or(HeaderValue::from_static("/v1/jobs"))
}

/// An id in a path; what is none names no job.
fn job_id(text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|error: offloop_job::ParseJobIdError| {
        Kind::NotFound
            .say(format!("no job has that id: {error}"))
            .into()
    })
}

fn no_job(id: JobId) -> Refusal {
    let detail = format!("job {id} is not here: it never was, or it was deleted or pruned");
    Kind::NotFound.say(detail).into()
}
