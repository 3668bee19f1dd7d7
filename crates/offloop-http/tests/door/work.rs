//! `/v1/work` as workers meet it.

use std::sync::Arc;
use std::time::Duration;

use offloop_lane_remote::{RemoteLane, RemoteTask};
use serde_json::{Value, json};

use super::support::{Server, info, soon};

async fn server() -> Server {
    let resize = RemoteTask {
        lease: Duration::from_secs(60),
        grace: Duration::from_secs(60),
        ..RemoteTask::new(info("resize"))
    };
    let short = RemoteTask {
        lease: Duration::from_secs(1),
        ..RemoteTask::new(info("short"))
    };
    Server::with_remote(Arc::new(RemoteLane::new(vec![resize, short]))).await
}

async fn claim(server: &Server, body: Value) -> Vec<Value> {
    let answer = server.post("/v1/work/claim", &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["jobs"].as_array().unwrap().clone()
}

async fn one(server: &Server) -> (String, String) {
    let jobs = soon(claim(server, json!({"worker": "w1", "wait_ms": 9000}))).await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    let text = |key: &str| jobs[0][key].as_str().unwrap().to_owned();
    (text("id"), text("lease"))
}

async fn said(server: &Server, id: &str, what: &str, body: Value) -> (u16, Value) {
    let answer = server
        .post(&format!("/v1/work/{id}/{what}"), &body.to_string())
        .await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_worker_takes_a_job_over_and_ends_it_on_record() {
    let server = server().await;
    let id = server
        .job(r#"{"task": "resize", "payload": {"n": 1.50}, "trace": "00-abc"}"#)
        .await;
    let jobs = claim(
        &server,
        json!({"worker": "w1", "tasks": ["resize"], "limit": 5}),
    )
    .await;
    let job = &jobs[0];
    assert_eq!(
        (&job["id"], &job["task"], &job["attempt"], &job["lease_ms"]),
        (&json!(id), &json!("resize"), &json!(1), &json!(60_000))
    );
    assert_eq!(job["trace"], "00-abc");
    let lease = &job["lease"];
    let body = json!({"lease": lease, "progress": {"half": true}, "log": "begun"});
    let (status, told) = said(&server, &id, "extend", body).await;
    assert_eq!((status, &told["cancel"]), (200, &json!(false)));
    let body = json!({"lease": lease, "result": {"w": 10}, "usage": {"cpu_ms": 12}, "log": "done"});
    let (status, told) = said(&server, &id, "settle", body.clone()).await;
    assert_eq!((status, &told["state"]), (200, &json!("completed")));
    let shown = server.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(shown["result"], json!({"w": 10}), "on record at the answer");
    let attempt = &shown["attempts"][0];
    assert_eq!(attempt["executor"], "worker w1");
    assert_eq!(
        (&attempt["lane"], &attempt["cpu_ms"]),
        (&json!("remote"), &json!(12))
    );
    let log = server.get(&format!("/v1/jobs/{id}/logs")).await;
    assert!(log.text().contains("begun\ndone\n"), "{log:?}");
    let (status, told) = said(&server, &id, "settle", body).await;
    assert_eq!(
        (status, &told["already"]),
        (200, &json!(true)),
        "an answer was lost"
    );
}

#[tokio::test]
async fn no_job_is_claimed_for_workers_that_are_not_there() {
    let server = server().await;
    let id = server.job(r#"{"task": "resize"}"#).await;
    let none = claim(
        &server,
        json!({"worker": "w", "tasks": ["short"], "wait_ms": 0}),
    )
    .await;
    assert!(none.is_empty());
    let shown = server.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(
        (&shown["state"], &shown["attempt"]),
        (&json!("ready"), &json!(0))
    );
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_in_its_watch_and_its_answer_ends_the_job() {
    let server = server().await;
    let id = server.job(r#"{"task": "resize"}"#).await;
    let (_, lease) = one(&server).await;
    let held = json!({"lease": lease});
    assert_eq!(said(&server, &id, "extend", held.clone()).await.0, 200);
    let leases = json!({"leases": [{"id": id, "lease": lease}], "wait_ms": 9000}).to_string();
    let watch = server.post("/v1/work/watch", &leases);
    let cancel = async {
        let path = format!("/v1/jobs/{id}/cancel");
        assert_eq!(server.post(&path, "").await.status, 202);
    };
    let (watched, ()) = soon(async { tokio::join!(watch, cancel) }).await;
    let told = watched.json();
    assert_eq!(told["cancel"][0]["id"], json!(id), "{told}");
    assert_eq!(told["cancel"][0]["why"], "cancelled");
    assert_eq!(said(&server, &id, "extend", held).await.1["cancel"], true);
    let body = json!({"lease": lease, "error": {"message": "stopped"}});
    let (status, told) = said(&server, &id, "settle", body).await;
    assert_eq!((status, &told["state"]), (200, &json!("cancelled")));
    let gone = server.post("/v1/work/watch", &leases).await.json();
    assert_eq!(gone["gone"][0]["lease"], json!(lease));
}

#[tokio::test]
async fn a_worker_whose_lease_ran_out_is_refused_and_another_one_finishes_the_job() {
    let server = server().await;
    let body = r#"{"task": "short", "backoff": {"kind": "fixed", "base_ms": 1, "jitter": 0}}"#;
    let id = server.job(body).await;
    let (_, first) = one(&server).await;
    assert_eq!(
        said(&server, &id, "extend", json!({"lease": first}))
            .await
            .0,
        200
    );
    let (again, second) = one(&server).await; // once the lease of the first is over
    assert_eq!(again, id);
    assert_ne!(first, second);
    let zombie = [
        ("extend", json!({"lease": first, "progress": 1})),
        ("settle", json!({"lease": first, "result": "zombie"})),
        (
            "settle",
            json!({"lease": first, "error": {"message": "zombie"}}),
        ),
        ("settle", json!({"lease": first, "hand_back": true})),
    ];
    for (what, body) in zombie {
        let (status, told) = said(&server, &id, what, body).await;
        assert_eq!(
            (status, &told["type"]),
            (409, &json!("urn:offloop:problem:lease-lost"))
        );
    }
    let body = json!({"lease": second, "result": "second"});
    assert_eq!(said(&server, &id, "settle", body).await.0, 200);
    let shown = server.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(
        (&shown["state"], &shown["result"]),
        (&json!("completed"), &json!("second"))
    );
    let ends: Vec<_> = shown["attempts"].as_array().unwrap().iter().collect();
    assert_eq!(ends[0]["end"]["class"], "lost", "{ends:?}");
}

#[tokio::test]
async fn a_worker_that_hangs_up_while_it_waits_leaves_its_job_to_the_next() {
    let server = server().await;
    let body = json!({"worker": "gone", "wait_ms": 9000}).to_string();
    let mut socket = server.connect().await;
    let head = format!(
        "POST /v1/work/claim HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        server.at,
        body.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut socket, head.as_bytes())
        .await
        .unwrap();
    soon(async {
        while server.get("/v1/work").await.json()["workers"][0]["waiting"] != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(socket);
    soon(async {
        while server.get("/v1/work").await.json()["workers"] != json!([]) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let id = server.job(r#"{"task": "resize"}"#).await;
    assert_eq!(one(&server).await.0, id);
    let shown = server.get(&format!("/v1/jobs/{id}")).await.json();
    assert_eq!(shown["attempt"], 1);
}

#[tokio::test]
async fn what_a_worker_must_not_ask_is_refused_by_its_field() {
    let server = server().await;
    let post = async |path: &str, body: &str| server.post(path, body).await;
    post("/v1/work/claim", "{")
        .await
        .is_problem(400, "invalid-json");
    post("/v1/work/claim", "{}")
        .await
        .is_problem(422, "invalid-body");
    post("/v1/work/claim", r#"{"worker": "w", "x": 1}"#)
        .await
        .is_problem(422, "invalid-body");
    let unknown = post("/v1/work/claim", r#"{"worker": "w", "tasks": ["noop"]}"#).await;
    unknown.is_problem(422, "invalid-body");
    let id = "0199f3c2-7c1e-7a40-8000-1f2e3d4c5b6a";
    let path = format!("/v1/work/{id}/settle");
    post(&path, r#"{"lease": "1", "result": 1}"#)
        .await
        .is_problem(409, "lease-lost");
    post(&path, r#"{"lease": "1"}"#)
        .await
        .is_problem(422, "invalid-body");
    post("/v1/work/nope/extend", r#"{"lease": "1"}"#)
        .await
        .is_problem(404, "not-found");
    let large = json!({"lease": "1", "log": "x".repeat(200_000)}).to_string();
    post(&format!("/v1/work/{id}/extend"), &large)
        .await
        .is_problem(413, "too-large");
    let plain = Server::start().await;
    plain
        .post("/v1/work/claim", r#"{"worker": "w"}"#)
        .await
        .is_problem(404, "not-found");
}

#[tokio::test]
async fn a_door_that_closes_does_not_wait_for_those_who_wait_for_work() {
    let mut server = server().await;
    let (at, body) = (server.at, r#"{"worker": "w", "wait_ms": 55000}"#);
    let _ = at;
    let waiting = server.post("/v1/work/claim", body);
    let mut waiting = Box::pin(waiting);
    soon(async {
        loop {
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("it was answered"),
                view = server.get("/v1/work") => {
                    if view.json()["workers"][0]["waiting"] == 1 { break; }
                }
            }
        }
    })
    .await;
    drop(waiting);
    server.close();
    let report = soon(server.closed()).await;
    assert_eq!(report.cut, 0);
}

#[tokio::test]
async fn a_place_in_the_work_is_found_again_after_a_snooze_and_after_a_failure() {
    let server = server().await;
    let body = r#"{"task": "resize", "backoff": {"kind": "fixed", "base_ms": 1, "jitter": 0}}"#;
    let id = server.job(body).await;
    let (_, lease) = one(&server).await;
    let body = json!({"lease": lease, "checkpoint": {"row": 7}});
    assert_eq!(said(&server, &id, "extend", body).await.0, 200);
    let body = json!({"lease": lease, "snooze_ms": 1000});
    let (status, told) = said(&server, &id, "settle", body).await;
    assert_eq!((status, &told["state"]), (200, &json!("scheduled")));
    let body = json!({"worker": "w2", "wait_ms": 9000});
    let again = soon(claim(&server, body.clone())).await;
    assert_eq!(again[0]["checkpoint"], json!({"row": 7}));
    assert_eq!(again[0]["attempt"], 1, "a snooze spends none");
    let error = json!({"lease": again[0]["lease"], "error": {"message": "odd row"}});
    assert_eq!(said(&server, &id, "settle", error).await.0, 200);
    let again = soon(claim(&server, body)).await;
    assert_eq!(
        (&again[0]["checkpoint"]["row"], &again[0]["attempt"]),
        (&json!(7), &json!(2))
    );
    let body = json!({"lease": lease, "checkpoint": {"row": 1}});
    assert_eq!(said(&server, &id, "extend", body).await.0, 409);
}

#[tokio::test]
async fn a_worker_is_handed_the_results_that_its_job_waited_for() {
    let server = server().await;
    let flow = r#"{"jobs":[
        {"ref":"left","task":"echo","payload":{"n":[1, 2]}},
        {"ref":"right","task":"fail","max_attempts":1},
        {"task":"resize","after":["left",{"ref":"right","on_failure":"ignore"}]}]}"#;
    let made = server.post("/v1/flows", flow).await.json();
    let named = |place: usize| made["jobs"][place]["id"].clone();
    let jobs = soon(claim(&server, json!({"worker": "w1", "wait_ms": 9000}))).await;
    assert_eq!(jobs[0]["id"], named(2), "{made}");
    let left = json!({"id": named(0), "state": "completed", "class": null,
        "result": {"n": [1, 2]}, "omitted": false});
    let right = json!({"id": named(1), "state": "failed", "class": "invalid",
        "result": null, "omitted": false});
    assert_eq!(jobs[0]["inputs"], json!([left, right]));

    // A follow-up has the members of its group, one without parents nothing.
    let group = r#"{"rule":"all","jobs":[{"task":"echo","payload":7}],
        "then":{"job":{"task":"resize"}}}"#;
    assert_eq!(server.post("/v1/groups", group).await.status, 201);
    let jobs = soon(claim(&server, json!({"worker": "w1", "wait_ms": 9000}))).await;
    assert_eq!(jobs[0]["inputs"][0]["result"], 7, "{jobs:?}");
    server.job(r#"{"task": "resize"}"#).await;
    let jobs = soon(claim(&server, json!({"worker": "w1", "wait_ms": 9000}))).await;
    assert_eq!(jobs[0]["inputs"], json!([]), "{jobs:?}");
}
