//! For machines that watch: alive, ready, figures.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, Uri, header};
use axum::response::IntoResponse as _;

use super::{Answer, json_bytes};
use crate::door::Inner;
use crate::figures;
use crate::metrics::head;
use crate::problem::{Kind, Refusal};
use crate::query::Query;

/// The process is up.
pub(super) async fn alive() -> Response<Body> {
    json_bytes(StatusCode::OK, &b"{\"status\":\"alive\"}"[..])
}

/// It may be sent work. Says why not; the reason names no data.
pub(super) async fn ready(State(door): State<Arc<Inner>>) -> Response<Body> {
    let leaving = *door.leaving.borrow();
    let trouble = if leaving {
        Some("shutting down".into())
    } else {
        door.handle.trouble()
    };
    match trouble {
        None => json_bytes(StatusCode::OK, &b"{\"status\":\"ready\"}"[..]),
        Some(why) => {
            let kind = if leaving {
                Kind::ShuttingDown
            } else {
                Kind::Busy
            };
            Refusal::from(kind.say(format!("not ready: {why}"))).into_response()
        }
    }
}

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Prometheus text.
pub(super) async fn metrics(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let mut out = String::with_capacity(8 << 10);
    let now = door.handle.now();
    let ready = u8::from(door.handle.trouble().is_none() && !*door.leaving.borrow());
    head(
        &mut out,
        "offloop_ready",
        "gauge",
        "1 when the server may be sent work.",
    );
    let _ = writeln!(out, "offloop_ready {ready}");
    // Names hold no character that a label would escape.
    let queues = door.handle.queues().await?;
    head(
        &mut out,
        "offloop_jobs",
        "gauge",
        "Jobs that are not final, by queue and state.",
    );
    for queue in &queues {
        let counts = queue.counts;
        for (state, count) in [
            ("waiting", counts.waiting),
            ("scheduled", counts.scheduled),
            ("ready", counts.ready),
            ("running", counts.running),
        ] {
            let name = &queue.name;
            let _ = writeln!(
                out,
                "offloop_jobs{{queue=\"{name}\",state=\"{state}\"}} {count}"
            );
        }
    }
    let name = "offloop_follow_ups_refused_total";
    let help = "Jobs that should have come with the end of another and were not taken in.";
    head(&mut out, name, "counter", help);
    let _ = writeln!(out, "{name} {}", door.handle.follows_refused());
    let name = "offloop_oldest_ready_seconds";
    head(
        &mut out,
        name,
        "gauge",
        "How long the ready job that waits longest has waited.",
    );
    for queue in &queues {
        let age = queue
            .oldest_ready
            .map_or(0.0, |due| now.since(due).as_secs_f64());
        let _ = writeln!(out, "{name}{{queue=\"{}\"}} {age}", queue.name);
    }
    head(
        &mut out,
        "offloop_queue_paused",
        "gauge",
        "1 when the queue gives no jobs out.",
    );
    for queue in &queues {
        let paused = u8::from(queue.mode == offloop_job::Mode::Paused);
        let _ = writeln!(
            out,
            "offloop_queue_paused{{queue=\"{}\"}} {paused}",
            queue.name
        );
    }
    figures::lanes(&door.handle, &mut out);
    super::schedules::figures(&door, &mut out);
    figures::attempts(&door.handle, &mut out);
    figures::times(&door.handle, &mut out);
    figures::pulse(&door.handle, &mut out);
    let name = "offloop_http_connections";
    head(&mut out, name, "gauge", "Connections that are open.");
    let _ = writeln!(out, "{name} {}", door.registry.len());
    let name = "offloop_http_subscribers";
    head(&mut out, name, "gauge", "Readers of GET /v1/events.");
    let readers = door.config.subscribers_max - door.subscribers.available_permits();
    let _ = writeln!(out, "{name} {readers}");
    door.metrics.write(&mut out);
    for figures in &door.figures {
        figures.0(&mut out);
    }
    let mut response = Response::new(Body::from(out));
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    Ok(response)
}
