//! How receivers do, and another chance for one that was given up.

use std::sync::Arc;

use offloop::Timestamp;
use offloop::http::axum::Router;
use offloop::http::axum::body::Body;
use offloop::http::axum::extract::{Path, State};
use offloop::http::axum::http::{HeaderValue, Response, header};
use offloop::http::axum::routing::{get, post};
use offloop::http::{PackRoutes, Refusal};
use offloop::wire::format_time;
use serde_json::{Value, json};

use crate::pack::Shared;

type Answer = Result<Response<Body>, Refusal>;

pub(crate) fn routes(shared: Arc<Shared>) -> PackRoutes {
    let router = Router::new()
        .route("/v1/webhooks", get(list))
        .route("/v1/webhooks/{id}/enable", post(enable))
        .with_state(shared);
    PackRoutes {
        name: "webhooks".into(),
        router,
        page: None,
        openapi: Some(openapi()),
        ..PackRoutes::default()
    }
}

fn answer(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

async fn list(State(shared): State<Arc<Shared>>) -> Answer {
    let time = |ms: u64| format_time(Timestamp::from_millis(ms));
    let failing = shared.health.list().into_iter().map(|(id, failing)| {
        json!({
            "id": id,
            "receiver": failing.receiver,
            "failing_since": time(failing.since_ms),
            "failures": failing.failures,
            "last": failing.last,
            "disabled_at": failing.disabled_ms.map(time),
        })
    });
    let secrets = shared.secrets.known();
    let secrets = secrets
        .names()
        .map(|(name, versions)| json!({"id": name, "versions": versions}));
    Ok(answer(&json!({
        "failing": failing.collect::<Vec<_>>(),
        "secrets": secrets.collect::<Vec<_>>(),
        "problem": shared.secrets.problem(),
    })))
}

async fn enable(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer {
    let row = shared.health.enable(&id).ok_or_else(|| {
        let id: String = id.chars().take(64).collect();
        Refusal::not_found(format!(
            "no receiver {id:?} is failing; GET /v1/webhooks lists those that are"
        ))
    })?;
    shared.write(row).await;
    Ok(answer(&json!({"id": id, "enabled": true})))
}

fn openapi() -> Value {
    let answer = |about: &str| {
        json!({
            "200": {"description": about, "content": {"application/json": {"schema": {"type": "object"}}}},
            "default": {"$ref": "#/components/responses/Problem"},
        })
    };
    json!({
        "/v1/webhooks": {"get": {
            "operationId": "webhooks", "tags": ["webhooks"],
            "summary": "Receivers that fail, and the secrets that sign, by name.",
            "responses": answer("Receivers that answer well are not listed."),
        }},
        "/v1/webhooks/{id}/enable": {
            "parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}],
            "post": {
                "operationId": "enableWebhook", "tags": ["webhooks"],
                "summary": "Try a receiver again that was given up.",
                "responses": answer("It is tried again."),
            },
        },
    })
}
