//! Waiting for the end of a job: never late, never lost, and so many at a time.

use std::sync::Arc;
use std::time::Instant;

use crate::support::{SOON, Server, soon};

#[tokio::test]
async fn a_wait_that_begins_after_the_end_answers_at_once() {
    let server = Server::start().await;
    let id = server.job(r#"{"task":"echo","payload":[1]}"#).await;
    server.end(&id).await;
    let asked = Instant::now();
    let job = server.get(&format!("/v1/jobs/{id}?wait_ms=60000")).await;
    assert_eq!(
        (job.status, &job.json()["state"]),
        (200, &"completed".into())
    );
    assert!(asked.elapsed() < SOON, "it waited for what had happened");
}

#[tokio::test]
async fn a_wait_ends_with_the_job_and_a_short_one_with_its_time() {
    let server = Arc::new(Server::start().await);
    let id = server.job(r#"{"task":"hold"}"#).await;
    server.running(&id).await;
    let early = server.get(&format!("/v1/jobs/{id}?wait_ms=1")).await.json();
    assert_eq!(early["state"], "running");
    let (waiting, path) = (Arc::clone(&server), format!("/v1/jobs/{id}?wait_ms=60000"));
    let waiter = tokio::spawn(async move { waiting.get(&path).await.json() });
    server.gate.open();
    let job = soon(waiter).await.unwrap();
    assert_eq!(
        (&job["state"], &job["result"]["held"]),
        (&"completed".into(), &true.into())
    );
}

#[tokio::test]
async fn a_wait_that_cannot_be_is_refused_by_its_name() {
    let server = Server::start().await;
    let id = server.job(r#"{"task":"noop"}"#).await;
    for wrong in ["60001", "-1", "soon", "1.5"] {
        let answer = server.get(&format!("/v1/jobs/{id}?wait_ms={wrong}")).await;
        answer.is_problem(400, "invalid-parameter");
        assert!(
            answer.text().contains("wait_ms"),
            "{wrong}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn one_waiter_too_many_is_refused_and_a_new_job_gets_its_ticket_at_once() {
    let server = Arc::new(Server::with(|config| config.waits_max = 1).await);
    let id = server.job(r#"{"task":"hold"}"#).await;
    server.running(&id).await;
    let (waiting, path) = (Arc::clone(&server), format!("/v1/jobs/{id}?wait_ms=60000"));
    // The one that asks below may have the place when this one comes.
    let waiter = tokio::spawn(async move {
        loop {
            let answer = waiting.get(&path).await;
            if answer.status != 429 {
                return answer;
            }
        }
    });
    let mut tries = 0;
    let refused = loop {
        let answer = server.get(&format!("/v1/jobs/{id}?wait_ms=1")).await;
        if answer.status == 429 {
            break answer;
        }
        tries += 1;
        assert!(tries < 10_000, "the first waiter never took its place");
    };
    refused.is_problem(429, "too-many");
    let headers = "Content-Type: application/json\r\nPrefer: wait=60\r\n";
    let ticket = server
        .send("POST", "/v1/jobs", headers, br#"{"task":"hold"}"#)
        .await;
    assert_eq!(ticket.status, 202, "{}", ticket.text());
    assert!(ticket.header("location").is_some());
    server.gate.open();
    assert_eq!(soon(waiter).await.unwrap().status, 200);
}

/// Short jobs that end before, while and after their wait is set up: a lost event would be seen as a
/// wait of a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_thousands_of_waits_around_the_end_none_is_lost() {
    let server = Arc::new(Server::start().await);
    let callers = (0..16).map(|caller| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            for round in 0..125 {
                if (caller + round) % 2 == 0 {
                    let headers = "Content-Type: application/json\r\nPrefer: wait=60\r\n";
                    let body = br#"{"task":"noop"}"#;
                    let answer = server.send("POST", "/v1/jobs", headers, body).await;
                    assert_eq!(
                        (answer.status, &answer.json()["state"]),
                        (200, &"completed".into())
                    );
                } else {
                    let id = server.job(r#"{"task":"noop"}"#).await;
                    let job = server
                        .get(&format!("/v1/jobs/{id}?wait_ms=60000"))
                        .await
                        .json();
                    assert_eq!(job["state"], "completed");
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        // Far less than the minute that one lost event would cost.
        let limit = SOON * 4;
        tokio::time::timeout(limit, caller)
            .await
            .expect("a wait was lost")
            .unwrap();
    }
}

#[tokio::test]
async fn a_result_that_is_not_to_be_kept_is_there_for_the_caller_who_waits_and_for_nobody_else() {
    let server = Server::start().await;
    let body = r#"{"task":"echo","payload":[1],"keep_ms":0}"#;
    let headers = "Content-Type: application/json\r\nPrefer: wait=9\r\n";
    let waited = server
        .send("POST", "/v1/jobs", headers, body.as_bytes())
        .await;
    assert_eq!(
        (waited.status, &waited.json()["result"][0]),
        (200, &1.into())
    );
    let id = server.job(body).await;
    let job = loop {
        let job = server.get(&format!("/v1/jobs/{id}")).await.json();
        if job["state"] == "completed" {
            break job;
        }
        tokio::task::yield_now().await;
    };
    assert!(job["result"].is_null(), "{job}");
    assert_eq!(job["options"]["keep_ms"], 0);
    let held = r#"{"task":"hold","keep_ms":0}"#;
    let id = server.job(held).await;
    server.running(&id).await;
    let path = format!("/v1/jobs/{id}?wait_ms=9000");
    let (job, ()) = tokio::join!(server.get(&path), async {
        // Its place is taken while the other request is on its way: the gate opens after it.
        server.get("/healthz").await;
        server.gate.open();
    });
    assert_eq!(job.json()["state"], "completed");
}

#[tokio::test]
async fn a_time_that_no_job_can_be_kept_for_is_refused_by_its_field() {
    let server = Server::start().await;
    let refused = server
        .post("/v1/jobs", r#"{"task":"noop","keep_ms":315360000001}"#)
        .await;
    refused.is_problem(422, "invalid-job");
    assert_eq!(refused.json()["errors"][0]["pointer"], "/keep_ms");
}
