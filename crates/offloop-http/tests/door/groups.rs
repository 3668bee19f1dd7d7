//! Groups and flows, over the wire and run for real.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{Answer, Server, soon};

async fn group(server: &Server, body: &str) -> Value {
    let answer = server.post("/v1/groups", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    let path = format!("/v1/groups/{}", made["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), Some(path));
    made
}

fn path(group: &Value) -> String {
    format!("/v1/groups/{}", group["id"].as_str().unwrap())
}

/// Asks until the group is as wanted.
async fn until(server: &Server, group: &Value, want: impl Fn(&Value) -> bool) -> Value {
    soon(async {
        loop {
            let shown = server.get(&path(group)).await.json();
            if want(&shown) {
                return shown;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn over(group: &Value) -> bool {
    group["state"] != "open" && group["progress"]["done"] == group["progress"]["total"]
}

#[tokio::test]
async fn a_group_completes_and_its_follow_up_sees_the_members() {
    let server = Server::start().await;
    let made = group(
        &server,
        r#"{"rule":"all","jobs":[{"task":"echo","payload":1},{"task":"echo","payload":2}],
            "then":{"on":"completed","job":{"task":"inputs"}}}"#,
    )
    .await;
    let shown = until(&server, &made, over).await;
    assert_eq!(shown["state"], "completed", "{shown}");
    assert_eq!(shown["progress"], json!({"done": 2, "total": 2}));
    assert_eq!(shown["members"].as_array().unwrap().len(), 2);
    let then = shown["then"]["job"].as_str().unwrap();
    assert_eq!(server.end(then).await["result"], json!([1, 2]));
    let inputs = server.get(&format!("/v1/jobs/{then}/inputs")).await.json();
    assert_eq!(inputs["inputs"][1]["result"], 2);
    assert_eq!(inputs["inputs"][1]["state"], "completed");
}

#[tokio::test]
async fn the_first_failure_really_stops_the_members_that_run() {
    let server = Server::start().await;
    let made = group(
        &server,
        r#"{"rule":"all","hold":true,"jobs":[{"task":"hold"}]}"#,
    )
    .await;
    let running = server.get(&path(&made)).await.json()["members"][0]["id"].clone();
    server.running(running.as_str().unwrap()).await;
    let add = format!("{}/jobs", path(&made));
    let lines = "{\"task\":\"fail\",\"priority\":0}\n{\"task\":\"hold\",\"delay_ms\":600000}\n";
    let added = server.bulk(&add, lines.as_bytes()).await;
    assert_eq!(added.lines().len(), 2, "{added:?}");
    let shown = until(&server, &made, over).await;
    assert_eq!(shown["state"], "failed", "{shown}");
    assert_eq!(shown["reason"], "member");
    assert_eq!(shown["counts"]["cancelled"], 2);
    let message = shown["message"].as_str().unwrap();
    assert!(
        message.contains("1 invalid") && message.contains("no rows"),
        "{message}"
    );
    let stopped = server.end(running.as_str().unwrap()).await;
    assert_eq!(stopped["state"], "cancelled");
    // A decision stands.
    for order in ["seal", "cancel"] {
        let refused = server.post(&format!("{}/{order}", path(&made)), "").await;
        refused.is_problem(409, "group-closed");
    }
    let late = server.post(&add, r#"{"task":"noop"}"#).await;
    late.is_problem(409, "group-closed");
    server
        .bulk(&add, b"{\"task\":\"noop\"}\n")
        .await
        .is_problem(409, "group-closed");
}

#[tokio::test]
async fn a_group_of_lines_is_sealed_by_its_last_one() {
    let server = Server::start().await;
    let mut lines = "{\"rule\":\"all_settled\"}\n".to_owned();
    for number in 0..1_500 {
        let _ = writeln!(lines, "{{\"task\":\"echo\",\"payload\":{number}}}");
    }
    lines += "{\"task\":\"nobody\"}\n";
    let answer = server.bulk("/v1/groups", lines.as_bytes()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    assert_eq!(made["lines"]["accepted"], 1_500);
    assert_eq!(made["lines"]["errors"][0]["line"], 1_501);
    let shown = until(&server, &made, over).await;
    assert_eq!(shown["progress"], json!({"done": 1_500, "total": 1_500}));
    assert_eq!(
        (&shown["state"], &shown["hold"]),
        (&"completed".into(), &false.into())
    );
    let page = server
        .get(&format!("{}?limit=500", path(&made)))
        .await
        .json();
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = server
        .get(&format!("{}?limit=500&cursor={cursor}", path(&made)))
        .await;
    assert_ne!(next.json()["members"][0], page["members"][0]);
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_no_open_group() {
    let server = Server::with(|config| config.bulk_bytes_max = 200).await;
    let lines = format!("{{\"hold\":true}}\n{}", "{\"task\":\"noop\"}\n".repeat(90));
    let answer = server.bulk("/v1/groups", lines.as_bytes()).await;
    answer.is_problem(413, "too-large");
    let open = server.get("/v1/groups?state=open").await.json();
    assert_eq!(open["groups"], json!([]));
    let cancelled = server.get("/v1/groups?state=cancelled").await.json();
    assert_eq!(cancelled["groups"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_flow_runs_in_its_order_and_hands_results_on() {
    let server = Server::start().await;
    let flow = r#"{"jobs":[
        {"ref":"join","task":"inputs","after":["left",{"ref":"right"}]},
        {"ref":"left","task":"echo","payload":"l","after":["start"]},
        {"ref":"right","task":"echo","payload":"r","after":["start"]},
        {"ref":"start","task":"noop"}]}"#;
    let answer = server.post("/v1/flows", flow).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    let refs: Vec<_> = made["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["ref"].clone())
        .collect();
    assert_eq!(refs, ["join", "left", "right", "start"]);
    assert_eq!(made["jobs"][0]["state"], "waiting");
    let join = server.end(made["jobs"][0]["id"].as_str().unwrap()).await;
    assert_eq!(join["result"], json!(["l", "r"]));
    assert_eq!(join["options"]["after"][1]["job"], made["jobs"][2]["id"]);
}

#[tokio::test]
async fn a_failed_parent_fails_who_waits_for_it_and_says_so() {
    let server = Server::start().await;
    let parent = server.job(r#"{"task":"fail"}"#).await;
    let body = |rule: &str| {
        format!(r#"{{"task":"inputs","after":[{{"job":"{parent}","on_failure":"{rule}"}}]}}"#)
    };
    let failed = server.job(&body("fail")).await;
    let ignored = server.job(&body("ignore")).await;
    let failed = server.end(&failed).await;
    assert_eq!(
        (&failed["state"], &failed["reason"]),
        (&"failed".into(), &"dependency".into())
    );
    let said = failed["failure"]["message"].as_str().unwrap();
    assert!(said.contains(&parent), "{said}");
    assert_eq!(failed["attempts"], json!([]));
    let ignored = server.end(&ignored).await;
    assert_eq!(ignored["result"], json!([null]));
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_its_place() {
    let server = Server::start().await;
    let rows = [
        (
            "/v1/groups",
            r#"{"rule":"most","jobs":[{"task":"noop"}]}"#,
            "/rule",
        ),
        ("/v1/groups", r#"{"jobs":[]}"#, "/jobs"),
        (
            "/v1/groups",
            r#"{"jobs":[{"task":"noop","cores":0}]}"#,
            "/jobs/0/cores",
        ),
        (
            "/v1/groups",
            r#"{"jobs":[{"task":"noop"}],"quorum":2}"#,
            "/quorum",
        ),
        (
            "/v1/groups",
            r#"{"jobs":[{"task":"noop"}],"deadline":"2001-01-01T00:00:00Z"}"#,
            "/deadline",
        ),
        (
            "/v1/groups",
            r#"{"jobs":[{"task":"noop"}],"then":{"job":{"task":"noop","prio":1}}}"#,
            "/then/job/prio",
        ),
        (
            "/v1/groups",
            r#"{"jobs":[{"task":"noop"}],"then":{"on":"never","job":{"task":"noop"}}}"#,
            "/then/on",
        ),
        (
            "/v1/groups",
            r#"{"jobs":[{"task":"noop"}],"then":{"job":{"task":"nobody"}}}"#,
            "/then/job/task",
        ),
        (
            "/v1/flows",
            r#"{"jobs":[{"task":"noop","after":["a"]}]}"#,
            "/jobs/0/after/0",
        ),
        (
            "/v1/flows",
            r#"{"jobs":[{"ref":"a","task":"noop"},{"ref":"a","task":"noop"}]}"#,
            "/jobs/1/ref",
        ),
        (
            "/v1/flows",
            r#"{"jobs":[{"task":"noop","after":[{"ref":"a","on_failure":"retry"}]}]}"#,
            "/jobs/0/after/0/on_failure",
        ),
        (
            "/v1/flows",
            r#"{"jobs":[{"task":"nobody"}]}"#,
            "/jobs/0/task",
        ),
        (
            "/v1/jobs",
            r#"{"task":"noop","after":[{"ref":"a"}]}"#,
            "/after/0/ref",
        ),
        ("/v1/jobs", r#"{"task":"noop","after":["a"]}"#, "/after/0"),
        (
            "/v1/jobs",
            r#"{"task":"noop","after":[{"job":"0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a"}]}"#,
            "/after",
        ),
    ];
    for (path, body, field) in rows {
        let answer = server.post(path, body).await;
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
        assert_eq!(answer.json()["field"], field, "{body}: {answer:?}");
    }
    assert_eq!(server.get("/v1/groups").await.json()["groups"], json!([]));
}

#[tokio::test]
async fn a_circle_is_refused_by_its_names() {
    let server = Server::start().await;
    let flow = r#"{"jobs":[{"ref":"x","task":"noop"},
        {"ref":"a","task":"noop","after":["x","c"]},
        {"ref":"b","task":"noop","after":["a"]},
        {"ref":"c","task":"noop","after":["b"]}]}"#;
    let answer = server.post("/v1/flows", flow).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["field"], "/jobs/1/after/1");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("a waits for c waits for b waits for a"),
        "{detail}"
    );
    let selfish = r#"{"jobs":[{"ref":"a","task":"noop","after":["a"]}]}"#;
    let answer = server.post("/v1/flows", selfish).await.json();
    assert_eq!(answer["field"], "/jobs/0/after/0");
}

#[tokio::test]
async fn groups_are_listed_and_unknown_ones_are_not_found() {
    let server = Server::start().await;
    let made = group(&server, r#"{"hold":true}"#).await;
    let list = server.get("/v1/groups?limit=1").await.json();
    assert_eq!(list["groups"][0]["id"], made["id"]);
    let cancelled = server
        .post(&format!("{}/cancel", path(&made)), "")
        .await
        .json();
    assert_eq!(
        (&cancelled["state"], &cancelled["reason"]),
        (&"cancelled".into(), &"asked".into())
    );
    for path in [
        "/v1/groups/x",
        "/v1/groups/0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a",
    ] {
        server.get(path).await.is_problem(404, "not-found");
    }
    server
        .get("/v1/groups?state=done")
        .await
        .is_problem(400, "invalid-parameter");
}

async fn keyed(server: &Server, path: &str, key: &str, body: &str) -> Answer {
    let headers = format!("content-type: application/json\r\nidempotency-key: {key}\r\n");
    server.send("POST", path, &headers, body.as_bytes()).await
}

#[tokio::test]
async fn a_group_whose_answer_was_lost_is_not_made_twice() {
    let server = Server::start().await;
    let body = r#"{"rule":"all","jobs":[{"task":"hold"},{"task":"hold"}]}"#;
    let first = keyed(&server, "/v1/groups", "k1", body).await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = keyed(&server, "/v1/groups", "\"k1\"", body).await;
    assert_eq!(
        (again.status, &again.json()["id"]),
        (200, &first.json()["id"])
    );
    let other = body.replace("all", "any");
    keyed(&server, "/v1/groups", "k1", &other)
        .await
        .is_problem(422, "idempotency-mismatch");
    let jobs = server.get("/v1/jobs").await.json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2);
    let lines = "{\"rule\":\"all\"}\n{\"task\":\"noop\"}\n";
    let headers = "content-type: application/x-ndjson\r\nidempotency-key: k2\r\n";
    server
        .send("POST", "/v1/groups", headers, lines.as_bytes())
        .await
        .is_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn a_flow_whose_answer_was_lost_is_not_made_twice() {
    let server = Server::start().await;
    let body = r#"{"jobs":[{"ref":"a","task":"hold"},{"task":"noop","after":["a"]}]}"#;
    let first = keyed(&server, "/v1/flows", "k1", body).await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = keyed(&server, "/v1/flows", "k1", body).await;
    assert_eq!(again.status, 200, "{again:?}");
    for place in 0..2 {
        let (first, again) = (first.json(), again.json());
        assert_eq!(again["jobs"][place]["existing"], first["jobs"][place]["id"]);
    }
    let other = body.replace("noop", "echo");
    keyed(&server, "/v1/flows", "k1", &other)
        .await
        .is_problem(422, "idempotency-mismatch");
    let jobs = server.get("/v1/jobs").await.json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn orders_about_groups_and_queues_are_on_the_audit_log() {
    let server = Server::start().await;
    let held = group(&server, r#"{"hold":true,"jobs":[{"task":"hold"}]}"#).await;
    let path = format!("/v1/groups/{}", held["id"].as_str().unwrap());
    server.post(&format!("{path}/seal"), "").await;
    server.post(&format!("{path}/cancel"), "").await;
    server.post("/v1/queues/mail/pause", "").await;
    server.post("/v1/tasks/echo/drain", "").await;
    let lines = "{\"rule\":\"all\"}\n{\"task\":\"noop\"}\n";
    let headers = "content-type: application/x-ndjson\r\n";
    let made = server
        .send("POST", "/v1/groups", headers, lines.as_bytes())
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    let log = server.get("/v1/audit").await.json();
    let told = log["entries"].as_array().unwrap().iter().map(|entry| {
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        assert_eq!(text("actor"), "api");
        (text("action"), text("subject"))
    });
    let subject = format!("group:{}", held["id"].as_str().unwrap());
    let want = [
        ("mode.set", "task:echo"),
        ("mode.set", "queue:mail"),
        ("group.cancel", &subject),
        ("group.seal", &subject),
    ];
    let want = want.map(|(action, subject)| (action.to_owned(), subject.to_owned()));
    assert_eq!(
        told.collect::<Vec<_>>(),
        want,
        "what a door does by itself is no order"
    );
}
