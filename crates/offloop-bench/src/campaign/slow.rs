//! L2: thousands of connections that send or read next to nothing, and one honest client beside
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::honest::Honest;
use super::http::Client;
use super::oracle::ask;
use super::server::Server;
use super::{Run, p99, rounded, spread};

const CONNECTIONS: usize = 2_000;
/// One byte each.
const BYTE_EVERY: Duration = Duration::from_secs(5);
/// The door's own deadlines.
const HEADER: Duration = Duration::from_secs(10);
const SLOW_WINDOW: Duration = Duration::from_secs(30);
/// A reader's window begins when the kernel's buffers on its way are full.
const BUFFERS_FILL: Duration = Duration::from_secs(6);
/// For the sweeper's pause and two busy cores.
const SLACK: Duration = Duration::from_secs(4);
const HONEST_FOR: Duration = Duration::from_secs(5);
/// Below this, "twice as long" is noise of the machine.
const HONEST_FLOOR: Duration = Duration::from_millis(10);
/// Connections that stay: the honest client's and ours.
const OURS: u64 = 4;
const PAYLOAD_BYTES: usize = 200_000;
const PIPELINED: usize = 16;
/// One answer in hand, and what a connection takes besides.
const BYTES_EACH: u64 = PAYLOAD_BYTES as u64 + (64 << 10);
const BYTES_BESIDE: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slow {
    Headers,
    Bodies,
    Readers,
}

impl Slow {
    const ALL: [(Self, &'static str, Duration); 3] = [
        (Self::Headers, "headers", HEADER),
        (Self::Bodies, "bodies", SLOW_WINDOW),
        (
            Self::Readers,
            "readers",
            SLOW_WINDOW.saturating_add(BUFFERS_FILL),
        ),
    ];
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let connections = run.cycles.map_or(CONNECTIONS, |number| number as usize);
    let setup = run.setup("[packs.photos]\nenabled = false")?;
    let mut server = setup.start()?;
    let mut client = setup.client();
    let path = large_job(&mut client)?;
    let base = server.memory("VmRSS");
    let honest = Honest::jobs(&setup);
    std::thread::sleep(HONEST_FOR);
    let before = honest.finish();
    run.figure("connections", connections);
    run.figure("honest_before_ms", spread(&before));
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    for (slow, name, deadline) in Slow::ALL {
        // Opening them keeps our own half of the machine busy: told, and not held against the server.
        let opening = Honest::jobs(&setup);
        let stop = Arc::new(AtomicBool::new(false));
        let opened = tokio.block_on(open(slow, connections, setup.address, &path, &stop))?;
        run.figure(
            &format!("{name}_opening_honest_ms"),
            spread(&opening.finish()),
        );
        let honest = Honest::jobs(&setup);
        let seen = wait_closed(&mut client, &server, connections, opened, deadline + SLACK)?;
        stop.store(true, Ordering::Release);
        let during = honest.finish();
        run.figure(&format!("{name}_open_at_most"), seen.most);
        run.figure(&format!("{name}_rss_mib"), seen.rss >> 20);
        run.figure(&format!("{name}_honest_ms"), spread(&during));
        match seen.closed {
            Some(after) => run.figure(&format!("{name}_closed_s"), rounded(after.as_secs_f64())),
            None => run.breach(format!(
                "{name}: {} still open after {deadline:?} + {SLACK:?}",
                seen.left
            )),
        }
        let budget = base + connections as u64 * BYTES_EACH + BYTES_BESIDE;
        if seen.rss > budget {
            run.breach(format!(
                "{name}: {} MiB; the budget is {}",
                seen.rss >> 20,
                budget >> 20
            ));
        }
        if seen.most < connections as u64 * 9 / 10 {
            run.breach(format!(
                "{name}: only {} connections were open at once",
                seen.most
            ));
        }
        if p99(&during) > (p99(&before) * 2).max(HONEST_FLOOR) {
            run.breach(format!(
                "{name}: honest p99 {:?}, before {:?}",
                p99(&during),
                p99(&before)
            ));
        }
    }
    if server.has_ended() {
        run.breach("the server ended");
    }
    Ok(())
}

/// A job whose answer is large; its path.
fn large_job(client: &mut Client) -> anyhow::Result<String> {
    let large = json!({ "task": "offloop.noop", "payload": "x".repeat(PAYLOAD_BYTES) });
    let answer = client.post("/v1/jobs", &large);
    let answer = answer
        .map_err(|error| anyhow::anyhow!("the large job: {error:?}"))?
        .json();
    Ok(format!(
        "/v1/jobs/{}",
        answer["id"].as_str().unwrap_or_default()
    ))
}

struct Seen {
    most: u64,
    left: u64,
    rss: u64,
    closed: Option<Duration>,
}

/// By the server's own count.
fn wait_closed(
    client: &mut Client,
    server: &Server,
    connections: usize,
    opened: Instant,
    limit: Duration,
) -> anyhow::Result<Seen> {
    let mut seen = Seen {
        most: 0,
        left: 0,
        rss: 0,
        closed: None,
    };
    loop {
        let text = String::from_utf8(ask(client, "/metrics")?.body)?;
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("offloop_http_connections "));
        let Some(count) = count.and_then(|count| count.parse().ok()) else {
            bail!("/metrics has no count of connections");
        };
        seen.most = seen.most.max(count);
        seen.left = count;
        seen.rss = seen.rss.max(server.memory("VmRSS"));
        if count <= OURS && seen.most > connections as u64 / 2 {
            seen.closed = Some(opened.elapsed());
            return Ok(seen);
        }
        if opened.elapsed() > limit {
            return Ok(seen);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Opens all of them; when the last one was open.
async fn open(
    slow: Slow,
    connections: usize,
    to: std::net::SocketAddr,
    path: &str,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Instant> {
    for _ in 0..connections {
        let socket = TcpSocket::new_v4()?;
        if slow == Slow::Readers {
            socket.set_recv_buffer_size(4_096)?;
        }
        let mut stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let (start, rest) = match slow {
            Slow::Headers => ("G".to_owned(), "ET / HTTP/1.1\r\nhost: localhost\r\n"),
            Slow::Bodies => {
                let kind = "content-type: application/json\r\ncontent-length: 10000\r\n";
                let head = format!("POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\n{kind}\r\n");
                (head, "{\"task\": \"offloop.noop\", ")
            }
            Slow::Readers => {
                let one = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
                (one.repeat(PIPELINED), "")
            }
        };
        stream.write_all(start.as_bytes()).await?;
        tokio::spawn(dribble(stream, rest.as_bytes(), Arc::clone(stop)));
    }
    Ok(Instant::now())
}

/// A byte now and then, in or out, until the other side has had enough.
async fn dribble(mut stream: TcpStream, rest: &'static [u8], stop: Arc<AtomicBool>) {
    let mut rest = rest.iter();
    let sends = !rest.as_slice().is_empty();
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(BYTE_EVERY).await;
        let went = if let Some(byte) = rest.next() {
            stream.write_all(&[*byte]).await.is_ok()
        } else if sends {
            true
        } else {
            stream.read_u8().await.is_ok()
        };
        if !went {
            return;
        }
    }
}
