//! From the 201 to the start of the attempt, while other jobs come at half of what the server can.
//!
//! The load is one open NDJSON body, paced by time and not by answers; probes are sent at their
//! times beside it. Their start is heard on the event stream, by the monotonic clock of the bench:
//! the way of the answer and that of the event are both inside the figure.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use super::Bench;
use super::conn::{Conn, Stream};
use super::server::Server;
use super::speed::{NOOP, lives, unfinished};
use crate::tell::{Figure, quantiles};

const PROBE: &str = r#"{"task":"offloop.noop","queue":"probe","payload":{}}"#;
const PROBE_EVERY: Duration = Duration::from_millis(5);
const STEP: Duration = Duration::from_millis(2);
const SECONDS: f64 = 6.0;

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let folder = bench.program.fresh()?;
    let server = bench.program.serve(folder.path(), &[])?;
    let jobs = bench.jobs(200_000);
    lives(&server, jobs / 4)?;
    let full = jobs as f64 / lives(&server, jobs)?.as_secs_f64();
    let span = Duration::from_secs_f64((SECONDS * bench.scale).max(0.5));
    let (mut halves, mut tails, mut worst) = (Vec::new(), Vec::new(), Vec::new());
    let (mut whole, mut whole_tails, mut wait_ms) = (Vec::new(), Vec::new(), Vec::new());
    let mut loads = Vec::new();
    for _ in 0..bench.rounds {
        let (mut waits, load) = under_load(&server, full / 2.0, span, heard)?;
        let (p50, p99, max) = quantiles(&mut waits);
        halves.push(p50);
        tails.push(p99);
        worst.push(max);
        loads.push(load);
        let (found, _) = under_load(&server, full / 2.0, span, answered)?;
        let mut waits: Vec<_> = found.iter().map(|found| found.0).collect();
        let (p50, p99, _) = quantiles(&mut waits);
        whole.push(p50);
        whole_tails.push(p99);
        wait_ms.extend(found.iter().map(|found| found.1));
    }
    wait_ms.sort_unstable();
    let recorded = wait_ms.get(wait_ms.len() * 99 / 100);
    let more = json!({
        "life_jobs_per_s": full,
        "load_jobs_per_s": loads,
        "recorded_wait_ms_p99": recorded,
        "recorded_wait_ms_max": wait_ms.last(),
    });
    bench.add(Figure::new("pickup p50 at half load", "ms", halves).more(more));
    bench.add(Figure::new("pickup p99 at half load", "ms", tails).below(5.0));
    bench.add(Figure::new("pickup max at half load", "ms", worst));
    bench.add(Figure::new(
        "POST with wait to the end, p50 at half load",
        "ms",
        whole,
    ));
    bench.add(Figure::new(
        "POST with wait to the end, p99 at half load",
        "ms",
        whole_tails,
    ));
    server.end()
}

type Probe<T> = fn(&Server, Duration) -> anyhow::Result<Vec<T>>;

/// Probes beside a paced load; also what the load came to.
fn under_load<T: Send>(
    server: &Server,
    rate: f64,
    span: Duration,
    probe: Probe<T>,
) -> anyhow::Result<(Vec<T>, f64)> {
    let over = AtomicBool::new(false);
    let over = &over;
    std::thread::scope(|scope| {
        let load = scope.spawn(move || flow(server, rate, over));
        std::thread::sleep(Duration::from_millis(300)); // the load has begun
        let found = probe(server, span);
        over.store(true, Ordering::Release);
        let load = load
            .join()
            .map_err(|_| anyhow::anyhow!("the load panicked"))??;
        let mut conn = server.connect()?;
        while unfinished(&mut conn)? > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok((found?, load))
    })
}

