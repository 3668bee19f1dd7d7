//! Interim responses of routes: between messages, in time, and nowhere else.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use offloop_http::{Interim, PackRoutes, axum};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Server, read_to_close, soon};

/// More than the socket of somebody who does not read takes.
const LONG: usize = 8 << 20;

async fn hint(interim: &Interim, number: u16) {
    let headers = HeaderMap::from_iter([("hint".parse().unwrap(), HeaderValue::from(number))]);
    let hints = StatusCode::from_u16(103).unwrap();
    interim.send(hints, "Early Hints", &headers).await;
}

fn interim_of(request: &Request) -> Option<Arc<Interim>> {
    request.extensions().get::<Arc<Interim>>().cloned()
}

/// Hints before its body and behind it.
async fn told(request: Request) -> String {
    let Some(interim) = interim_of(&request) else {
        return "none can be told".into();
    };
    hint(&interim, 0).await;
    let body = request.into_body().collect().await.unwrap().to_bytes();
    hint(&interim, 1).await;
    format!("{} bytes", body.len())
}

/// Goes on with hints while its answer is being sent.
async fn late(request: Request) -> Body {
    let interim = interim_of(&request).unwrap();
    let pieces = stream::unfold(0, move |piece| {
        let interim = Arc::clone(&interim);
        async move {
            hint(&interim, piece).await;
            let next = Ok::<_, std::io::Error>(Bytes::from_static(b"piece "));
            (piece < 20).then_some((next, piece + 1))
        }
    });
    Body::from_stream(pieces)
}

/// What is no interim response, or too much for one.
async fn wrong(request: Request) -> &'static str {
    let interim = interim_of(&request).unwrap();
    let none = HeaderMap::new();
    for status in [100, 101, 200, 404] {
        let status = StatusCode::from_u16(status).unwrap();
        interim.send(status, "X", &none).await;
    }
    let hints = StatusCode::from_u16(103).unwrap();
    interim.send(hints, "X\r\n\r\nHTTP/1.1 200 X", &none).await;
    let long = HeaderValue::from_str(&"x".repeat(5_000)).unwrap();
    let long = HeaderMap::from_iter([("hint".parse().unwrap(), long)]);
    interim.send(hints, "X", &long).await;
    "right"
}

async fn house() -> Server {
    let router = Router::new()
        .route("/v1/lab/long", get(|| async { "x".repeat(LONG) }))
        .route("/v1/lab/told", any(told))
        .route("/v1/lab/late", get(late))
        .route("/v1/lab/wrong", get(wrong));
    let pack = PackRoutes {
        name: "lab".into(),
        router,
        ..PackRoutes::default()
    };
    Server::with_packs(|_| {}, vec![pack], 100).await
}

fn head(method: &str, name: &str, more: &str) -> String {
    format!("{method} /v1/lab/{name} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

/// Up to the end of the next head, and no further.
async fn next_head(socket: &mut tokio::net::TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(soon(socket.read_u8()).await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn an_interim_response_is_not_mixed_into_the_answer_before_it() {
    let server = house().await;
    let mut socket = server.connect().await;
    // Both at once: the second is at work while nobody takes the answer to the first.
    let close = "Connection: close\r\nContent-Length: 2\r\n";
    let both = head("GET", "long", "") + &head("POST", "told", close);
    socket.write_all(both.as_bytes()).await.unwrap();
    assert!(next_head(&mut socket).await.starts_with("HTTP/1.1 200"));
    let mut body = vec![0; LONG];
    soon(socket.read_exact(&mut body)).await.unwrap();
    assert!(body.iter().all(|byte| *byte == b'x'), "something is in it");
    let first = "HTTP/1.1 103 Early Hints\r\nhint: 0\r\n\r\n";
    assert_eq!(next_head(&mut socket).await, first);
    socket.write_all(b"ok").await.unwrap();
    let second = "HTTP/1.1 103 Early Hints\r\nhint: 1\r\n\r\n";
    assert_eq!(next_head(&mut socket).await, second);
    let rest = String::from_utf8(read_to_close(&mut socket).await).unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 200") && rest.ends_with("2 bytes"),
        "{rest}"
    );
}

#[tokio::test]
async fn who_waits_for_leave_to_send_is_given_it_behind_an_interim_response() {
    let server = house().await;
    let mut socket = server.connect().await;
    let expects = "Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n";
    let text = head("POST", "told", expects);
    socket.write_all(text.as_bytes()).await.unwrap();
    assert!(next_head(&mut socket).await.starts_with("HTTP/1.1 103"));
    assert_eq!(
        next_head(&mut socket).await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    socket.write_all(b"ok").await.unwrap();
    assert!(next_head(&mut socket).await.starts_with("HTTP/1.1 103"));
    assert!(next_head(&mut socket).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_comes_too_late_or_is_none_is_not_sent() {
    let server = house().await;
    for (name, says) in [("late", "piece "), ("wrong", "right")] {
        let mut socket = server.connect().await;
        let text = head("GET", name, "Connection: close\r\n");
        socket.write_all(text.as_bytes()).await.unwrap();
        let all = String::from_utf8(read_to_close(&mut socket).await).unwrap();
        assert!(
            all.starts_with("HTTP/1.1 200") && all.contains(says),
            "{all}"
        );
        let count = |what: &str| all.matches(what).count();
        assert_eq!((count("HTTP/1.1"), count("hint")), (1, 0), "{all}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_is_told_nothing_that_it_cannot_read() {
    let server = house().await;
    let mut socket = server.connect().await;
    let text = "GET /v1/lab/told HTTP/1.0\r\nHost: localhost\r\n\r\n";
    socket.write_all(text.as_bytes()).await.unwrap();
    let all = String::from_utf8(read_to_close(&mut socket).await).unwrap();
    assert!(
        all.starts_with("HTTP/1.0 200") && all.ends_with("none can be told"),
        "{all}"
    );
}
