//! Hundreds of large uploads at once into one table, beside clients of the API: memory, delay, and
//! every row accounted for.
//!
//! Most send all of it. Some fall silent in the middle, some hang up, some are slow: of them the
//! table must hold what the server says it stored, neither more nor less.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::honest::Honest;
use super::http::Client;
use super::procfs::MemoryWatch;
use super::server::{Server, Setup};
use super::table::Place;
use super::{Run, p99, rounded, spread};

const UPLOADS: u32 = 200;
const MEGABYTES: u64 = 100;
const TABLE: &str = "offloop_uploads_campaign";
/// Rows of a block, which is sent over and over; its last row is a bad one.
const BLOCK_ROWS: u64 = 1_024;
const ROW_BYTES: usize = 256;
const BLOCK_BYTES: usize = BLOCK_ROWS as usize * ROW_BYTES;
const IDLE: Duration = Duration::from_secs(10);
/// Between two blocks of a slow sender.
const SLOW_PAUSE: Duration = Duration::from_secs(2);
const SLOW_BLOCKS: u64 = 16;
const QUIET_FOR: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_mins(40);
/// The goal.
const MEMORY: u64 = 64 << 20;
/// Of reads: the goal, with the senders elsewhere.
const DELAY_APART: Duration = Duration::from_millis(5);
/// Of reads where the senders have the server's processors too. Of jobs enqueued it is this and what two
/// flushes of the disk take, the one under way and the job's own: the database flushes the same disk.
const DELAY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Whole,
    Slow,
    /// Sends so many blocks and a half, and nothing more.
    FallsSilent(u64),
    HangsUp(u64),
}

#[derive(Clone, Copy, Debug)]
struct Upload {
    number: u32,
    sender: Sender,
    blocks: u64,
}

/// What the server said of an upload.
#[derive(Debug)]
struct Told {
    upload: Upload,
    status: u16,
    body: Value,
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let number = run.cycles.unwrap_or(UPLOADS);
    let megabytes = run.megabytes.unwrap_or(MEGABYTES);
    let blocks = (megabytes * 1_000_000 / BLOCK_BYTES as u64).max(4);
    let place = Place::of(run);
    let setup = run.setup(&config(&place)?)?;
    // Before anything is started that keeps to the other processors.
    let elsewhere = run.apart.then(set_apart).transpose()?;
    let server = setup.start()?;
    let probe = probe(&setup)?;
    let (idle, before) = quiet(&setup, &server, &probe);
    run.figure("uploads", number);
    run.figure("megabytes_each", megabytes);
    run.figure("place", place.name());
    run.figure("apart", run.apart);
    run.figure("idle_rss_mib", idle >> 20);
    run.figure("quiet_reads_ms", spread(&before.0));
    run.figure("quiet_jobs_ms", spread(&before.1));

    let uploads: Vec<_> = (0..number).map(|at| choose(run, at, blocks)).collect();
    let memory = MemoryWatch::start(server.pid());
    let (reads, jobs) = (Honest::reads(&setup, probe), Honest::jobs(&setup));
    let flushes = Honest::flushes(&run.folder)?;
    let began = Instant::now();
    let told = send_all(setup.address, &uploads, elsewhere)?;
    let took = began.elapsed();
    let (reads, jobs, flushes) = (reads.finish(), jobs.finish(), flushes.finish());
    let most = memory.finish();

    run.figure("took_s", rounded(took.as_secs_f64()));
    run.figure("rss_over_idle_mib", most.saturating_sub(idle) >> 20);
    run.figure("reads_ms", spread(&reads));
    run.figure("jobs_ms", spread(&jobs));
    run.figure("flushes_ms", spread(&flushes));
    if most.saturating_sub(idle) > MEMORY {
        run.breach(format!(
            "{} MiB over idle; the goal is {}",
            (most - idle) >> 20,
            MEMORY >> 20
        ));
    }
    let of_reads = if run.apart { DELAY_APART } else { DELAY };
    let of_jobs = DELAY + 2 * p99(&flushes);
    for (what, times, limit) in [("reads", &reads, of_reads), ("jobs", &jobs, of_jobs)] {
        let p99 = p99(times);
        if p99 > limit {
            run.breach(format!("p99 of {what} is {p99:?}; the limit is {limit:?}"));
        }
    }
    account(run, &setup, &place, &told, took)
}

/// A path to read: a job that has ended.
fn probe(setup: &Setup) -> anyhow::Result<String> {
    let answer = setup
        .client()
        .post("/v1/jobs", &json!({ "task": "offloop.noop" }));
    let answer = answer.map_err(|error| anyhow::anyhow!("the first job: {error:?}"))?;
    let id = answer.json()["id"].as_str().map(str::to_owned);
    Ok(format!(
        "/v1/jobs/{}",
        id.context("the first job has no id")?
    ))
}

