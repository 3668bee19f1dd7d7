//! A payload that its task does not take comes in by no way.

use super::support::{Answer, Server};

fn is_refused(answer: &Answer, kind: &str) {
    answer.is_problem(422, kind);
    let told = answer.json();
    assert_eq!(told["errors"][0]["pointer"], "/payload/n", "{answer:?}");
    assert_eq!(told["errors"][0]["detail"], "is not a number under ten");
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("`small` does not take it"), "{detail}");
}

#[tokio::test]
async fn a_job_and_a_call_with_a_wrong_payload_are_refused_by_its_place() {
    let server = Server::start().await;
    let post = async |n: &str, way: &str| {
        let payload = format!(r#"{{"n": {n}, "text": "{}"}}"#, "x".repeat(100_000));
        for payload in [format!(r#"{{"n": {n}}}"#), payload] {
            let body = match way {
                "/v1/jobs" => format!(r#"{{"task": "small", "payload": {payload}}}"#),
                _ => format!(r#"{{"payload": {payload}}}"#),
            };
            let answer = server.post(way, &body).await;
            match (n, way) {
                ("9", "/v1/jobs") => assert_eq!(answer.status, 201, "{answer:?}"),
                ("9", _) => assert_eq!(answer.status, 200, "{answer:?}"),
                (_, "/v1/jobs") => is_refused(&answer, "invalid-job"),
                (..) => is_refused(&answer, "invalid-body"),
            }
        }
    };
    for way in ["/v1/jobs", "/v1/call/small"] {
        post("10", way).await;
        post("9", way).await;
    }
    let jobs = server.get("/v1/jobs?task=small").await.json();
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_line_with_a_wrong_payload_costs_only_itself() {
    let server = Server::start().await;
    let long = "x".repeat(100_000);
    let line =
        |n: u32| format!("{{\"task\":\"small\",\"payload\":{{\"n\":{n},\"x\":\"{long}\"}}}}\n");
    let body: String = [1, 10, 2, 11].into_iter().map(line).collect();
    let lines = server.bulk("/v1/jobs", body.as_bytes()).await.lines();
    let told: Vec<_> = lines
        .iter()
        .map(|line| line["status"].as_u64().unwrap())
        .collect();
    assert_eq!(told, [201, 422, 201, 422]);
    assert_eq!(lines[1]["error"]["errors"][0]["pointer"], "/payload/n");
}
