//! Answers in fewer bytes, and files in pieces: what is decoded is what would have been sent, and
//! no event waits for an encoder to be full.

use std::io::Read as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::request::Parts;
use axum::routing::get;
use flate2::read::GzDecoder;
use offloop_http::{PackRoutes, Refusal, axum, mime, send_file};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Answer, Server, soon};

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text).unwrap();
    text
}

async fn ask(server: &Server, path: &str, headers: &str) -> Answer {
    server.send("GET", path, headers, b"").await
}

#[tokio::test]
async fn an_encoded_list_is_the_same_list() {
    let server = Server::start().await;
    for n in 0..20 {
        server
            .job(&format!(
                r#"{{"task":"noop","payload":{n},"delay_ms":3600000}}"#
            ))
            .await;
    }
    let plain = ask(&server, "/v1/jobs?limit=20", "").await;
    assert_eq!(plain.header("content-encoding"), None);
    let gzip = ask(&server, "/v1/jobs?limit=20", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(gzip.header("content-encoding").as_deref(), Some("gzip"));
    assert!(gzip.header("vary").unwrap().contains("accept-encoding"));
    assert_eq!(gunzip(&gzip.body), plain.body);
    assert!(
        gzip.body.len() * 3 < plain.body.len(),
        "{}",
        gzip.body.len()
    );
    let zstd = ask(
        &server,
        "/v1/jobs?limit=20",
        "Accept-Encoding: br;q=0, zstd, gzip;q=0.5\r\n",
    )
    .await;
    assert_eq!(zstd.header("content-encoding").as_deref(), Some("zstd"));
    assert_eq!(zstd::decode_all(&zstd.body[..]).unwrap(), plain.body);
    let refused = ask(
        &server,
        "/v1/jobs?limit=20",
        "Accept-Encoding: identity, gzip;q=0\r\n",
    )
    .await;
    assert_eq!(refused.header("content-encoding"), None);
}

#[tokio::test]
async fn short_answers_and_problems_are_left_as_they_are() {
    let server = Server::start().await;
    for path in ["/healthz", "/v1/jobs/nonsense", "/v1/tasks/none"] {
        let answer = ask(&server, path, "Accept-Encoding: gzip, zstd\r\n").await;
        assert_eq!(answer.header("content-encoding"), None, "{path}");
    }
}

/// A stream of events whose body is decoded as it comes.
struct Events {
    socket: TcpStream,
    raw: Vec<u8>,
    text: String,
}

impl Events {
    async fn subscribe(server: &Server) -> Self {
        let mut socket = server.connect().await;
        let head = format!(
            "GET /v1/events HTTP/1.1\r\nHost: {}\r\nAccept-Encoding: gzip\r\n\r\n",
            server.at
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self {
            socket,
            raw: Vec::new(),
            text: String::new(),
        };
        events.until("event: hello").await;
        events
    }

    fn head(&self) -> String {
        Answer::parse(&self.raw).head
    }

    /// Reads until the decoded text has this in it.
    async fn until(&mut self, what: &str) {
        soon(async {
            let mut piece = [0; 4096];
            while !self.text.contains(what) {
                let count = self.socket.read(&mut piece).await.unwrap();
                assert!(count > 0, "the stream ended: {}", self.text);
                self.raw.extend_from_slice(&piece[..count]);
                let answer = Answer::parse(&self.raw);
                self.text = if answer.header("content-encoding").is_some() {
                    let mut bytes = Vec::new();
                    // An encoded stream that goes on ends in the middle for who reads it now.
                    let _ = GzDecoder::new(&answer.body[..]).read_to_end(&mut bytes);
                    String::from_utf8(bytes).unwrap()
                } else {
                    answer.text()
                };
            }
        })
        .await;
    }
}

#[tokio::test]
async fn an_encoded_event_arrives_when_it_happens() {
    let server = Server::start().await;
    let mut events = Events::subscribe(&server).await;
    assert!(events.head().contains("content-encoding: gzip"));
    // One after the other: none of them waits for the next.
    for _ in 0..3 {
        let id = server.job(r#"{"task":"noop"}"#).await;
        server.end(&id).await;
        events.until(&id).await;
        events.until("event: completed").await;
    }
}

#[tokio::test]
async fn encoders_are_bounded_and_who_comes_later_is_served_plainly() {
    let server = Server::start().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        let events = Events::subscribe(&server).await;
        assert!(events.head().contains("content-encoding: gzip"));
        open.push(events);
    }
    let mut late = Events::subscribe(&server).await;
    assert!(!late.head().contains("content-encoding"));
    let id = server.job(r#"{"task":"noop"}"#).await;
    late.until(&id).await;
    drop(open);
    // The places come free with the connections.
    Box::pin(soon(async {
        loop {
            let next = Events::subscribe(&server).await;
            if next.head().contains("content-encoding") {
                break;
            }
        }
    }))
    .await;
}

struct Served {
    server: Server,
    bytes: Vec<u8>,
    path: Arc<PathBuf>,
    _folder: tempfile::TempDir,
}

async fn file(
    State(path): State<Arc<PathBuf>>,
    parts: Parts,
) -> Result<axum::response::Response, Refusal> {
    send_file(&path, &mime::TEXT_PLAIN, parts, "no such export").await
}

async fn served(length: usize) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = Arc::new(folder.path().join("export"));
    let bytes: Vec<u8> = (0..length).map(|at| b'a' + (at % 23) as u8).collect();
    std::fs::write(&*path, &bytes).unwrap();
    let pack = PackRoutes {
        name: "files".into(),
        router: Router::new()
            .route("/v1/files/export", get(file))
            .with_state(Arc::clone(&path)),
        ..PackRoutes::default()
    };
    Served {
        server: Server::with_packs(|_| {}, vec![pack], 1_000).await,
        bytes,
        path,
        _folder: folder,
    }
}

const EXPORT: &str = "/v1/files/export";

#[tokio::test]
async fn a_file_is_sent_whole_by_ranges_and_not_at_all_to_who_has_it() {
    let served = served(300_000).await;
    let server = &served.server;
    let whole = ask(server, EXPORT, "").await;
    assert_eq!(whole.body, served.bytes);
    assert_eq!(whole.header("content-length").as_deref(), Some("300000"));
    assert_eq!(whole.header("accept-ranges").as_deref(), Some("bytes"));
    let tag = whole.header("etag").unwrap();

    let part = ask(server, EXPORT, "Range: bytes=1000-1999\r\n").await;
    assert_eq!(
        (part.status, &part.body[..]),
        (206, &served.bytes[1000..2000])
    );
    assert_eq!(
        part.header("content-range").as_deref(),
        Some("bytes 1000-1999/300000")
    );
    let tail = ask(server, EXPORT, "Range: bytes=-5\r\n").await;
    assert_eq!(
        (tail.status, &tail.body[..]),
        (206, &served.bytes[299_995..])
    );
    let encoded = "Range: bytes=0-99999\r\nAccept-Encoding: gzip\r\n";
    let encoded = ask(server, EXPORT, encoded).await;
    assert_eq!(encoded.header("content-encoding"), None);
    assert_eq!(encoded.body, served.bytes[..100_000]);
    let beyond = ask(server, EXPORT, "Range: bytes=300000-\r\n").await;
    assert_eq!(beyond.status, 416);
    assert_eq!(
        beyond.header("content-range").as_deref(),
        Some("bytes */300000")
    );

    let known = ask(server, EXPORT, &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let resumed = format!("Range: bytes=299990-\r\nIf-Range: {tag}\r\n");
    assert_eq!(ask(server, EXPORT, &resumed).await.status, 206);
    let head = server.send("HEAD", EXPORT, "", b"").await;
    assert_eq!(head.header("content-length").as_deref(), Some("300000"));
    assert!(head.body.is_empty());
}

#[tokio::test]
async fn a_file_that_changed_is_not_continued_with_the_other_ones_bytes() {
    let served = served(10_000).await;
    let tag = ask(&served.server, EXPORT, "")
        .await
        .header("etag")
        .unwrap();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&*served.path)
        .unwrap();
    file.write_all(b"more").unwrap();
    let resumed = format!("Range: bytes=5000-\r\nIf-Range: {tag}\r\n");
    let resumed = ask(&served.server, EXPORT, &resumed).await;
    assert_eq!((resumed.status, resumed.body.len()), (200, 10_004));
    std::fs::remove_file(&*served.path).unwrap();
    ask(&served.server, EXPORT, "")
        .await
        .is_problem(404, "not-found");
}

#[tokio::test]
async fn an_encoded_file_has_a_validator_of_its_own_kind() {
    let served = served(50_000).await;
    let plain = ask(&served.server, EXPORT, "")
        .await
        .header("etag")
        .unwrap();
    let gzip = ask(&served.server, EXPORT, "Accept-Encoding: gzip\r\n").await;
    assert_eq!(gunzip(&gzip.body), served.bytes);
    assert_eq!(gzip.header("etag"), Some(format!("W/{plain}")));
    // The weak one is as good for "do you have another than this?".
    let known = format!("Accept-Encoding: gzip\r\nIf-None-Match: W/{plain}\r\n");
    assert_eq!(ask(&served.server, EXPORT, &known).await.status, 304);
}
