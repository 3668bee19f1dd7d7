//! The stream of events: nothing missed without a word, nobody held up by a slow reader.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::{Server, read_until};

async fn subscribe(server: &Server, query: &str, headers: &str) -> (TcpStream, String) {
    let mut socket = server.connect().await;
    let head = format!(
        "GET /v1/events{query} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n",
        server.at
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    read_until(&mut socket, &mut text, |text| text.contains("event: hello")).await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    (socket, text)
}

/// The id of the n-th event of a kind.
fn id_of(text: &str, event: &str) -> String {
    let at = text.find(&format!("event: {event}\n")).unwrap();
    let before = &text[..at];
    let id = before.rfind("id: ").unwrap();
    before[id + 4..].lines().next().unwrap().to_owned()
}

/// Waits for the whole life of a job. The runtime may tell that it was enqueued after it began.
async fn read_life(socket: &mut TcpStream, text: &mut String, id: &str) {
    let told = |text: &str, kind: &str| {
        let events = text.split("\n\n");
        events
            .filter(|event| event.contains(id))
            .any(|event| event.contains(&format!("event: {kind}\n")))
    };
    read_until(socket, text, |text| {
        ["enqueued", "started", "completed"]
            .iter()
            .all(|kind| told(text, kind))
    })
    .await;
}

#[tokio::test]
async fn a_jobs_life_is_told_event_by_event() {
    let server = Server::start().await;
    let (mut socket, mut text) = subscribe(&server, "", "").await;
    let id = server.job(r#"{"task":"noop"}"#).await;
    read_life(&mut socket, &mut text, &id).await;
    let place = |kind: &str| text.find(&format!("event: {kind}\n")).unwrap();
    assert!(place("started") < place("completed"), "{text}");
    assert!(text.contains(&format!(
        "\"job\":\"{id}\",\"task\":\"noop\",\"queue\":\"default\""
    )));
}

#[tokio::test]
async fn a_reader_that_comes_back_gets_what_it_missed() {
    let server = Server::start().await;
    let (mut socket, mut text) = subscribe(&server, "", "").await;
    let begun = id_of(&text, "hello");
    let first = server.job(r#"{"task":"noop"}"#).await;
    read_life(&mut socket, &mut text, &first).await;
    let last = text.rfind("id: ").unwrap();
    let last = text[last + 4..].lines().next().unwrap().to_owned();
    drop(socket);
    let second = server.job(r#"{"task":"noop"}"#).await;
    server.end(&second).await;

    let told = format!("Last-Event-ID: {last}\r\n");
    let (mut socket, mut text) = subscribe(&server, "", &told).await;
    read_life(&mut socket, &mut text, &second).await;
    assert!(!text.contains(&first), "{text}");
    let (mut socket, mut text) = subscribe(&server, &format!("?after={begun}"), "").await;
    read_life(&mut socket, &mut text, &second).await;
    assert!(
        text.contains(&first) && !text.contains("event: lagged"),
        "{text}"
    );
}

#[tokio::test]
async fn a_reader_of_another_run_is_told_that_it_lags() {
    let server = Server::start().await;
    for told in ["12345-6", "nonsense", "0-99999999"] {
        let headers = format!("Last-Event-ID: {told}\r\n");
        let (mut socket, mut text) = subscribe(&server, "", &headers).await;
        read_until(&mut socket, &mut text, |text| {
            text.contains("event: lagged")
        })
        .await;
        assert!(text.contains("event: lagged\ndata: {}"), "{text}");
    }
}

#[tokio::test]
async fn a_filter_lets_only_its_own_through() {
    let server = Server::start().await;
    let held = server.job(r#"{"task":"hold","queue":"a"}"#).await;
    for query in [
        format!("?job={held}"),
        "?task=hold".into(),
        "?queue=a".into(),
    ] {
        let (mut socket, mut text) = subscribe(&server, &format!("{query}&after=0-0"), "").await;
        read_until(&mut socket, &mut text, |text| text.contains("lagged")).await;
        let noise = server.job(r#"{"task":"noop","queue":"b"}"#).await;
        server.end(&noise).await;
        if query.starts_with("?job") {
            // The first reader sees the end; the others see the life that follows a retry.
            server.post(&format!("/v1/jobs/{held}/cancel"), "").await;
            read_until(&mut socket, &mut text, |text| {
                text.contains("event: cancelled")
            })
            .await;
        } else {
            let again = server.post(&format!("/v1/jobs/{held}/retry"), "").await;
            assert_eq!(again.status, 200, "{again:?}");
            read_until(&mut socket, &mut text, |text| {
                text.contains("event: revived")
            })
            .await;
            server.running(&held).await;
            server.post(&format!("/v1/jobs/{held}/cancel"), "").await;
            server.end(&held).await;
        }
        assert!(
            text.contains(&held) && !text.contains(&noise),
            "{query}: {text}"
        );
    }
}

#[tokio::test]
async fn a_digest_counts_and_a_silent_stream_is_kept_alive() {
    let server = Server::with(|config| config.keep_alive_every = Duration::from_millis(50)).await;
    let (mut socket, mut text) = subscribe(&server, "?digest_ms=100", "").await;
    read_until(&mut socket, &mut text, |text| {
        text.matches(": keep-alive\nid: ").count() >= 2
    })
    .await;
    server.job(r#"{"task":"noop"}"#).await;
    // A keep-alive that falls due while a digest is being counted must not lose it.
    read_until(&mut socket, &mut text, |text| {
        text.contains("event: digest")
    })
    .await;
    assert!(text.contains("event: digest\ndata: {\"events\":"), "{text}");
}

#[tokio::test]
async fn a_closing_door_tells_its_readers_and_lets_them_go() {
    let mut server = Server::start().await;
    let (mut socket, mut text) = subscribe(&server, "", "").await;
    server.close();
    read_until(&mut socket, &mut text, |_| false).await; // to the end
    assert!(text.contains("event: shutdown\ndata: {}"), "{text}");
    let report = server.closed().await;
    assert_eq!(report.cut, 0, "{report:?}");
}

#[tokio::test]
async fn readers_are_bounded_and_a_place_is_free_again_when_one_leaves() {
    let server = Server::with(|config| config.subscribers_max = 1).await;
    let (socket, _) = subscribe(&server, "", "").await;
    server.get("/v1/events").await.is_problem(429, "too-many");
    drop(socket);
    let free = async {
        while server
            .get("/metrics")
            .await
            .text()
            .contains("offloop_http_subscribers 1")
        {
            tokio::task::yield_now().await;
        }
    };
    crate::support::soon(free).await;
    subscribe(&server, "", "").await;
}
