//! A server with the pack and its door on threads of its own, and clients that behave badly.
#![allow(dead_code, reason = "each test takes its part")]

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use offloop::http::axum::Router;
use offloop::http::{Door, DoorConfig, PackRoutes};
use offloop::{Builder, Pack, PackError, RuntimeHandle, Server, Setup, ShutdownPlan};
use offloop_ingest::{IngestOptions, IngestPack, RawTarget};
use serde_json::Value;

/// Nothing here takes this long; a test that waits longer has found a bug.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) const PEOPLE: &str = r#"
sink = "ndjson"
path = "people.ndjson"
columns = [{ name = "id", type = "int4" }, { name = "name", type = "text" }]
batch = { rows = 50, bytes = "64KiB", time = "50ms" }
"#;

pub(crate) struct House {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) server: Option<Server>,
    pub(crate) door: SocketAddr,
    /// The pack's own routes.
    pub(crate) router: Router,
}

pub(crate) fn options(folder: &Path, targets: &[(&str, &str)]) -> IngestOptions {
    let targets = targets.iter().map(|(name, text)| {
        let raw: RawTarget = toml::from_str(text).unwrap();
        raw.resolve(name).unwrap()
    });
    IngestOptions::new(targets.collect(), folder)
}

/// The pack, whose routes somebody else has too.
#[derive(Debug)]
struct Seen(IngestPack, Arc<Mutex<Option<Router>>>);

impl Pack for Seen {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn install(&mut self, setup: &mut Setup<'_>) -> Result<(), PackError> {
        self.0.install(setup)
    }

    fn open(self: Box<Self>, server: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        let routes = Box::new(self.0).open(server)?;
        *self.1.lock().unwrap() = Some(routes.router.clone());
        Ok(routes)
    }
}

impl House {
    pub(crate) fn new(folder: &Path) -> Self {
        Self::with(folder, options(folder, &[("people", PEOPLE)]))
    }

    pub(crate) fn with(folder: &Path, options: IngestOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let router = Arc::default();
        let pack = Seen(IngestPack::new(options), Arc::clone(&router));
        let mut server = Builder::embedded(folder.join("data"))
            .pack(pack)
            .start()
            .unwrap();
        let config = DoorConfig::new("127.0.0.1:0".parse().unwrap());
        let listener = runtime.block_on(Door::listen(&config)).unwrap();
        let at = listener.local_addr().unwrap();
        let door = server.door(config);
        runtime.spawn(door.serve(listener, std::future::pending()));
        Self {
            runtime,
            server: Some(server),
            door: at,
            router: router.lock().unwrap().take().unwrap(),
        }
    }

    /// As a person would end it.
    pub(crate) fn end(mut self) {
        if let Some(server) = self.server.take() {
            let (_never, force) = tokio::sync::oneshot::channel();
            let report = server.shutdown(ShutdownPlan::default(), force);
            self.runtime.block_on(report);
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.door)
    }

    pub(crate) fn agent() -> ureq::Agent {
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(SOON))
            .build()
            .into()
    }

    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
        let mut request = Self::agent().post(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send(body).unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_json().unwrap_or_default())
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let mut answer = Self::agent().get(self.url(path)).call().unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_json().unwrap_or_default())
    }

    pub(crate) fn text(&self, path: &str, range: Option<&str>) -> (u16, String) {
        let mut request = Self::agent().get(self.url(path));
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let mut answer = request.call().unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_to_string().unwrap())
    }

    /// Asks until it is so, in the bound of every wait.
    pub(crate) fn until<T>(&self, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "in time");
            std::thread::yield_now();
        }
    }

    /// The load once it has ended.
    pub(crate) fn end_of(&self, load: &str) -> Value {
        self.until(|house| {
            let (status, view) = house.get(&format!("/v1/ingest/loads/{load}"));
            let ended = status == 200 && view["ended_at"].is_string();
            ended.then_some(view)
        })
    }

    /// A request of which only the head was sent.
    pub(crate) fn begin(&self, method: &str, path: &str, headers: &str) -> Raw {
        let mut socket = TcpStream::connect(self.door).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        Raw(socket)
    }
}

/// A client that does what it likes.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// No more is sent; the answer may still come.
    pub(crate) fn half_close(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    pub(crate) fn hang_up(self) {
        self.0.shutdown(Shutdown::Both).unwrap();
    }

    /// One head, and nothing behind it, in lower case.
    pub(crate) fn head(&mut self) -> String {
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap().to_ascii_lowercase()
    }

    /// Status and JSON of the answer; the connection is closed behind it, or has its length.
    pub(crate) fn answer(mut self) -> (u16, String, Value) {
        let mut text = Vec::new();
        let mut buffer = [0; 4_096];
        let (head, mut body) = loop {
            let len = self.0.read(&mut buffer).unwrap();
            assert!(len > 0, "no answer: {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&buffer[..len]);
            if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                let body = text.split_off(at + 4);
                break (String::from_utf8(text).unwrap().to_ascii_lowercase(), body);
            }
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while body.len() < length {
            let len = self.0.read(&mut buffer).unwrap();
            assert!(len > 0, "the answer broke off");
            body.extend_from_slice(&buffer[..len]);
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (
            status,
            head,
            serde_json::from_slice(&body).unwrap_or_default(),
        )
    }
}

/// Rows from 1 to `rows`; `bad` ones have no number.
pub(crate) fn people(rows: u64, bad: impl Fn(u64) -> bool) -> String {
    let mut text = String::from("id,name\n");
    for row in 1..=rows {
        let word = if bad(row) { "word" } else { "" };
        writeln!(text, "{word}{row},\"name, \"\"{row}\"\"\"").unwrap();
    }
    text
}

/// Ids in the target's file.
pub(crate) fn ids(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("people.ndjson")).unwrap_or_default();
    let id = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["id"]
            .as_u64()
            .unwrap()
    };
    text.lines().map(id).collect()
}
