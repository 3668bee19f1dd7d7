//! Bodies that are made to hurt, through the real server: what it says, how soon, and how large it grows.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

mod support;

use support::imports::folder;
use support::{PATIENCE, Running, serve};

const TARGETS: &str = r#"
[shutdown]
drain = "3s"
[ingest]
idle = "30s"
[ingest.targets.people]
sink = "ndjson"
path = "people.ndjson"
columns = [{ name = "id", type = "int4" }, { name = "name", type = "text" }]

[ingest.targets.held]
sink = "sqlite"
path = "held.db"
table = "held"
create = true
columns = [{ name = "id", type = "int4" }, { name = "name", type = "text" }]
"#;

/// What a load may add to the server's memory, beside its allocator's habits.
const GROWN_KIB: u64 = 64 << 10;

fn lines(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("people.ndjson")).unwrap_or_default();
    text.lines().count()
}

/// In KiB: now, and the most that it ever was.
fn memory(server: &Running, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A request whose body is `head`, then `unit` over and over, `bytes` in sum; stops when the server does.
/// Status and answer.
fn pour(server: &Running, path: &str, head: &[u8], unit: &[u8], bytes: usize) -> (u16, Value) {
    let host = server.url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {bytes}\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let unit = unit.repeat((1 << 16) / unit.len());
    let mut writer = socket.try_clone().unwrap();
    let head = head.to_vec();
    let pouring = std::thread::spawn(move || {
        let mut left = bytes - head.len();
        let mut done = writer.write_all(&head);
        while left > 0 && done.is_ok() {
            let len = left.min(unit.len());
            done = writer.write_all(&unit[..len]);
            left -= len;
        }
    });
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    // To the end of the answer's JSON: the connection may stay open.
    let answer = loop {
        let len = socket.read(&mut buffer).unwrap();
        text.extend_from_slice(&buffer[..len]);
        let at = text.windows(4).position(|four| four == b"\r\n\r\n");
        let body = at.map(|at| serde_json::from_slice::<Value>(&text[at + 4..]));
        match body {
            Some(Ok(body)) => break body,
            _ => assert!(len > 0, "no answer: {}", String::from_utf8_lossy(&text)),
        }
    };
    drop(socket);
    pouring.join().unwrap();
    let status = String::from_utf8_lossy(&text[9..12]).parse().unwrap();
    (status, answer)
}

#[test]
fn a_line_without_end_and_a_quote_without_end_are_told_by_row_and_byte_and_cost_no_memory() {
    let folder = folder(TARGETS);
    let server = serve(folder.path());
    let good = b"id,name\n1,a\n2,b\n3,c\n";
    pour(&server, "/v1/ingest/people", good, b"4,d\n", 4_000);
    let base = memory(&server, "VmRSS:");
    let before = lines(folder.path());
    for (count, (head, unit)) in [
        (&b"id,name\n1,a\n2,b\n3,c\n4,"[..], &b"xxxxxxxx"[..]),
        (
            &b"id,name\n1,a\n2,b\n3,c\n4,\"never\n"[..],
            &b"5,eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\n"[..],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/v1/ingest/people?load=endless-{count}");
        // The rows behind a quote are read as rows, which takes its time.
        let bytes = if count == 0 { 256 << 20 } else { 2 << 20 };
        let (status, answer) = pour(&server, &path, head, unit, bytes);
        let told = answer.to_string();
        println!("{status} {told}");
        println!(
            "{} KiB at most, {base} KiB before",
            memory(&server, "VmHWM:")
        );
        // Rows before it are stored, and said to be.
        assert!(answer["stored"].as_u64().unwrap() >= 3, "{answer}");
        let rejects = server.url.clone() + answer["rejects"].as_str().unwrap_or_default();
        let first = match answer["rejected"].as_u64() {
            Some(1..) => ureq::get(rejects)
                .call()
                .unwrap()
                .body_mut()
                .read_to_string()
                .unwrap(),
            _ => answer["detail"].to_string(),
        };
        let first = first.lines().next().unwrap();
        println!("{first}");
        assert!(first.contains('4') && first.contains("byte"), "{first}");
    }
    assert!(lines(folder.path()) >= before + 6);
    let grown = memory(&server, "VmHWM:").saturating_sub(base);
    assert!(grown < GROWN_KIB, "{grown} KiB more");
}

#[test]
fn a_bomb_is_refused_soon_and_costs_no_memory() {
    let folder = folder(TARGETS);
    // A gigabyte of rows as real gzip packs it, about 500:1.
    let mut packer = Command::new("sh")
        .args([
            "-c",
            "(echo id,name; yes 1,a) | head -c 1000000000 | gzip -c",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut bomb = Vec::new();
    packer
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut bomb)
        .unwrap();
    packer.wait().unwrap();
    assert!(bomb.len() < 2_500_000, "{}", bomb.len());
    let server = serve(folder.path());
    pour(&server, "/v1/ingest/people", b"id,name\n", b"4,d\n", 4_000);
    let base = memory(&server, "VmRSS:");
    let begun = Instant::now();
    let (status, answer) = pour(&server, "/v1/ingest/people", &bomb, b"x", bomb.len());
    let took = begun.elapsed();
    let grown = memory(&server, "VmHWM:").saturating_sub(base);
    println!("{status} after {took:?}, {grown} KiB more: {answer}");
    assert!(status == 422 || status == 413, "{answer}");
    assert!(
        answer["detail"].as_str().unwrap().contains("limits."),
        "{answer}"
    );
    assert!(grown < GROWN_KIB, "{grown} KiB more");
}

#[test]
fn a_target_that_stands_still_is_felt_at_the_socket_and_the_load_goes_on_when_it_does() {
    const BYTES: usize = 48 << 20;
    let folder = folder(TARGETS);
    let server = serve(folder.path());
    pour(&server, "/v1/ingest/held", b"id,name\n", b"4,d\n", 4_000);
    // Somebody else writes to the file, and takes his time.
    let mut other = Command::new("sqlite3")
        .arg(folder.path().join("held.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut say = other.stdin.take().unwrap();
    say.write_all(b"BEGIN IMMEDIATE;\nSELECT 'held';\n")
        .unwrap();
    let mut heard = [0; 5];
    other.stdout.take().unwrap().read_exact(&mut heard).unwrap();
    let host = server.url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    let request = format!(
        "POST /v1/ingest/held?load=held HTTP/1.1\r\nHost: {host}\r\nContent-Length: {BYTES}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut body = b"id,name\n".to_vec();
    body.extend(
        format!("7,{}\n", "s".repeat(253))
            .repeat(BYTES / 256 - 1)
            .bytes(),
    );
    body.extend(b"7,s".iter().chain(&[b's'; 244]).chain(b"\n"));
    assert_eq!(body.len(), BYTES);
    // Until nothing more is taken for a while.
    socket
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut sent = 0;
    while sent < BYTES {
        match socket.write(&body[sent..(sent + (64 << 10)).min(BYTES)]) {
            Ok(len) => sent += len,
            Err(_stands_still) => break,
        }
    }
    println!("{sent} of {BYTES} bytes were taken while the target stood still");
    assert!(sent < BYTES / 2, "{sent} bytes were taken");
    say.write_all(b"COMMIT;\n.quit\n").unwrap();
    other.wait().unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(&body[sent..]).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[test]
fn who_follows_a_load_hears_its_end_when_the_server_ends_and_holds_it_up_no_longer() {
    let folder = folder(TARGETS);
    let mut server = serve(folder.path());
    let host = server.url.strip_prefix("http://").unwrap().to_owned();
    let mut upload = TcpStream::connect(&host).unwrap();
    let request = format!(
        "POST /v1/ingest/people?load=long HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5000\r\n\r\nid,name\n1,a\n2,b\n"
    );
    upload.write_all(request.as_bytes()).unwrap();
    let mut follower = TcpStream::connect(&host).unwrap();
    follower.set_read_timeout(Some(PATIENCE)).unwrap();
    let path = format!("{}/v1/ingest/loads/long", server.url);
    let deadline = Instant::now() + PATIENCE;
    while ureq::get(&path).call().is_err() {
        assert!(Instant::now() < deadline, "in time");
    }
    let request = format!("GET /v1/ingest/loads/long/events HTTP/1.1\r\nHost: {host}\r\n\r\n");
    follower.write_all(request.as_bytes()).unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 4_096];
    while !String::from_utf8_lossy(&text).contains("event: status") {
        let len = follower.read(&mut buffer).unwrap();
        assert!(len > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..len]);
    }
    // The uploader says nothing more; the server is told to end.
    let begun = Instant::now();
    server.signal(Signal::TERM);
    follower.read_to_end(&mut text).unwrap();
    let status = server.wait();
    println!("ended {status} after {:?}", begun.elapsed());
    let text = String::from_utf8_lossy(&text);
    let is_whole = text.contains("event: shutdown") && text.ends_with("0\r\n\r\n");
    assert!(is_whole, "cut off: {text}");
    drop(upload);
}
