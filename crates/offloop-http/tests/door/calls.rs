//! `POST /v1/call/{task}` as callers meet it.

use tokio::io::AsyncWriteExt as _;

use super::support::{Server, soon};

#[tokio::test]
async fn a_call_answers_with_its_result_and_what_it_cost() {
    let server = Server::start().await;
    let answer = server
        .post(
            "/v1/call/echo",
            r#"{"payload": {"n": 1.50}, "timeout_ms": 5000}"#,
        )
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("offloop-pressure").as_deref(), Some("open"));
    assert!(
        answer.text().ends_with(r#""result":{"n": 1.50}}"#),
        "{answer:?}"
    );
    let told = answer.json();
    assert_eq!(
        (&told["lane"], &told["shared"]),
        (&"cpu:calls".into(), &false.into())
    );
    assert!(told["wait_ms"].is_number() && told["wall_ms"].is_number());
    let empty = server.post("/v1/call/noop", "").await;
    assert_eq!(
        (empty.status, &empty.json()["result"]),
        (200, &serde_json::Value::Null)
    );
    // What is no JSON does not break the answer around it.
    assert_eq!(
        server.post("/v1/call/garbage", "{}").await.json()["result"],
        "\u{fffd}{no json"
    );
    let jobs = server.get("/v1/jobs").await.json();
    assert_eq!(
        jobs["jobs"].as_array().map(Vec::len),
        Some(0),
        "nothing is written"
    );
}

#[tokio::test]
async fn a_bad_call_is_told_what_is_wrong_with_it() {
    let server = Server::start().await;
    let call = async |task: &str, body: &str| server.post(&format!("/v1/call/{task}"), body).await;
    call("nope", "{}").await.is_problem(404, "not-found");
    call("sp%20ace", "{}").await.is_problem(404, "not-found");
    call("echo", "{").await.is_problem(400, "invalid-json");
    call("echo", r#"{"x": 1}"#)
        .await
        .is_problem(422, "invalid-body");
    call("echo", r#"{"timeout_ms": 0}"#)
        .await
        .is_problem(422, "invalid-body");
    call("echo", r#"{"timeout_ms": 300001}"#)
        .await
        .is_problem(422, "invalid-body");
    call("echo?timeout_ms=5", "{}")
        .await
        .is_problem(400, "invalid-parameter");
    let large = format!("{{\"payload\":\"{}\"}}", "x".repeat(8 << 20));
    call("echo", &large).await.is_problem(413, "too-large");
    let failed = call("fail", "{}").await;
    failed.is_problem(422, "invalid-body");
    assert_eq!(failed.json()["class"], "invalid");
    let late = call("hold", r#"{"timeout_ms": 20}"#).await;
    late.is_problem(504, "call-timed-out");
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_the_thread_that_worked_for_it() {
    let server = Server::start().await;
    let lane = || server.handle().call_lanes().remove(0);
    let mut sockets = Vec::new();
    for held in 1..=2 {
        let mut socket = server.connect().await;
        let request = format!(
            "POST /v1/call/hold HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
            server.at
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        sockets.push(socket);
        soon(async {
            while lane().running != held {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    drop(sockets);
    soon(async {
        while lane().running > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(lane().counts.left, 2);
    assert_eq!(server.post("/v1/call/echo", "{}").await.status, 200);
}

#[tokio::test]
async fn a_full_line_refuses_with_the_time_to_come_again() {
    let server = Server::start().await;
    let lane = || server.handle().call_lanes().remove(0);
    // Two run and hold; what they are expected to take is not known, so those behind wait.
    let held: Vec<_> = (0..2)
        .map(|_| {
            let handle = server.handle().clone();
            let task = offloop_job::TaskName::parse("hold").unwrap();
            let ask = offloop_runtime::CallAsk::new(task, "{}");
            tokio::spawn(async move { handle.call(ask).await })
        })
        .collect();
    soon(async {
        while lane().running != 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answers = futures_of(&server, 1_030).await;
    // On a slow machine some are let go at the end of their time instead.
    let late = "urn:offloop:problem:deadline-unreachable";
    let full = |one: &&super::support::Answer| one.status == 503 && one.json()["type"] != late;
    let refused: Vec<_> = answers.iter().filter(full).collect();
    assert!(!refused.is_empty(), "the line of 1,024 held them all");
    for one in &refused {
        one.is_problem(503, "overloaded");
        assert!(one.json()["estimated_wait_ms"].is_number(), "{one:?}");
    }
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn futures_of(server: &Server, count: usize) -> Vec<super::support::Answer> {
    let call = || server.post("/v1/call/noop", r#"{"timeout_ms": 3000}"#);
    futures_util::future::join_all((0..count).map(|_| call())).await
}
