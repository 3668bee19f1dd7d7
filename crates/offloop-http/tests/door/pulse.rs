//! The server as it is now: who blocks a loop, how long tasks wait, and that all of it has its place
//! in the document.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use offloop_http::{PackRoutes, axum};
use serde_json::Value;

use crate::support::{Server, soon};

/// The first answer that `fits`.
async fn pulse(server: &Server, fits: impl Fn(&Value) -> bool) -> Value {
    soon(async {
        loop {
            let answer = server.get("/v1/pulse").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let pulse = answer.json();
            if fits(&pulse) {
                return pulse;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

fn row<'v>(rows: &'v Value, key: &str, name: &str) -> &'v Value {
    let mut rows = rows.as_array().unwrap().iter();
    rows.find(|row| row[key] == name).unwrap_or(&Value::Null)
}

/// A route that computes until it is let go.
fn spinning(gate: &Arc<AtomicBool>) -> PackRoutes {
    let hold = |gate: &AtomicBool| {
        while !gate.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        "let go"
    };
    let (held, dripping) = (Arc::clone(gate), Arc::clone(gate));
    let spin = move |_: axum::extract::Path<String>| async move { hold(&held) };
    let drip = move || async move {
        let piece = async move { Ok::<_, std::convert::Infallible>(hold(&dripping)) };
        axum::body::Body::from_stream(futures_util::stream::once(piece))
    };
    PackRoutes {
        name: "lab".into(),
        router: Router::new()
            .route("/v1/spin/{how}", get(spin))
            .route("/v1/drip", get(drip)),
        ..PackRoutes::default()
    }
}

/// Opens it also when the test fails: a thread that spins for ever would hang it.
struct LetGo(Arc<AtomicBool>);

impl Drop for LetGo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_route_that_blocks_its_loop_is_named_while_it_does() {
    let gate = LetGo(Arc::default());
    let server = Server::with_packs(|_| {}, vec![spinning(&gate.0)], 100).await;
    let blocking = server.get("/v1/spin/customer-4711");
    let watching = async {
        let seen = pulse(&server, |pulse| {
            row(&pulse["loops"], "name", "doors")["blocked"][0]["what"] == "GET /v1/spin/{how}"
        })
        .await;
        gate.0.store(true, Ordering::Release);
        seen
    };
    let (answer, seen) = tokio::join!(blocking, watching);
    assert_eq!(answer.text(), "let go");
    assert_eq!(seen["state"], "blocked");
    let blocked = &row(&seen["loops"], "name", "doors")["blocked"][0];
    assert_eq!(blocked["kind"], "route");
    assert!(blocked["for_ms"].as_f64().unwrap() >= 50.0, "{blocked}");
    assert!(blocked["remedy"].as_str().unwrap().contains("cpu lane"));
    assert!(
        !seen.to_string().contains("4711"),
        "a request's own path was kept"
    );
    let after = pulse(&server, |pulse| {
        pulse["state"] == "ok" && !pulse["polls"].as_array().unwrap().is_empty()
    })
    .await;
    assert_eq!(after["recent"][0]["what"], "GET /v1/spin/{how}");
    let polls = row(&after["polls"], "what", "GET /v1/spin/{how}");
    assert_eq!(polls["hint"]["kind"], "too_long");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_stream_that_computes_between_its_pieces_has_its_routes_name() {
    let gate = LetGo(Arc::default());
    let server = Server::with_packs(|_| {}, vec![spinning(&gate.0)], 100).await;
    let streaming = server.get("/v1/drip");
    let watching = async {
        pulse(&server, |pulse| {
            row(&pulse["loops"], "name", "doors")["blocked"][0]["what"] == "GET /v1/drip"
        })
        .await;
        gate.0.store(true, Ordering::Release);
    };
    let (answer, ()) = tokio::join!(streaming, watching);
    assert_eq!(answer.text(), "let go");
}

/// Every field that the schema names and no other, all the way down.
fn same_shape(value: &Value, schema: &Value, schemas: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return same_shape(value, &schemas[name], schemas, place);
    }
    if let Some(either) = schema["oneOf"].as_array() {
        if !value.is_null() {
            same_shape(value, &either[0], schemas, place);
        }
        return;
    }
    let keys = |object: &Value| -> BTreeSet<String> {
        object.as_object().unwrap().keys().cloned().collect()
    };
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.clone(),
        one => vec![one.clone()],
    };
    let kind = match value {
        Value::Null => "null",
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
    };
    let fits = kinds.iter().any(|one| one == kind);
    assert!(
        fits || schema["enum"].is_array(),
        "{place}: {value} is no {kinds:?}"
    );
    match value {
        Value::Object(fields) => {
            assert_eq!(keys(value), keys(&schema["properties"]), "{place}");
            for (name, field) in fields {
                let place = format!("{place}.{name}");
                same_shape(field, &schema["properties"][name], schemas, &place);
            }
        }
        Value::Array(items) => {
            for item in items {
                same_shape(item, &schema["items"], schemas, place);
            }
        }
        _ => {}
    }
}

#[tokio::test]
async fn the_answer_has_the_shape_of_its_schema_down_to_the_last_field() {
    let server = Server::start().await;
    for _ in 0..3 {
        let id = server.job(r#"{"task":"echo","payload":[1]}"#).await;
        server.end(&id).await;
    }
    let called = server.post("/v1/call/echo", r#"{"payload":[1]}"#).await;
    assert_eq!(called.status, 200, "{called:?}");
    let seen = pulse(&server, |pulse| {
        let lately = &row(&pulse["loops"], "name", "doors")["delay"]["p99_ms"];
        row(&pulse["tasks"], "task", "echo")["run"]["count"] == 4 && lately.is_number()
    })
    .await;
    let document = server.get("/openapi.json").await.json();
    let schemas = &document["components"]["schemas"];
    same_shape(&seen, &schemas["Pulse"], schemas, "pulse");
    assert!(row(&seen["loops"], "name", "keeper").is_object());
    let doors = row(&seen["loops"], "name", "doors");
    let figure = |key: &str| doors["delay"][key].as_f64().unwrap();
    assert!(figure("p50_ms") <= figure("p99_ms") && figure("p99_ms") <= figure("max_ms"));
    assert!((0.0..=1.0).contains(&doors["utilisation"].as_f64().unwrap()));
    assert_eq!(row(&seen["lanes"], "name", "cpu")["slots"], 2);
    assert_eq!(row(&seen["lanes"], "name", "cpu:calls")["slots"], 2);
    assert!(seen["memory"]["rss_bytes"].as_u64().unwrap() > 1_000_000);
    assert!(seen["age_ms"].as_f64().unwrap() < 10_000.0);
}

#[tokio::test]
async fn a_lane_that_is_full_shows_it() {
    let server = Server::start().await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(server.job(r#"{"task":"hold"}"#).await);
    }
    let full = pulse(&server, |pulse| {
        let cpu = row(&pulse["lanes"], "name", "cpu");
        cpu["saturation"].as_f64().is_some_and(|share| share > 0.9)
    })
    .await;
    assert_eq!(row(&full["lanes"], "name", "cpu")["running"], 2);
    server.gate.open();
    for job in jobs {
        server.end(&job).await;
    }
}

#[tokio::test]
async fn histograms_for_scrapers_add_up() {
    let server = Server::start().await;
    for _ in 0..5 {
        let id = server.job(r#"{"task":"noop"}"#).await;
        server.end(&id).await;
    }
    pulse(&server, |pulse| {
        row(&pulse["loops"], "name", "doors")["delay"]["p99_ms"].is_number()
    })
    .await;
    let text = server.get("/metrics").await.text();
    for (name, labels) in [
        ("offloop_task_wait_seconds", "task=\"noop\""),
        ("offloop_task_run_seconds", "task=\"noop\""),
        ("offloop_loop_delay_seconds", "loop=\"doors\""),
        ("offloop_loop_delay_seconds", "loop=\"keeper\""),
    ] {
        let start = format!("{name}_bucket{{{labels},le=");
        let counts: Vec<u64> = text
            .lines()
            .filter(|line| line.starts_with(&start))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(counts.len() > 10 && counts.is_sorted(), "{name} {counts:?}");
        let count = format!("{name}_count{{{labels}}} {}", counts.last().unwrap());
        assert!(text.lines().any(|line| line == count), "{count}");
        if labels.contains("noop") {
            assert_eq!(counts.last(), Some(&5));
        }
    }
    for name in [
        "offloop_loop_utilisation{loop=\"doors\"}",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(name), "{name}");
    }
}
