//! Queues and tasks that are paused, drained and resumed.

use serde_json::Value;

use crate::support::Server;

fn named(rows: &Value, name: &str) -> Value {
    let mut rows = rows.as_array().unwrap().iter();
    rows.find(|row| row["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn a_draining_queue_refuses_new_jobs_and_says_what_to_do() {
    let server = Server::start().await;
    server.post("/v1/queues/mail/pause", "").await;
    let held = server.job(r#"{"task":"noop","queue":"mail"}"#).await;
    let drained = server.post("/v1/queues/mail/drain", "").await;
    assert_eq!(
        (drained.status, &drained.json()["mode"]),
        (200, &"draining".into())
    );
    assert_eq!(
        server.end(&held).await["state"],
        "completed",
        "what it had is run"
    );
    let refused = server
        .post("/v1/jobs", r#"{"task":"noop","queue":"mail"}"#)
        .await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let problem = refused.json();
    assert_eq!(problem["type"], "urn:offloop:problem:draining");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("queue `mail`") && detail.contains("/v1/queues/mail/resume"),
        "{detail}"
    );
    // Who would wait for room must not wait for an operator.
    let waiting = server
        .post("/v1/jobs?on_full=wait", r#"{"task":"noop","queue":"mail"}"#)
        .await;
    assert_eq!(waiting.status, 503);
    server.job(r#"{"task":"noop"}"#).await;
    server.post("/v1/queues/mail/resume", "").await;
    server.job(r#"{"task":"noop","queue":"mail"}"#).await;
}

#[tokio::test]
async fn a_task_is_paused_and_drained_in_every_queue() {
    let server = Server::start().await;
    let paused = server.post("/v1/tasks/noop/pause", "").await;
    assert_eq!(
        (paused.status, &paused.json()["mode"]),
        (200, &"paused".into())
    );
    let held = server.job(r#"{"task":"noop","queue":"mail"}"#).await;
    let other = server.job(r#"{"task":"echo","queue":"mail"}"#).await;
    server.end(&other).await;
    let tasks = server.get("/v1/tasks").await.json();
    assert_eq!(named(&tasks["tasks"], "noop")["mode"], "paused");
    assert_eq!(named(&tasks["tasks"], "echo")["mode"], "open");
    let state = server.get(&format!("/v1/jobs/{held}")).await.json();
    assert_eq!(state["state"], "ready");
    server.post("/v1/tasks/noop/drain", "").await;
    assert_eq!(server.end(&held).await["state"], "completed");
    let refused = server.post("/v1/jobs", r#"{"task":"noop"}"#).await;
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("task `noop`"), "{detail}");
    let unknown = server.post("/v1/tasks/nooop/pause", "").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("nooop"));
}

#[tokio::test]
async fn one_draining_queue_holds_up_none_of_a_bulk_request() {
    let server = Server::start().await;
    server.post("/v1/queues/mail/drain", "").await;
    let lines =
        "{\"task\":\"noop\"}\n{\"task\":\"noop\",\"queue\":\"mail\"}\n{\"task\":\"noop\"}\n";
    let answer = server.bulk("/v1/jobs", lines.as_bytes()).await;
    let text = answer.text();
    let rows = answer.lines();
    let refused = rows
        .iter()
        .filter(|row| row.to_string().contains("draining"));
    assert_eq!(refused.count(), 1, "{text}");
    assert_eq!(text.matches("\"id\":").count(), 2, "{text}");
}
