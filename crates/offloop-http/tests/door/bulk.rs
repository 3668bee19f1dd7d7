//! NDJSON: one line's fault is its own.

use std::fmt::Write as _;

use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, Server, read_to_close, read_until};

#[tokio::test]
async fn one_bad_line_never_stops_the_rest() {
    let server = Server::with(|config| config.job_bytes_max = 2_000).await;
    let long = format!(
        "{{\"task\":\"noop\",\"payload\":\"{}\"}}",
        "x".repeat(3_000)
    );
    let mut body = Vec::new();
    for line in [
        br#"{"task":"noop","payload":1}"#.as_slice(),
        b"",
        b"{\"task\":\"noop\",\"payload\":\"\xff\xfe\"}",
        long.as_bytes(),
        br#"{"task":"noop","idempotency_key":"k"}"#,
        br#"{"task":"nope"}"#,
        br#"{"task":"noop","idempotency_key":"k"}"#,
        b"garbage",
        br#"{"task":"noop","priority":77}"#,
    ] {
        body.extend_from_slice(line);
        body.push(b'\n');
    }
    body.extend_from_slice(br#"{"task":"noop","payload":"last, without an end"}"#);
    let answer = server.bulk("/v1/jobs", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("application/x-ndjson")
    );
    let lines = answer.lines();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["line"].as_u64().unwrap(),
                line["status"].as_u64().unwrap(),
            )
        })
        .collect();
    let want = [
        (1, 201),
        (3, 400),
        (4, 413),
        (5, 201),
        (6, 422),
        (7, 200),
        (8, 400),
        (9, 422),
        (10, 201),
    ];
    assert_eq!(told, want);
    assert_eq!(lines[5]["existing"], lines[3]["id"]);
    assert_eq!(
        lines[4]["error"]["type"],
        "urn:offloop:problem:unknown-task"
    );
    assert_eq!(lines[7]["error"]["errors"][0]["pointer"], "/priority");
    for line in [0, 3, 8] {
        let id = lines[line]["id"].as_str().unwrap();
        assert_eq!(server.end(id).await["state"], "completed");
    }
}

fn many(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, index| {
        let _ = writeln!(text, "{{\"task\":\"noop\",\"payload\":{index}}}");
        text
    })
}

#[tokio::test]
async fn many_lines_are_answered_in_order_each_with_its_own_job() {
    let server = Server::start().await;
    let lines = server
        .bulk("/v1/jobs", many(5_000).as_bytes())
        .await
        .lines();
    assert_eq!(lines.len(), 5_000);
    let mut ids = std::collections::HashSet::new();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["line"], index as u64 + 1);
        assert!(
            ids.insert(line["id"].as_str().unwrap().to_owned()),
            "{line}"
        );
    }
    let fourth = server.end(lines[3_999]["id"].as_str().unwrap()).await;
    assert_eq!(
        fourth["payload"], 3_999,
        "answers and lines belong together"
    );
}

#[tokio::test]
async fn a_summary_counts_and_tells_the_first_hundred_refusals() {
    let server = Server::start().await;
    let body = format!("{}{}", many(700), "nonsense\n".repeat(250));
    let answer = server
        .bulk("/v1/jobs?answer=summary", body.as_bytes())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sum = answer.json();
    assert_eq!(
        (&sum["accepted"], &sum["refused"], &sum["existing"]),
        (&700.into(), &250.into(), &0.into())
    );
    assert_eq!(sum["errors"].as_array().unwrap().len(), 100);
    assert_eq!(sum["errors"][0]["line"], 701);
    server
        .bulk("/v1/jobs?answer=loud", b"")
        .await
        .is_problem(400, "invalid-parameter");
    let nothing = server.bulk("/v1/jobs", b"").await;
    assert_eq!((nothing.status, nothing.text().as_str()), (200, ""));
}

/// A caller that waits for the answer to a line before it sends the next one.
#[tokio::test]
async fn a_line_is_answered_before_the_next_one_comes() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
        server.at
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    for line in 1..=3 {
        let body = "{\"task\":\"noop\"}\n";
        let chunk = format!("{:x}\r\n{body}\r\n", body.len());
        socket.write_all(chunk.as_bytes()).await.unwrap();
        read_until(&mut socket, &mut text, |text| {
            text.contains(&format!("{{\"line\":{line},"))
        })
        .await;
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut socket, &mut text, |text| text.ends_with("0\r\n\r\n")).await;
    assert!(text.ends_with("0\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn a_body_over_the_limit_keeps_what_came_before() {
    let server = Server::with(|config| config.bulk_bytes_max = 4_000).await;
    let body = many(50_000);
    let mut socket = server.connect().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        server.at,
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body.as_bytes()[..1_000]).await.unwrap();
    let mut text = String::new();
    read_until(&mut socket, &mut text, |text| text.contains("\"line\":1,")).await;
    let _ = socket.write_all(&body.as_bytes()[1_000..20_000]).await;
    let mut all = text.into_bytes();
    all.extend(read_to_close(&mut socket).await);
    let lines = Answer::parse(&all).lines();
    let last = lines.last().unwrap();
    assert_eq!(last["status"], 413, "{last}");
    assert!(
        lines.len() > 10
            && lines[..lines.len() - 1]
                .iter()
                .all(|line| line["status"] == 201)
    );
}

#[tokio::test]
async fn bulk_requests_are_bounded() {
    let server = Server::with(|config| config.bulk_max = 0).await;
    server
        .bulk("/v1/jobs", b"")
        .await
        .is_problem(429, "too-many");
}