/// Memory and delays of a server that only has its clients of the API.
fn quiet(setup: &Setup, server: &Server, probe: &str) -> (u64, (Vec<Duration>, Vec<Duration>)) {
    let (reads, jobs) = (Honest::reads(setup, probe.to_owned()), Honest::jobs(setup));
    std::thread::sleep(QUIET_FOR);
    let times = (reads.finish(), jobs.finish());
    (server.memory("VmRSS"), times)
}

fn choose(run: &mut Run, number: u32, blocks: u64) -> Upload {
    let sender = match number % 25 {
        3 => Sender::FallsSilent(run.dice.between(0, blocks - 1)),
        11 => Sender::HangsUp(run.dice.between(0, blocks - 1)),
        19 => Sender::Slow,
        _ => Sender::Whole,
    };
    let blocks = match sender {
        Sender::Slow => SLOW_BLOCKS.min(blocks),
        _ => blocks,
    };
    Upload {
        number,
        sender,
        blocks,
    }
}

impl Upload {
    const fn is_cut(&self) -> bool {
        matches!(self.sender, Sender::FallsSilent(_) | Sender::HangsUp(_))
    }
}

/// Rows 1, 2, 3 ... of one upload; the last one's number is none.
fn block(number: u32) -> Vec<u8> {
    let mut text = String::with_capacity(BLOCK_BYTES);
    for row in 1..=BLOCK_ROWS {
        let start = text.len();
        let _ = if row == BLOCK_ROWS {
            write!(text, "{number:04},none,")
        } else {
            write!(text, "{number:04},{row:04},")
        }; // text takes everything
        while text.len() < start + ROW_BYTES - 1 {
            text.push(char::from(b'a' + (text.len() % 26) as u8));
        }
        text.push('\n');
    }
    text.into_bytes()
}

/// This thread, and what it starts, leaves the last processor, which is the answer, to others.
fn set_apart() -> anyhow::Result<CpuSet> {
    let mut rest = sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| rest.is_set(*cpu));
    let last = last.filter(|_| rest.count() > 1);
    let last = last.context("--apart takes two processors at least")?;
    rest.unset(last);
    sched_setaffinity(None, &rest)?;
    let mut one = CpuSet::new();
    one.set(last);
    Ok(one)
}

fn send_all(
    to: SocketAddr,
    uploads: &[Upload],
    elsewhere: Option<CpuSet>,
) -> anyhow::Result<Vec<Told>> {
    let all = std::thread::scope(|scope| {
        let senders = scope.spawn(|| {
            if let Some(cpu) = &elsewhere {
                sched_setaffinity(None, cpu)?;
            }
            send_behind(to, uploads)
        });
        senders.join()
    });
    all.unwrap_or_else(|_panic| bail!("the senders broke off"))
}

/// In a thread that gives way to the clients whose delay is measured: senders are mostly elsewhere.
fn send_behind(to: SocketAddr, uploads: &[Upload]) -> anyhow::Result<Vec<Told>> {
    let _usual_is_well = rustix::process::nice(10);
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio.block_on(async {
        let all: Vec<_> = uploads
            .iter()
            .map(|one| tokio::spawn(send(to, *one)))
            .collect();
        let mut told = Vec::new();
        for (at, one) in all.into_iter().enumerate() {
            let one = tokio::time::timeout(LIMIT, one).await;
            let one = one.context("an upload never ended")??;
            told.push(one.with_context(|| format!("upload {at}"))?);
        }
        Ok(told)
    })
}

async fn send(to: SocketAddr, upload: Upload) -> anyhow::Result<Told> {
    let block = block(upload.number);
    let mut stream = TcpStream::connect(to).await?;
    let length = upload.blocks * BLOCK_BYTES as u64;
    let head = format!(
        "POST /v1/ingest/uploads-campaign?load=upload-{} HTTP/1.1\r\nhost: {to}\r\n\
         content-type: text/csv\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n",
        upload.number
    );
    stream.write_all(head.as_bytes()).await?;
    let blocks = match upload.sender {
        Sender::Whole | Sender::Slow => upload.blocks,
        Sender::FallsSilent(blocks) | Sender::HangsUp(blocks) => blocks,
    };
    for _ in 0..blocks {
        // A refusal may be there before everything is taken.
        if stream.write_all(&block).await.is_err() {
            break;
        }
        if upload.sender == Sender::Slow {
            tokio::time::sleep(SLOW_PAUSE).await;
        }
    }
    if upload.is_cut() {
        let half = &block[..BLOCK_BYTES / 2 + 100];
        let _ = stream.write_all(half).await; // refused already
    }
    let mut text = Vec::new();
    if !matches!(upload.sender, Sender::HangsUp(_)) {
        stream.read_to_end(&mut text).await?;
    }
    let (status, body) = super::http::parse(&text);
    Ok(Told {
        upload,
        status,
        body,
    })
}

