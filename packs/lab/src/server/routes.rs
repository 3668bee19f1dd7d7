//! The endpoints: `/`, one for each way to work, `/pulse`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use offloop::http::Refusal;
use offloop::http::axum::extract::{RawQuery, State};
use offloop::http::axum::response::{IntoResponse, Response};
use offloop::http::axum::routing::get;
use offloop::http::axum::{Json, Router};
use offloop::pulse::{Name, Pulse, doing};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::ask::ask;
use super::pulse::{self, Delay};
use crate::strategy::{Kind, Strategy};
use crate::work::{Done, Pace};

/// Requests for work under way; more are refused.
const UNDER_WAY_MAX: usize = 8_192;

pub(super) struct App {
    pace: Pace,
    strategies: BTreeMap<Kind, Arc<dyn Strategy>>,
    pulse: Pulse,
    room: Semaphore,
}

impl App {
    pub(super) fn new(
        pace: Pace,
        strategies: BTreeMap<Kind, Arc<dyn Strategy>>,
        pulse: Pulse,
    ) -> Self {
        Self {
            pace,
            strategies,
            pulse,
            room: Semaphore::new(UNDER_WAY_MAX),
        }
    }
}

/// The answer to a request for work.
#[derive(Serialize)]
struct Worked {
    strategy: Kind,
    #[serde(flatten)]
    done: Done,
    /// From the handler's begin to its end, microseconds.
    wall_us: u64,
}

pub(super) fn router(app: App) -> Router {
    let mut router = Router::new()
        .route("/", get(async || "ok\n"))
        .route("/pulse", get(pulse_now));
    for kind in app.strategies.keys().copied() {
        let name = Name::route(kind.path());
        let handler = async move |State(app): State<Arc<App>>, RawQuery(query): RawQuery| {
            doing(name, work(&app, kind, query.as_deref().unwrap_or(""))).await
        };
        router = router.route(kind.path(), get(handler));
    }
    router.fallback(unknown).with_state(Arc::new(app))
}

async fn work(app: &App, kind: Kind, query: &str) -> Result<Json<Worked>, Refusal> {
    let ask = ask(query, app.pace)?;
    let full = |_| {
        Refusal::unavailable(format!(
            "{UNDER_WAY_MAX} requests for work are under way, which is the limit"
        ))
    };
    let _room = app.room.try_acquire().map_err(full)?;
    let strategy = app.strategies.get(&kind);
    let strategy = strategy.ok_or_else(|| Refusal::not_found("it is not served"))?;
    let begin = Instant::now();
    let done = strategy.run(ask).await?;
    Ok(Json(Worked {
        strategy: kind,
        done,
        wall_us: u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX),
    }))
}

async fn pulse_now(State(app): State<Arc<App>>) -> Json<Delay> {
    Json(pulse::read(&app.pulse))
}

async fn unknown(State(app): State<Arc<App>>) -> Response {
    let paths: Vec<_> = app.strategies.keys().map(|kind| kind.path()).collect();
    let detail = format!("there are /, /pulse and {}", paths.join(", "));
    Refusal::not_found(detail).into_response()
}
