//! `offloop ingest URL`: over peers that break off, kills, changes and ways inside.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

mod support;

use support::imports::{self, ids, people, people_target, until};
use support::{Running, program, serve, told};

const HOME: [&str; 2] = ["--allow-private", "127.0.0.1/32"];

fn folder() -> tempfile::TempDir {
    imports::folder(&people_target("batch = { rows = 100, time = \"20ms\" }"))
}

/// What a peer's one file is like.
#[derive(Clone)]
struct Peer {
    body: Arc<Mutex<String>>,
    /// Header lines of its version.
    version: Arc<Mutex<String>>,
    ranges: bool,
    /// Each answer but the last breaks off behind so many bytes.
    cut: Arc<Mutex<Vec<usize>>>,
    /// Range lines of what was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    fn new(body: &str, version: &str) -> Self {
        Self {
            body: Arc::new(Mutex::new(body.to_owned())),
            version: Arc::new(Mutex::new(version.to_owned())),
            ranges: version.starts_with("ETag: \""),
            cut: Arc::default(),
            asked: Arc::default(),
        }
    }

    fn cut(self, at: &[usize]) -> Self {
        *self.cut.lock().unwrap() = at.iter().rev().copied().collect();
        self
    }

    fn begin(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let own = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || own.answer(&stream));
            }
        });
        at
    }

    fn answer(&self, mut stream: &TcpStream) {
        let mut head = Vec::new();
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(line)) = lines.next()
            && !line.is_empty()
        {
            head.push(line.to_ascii_lowercase());
        }
        let Some(first) = head.first() else { return };
        if let Some(to) = first.strip_prefix("get /to/") {
            let to = to.split(' ').next().unwrap();
            let _left = write!(
                stream,
                "HTTP/1.1 302 X\r\nLocation: http://{to}\r\nContent-Length: 0\r\n\r\n"
            );
            return;
        }
        let range = head
            .iter()
            .find_map(|line| line.strip_prefix("range: bytes="));
        // Before it is seen to be asked: what is changed then is another answer's.
        let version = self.version.lock().unwrap().clone();
        self.asked
            .lock()
            .unwrap()
            .push(range.unwrap_or("").to_owned());
        let body = self.body.lock().unwrap().clone();
        let fits = head.iter().any(|line| {
            line.strip_prefix("if-range: ")
                .is_some_and(|tag| version.to_ascii_lowercase().contains(tag))
        });
        let from = range.filter(|_| self.ranges && fits);
        let from = from.map(|range| range.trim_end_matches('-').parse::<usize>().unwrap());
        let rest = &body.as_bytes()[from.unwrap_or(0)..];
        let (status, more) = match from {
            None => (200, String::new()),
            Some(from) => (
                206,
                format!(
                    "Content-Range: bytes {from}-{}/{}\r\n",
                    body.len() - 1,
                    body.len()
                ),
            ),
        };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{version}\r\n{more}\r\n",
            rest.len()
        );
        let cut = self.cut.lock().unwrap().pop();
        let rest = &rest[..cut.map_or(rest.len(), |cut| cut.min(rest.len()))];
        // A reader that was killed takes no more.
        let _left = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(rest));
    }
}

fn ingest(folder: &Path, url: &str, more: &[&str], code: i32) -> String {
    let words = [&["ingest", url, "--target", "people"], more].concat();
    told(
        &program(folder).args(&words).output().unwrap(),
        &words,
        code,
    )
}

const ROWS: u64 = 60_000;

#[test]
fn a_peer_that_breaks_off_is_gone_on_with_and_each_row_is_stored_once() {
    let text = people(ROWS);
    for (version, ranged) in [
        ("ETag: \"one\"", true),
        ("ETag: W/\"one\"", false),
        ("Last-Modified: Sun, 22 Nov 2026 00:00:00 GMT", false),
        ("X-Nothing: known", false),
    ] {
        let folder = folder();
        let peer = Peer::new(&text, version).cut(&[200_000, 300_000]);
        let url = format!("http://{}/people.csv?token=x", peer.begin());
        let said = ingest(folder.path(), &url, &HOME, 0);
        assert!(said.contains("60000 rows stored, 0 rejected"), "{said}");
        assert_eq!(
            ids(folder.path()),
            (1..=ROWS).collect::<Vec<_>>(),
            "{version}"
        );
        let asked = peer.asked.lock().unwrap().clone();
        let last = if ranged {
            ["200000-", "500000-"]
        } else {
            ["", ""]
        };
        assert_eq!(asked, ["", last[0], last[1]], "{version}");
        let said = ingest(folder.path(), &url, &HOME, 0);
        assert!(said.contains("stored already"), "{said}");
    }
}

