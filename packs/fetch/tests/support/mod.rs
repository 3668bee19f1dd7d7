//! A deliberately bad HTTP server: what it does is named by the path that it is asked for.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use offloop::egress::{Policy, SystemResolver};
use offloop::runtime::clock::Dice;
use offloop_fetch::{Call, Client, ClientOptions, Done, Runner, Settings};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bound of every wait for an event.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What the server saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Requests by path.
    pub(crate) paths: Mutex<HashMap<String, usize>>,
    pub(crate) faults: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    /// Connections that are open, and requests under way.
    pub(crate) open: watch::Sender<usize>,
    busy: AtomicUsize,
    pub(crate) busiest: AtomicUsize,
    dice: Dice,
}

impl Seen {
    pub(crate) fn count(&self, path: &str) -> usize {
        self.paths.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Waits until just so many connections are open.
    pub(crate) async fn until_open(&self, want: impl Fn(usize) -> bool) {
        let mut open = self.open.subscribe();
        let waited = tokio::time::timeout(SOON, open.wait_for(|open| want(*open)));
        waited.await.expect("in time").unwrap();
    }
}

/// One that is counted while it is there.
struct Counted<'a>(&'a Seen);

impl<'a> Counted<'a> {
    fn busy(seen: &'a Seen) -> Self {
        let busy = seen.busy.fetch_add(1, Ordering::SeqCst) + 1;
        seen.busiest.fetch_max(busy, Ordering::SeqCst);
        Self(seen)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    pub(crate) seen: Arc<Seen>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    pub(crate) async fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let at = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            paths: Mutex::default(),
            faults: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            dice: Dice::new(7),
        });
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&all);
                seen.connections.fetch_add(1, Ordering::SeqCst);
                seen.open.send_modify(|open| *open += 1);
                tokio::spawn(async move {
                    serve(stream, &seen).await;
                    seen.open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { at, seen }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub(crate) fn call(&self, path: &str) -> Call {
        Call::get(self.url(path))
    }
}

struct Asked {
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut first = String::new();
    if stream.read_line(&mut first).await.ok()? == 0 {
        return None;
    }
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.to_owned());
            }
            None => break,
        }
    }
    let length = headers
        .get("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked {
        path,
        headers,
        body,
    })
}

async fn serve(stream: TcpStream, seen: &Seen) {
    let mut stream = BufReader::new(stream);
    let mut turn = 0;
    while let Some(asked) = read(&mut stream).await {
        *seen
            .paths
            .lock()
            .unwrap()
            .entry(asked.path.clone())
            .or_default() += 1;
        let busy = Counted::busy(seen);
        turn += 1;
        if !answer(&mut stream, &asked, turn, seen).await {
            return;
        }
        drop(busy);
    }
}

/// A reset instead of an end.
fn reset(stream: &BufReader<TcpStream>) {
    let none = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(stream.get_ref(), none).unwrap();
}

