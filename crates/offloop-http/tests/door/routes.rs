//! Every route: what it answers, and how it refuses.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Server, soon};

#[tokio::test]
async fn a_job_is_taken_in_runs_and_is_shown_whole() {
    let server = Server::start().await;
    let answer = server
        .post(
            "/v1/jobs",
            r#"{"task":"echo","payload":{"a": 1.50},"tags":["x","y"],"priority":3}"#,
        )
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let job = answer.json();
    let id = job["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), Some(format!("/v1/jobs/{id}")));
    assert_eq!(
        (&job["queue"], &job["priority"]),
        (&"default".into(), &3.into())
    );
    assert_eq!(job["tags"], serde_json::json!(["x", "y"]));

    let job = server.end(id).await;
    assert_eq!(job["state"], "completed");
    assert_eq!(job["result"], serde_json::json!({"a": 1.5}));
    let text = server.get(&format!("/v1/jobs/{id}")).await.text();
    assert!(
        text.contains(r#""payload":{"a": 1.50}"#),
        "kept as it was written: {text}"
    );
    let attempt = &job["attempts"][0];
    assert_eq!(attempt["number"], 1);
    assert_eq!(attempt["lane"], "cpu");
    assert_eq!(attempt["end"]["class"], "completed");
    assert!(attempt["wall_ms"].is_u64() && attempt["executor"].is_string());
}

#[tokio::test]
async fn prefer_wait_gives_the_answer_or_a_ticket() {
    let server = Server::start().await;
    let prefer = "Content-Type: application/json\r\nPrefer: wait=9\r\n";
    let done = server
        .send(
            "POST",
            "/v1/jobs",
            prefer,
            br#"{"task":"echo","payload":7}"#,
        )
        .await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(done.json()["result"], 7);
    assert_eq!(done.header("preference-applied").as_deref(), Some("wait=9"));

    let prefer = "Content-Type: application/json\r\nPrefer: wait=0\r\n";
    let ticket = server
        .send("POST", "/v1/jobs", prefer, br#"{"task":"hold"}"#)
        .await;
    assert_eq!(ticket.status, 202, "{ticket:?}");
    let id = ticket.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(ticket.header("location"), Some(format!("/v1/jobs/{id}")));
    server.gate.open();
    assert_eq!(server.end(&id).await["result"]["held"], true);
}

#[tokio::test]
async fn a_repeated_request_finds_its_job() {
    let server = Server::start().await;
    let headers = "Content-Type: application/json\r\nIdempotency-Key: \"once\"\r\n";
    let first = server
        .send("POST", "/v1/jobs", headers, br#"{"task":"noop"}"#)
        .await;
    let again = server
        .send("POST", "/v1/jobs", headers, br#"{"task":"noop"}"#)
        .await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(first.header("location"), again.header("location"));
    let other = server
        .send("POST", "/v1/jobs", headers, br#"{"task":"echo"}"#)
        .await;
    other.is_problem(422, "idempotency-mismatch");
    assert_eq!(other.json()["job"], first.json()["id"]);
    let two = server
        .send(
            "POST",
            "/v1/jobs",
            headers,
            br#"{"task":"noop","idempotency_key":"twice"}"#,
        )
        .await;
    two.is_problem(422, "invalid-job");
}

#[tokio::test]
async fn a_unique_key_keeps_or_rejects() {
    let server = Server::start().await;
    let id = server.job(r#"{"task":"hold","unique":{"key":"k"}}"#).await;
    let kept = server
        .post("/v1/jobs", r#"{"task":"hold","unique":{"key":"k"}}"#)
        .await;
    assert_eq!((kept.status, &kept.json()["id"]), (200, &id.clone().into()));
    let reject = r#"{"task":"hold","unique":{"key":"k","on_conflict":"reject"}}"#;
    let rejected = server.post("/v1/jobs", reject).await;
    rejected.is_problem(409, "unique-conflict");
    assert_eq!(rejected.json()["job"], id);
    server.gate.open();
}

#[tokio::test]
async fn what_cannot_be_taken_in_is_refused_with_reasons() {
    let server = Server::start().await;
    let rows = [
        ("{", 400, "invalid-json"),
        ("[]", 400, "invalid-json"),
        ("", 400, "invalid-json"),
        (r#"{"task":"nope"}"#, 422, "unknown-task"),
        (r#"{"task":"noop","priority":99}"#, 422, "invalid-job"),
        (r#"{"task":"noop","extra":1}"#, 422, "invalid-job"),
    ];
    for (body, status, name) in rows {
        server.post("/v1/jobs", body).await.is_problem(status, name);
    }
    let two = server
        .post("/v1/jobs", r#"{"task":"noop","priority":99,"cores":0}"#)
        .await
        .json();
    assert_eq!(two["field"], "/priority");
    assert_eq!(two["errors"][1]["pointer"], "/cores");
    for media in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
    ] {
        let answer = server
            .send("POST", "/v1/jobs", media, br#"{"task":"noop"}"#)
            .await;
        answer.is_problem(415, "media-type");
    }
    let charset = "Content-Type: application/json; charset=utf-8\r\n";
    assert_eq!(
        server
            .send("POST", "/v1/jobs", charset, br#"{"task":"noop"}"#)
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let server = Server::with_packs(|_| {}, Vec::new(), 2).await;
    server.post("/v1/queues/slow/pause", "").await;
    for _ in 0..2 {
        server.job(r#"{"task":"noop","queue":"slow"}"#).await;
    }
    let full = server
        .post("/v1/jobs", r#"{"task":"noop","queue":"slow"}"#)
        .await;
    full.is_problem(429, "queue-full");
    assert!(full.header("retry-after").is_some());
    let unknown = "/v1/jobs?on_full=hope";
    let answer = server.post(unknown, r#"{"task":"noop"}"#).await;
    answer.is_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn a_producer_that_wants_to_wait_is_held_until_there_is_room() {
    let server = Server::with_packs(|_| {}, Vec::new(), 2).await;
    server.post("/v1/queues/slow/pause", "").await;
    for _ in 0..2 {
        server.job(r#"{"task":"noop","queue":"slow"}"#).await;
    }
    let ask = server.post("/v1/jobs?on_full=wait", r#"{"task":"noop","queue":"slow"}"#);
    let mut ask = std::pin::pin!(ask);
    let held = tokio::select! {
        answer = &mut ask => panic!("not held: {answer:?}"),
        status = async { server.get("/healthz").await.status } => status,
    };
    assert_eq!(held, 200);
    server.post("/v1/queues/slow/resume", "").await;
    let answer = ask.await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.header("offloop-pressure").is_some());
}

#[tokio::test]
async fn an_enqueue_is_told_when_its_job_will_begin_once_that_is_known() {
    let server = Server::start().await;
    let first = server.job(r#"{"task":"noop"}"#).await;
    server.end(&first).await;
    let answer = server.post("/v1/jobs", r#"{"task":"noop"}"#).await.json();
    assert!(answer["estimated_start_at"].is_string(), "{answer}");
}

#[tokio::test]
async fn jobs_are_listed_by_filter_and_page() {
    let server = Server::start().await;
    let mut last = String::new();
    for tag in ["a", "b", "a"] {
        last = server
            .job(&format!(r#"{{"task":"noop","tags":["{tag}"]}}"#))
            .await;
        server.end(&last).await;
    }
    let failed = server.job(r#"{"task":"fail","queue":"q"}"#).await;
    assert_eq!(server.end(&failed).await["reason"], "not_retryable");

    let ids = |value: &Value| -> Vec<String> {
        let jobs = value["jobs"].as_array().unwrap();
        jobs.iter()
            .map(|job| job["id"].as_str().unwrap().to_owned())
            .collect()
    };
    for (query, want) in [
        ("", 4),
        ("?task=noop", 3),
        ("?tag=a", 2),
        ("?queue=q", 1),
        ("?state=failed", 1),
        ("?class=invalid", 1),
        ("?state=ready", 0),
        ("?task=noop&tag=b&state=completed", 1),
    ] {
        let list = server.get(&format!("/v1/jobs{query}")).await.json();
        assert_eq!(ids(&list).len(), want, "{query}: {list}");
        assert_eq!(list["next_cursor"], Value::Null);
        assert!(
            list["jobs"]
                .as_array()
                .unwrap()
                .iter()
                .all(|job| job.get("payload").is_none())
        );
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = server
            .get(&format!("/v1/jobs?limit=1&task=noop{cursor}"))
            .await
            .json();
        seen.extend(ids(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0], last, "newest first");
}

#[tokio::test]
async fn unknown_parameters_are_refused_by_name() {
    let server = Server::start().await;
    for path in [
        "/v1/jobs?sate=ready",
        "/v1/jobs?state=dead",
        "/v1/jobs?limit=0",
        "/v1/jobs?limit=501",
        "/v1/jobs?limit=x",
        "/v1/jobs?class=oops",
        "/v1/jobs?task=a%20b",
        "/v1/jobs?limit=1&limit=2",
        "/v1/jobs?cursor=%00",
        "/v1/tasks?x",
        "/v1/queues?x=1",
        "/v1/nodes?x=1",
        "/metrics?x=1",
        "/v1/events?digest_ms=1",
        "/v1/events?job=x",
        "/v1/events?digest_ms=500&task=noop",
        "/?x=1",
        "/v1/jobs/0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a?x=1",
        "/openapi.json?x=1",
        "/session?x=1",
    ] {
        server.get(path).await.is_problem(400, "invalid-parameter");
    }
    let unknown = server.get("/v1/jobs?sate=ready").await.json();
    assert!(
        unknown["detail"]
            .as_str()
            .unwrap()
            .contains("\"sate\" is unknown; known are task")
    );
}

#[tokio::test]
async fn a_running_job_is_stopped_and_an_idle_one_cancelled() {
    let server = Server::start().await;
    let id = server.job(r#"{"task":"hold"}"#).await;
    server.running(&id).await;
    let shown = server.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(shown["progress"]["note"]["holding"], true);
    server
        .send("DELETE", &format!("/v1/jobs/{id}"), "", b"")
        .await
        .is_problem(409, "state-conflict");
    server
        .post(&format!("/v1/jobs/{id}/retry"), "")
        .await
        .is_problem(409, "state-conflict");
    let stopping = server.post(&format!("/v1/jobs/{id}/cancel"), "").await;
    assert_eq!(stopping.status, 202, "{stopping:?}");
    assert_eq!(server.end(&id).await["state"], "cancelled");
    assert_eq!(
        server
            .post(&format!("/v1/jobs/{id}/cancel"), "")
            .await
            .status,
        200,
        "again"
    );

    let later = server.job(r#"{"task":"noop","delay_ms":3600000}"#).await;
    let cancelled = server.post(&format!("/v1/jobs/{later}/cancel"), "").await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (200, &"cancelled".into())
    );
}

#[tokio::test]
async fn a_dead_letter_is_retried_and_then_forgotten() {
    let server = Server::start().await;
    let id = server.job(r#"{"task":"fail"}"#).await;
    assert_eq!(server.end(&id).await["failure"]["class"], "invalid");
    let log = server.get(&format!("/v1/jobs/{id}/logs")).await;
    assert_eq!((log.status, log.text().as_str()), (200, "about to fail\n"));
    assert!(
        log.header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert_eq!(
        server
            .get(&format!("/v1/jobs/{id}/logs?attempt=1"))
            .await
            .status,
        200
    );
    server
        .get(&format!("/v1/jobs/{id}/logs?attempt=9"))
        .await
        .is_problem(404, "not-found");
    server
        .get(&format!("/v1/jobs/{id}/logs?attempt=x"))
        .await
        .is_problem(400, "invalid-parameter");

    assert_eq!(
        server
            .post(&format!("/v1/jobs/{id}/retry"), "")
            .await
            .status,
        200
    );
    assert_eq!(server.end(&id).await["state"], "failed");
    assert_eq!(
        server
            .send("DELETE", &format!("/v1/jobs/{id}"), "", b"")
            .await
            .status,
        204
    );
    server
        .get(&format!("/v1/jobs/{id}"))
        .await
        .is_problem(404, "not-found");
    server
        .send("DELETE", &format!("/v1/jobs/{id}"), "", b"")
        .await
        .is_problem(404, "not-found");
    server
        .post(&format!("/v1/jobs/{id}/cancel"), "")
        .await
        .is_problem(404, "not-found");
    server
        .post(&format!("/v1/jobs/{id}/retry"), "")
        .await
        .is_problem(404, "not-found");
    server
        .get("/v1/jobs/not-an-id")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test]
async fn a_result_that_is_no_json_does_not_break_the_answer() {
    let server = Server::start().await;
    let id = server.job(r#"{"task":"garbage"}"#).await;
    assert_eq!(server.end(&id).await["result"], "\u{fffd}{no json");
}

#[tokio::test]
async fn a_paused_queue_gives_nothing_out_and_shows_it() {
    let server = Server::start().await;
    let paused = server.post("/v1/queues/mail/pause", "").await;
    assert_eq!(
        (paused.status, &paused.json()["paused"]),
        (200, &true.into())
    );
    let id = server.job(r#"{"task":"noop","queue":"mail"}"#).await;
    let queues = server.get("/v1/queues").await.json();
    let mail = queues["queues"]
        .as_array()
        .unwrap()
        .iter()
        .find(|q| q["name"] == "mail")
        .unwrap();
    assert_eq!(mail["counts"]["ready"], 1);
    assert!(mail["oldest_ready_ms"].is_u64() && mail["limits"] == serde_json::json!([]));
    let metrics = server.get("/metrics").await.text();
    assert!(
        metrics.contains("offloop_jobs{queue=\"mail\",state=\"ready\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("offloop_queue_paused{queue=\"mail\"} 1"));
    assert_eq!(
        server.post("/v1/queues/mail/resume", "").await.json()["paused"],
        false
    );
    assert_eq!(server.end(&id).await["state"], "completed");
    server
        .post("/v1/queues/a%20b/pause", "")
        .await
        .is_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn the_server_tells_of_its_tasks_lanes_and_health() {
    let server = Server::start().await;
    let tasks = server.get("/v1/tasks").await.json();
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 7);
    assert_eq!(tasks["tasks"][0]["lane"], "cpu");
    assert_eq!(tasks["tasks"][0]["timeout_ms"], 3_600_000);
    let node = &server.get("/v1/nodes").await.json()["nodes"][0];
    assert_eq!(node["lanes"][0]["slots"]["running"], 2);
    assert_eq!(node["store"]["engine"], "memory");
    assert_eq!(node["trouble"], Value::Null);
    assert_eq!(server.get("/healthz").await.json()["status"], "alive");
    assert_eq!(server.get("/readyz").await.json()["status"], "ready");
    let openapi = server.get("/openapi.json").await;
    assert_eq!(openapi.json()["openapi"], "3.1.0");
    let metrics = server.get("/metrics").await;
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .contains("version=0.0.4")
    );
    for name in [
        "offloop_ready 1",
        "offloop_lane_slots{lane=\"cpu\"} 2",
        "_seconds_bucket{le=\"+Inf\"}",
    ] {
        assert!(metrics.text().contains(name), "{name}");
    }
}

#[tokio::test]
async fn wrong_paths_and_methods_are_problems_too() {
    let server = Server::start().await;
    for path in [
        "/v1",
        "/v1/",
        "/v1/jobs/",
        "//v1/jobs",
        "/V1/jobs",
        "/v1/jobs;x",
        "/v1/%6Aobs/x/y",
    ] {
        server.get(path).await.is_problem(404, "not-found");
    }
    for (method, path, allow) in [
        ("PUT", "/v1/jobs", "POST,GET,HEAD"),
        ("DELETE", "/v1/queues", "GET,HEAD"),
        ("GET", "/v1/queues/q/pause", "POST"),
        ("POST", "/healthz", "GET,HEAD"),
        ("TRACE", "/v1/jobs", "POST,GET,HEAD"),
        ("FOO", "/v1/tasks", "GET,HEAD"),
    ] {
        let answer = server.send(method, path, "", b"").await;
        answer.is_problem(405, "method-not-allowed");
        assert_eq!(
            answer.header("allow").as_deref(),
            Some(allow),
            "{method} {path}"
        );
    }
    assert_eq!(server.send("HEAD", "/v1/tasks", "", b"").await.status, 200);
}

#[tokio::test]
async fn a_door_that_closes_says_so_first_and_lets_requests_finish() {
    let mut server = Server::with(|config| config.lame_duck = Duration::from_millis(300)).await;
    let id = server.job(r#"{"task":"hold"}"#).await;
    server.running(&id).await;
    server.close();
    soon(async {
        loop {
            let ready = server.get("/readyz").await;
            if ready.status == 503 {
                ready.is_problem(503, "shutting-down");
                break;
            }
        }
    })
    .await;
    assert_eq!(server.get("/healthz").await.status, 200, "still served");
    let waiting = async {
        let path = format!("/v1/jobs/{id}");
        server.send("GET", &path, "Prefer: wait=9\r\n", b"").await
    };
    // The wait is cut short by the closing, and answered.
    let answer = soon(waiting).await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (200, &"running".into())
    );
    server.gate.open();
    assert_eq!(server.closed().await.cut, 0);
}