#[test]
fn a_command_that_is_killed_goes_on_when_it_is_given_again() {
    let folder = folder();
    let peer = Peer::new(&people(400_000), "ETag: \"one\"");
    let url = format!("http://{}/people.csv", peer.begin());
    let words = [&["ingest", &url, "--target", "people"], &HOME[..]].concat();
    for signal in [Signal::KILL, Signal::INT] {
        let before = ids(folder.path()).len();
        let mut running = Running::new(program(folder.path()).args(&words));
        until("rows of this run", || {
            ids(folder.path()).len() > before + 1_000
        });
        running.signal(signal);
        assert!(!running.wait().success(), "{signal:?} came too late");
    }
    let said = ingest(folder.path(), &url, &HOME, 0);
    assert!(said.contains("were stored before"), "{said}");
    assert_eq!(ids(folder.path()), (1..=400_000).collect::<Vec<_>>());
}

#[test]
fn two_versions_are_never_put_together() {
    let folder = folder();
    let text = people(ROWS);
    let peer = Peer::new(&text, "ETag: \"one\"").cut(&[200_000]);
    let at = peer.begin();
    let other = peer.clone();
    // Behind the first answer there is another file.
    let watch = std::thread::spawn(move || {
        until("the first question", || {
            !other.asked.lock().unwrap().is_empty()
        });
        *other.version.lock().unwrap() = "ETag: \"two\"".into();
    });
    let url = format!("http://{at}/people.csv");
    let said = ingest(folder.path(), &url, &HOME, 1);
    assert!(said.contains("was changed while it was read"), "{said}");
    watch.join().unwrap();
    let stored = ids(folder.path()).len() as u64;
    let said = ingest(folder.path(), &url, &HOME, 0);
    assert!(
        said.contains("60000 rows stored") && !said.contains("before"),
        "{said}"
    );
    assert_eq!(ids(folder.path()).len() as u64, stored + ROWS);
}

#[test]
fn the_way_inside_is_closed_unless_it_is_opened_by_name() {
    let folder = folder();
    let peer = Peer::new(&people(10), "ETag: \"one\"");
    let at = peer.begin();
    let url = format!("http://{at}/people.csv");
    let said = ingest(folder.path(), &url, &[], 1);
    assert!(said.contains("--allow-private"), "{said}");
    assert!(peer.asked.lock().unwrap().is_empty(), "it was connected to");
    // A redirect is checked as the URL was.
    let inside = format!("http://{at}/to/127.0.0.2:{}/people.csv", at.port());
    let said = ingest(folder.path(), &inside, &HOME, 1);
    assert!(said.contains("127.0.0.2"), "{said}");
    let metadata = format!("http://{at}/to/169.254.169.254/latest");
    let said = ingest(
        folder.path(),
        &metadata,
        &["--allow-private", "0.0.0.0/0"],
        1,
    );
    assert!(said.contains("169.254.169.254"), "{said}");
    let good = format!("http://{at}/to/{at}/people.csv");
    ingest(folder.path(), &good, &HOME, 0);
    assert_eq!(ids(folder.path()).len(), 10);
    let said = ingest(
        folder.path(),
        &good,
        &[&HOME[..], &["--again", "--max-size", "50"]].concat(),
        1,
    );
    assert!(said.contains("--max-size"), "{said}");
}

#[test]
fn a_url_goes_through_a_server_too() {
    let folder = folder();
    let peer = Peer::new(&people(2_000), "ETag: \"one\"").cut(&[10_000]);
    let url = format!("http://{}/people.csv", peer.begin());
    let server = serve(folder.path());
    let more = [&HOME[..], &["--server", &server.url]].concat();
    let said = ingest(folder.path(), &url, &more, 0);
    assert!(said.starts_with("2000 rows stored"), "{said}");
    assert_eq!(ids(folder.path()), (1..=2_000).collect::<Vec<_>>());
}
