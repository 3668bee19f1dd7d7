//! Orders for many finished jobs, and their export.

use std::fmt::Write as _;

use serde_json::Value;

use super::support::{Answer, Server};

/// So many failed jobs of the task `fail`, and one each that completed and that is ready later.
async fn with_failed(count: usize) -> Server {
    let server = Server::start().await;
    let mut body = String::new();
    for n in 0..count {
        let tag = if n % 2 == 0 { "even" } else { "odd" };
        let _ = writeln!(
            body,
            "{{\"task\":\"fail\",\"payload\":{{\"n\":{n}}},\"priority\":3,\"tags\":[\"{tag}\"],\"max_attempts\":2}}"
        );
    }
    let lines = server.bulk("/v1/jobs", body.as_bytes()).await.lines();
    for line in lines {
        server.end(line["id"].as_str().unwrap()).await;
    }
    let done = server.job(r#"{"task": "echo"}"#).await;
    server.end(&done).await;
    server.job(r#"{"task": "echo", "delay_ms": 3600000}"#).await;
    server
}

async fn count(server: &Server, filter: &str) -> usize {
    let page = server.get(&format!("/v1/jobs?limit=500&{filter}")).await;
    page.json()["jobs"].as_array().unwrap().len()
}

fn last(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.lines().pop().unwrap_or_else(|| panic!("{answer:?}"))
}

#[tokio::test]
async fn dead_letters_are_retried_all_at_once_and_only_those_that_were_meant() {
    let server = with_failed(1_000).await;
    let dry = last(
        &server
            .post("/v1/jobs/retry?tag=even&dry_run=true", "")
            .await,
    );
    assert_eq!((&dry["found"], &dry["done"]), (&500.into(), &true.into()));
    assert_eq!(count(&server, "state=failed&tag=odd").await, 500);
    let told = last(
        &server
            .post("/v1/jobs/retry?tag=even&class=invalid&rate=100000", "")
            .await,
    );
    assert_eq!(
        (&told["found"], &told["retried"]),
        (&500.into(), &500.into())
    );
    assert_eq!((&told["skipped"], &told["done"]), (&0.into(), &true.into()));
    let none = last(&server.post("/v1/jobs/retry?class=timeout", "").await);
    assert_eq!((&none["found"], &none["done"]), (&0.into(), &true.into()));
}

#[tokio::test]
async fn only_finished_jobs_of_the_state_that_is_named_are_forgotten() {
    let server = with_failed(20).await;
    let told = last(
        &server
            .post("/v1/jobs/delete?state=failed&tag=odd", "")
            .await,
    );
    assert_eq!((&told["found"], &told["deleted"]), (&10.into(), &10.into()));
    assert_eq!(count(&server, "state=failed").await, 10);
    assert_eq!(count(&server, "task=echo").await, 2);
    for (path, says) in [
        ("/v1/jobs/delete", "`state` is missing"),
        ("/v1/jobs/delete?state=ready", "cancel them first"),
        ("/v1/jobs/retry?state=completed", "only failed"),
        ("/v1/jobs/retry?rate=0", "1 to 100000"),
        ("/v1/jobs/retry?dry_run=maybe", "true or false"),
        ("/v1/jobs/retry?limit=3", "unknown"),
        ("/v1/jobs/retry?finished_from=yesterday", "RFC 3339"),
    ] {
        let answer = server.post(path, "").await;
        answer.is_problem(400, "invalid-parameter");
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains(says), "{path}: {detail}");
    }
}

#[tokio::test]
async fn an_export_comes_back_as_the_same_jobs() {
    let server = with_failed(70).await;
    let records = server.get("/v1/jobs/export?state=failed").await.lines();
    assert_eq!(records.len(), 70);
    assert!(records.iter().all(|job| job["attempts"].is_array()));
    let answer = server
        .get("/v1/jobs/export?state=failed&tag=odd&as=job")
        .await;
    let text = answer.text();
    assert_eq!(answer.lines().len(), 35);
    let other = Server::start().await;
    let taken = other.bulk("/v1/jobs", text.as_bytes()).await.lines();
    assert!(taken.iter().all(|line| line["status"] == 201), "{taken:?}");
    for line in &taken {
        other.end(line["id"].as_str().unwrap()).await;
    }
    let again = other.get("/v1/jobs/export?state=failed&as=job").await;
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(again.text()), sorted(text));
    server
        .get("/v1/jobs/export")
        .await
        .is_problem(400, "invalid-parameter");
}

#[tokio::test]
async fn finished_jobs_are_found_by_the_time_of_their_end() {
    let server = with_failed(3).await;
    assert_eq!(count(&server, "finished_from=1h").await, 4);
    assert_eq!(count(&server, "finished_before=1h").await, 0);
    assert_eq!(count(&server, "created_from=1h").await, 5);
    assert_eq!(
        count(&server, "created_before=2001-01-01T00:00:00Z").await,
        0
    );
}
