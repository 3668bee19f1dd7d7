//! Senders and readers that are slow on purpose, and too many of them.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, SOON, Server, read_to_close, read_until, soon};

const LIMIT: usize = 1 << 20;
const HEADER: Duration = Duration::from_millis(200);

async fn strict() -> Server {
    Server::with(|config| {
        config.header_timeout = HEADER;
        config.idle_timeout = Duration::from_millis(600);
        config.slow_window = Duration::from_millis(400);
        config.rate_min = 10_000;
    })
    .await
}

/// Sends `byte` again and again until the peer closes; how long that took.
async fn dribble(server: &Server, start: &[u8], byte: &[u8]) -> (Duration, Vec<u8>) {
    let mut socket = server.connect().await;
    let begun = Instant::now();
    socket.write_all(start).await.unwrap();
    let (mut from, mut to) = socket.into_split();
    let sending = async {
        while to.write_all(byte).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut bytes = Vec::new();
    soon(async {
        tokio::select! {
            _ = tokio::io::AsyncReadExt::read_to_end(&mut from, &mut bytes) => {}
            () = sending => {}
        }
    })
    .await;
    (begun.elapsed(), bytes)
}

#[tokio::test]
async fn a_head_that_dribbles_in_is_cut_at_its_deadline() {
    let server = strict().await;
    for (start, byte) in [
        (
            &b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"[..],
            &b"x"[..],
        ),
        (b"", b"G"),
        (b"PRI * HTTP/2.0\r\n", b""), // HTTP/2 that never says what it wants
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    ] {
        let (took, _) = dribble(&server, start, byte).await;
        assert!(took >= HEADER, "{took:?} for {start:?}");
    }
    let silent = async {
        let mut socket = server.connect().await;
        read_to_close(&mut socket).await
    };
    assert_eq!(soon(silent).await, b"");
    let metrics = server.get("/metrics").await.text();
    assert!(
        metrics.contains("closed_total{reason=\"header\"} 5"),
        "{metrics}"
    );
}

#[tokio::test]
async fn the_second_head_of_a_connection_has_a_deadline_too() {
    let server = strict().await;
    let ask = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", server.at);
    let (took, bytes) = dribble(&server, format!("{ask}GET /").as_bytes(), b"x").await;
    assert_eq!(Answer::parse(&bytes).status, 200);
    assert!(took >= HEADER, "{took:?}");
    // An idle connection is kept longer than a head may take, then closed.
    let begun = Instant::now();
    let mut socket = server.connect().await;
    socket.write_all(ask.as_bytes()).await.unwrap();
    assert_eq!(Answer::parse(&read_to_close(&mut socket).await).status, 200);
    assert!(
        begun.elapsed() >= Duration::from_millis(600),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_body_that_dribbles_in_is_answered_408() {
    let server = strict().await;
    let head = |media: &str| {
        format!(
            "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: {media}\r\nContent-Length: 10000\r\n\r\n",
            server.at
        )
    };
    let (took, bytes) = dribble(&server, head("application/json").as_bytes(), b" ").await;
    Answer::parse(&bytes).is_problem(408, "too-slow");
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(4),
        "{took:?}"
    );
    let bulk = head("application/x-ndjson") + "{\"task\":\"noop\"}\n";
    let (_, bytes) = dribble(&server, bulk.as_bytes(), b" ").await;
    let lines = Answer::parse(&bytes).lines();
    assert_eq!(
        (&lines[0]["status"], &lines[1]["status"]),
        (&201.into(), &408.into())
    );
}

#[tokio::test]
async fn a_body_that_keeps_the_pace_may_take_long() {
    let server = strict().await;
    let mut socket = server.connect().await;
    let body = format!(
        "{{\"task\":\"noop\",\"payload\":\"{}\"}}",
        "x".repeat(30_000)
    );
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        server.at,
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    for piece in body.as_bytes().chunks(2_000) {
        socket.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(Answer::parse(&read_to_close(&mut socket).await).status, 201);
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed() {
    let server = strict().await;
    let id = server
        .job(&format!(
            r#"{{"task":"noop","payload":"{}"}}"#,
            "x".repeat(1_000_000)
        ))
        .await;
    server.end(&id).await;
    let socket = server.connect().await;
    let ask = format!("GET /v1/jobs/{id} HTTP/1.1\r\nHost: {}\r\n\r\n", server.at);
    // Answers of a megabyte each, asked for in a row and never read: more than a socket holds.
    socket.writable().await.unwrap();
    socket.try_write(ask.repeat(40).as_bytes()).unwrap();
    soon(async {
        while !server
            .get("/metrics")
            .await
            .text()
            .contains("reason=\"slow_reader\"} 1")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(socket);
}

#[tokio::test]
async fn connections_are_bounded_in_all_and_per_address() {
    for (total, address, status) in [(2, 100, 503), (100, 2, 429)] {
        let server = Server::with(|config| {
            config.connections_max = total;
            config.connections_per_ip_max = address;
        })
        .await;
        let ask = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", server.at);
        let mut kept = Vec::new();
        // Connections of earlier requests may still be closing.
        soon(Box::pin(async {
            while kept.len() < 2 {
                let mut socket = server.connect().await;
                let mut text = String::new();
                if socket.write_all(ask.as_bytes()).await.is_err() {
                    continue;
                }
                read_until(&mut socket, &mut text, |text| text.contains("alive")).await;
                if text.contains("alive") {
                    kept.push(socket);
                }
            }
        }))
        .await;
        let mut third = server.connect().await;
        let refused = Answer::parse(&read_to_close(&mut third).await);
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(refused.header("retry-after").is_some());
        kept.pop();
        soon(async {
            while server.get("/healthz").await.status != 200 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_payload_is_taken_up_to_its_limit_and_no_further() {
    let server = Server::start().await;
    let body = |payload: usize| {
        format!(
            "{{\"task\":\"noop\",\"payload\":\"{}\"}}",
            "x".repeat(payload - 2)
        )
    };
    for (payload, status) in [
        (LIMIT - 1, 201),
        (LIMIT, 201),
        (LIMIT + 1, 413),
        (LIMIT * 2, 413),
    ] {
        let answer = server.post("/v1/jobs", &body(payload)).await;
        assert_eq!(answer.status, status, "{payload}: {}", answer.head);
        let line = server
            .bulk("/v1/jobs", body(payload).as_bytes())
            .await
            .lines();
        assert_eq!(line[0]["status"], status, "{payload}");
    }
    let deep = format!(
        "{{\"task\":\"noop\",\"payload\":{}{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    server
        .post("/v1/jobs", &deep)
        .await
        .is_problem(422, "invalid-job");
    // Told before it is sent: the length alone is enough.
    let mut socket = server.connect().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n",
        server.at
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    read_until(&mut socket, &mut text, |text| text.contains("too-large")).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
}

#[tokio::test]
async fn large_bodies_share_a_bounded_room() {
    let server = Server::with(|config| config.collecting_bytes_max = 64 << 10).await;
    let body = format!(
        "{{\"task\":\"noop\",\"payload\":\"{}\"}}",
        "x".repeat(500_000)
    );
    server.post("/v1/jobs", &body).await.is_problem(503, "busy");
    assert_eq!(
        server.post("/v1/jobs", r#"{"task":"noop"}"#).await.status,
        201
    );
}

#[tokio::test]
async fn malformed_requests_end_their_connection() {
    let server = Server::start().await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nzz\r\n",
    ] {
        let mut socket = server.connect().await;
        socket.write_all(bytes).await.unwrap();
        let answer = tokio::time::timeout(SOON, read_to_close(&mut socket)).await.unwrap();
        assert!(answer.is_empty() || Answer::parse(&answer).status == 400, "{bytes:?}");
    }
    let mut huge = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".to_vec();
    huge.resize(200_000, b'x');
    let mut socket = server.connect().await;
    let _ = socket.write_all(&huge).await;
    let answer = read_to_close(&mut socket).await;
    assert!(
        answer.is_empty() || Answer::parse(&answer).status == 431,
        "{answer:?}"
    );
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let server = Server::with(|config| config.request_timeout = Duration::from_millis(100)).await;
    let id = server.job(r#"{"task":"hold"}"#).await;
    let path = format!("/v1/jobs/{id}");
    server
        .send("GET", &path, "Prefer: wait=5\r\n", b"")
        .await
        .is_problem(503, "timed-out");
    server.gate.open();
}