/// A body that goes on at this rate until it is over. Answers the rate that it reached.
fn flow(server: &Server, rate: f64, over: &AtomicBool) -> anyhow::Result<f64> {
    let mut conn = server.connect()?;
    let head = "POST /v1/jobs?answer=summary HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    conn.socket.write_all(head.as_bytes())?;
    let line = format!("{NOOP}\n");
    let began = Instant::now();
    let mut sent = 0_usize;
    let mut chunk = Vec::new();
    while !over.load(Ordering::Acquire) {
        let due = (began.elapsed().as_secs_f64() * rate) as usize;
        if due > sent {
            chunk.clear();
            write!(chunk, "{:x}\r\n", line.len() * (due - sent))?;
            for _ in sent..due {
                chunk.extend_from_slice(line.as_bytes());
            }
            chunk.extend_from_slice(b"\r\n");
            conn.socket.write_all(&chunk)?;
            sent = due;
        }
        std::thread::sleep(STEP);
    }
    let reached = sent as f64 / began.elapsed().as_secs_f64();
    conn.socket.write_all(b"0\r\n\r\n")?;
    conn.answer()?.expect(200)?;
    Ok(reached)
}

/// Calls `probe` at its times for as long as `span`; one that is late goes at once.
fn probes(span: Duration, mut probe: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut at = Duration::ZERO;
    while at < span {
        if let Some(left) = at.checked_sub(began.elapsed()) {
            std::thread::sleep(left);
        }
        probe()?;
        at += PROBE_EVERY;
    }
    Ok(())
}

/// From the 201 to the news of the start.
fn heard(server: &Server, span: Duration) -> anyhow::Result<Vec<Duration>> {
    let mut events = server.connect()?.stream("/v1/events?queue=probe")?;
    let socket = events.socket()?;
    let mut conn = server.connect()?;
    std::thread::scope(|scope| {
        let listener = scope.spawn(move || starts(&mut events));
        let mut taken = Vec::new();
        let sent = probes(span, || {
            let answer = conn.post("/v1/jobs", "", PROBE)?.expect(201)?;
            taken.push((id_of(&answer.body)?, Instant::now()));
            Ok(())
        });
        std::thread::sleep(Duration::from_millis(300)); // the last starts are heard
        socket.shutdown(std::net::Shutdown::Both)?;
        let started = listener
            .join()
            .map_err(|_| anyhow::anyhow!("the listener panicked"))?;
        sent?;
        taken
            .into_iter()
            .map(|(id, at)| {
                let start = started
                    .get(&id)
                    .with_context(|| format!("no start of {id}"))?;
                Ok(start.saturating_duration_since(at))
            })
            .collect()
    })
}

/// When each job's start was heard, until the stream ends.
fn starts(events: &mut Stream) -> HashMap<String, Instant> {
    let mut found = HashMap::new();
    while let Some(line) = events.line() {
        let at = Instant::now();
        if memchr::memmem::find(&line, b"\"kind\":\"started\"").is_none() {
            continue;
        }
        if let Some(id) = between(&line, b"\"job\":\"") {
            found.insert(id, at);
        }
    }
    found
}

/// The text behind `mark`, up to the next quote.
fn between(text: &[u8], mark: &[u8]) -> Option<String> {
    let at = memchr::memmem::find(text, mark)? + mark.len();
    let end = memchr::memchr(b'"', &text[at..])?;
    String::from_utf8(text[at..at + end].to_vec()).ok()
}

fn id_of(body: &[u8]) -> anyhow::Result<String> {
    between(body, b"\"id\":\"").context("no id in the answer")
}

/// From the POST to the final answer, and the wait that the server wrote down.
fn answered(server: &Server, span: Duration) -> anyhow::Result<Vec<(Duration, u64)>> {
    let mut conn: Conn = server.connect()?;
    let mut found = Vec::new();
    probes(span, || {
        let began = Instant::now();
        let answer = conn.post("/v1/jobs", "prefer: wait=10\r\n", PROBE)?;
        let took = began.elapsed();
        let job = answer.expect(200)?.json()?;
        let waited = job["attempts"][0]["wait_ms"].as_u64();
        found.push((took, waited.context("no attempt in the answer")?));
        Ok(())
    })?;
    Ok(found)
}