async fn say(stream: &mut BufReader<TcpStream>, text: &str) -> bool {
    stream.write_all(text.as_bytes()).await.is_ok()
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

const HEADS: [(&str, &str); 8] = [
    ("/garbage", "SSH-2.0-OpenSSH_9.2\r\n"),
    (
        "/short",
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes.",
    ),
    (
        "/cut-chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    ),
    ("/half-head", "HTTP/1.1 200 OK\r\nContent-"),
    (
        "/huge-length",
        "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
    ),
    ("/early", ""),
    (
        "/two-lengths",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    ),
    (
        "/bad-chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    ),
];

/// Whether the connection goes on.
async fn answer(
    stream: &mut BufReader<TcpStream>,
    asked: &Asked,
    turn: usize,
    seen: &Seen,
) -> bool {
    if let Some((_, text)) = HEADS.iter().find(|(path, _)| *path == asked.path) {
        say(stream, text).await;
        return false;
    }
    let path = asked.path.strip_prefix('/').unwrap_or_default();
    let (what, rest) = path.split_once(['/', '?']).unwrap_or((path, ""));
    match what {
        "echo" => say(stream, &ok(&String::from_utf8_lossy(&asked.body))).await,
        "header" => say(stream, &ok(asked.headers.get(rest).map_or("-", |v| v))).await,
        "delay" => {
            let ms = rest.split('?').next().unwrap().parse().unwrap();
            tokio::time::sleep(Duration::from_millis(ms)).await;
            say(stream, &ok("ok")).await
        }
        "hang" => {
            let mut byte = [0];
            let _ = stream.read(&mut byte).await; // until it leaves
            false
        }
        // The first of each path hangs, the others answer.
        "hang-once" if seen.count(&asked.path) == 1 => {
            let mut byte = [0];
            let _ = stream.read(&mut byte).await;
            false
        }
        "status" => {
            say(
                stream,
                &format!("HTTP/1.1 {rest} X\r\nContent-Length: 2\r\n\r\nno"),
            )
            .await
        }
        // Fails so often, then answers: /flaky/3/name
        "flaky" => {
            let times: usize = rest.split('/').next().unwrap().parse().unwrap();
            if seen.count(&asked.path) > times {
                return say(stream, &ok("ok")).await;
            }
            say(
                stream,
                "HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n",
            )
            .await
        }
        "reset" => {
            reset(stream);
            false
        }
        // Answers once on a connection, and closes it when it is used again.
        "once" if turn > 1 => false,
        "ok" | "hang-once" | "once" => say(stream, &ok("ok")).await,
        "drip" => {
            say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
            while say(stream, "x").await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            false
        }
        "endless" => {
            say(
                stream,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .await;
            let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
            while say(stream, &chunk).await {}
            false
        }
        "bytes" => say(stream, &ok(&"x".repeat(rest.parse().unwrap()))).await,
        "loop" => {
            let to =
                format!("HTTP/1.1 302 X\r\nLocation: /loop/x{rest}\r\nContent-Length: 0\r\n\r\n");
            say(stream, &to).await
        }
        "to" => {
            let to = asked.headers.get("x-to").map_or(rest, |to| to);
            let to = format!("HTTP/1.1 307 X\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
            say(stream, &to).await
        }
        "see-other" => {
            say(
                stream,
                "HTTP/1.1 303 X\r\nLocation: /echo\r\nContent-Length: 0\r\n\r\n",
            )
            .await
        }
        "headers" => {
            say(stream, "HTTP/1.1 200 OK\r\n").await;
            while say(stream, &format!("X-More: {}\r\n", "y".repeat(1_000))).await {}
            false
        }
        // 30 % 503, 2 % reset.
        "campaign" => {
            let roll = seen.dice.roll();
            if roll < 0.32 {
                seen.faults.fetch_add(1, Ordering::SeqCst);
            }
            match roll {
                roll if roll < 0.02 => {
                    reset(stream);
                    false
                }
                roll if roll < 0.32 => {
                    say(stream, "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").await
                }
                _ => say(stream, &ok("ok")).await,
            }
        }
        // Cut at a byte: /cut/N of a thousand.
        "cut" => {
            let at: usize = rest.parse().unwrap();
            let whole = ok(&"z".repeat(1_000));
            say(stream, &whole[..at.min(whole.len() - 1)]).await;
            false
        }
        _ => say(stream, "HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n").await,
    }
}

pub(crate) fn policy(servers: &[SocketAddr]) -> Policy {
    Policy {
        http: true,
        ports: servers.iter().map(SocketAddr::port).collect(),
        allow: servers
            .iter()
            .map(|at| at.ip().to_string().parse().unwrap())
            .collect(),
        ..Policy::default()
    }
}

pub(crate) fn client(policy: Policy) -> Client {
    let resolver = Arc::new(SystemResolver::default());
    Client::new(ClientOptions::new(policy, resolver, 1)).unwrap()
}

/// All ends, in the order of the list, and the runner that made them.
pub(crate) async fn run(
    client: &Client,
    settings: Settings,
    calls: Vec<Call>,
) -> (Vec<Done>, Runner) {
    let mut runner = Runner::of(client.clone(), settings, calls);
    let mut all = Vec::new();
    let collect = async {
        while let Some(done) = runner.next().await {
            all.push(done);
        }
    };
    tokio::time::timeout(SOON * 4, collect)
        .await
        .expect("in time");
    all.sort_by_key(|done| done.index);
    (all, runner)
}
