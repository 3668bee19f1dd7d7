//! Limits by HTTP: set, shown, kept to, removed, on the audit log; and unique keys that debounce.

use serde_json::{Value, json};

use crate::support::Server;

async fn put(server: &Server, target: &str, body: &str) -> (u16, Value) {
    let path = format!("/v1/limits/{target}");
    let answer = server
        .send(
            "PUT",
            &path,
            "content-type: application/json\r\n",
            body.as_bytes(),
        )
        .await;
    (answer.status, answer.json())
}

async fn delete(server: &Server, target: &str) -> u16 {
    let path = format!("/v1/limits/{target}");
    server.send("DELETE", &path, "", b"").await.status
}

#[tokio::test]
async fn a_limit_is_in_force_as_soon_as_it_is_answered() {
    let server = Server::start().await;
    let (status, limit) = put(&server, "queue:slow", r#"{"concurrency": 1}"#).await;
    assert_eq!((status, &limit["concurrency"]), (200, &json!(1)));
    let first = server.job(r#"{"task":"hold","queue":"slow"}"#).await;
    let second = server.job(r#"{"task":"hold","queue":"slow"}"#).await;
    server.running(&first).await;
    let other = server.job(r#"{"task":"echo","queue":"fast"}"#).await;
    server.end(&other).await; // the lane has room and went past the second
    assert_eq!(
        server.get(&format!("/v1/jobs/{second}")).await.json()["state"],
        "ready"
    );
    let shown = server.get("/v1/limits/queue:slow").await.json();
    assert_eq!(shown["running"], 1);
    assert_eq!(shown["blocked_by"], "concurrency");
    let (status, _) = put(&server, "queue:slow", r#"{"concurrency": 2}"#).await;
    assert_eq!(status, 200);
    server.running(&second).await;
    for id in [&first, &second] {
        server.post(&format!("/v1/jobs/{id}/cancel"), "").await;
        server.end(id).await;
    }
}

#[tokio::test]
async fn a_job_that_a_rate_holds_back_starts_when_it_may_and_nobody_asks() {
    let server = Server::start().await;
    let (status, limit) = put(&server, "task:echo", r#"{"rate": "10/s", "burst": 1}"#).await;
    assert_eq!((status, &limit["rate"]), (200, &json!("10/s")));
    let mut started = Vec::new();
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(server.job(r#"{"task":"echo"}"#).await);
    }
    for id in &jobs {
        let job = server.end(id).await;
        let at = job["attempts"][0]["started_at"].as_str().unwrap();
        started.push(offloop_wire::parse_time(at).unwrap().as_millis());
    }
    started.sort_unstable();
    let apart = started[3] - started[0];
    assert!(
        apart >= 297,
        "four starts at 10/s in {apart} ms: {started:?}"
    );
}

#[tokio::test]
async fn targets_of_every_kind_have_a_place_of_their_own() {
    let server = Server::start().await;
    let targets = [
        ("queue:a", "queue:a"),
        ("task:echo", "task:echo"),
        ("key:*", "key:*"),
        ("key:acme%2Feu", "key:acme/eu"),
        ("task:echo/key:*", "task:echo/key:*"),
        ("task%3Aecho%2Fkey%3A%C5%BE", "task:echo/key:ž"),
    ];
    for (path, target) in targets {
        let (status, limit) = put(&server, path, r#"{"concurrency": 3}"#).await;
        assert_eq!((status, &limit["target"]), (200, &json!(target)), "{path}");
        assert_eq!(server.get(&format!("/v1/limits/{path}")).await.status, 200);
    }
    let list = server.get("/v1/limits?limit=4").await.json();
    assert_eq!(list["limits"].as_array().unwrap().len(), 4);
    let after = list["next_cursor"].as_str().unwrap();
    let escaped = after.replace('*', "%2A").replace('/', "%2F");
    let rest = server
        .get(&format!("/v1/limits?cursor={escaped}"))
        .await
        .json();
    assert_eq!(rest["limits"].as_array().unwrap().len(), 2);
    assert_eq!(rest["next_cursor"], Value::Null);
    for (path, _) in targets {
        assert_eq!(delete(&server, path).await, 204, "{path}");
        assert_eq!(delete(&server, path).await, 404, "{path}");
        assert_eq!(server.get(&format!("/v1/limits/{path}")).await.status, 404);
    }
}

#[tokio::test]
async fn a_limit_that_cannot_be_is_refused_with_a_pointer() {
    let server = Server::start().await;
    let rows = [
        ("queue:a", r#"{"concurrency": 0}"#, 422, "/concurrency"),
        ("queue:a", r#"{"rate": "fast"}"#, 422, "/rate"),
        ("queue:a", r#"{"weight": 2}"#, 422, "/weight"),
        ("queue:a", r#"{"speed": 2}"#, 422, "/speed"),
        ("queue:a", "{}", 422, ""),
    ];
    for (target, body, want, pointer) in rows {
        let (status, problem) = put(&server, target, body).await;
        assert_eq!(status, want, "{body}: {problem}");
        assert_eq!(
            problem["errors"][0]["pointer"], pointer,
            "{body}: {problem}"
        );
    }
    for (target, body, want) in [
        ("queue:a", "[", 400),
        ("mail", r#"{"concurrency": 1}"#, 400),
        ("queue:a%20b", r#"{"concurrency": 1}"#, 400),
        ("task:a/key:", r#"{"concurrency": 1}"#, 400),
    ] {
        assert_eq!(put(&server, target, body).await.0, want, "{target} {body}");
    }
    assert_eq!(server.get("/v1/limits").await.json()["limits"], json!([]));
    assert_eq!(server.get("/v1/audit").await.json()["entries"], json!([]));
}

#[tokio::test]
async fn changes_are_on_the_audit_log_with_what_was_before() {
    let server = Server::start().await;
    put(&server, "key:acme", r#"{"concurrency": 1}"#).await;
    put(&server, "key:acme", r#"{"concurrency": 2, "rate": "5/m"}"#).await;
    delete(&server, "key:acme").await;
    put(&server, "queue:a", r#"{"concurrency": 1}"#).await;
    let log = server
        .get("/v1/audit?subject=key:acme&limit=2")
        .await
        .json();
    let entries = log["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["action"], "limit.remove");
    assert_eq!(entries[0]["after"], Value::Null);
    assert_eq!(entries[1]["before"], "concurrency = 1");
    assert_eq!(
        entries[1]["after"],
        "concurrency = 2, rate = \"5/m\", burst = 1"
    );
    assert_eq!(entries[1]["actor"], "api");
    let next = log["next_cursor"].as_u64().unwrap();
    let rest = server
        .get(&format!("/v1/audit?subject=key:acme&cursor={next}"))
        .await
        .json();
    assert_eq!(rest["entries"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn combinations_of_unique_that_cannot_be_are_refused_by_their_field() {
    let server = Server::start().await;
    let rows = [
        (r#"{"key":"k","scope":"for"}"#, "/unique/for_ms"),
        (r#"{"key":"k","for_ms":5}"#, "/unique/for_ms"),
        (r#"{"key":"k","scope":"for","for_ms":0}"#, "/unique/for_ms"),
        (
            r#"{"key":"k","on_conflict":"debounce"}"#,
            "/unique/quiet_ms",
        ),
        (r#"{"key":"k","quiet_ms":5}"#, "/unique/quiet_ms"),
        (
            r#"{"key":"k","on_conflict":"throttle"}"#,
            "/unique/on_conflict",
        ),
        (
            r#"{"key":"k","scope":"for","for_ms":5,"on_conflict":"debounce","quiet_ms":5}"#,
            "/unique/scope",
        ),
        (r#"{"key":"k","scope":"forever"}"#, "/unique/scope"),
        (r#"{"key":"k","period":1}"#, "/unique/period"),
    ];
    for (unique, pointer) in rows {
        let body = format!(r#"{{"task":"echo","unique":{unique}}}"#);
        let answer = server.post("/v1/jobs", &body).await;
        let problem = answer.json();
        assert_eq!(answer.status, 422, "{unique}: {problem}");
        assert_eq!(
            problem["errors"][0]["pointer"], pointer,
            "{unique}: {problem}"
        );
    }
    let late = r#"{"task":"echo","delay_ms":5,"unique":{"key":"k","on_conflict":"debounce","quiet_ms":5}}"#;
    let problem = server.post("/v1/jobs", late).await.json();
    assert_eq!(problem["errors"][0]["pointer"], "/run_at", "{problem}");
}

#[tokio::test]
async fn a_debounced_job_runs_once_with_the_last_payload() {
    let server = Server::start().await;
    let ask = |n: u32| {
        format!(
            r#"{{"task":"echo","payload":{n},"unique":{{"key":"k","on_conflict":"debounce","quiet_ms":150}}}}"#
        )
    };
    let first = server.post("/v1/jobs", &ask(1)).await;
    assert_eq!(
        (first.status, first.json()["state"].as_str()),
        (201, Some("scheduled"))
    );
    let id = first.json()["id"].as_str().unwrap().to_owned();
    for n in [2, 3] {
        let again = server.post("/v1/jobs", &ask(n)).await;
        assert_eq!(
            (again.status, again.json()["id"].as_str()),
            (200, Some(&*id))
        );
        assert_eq!(again.json()["payload"], n);
    }
    let job = server.end(&id).await;
    assert_eq!(
        (&job["result"], job["attempts"].as_array().unwrap().len()),
        (&json!(3), 1)
    );
}

#[tokio::test]
async fn a_queue_shows_what_holds_its_jobs_back() {
    let server = Server::start().await;
    for (target, body) in [
        ("queue:slow", r#"{"concurrency": 1, "rate": "100/s"}"#),
        ("task:hold", r#"{"concurrency": 7}"#),
        ("task:echo", r#"{"concurrency": 8}"#),
        ("key:acme", r#"{"concurrency": 9}"#),
    ] {
        assert_eq!(put(&server, target, body).await.0, 200);
    }
    let first = server.job(r#"{"task":"hold","queue":"slow"}"#).await;
    server.job(r#"{"task":"hold","queue":"slow"}"#).await;
    server.running(&first).await;
    server.job(r#"{"task":"hold","queue":"other"}"#).await;
    let queues = server.get("/v1/queues").await.json();
    let limits = |name: &str| {
        let all = queues["queues"].as_array().unwrap().iter();
        let mut found = all.filter(|queue| queue["name"] == name);
        found.next().unwrap()["limits"].clone()
    };
    let slow = limits("slow");
    let targets = |limits: &Value| {
        let limits = limits.as_array().unwrap().iter();
        limits
            .map(|limit| limit["target"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(targets(&slow), ["queue:slow", "task:hold"]);
    assert_eq!(targets(&limits("other")), ["task:hold"]);
    assert_eq!(
        (
            &slow[0]["concurrency"],
            &slow[0]["rate"],
            &slow[0]["running"],
            &slow[0]["blocked_by"]
        ),
        (&json!(1), &json!("100/s"), &json!(1), &json!("concurrency"))
    );
    let paused = server.post("/v1/queues/slow/pause", "").await.json();
    assert_eq!(targets(&paused["limits"]), targets(&slow));
}