/// Compares what was sent, what the server says of it, and what the table holds.
fn account(
    run: &mut Run,
    setup: &Setup,
    place: &Place,
    told: &[Told],
    took: Duration,
) -> anyhow::Result<()> {
    let mut client = setup.client();
    let held = rows(place)?;
    let mut rows = 0;
    for one in told {
        let load = wait_ended(&mut client, one.upload.number)?;
        let (count, sum) = held.get(&one.upload.number).copied().unwrap_or_default();
        rows += count;
        if let Err(what) = judge(one, &load, count, sum) {
            let number = one.upload.number;
            run.breach(format!(
                "upload {number}: {what}: {count} rows, {load}, {one:?}"
            ));
        }
    }
    let bytes = rows as f64 * ROW_BYTES as f64;
    let cut = told.iter().filter(|one| one.upload.is_cut()).count();
    run.figure("rows", rows);
    run.figure("cut", cut);
    run.figure("mb_per_s", rounded(bytes / 1e6 / took.as_secs_f64()));
    Ok(())
}

/// One upload: `count` rows of it are in the table, their numbers make `sum`.
fn judge(told: &Told, load: &Value, count: u64, sum: u64) -> Result<(), &'static str> {
    const GOOD: u64 = BLOCK_ROWS - 1;
    const ONCE: u64 = GOOD * BLOCK_ROWS / 2;
    if load["stored"].as_u64() != Some(count) {
        return Err("the server's record and the table differ");
    }
    let blocks = told.upload.blocks;
    let sent = match told.upload.sender {
        Sender::Whole | Sender::Slow => {
            if told.status != 200 || told.body["stored"].as_u64() != Some(count) {
                return Err("not answered as stored");
            }
            if (count, sum) != (blocks * GOOD, blocks * ONCE) {
                return Err("rows are missing, or there twice");
            }
            if load["rejected"].as_u64() != Some(blocks) {
                return Err("the bad rows are not those that were sent");
            }
            return Ok(());
        }
        Sender::FallsSilent(sent) => {
            if told.status != 408 || told.body["stored"].as_u64() != Some(count) {
                return Err("who fell silent was not told what is stored");
            }
            sent
        }
        Sender::HangsUp(sent) => sent,
    };
    // Its complete rows in their order, as far as they were taken.
    let (whole, part) = (count / GOOD, count % GOOD);
    if count > (sent + 1) * GOOD || sum != whole * ONCE + part * (part + 1) / 2 {
        return Err("the rows are no beginning of what was sent");
    }
    Ok(())
}

/// The load's view once it has ended.
fn wait_ended(client: &mut Client, number: u32) -> anyhow::Result<Value> {
    let path = format!("/v1/ingest/loads/upload-{number}");
    let began = Instant::now();
    loop {
        let answer = client
            .get(&path)
            .map_err(|error| anyhow::anyhow!("{path}: {error:?}"))?;
        let load = answer.json();
        if matches!(load["state"].as_str(), Some("stored" | "failed")) {
            return Ok(load);
        }
        if began.elapsed() > Duration::from_mins(1) {
            bail!("{path} does not end: {load}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Declares the target, whose table is empty afterwards.
fn config(place: &Place) -> anyhow::Result<String> {
    place.ask(&format!(
        "drop table if exists {TABLE}; drop table if exists offloop_ingest_batches; \
         drop table if exists offloop_ingest_loads"
    ))?;
    let (more, sink) = place.declared()?;
    let idle = IDLE.as_secs();
    Ok(format!(
        "[ingest]\nloads = 1000\ntenant_loads = 1000\nidle = \"{idle}s\"\n{more}\n\
         [ingest.targets.uploads-campaign]\n{sink}\ntable = \"{TABLE}\"\ncreate = true\n\
         header = \"none\"\ncolumns = [\n{{ name = \"upload\", type = \"int4\" }},\n\
         {{ name = \"row\", type = \"int4\" }},\n{{ name = \"body\", type = \"text\" }},\n]"
    ))
}

/// For each upload the count of its rows and the sum of their numbers.
fn rows(place: &Place) -> anyhow::Result<HashMap<u32, (u64, u64)>> {
    let text = place.ask(&format!(
        "select upload, count(*), sum(\"row\") from {TABLE} group by upload"
    ))?;
    let row = |line: &str| {
        let mut parts = line.split('|').map(str::parse::<u64>);
        let mut next = || parts.next()?.ok();
        Some((next()? as u32, (next()?, next()?)))
    };
    let rows = text
        .lines()
        .map(|line| row(line).with_context(|| line.to_owned()));
    rows.collect()
}
