//! Loads into PostgreSQL, measured and killed.
//!
//! - `bench_load speed URL FILE ROUNDS [SCRIPT]`: this pack's load of FILE beside `psql \copy` of the
//!   same file into the same table, and `node SCRIPT URL FILE` if there is one, in turns; rows a second,
//!   medians, spread and the ratios. bench/rivals/ingest.sh runs it.
//! - `bench_load kill URL FILE KILLS`: kills a process that loads FILE, KILLS times at random places (the
//!   seed is printed), goes on to the end, and holds count and checksum against those of `\copy`.
//! - `bench_load slow`: a load into a sink that takes 20 ms for a batch; memory at a quarter of the
//!   input and at its end.
//! - `bench_load child URL FILE`: what `kill` kills.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on is to stop")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use offloop_ingest::load::{Feed, Load, LoadAsk, LoadId, Loader, Settings, Summary, feed};
use offloop_ingest::sink::postgres::{PostgresOutlet, PostgresSettings};
use offloop_ingest::sink::{BatchNote, Outlet, Reply, Resumed, RowSink, Stored, Totals};
use offloop_ingest::{Batch, RawTarget, Target};

const TARGET: &str = r#"
sink = "postgres"
table = "offloop_asn"
header = "none"
columns = [{ name = "first", type = "text" }, { name = "last", type = "text" },
  { name = "asn", type = "int8" }, { name = "name", type = "text" }]
batch = { rows = 20000, bytes = "2MiB", time = "1s" }
"#;
const TABLE: &str = "DROP TABLE IF EXISTS offloop_asn, offloop_ingest_loads, offloop_ingest_batches; \
    CREATE TABLE offloop_asn (first text, last text, asn bigint, name text)";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[1..] {
        ["speed", url, file, rounds] => speed(url, Path::new(file), rounds.parse().unwrap(), None),
        ["speed", url, file, rounds, script] => {
            speed(url, Path::new(file), rounds.parse().unwrap(), Some(script));
        }
        ["kill", url, file, kills] => kill(url, Path::new(file), kills.parse().unwrap()),
        ["child", url, file] => {
            let summary = load(url, Path::new(file), true);
            println!("ended {} {}", summary.rows_stored, summary.rows_rejected);
        }
        ["slow"] => slow(),
        _ => eprintln!("bench_load speed|kill|slow ...; see the top of its source"),
    }
}

fn folder() -> PathBuf {
    std::env::temp_dir().join("offloop-bench-load")
}

fn target() -> Target {
    let raw: RawTarget = toml::from_str(TARGET).unwrap();
    raw.resolve("asn").unwrap()
}

fn read_into(feed: Feed, file: &Path) {
    let mut file = std::fs::File::open(file).unwrap();
    loop {
        let mut piece = BytesMut::zeroed(256 << 10);
        let count = file.read(&mut piece).unwrap();
        if count == 0 {
            let _ended = feed.end_blocking();
            return;
        }
        piece.truncate(count);
        if feed.send_blocking(piece.freeze()).is_err() {
            return;
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn begin(outlet: Arc<dyn Outlet>) -> Load {
    let loader = Loader::new(Settings::new(folder()), [(target(), outlet)]).unwrap();
    let ask = LoadAsk {
        load: LoadId::parse("bench").unwrap(),
        target: "asn".into(),
        tenant: None,
        bytes_total: None,
    };
    loader.load(ask).unwrap()
}

/// One load on a fresh runtime; says how many rows are stored if `says`.
fn load(url: &str, file: &Path, says: bool) -> Summary {
    let outlet = PostgresOutlet::new(&target(), url, PostgresSettings::default()).unwrap();
    let load = begin(Arc::new(outlet));
    let mut watch = load.watch();
    let (to, from) = feed();
    let file = file.to_owned();
    std::thread::spawn(move || read_into(to, &file));
    runtime().block_on(async {
        let running = tokio::spawn(load.run(from));
        while watch.changed().await.is_ok() {
            let stored = watch.borrow_and_update().rows_stored;
            if says {
                println!("stored {stored}");
            }
        }
        running.await.unwrap().unwrap()
    })
}

#[expect(clippy::disallowed_methods, reason = "the rival is a program")]
fn psql(url: &str, commands: &[&str]) -> String {
    let mut psql = Command::new("psql");
    psql.args(["-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", url]);
    for command in commands {
        psql.args(["-c", command]);
    }
    let output = psql.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn fresh(url: &str) {
    psql(
        url,
        &["SET client_min_messages = error", TABLE, "CHECKPOINT"],
    );
    let _none = std::fs::remove_dir_all(folder());
}

fn speed(url: &str, file: &Path, rounds: usize, script: Option<&str>) {
    let copy = format!("\\copy offloop_asn from '{}' csv", file.display());
    let mut times: [Vec<f64>; 3] = Default::default();
    let mut rows = 0;
    for _ in 0..rounds {
        let mut sums = Vec::new();
        let mut timed = |at: usize, deed: &mut dyn FnMut()| {
            fresh(url);
            let begun = Instant::now();
            deed();
            times[at].push(begun.elapsed().as_secs_f64());
            sums.push(checksum(url));
        };
        timed(0, &mut || rows = load(url, file, false).rows_stored);
        timed(1, &mut || {
            psql(url, &[&copy]);
        });
        if let Some(script) = script {
            timed(2, &mut || node(script, url, file));
        }
        let same = sums.windows(2).all(|pair| pair[0] == pair[1]);
        assert!(same, "not the same rows: {sums:?}");
    }
    let names = ["offloop-ingest", "psql \\copy", "csv-parse+unnest"];
    let mut ours = 0.0;
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let Some(median) = times.get(times.len() / 2).copied() else {
            continue;
        };
        if ours == 0.0 {
            ours = median;
        }
        println!(
            "{name:17} {:>9.0} rows/s (median of {rounds}: {median:.2} s, {:.2} to {:.2}); ours is {:.2} times as fast",
            rows as f64 / median,
            times[0],
            times[times.len() - 1],
            median / ours
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "the rival is a program")]
fn node(script: &str, url: &str, file: &Path) {
    let status = Command::new("node")
        .args([script, url])
        .arg(file)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

/// Of all rows, in any order.
fn checksum(url: &str) -> String {
    let sum = "SELECT count(*), sum(('x' || left(md5(concat_ws('|', first, last, asn, name)), 15))::bit(60)::bigint) FROM offloop_asn";
    psql(url, &[sum])
}

fn kill(url: &str, file: &Path, kills: u32) {
    fresh(url);
    let copy = format!("\\copy offloop_asn from '{}' csv", file.display());
    psql(url, &[&copy]);
    let wanted = checksum(url);
    fresh(url);
    let rows: u64 = wanted.split('|').next().unwrap().parse().unwrap();
    let mut seed = (u64::from(std::process::id()) << 20) | 1;
    println!("seed {seed}, {rows} rows, {kills} kills");
    let mut before = 0;
    for turn in 1..=kills {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Somewhere in what is this turn's share of the rest, and then some microseconds later.
        let share = 2 * (rows - before) / u64::from(kills - turn + 2);
        let at = before + seed % share.max(1);
        let later = Duration::from_micros(seed % 30_000);
        let (stored, ended) = child(url, file, Some((at, later)));
        println!("kill {turn}: {stored} rows said to be stored");
        assert!(!ended, "it ended before it was killed");
        before = stored.max(before);
    }
    let (stored, ended) = child(url, file, None);
    assert!(ended);
    let found = checksum(url);
    println!("stored {stored}; wanted {wanted}, found {found}");
    assert_eq!(found, wanted, "a row is lost or there twice");
    println!("exact");
}

/// Rows that the child said were stored, and whether it came to its end.
fn child(url: &str, file: &Path, kill_at: Option<(u64, Duration)>) -> (u64, bool) {
    #[expect(clippy::disallowed_methods, reason = "a process to kill")]
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", url, &file.display().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stored, mut ended) = (0, false);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        ended |= line.starts_with("ended");
        if let Some(rows) = line.strip_prefix("stored ") {
            stored = rows.parse().unwrap();
        }
        if let Some((at, later)) = kill_at
            && stored >= at
            && stored > 0
        {
            std::thread::sleep(later);
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
    (stored, ended)
}

/// Takes its time, and keeps nothing.
#[derive(Debug)]
struct SlowSink;

impl Outlet for SlowSink {
    fn sink(&self, _load: &LoadId) -> Arc<dyn RowSink> {
        Arc::new(Self)
    }

    fn check(&self) -> Reply<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl RowSink for SlowSink {
    fn resume(&self) -> Reply<'_, Resumed> {
        Box::pin(async { Ok(Resumed::default()) })
    }

    fn store(&self, batch: Arc<Batch>, note: BatchNote) -> Reply<'_, Stored> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let rejects = note.put_aside(&batch, Vec::new()).await?;
            Ok(Stored {
                rows: batch.len() as u64,
                rejects,
            })
        })
    }

    fn finish(&self, _totals: Totals) -> Reply<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// The most that it ever was, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn slow() {
    const PIECES: u64 = 4_000;
    let text = "1.0.0.0,1.0.0.255,13335,\"Cloudflare, Inc.\"\n".repeat(1_500);
    let text = Bytes::from(text);
    println!("before: {} KiB", memory());
    runtime().block_on(async {
        let load = begin(Arc::new(SlowSink));
        let (to, from) = feed();
        let running = tokio::spawn(load.run(from));
        let begun = Instant::now();
        for piece in 0..PIECES {
            to.send(text.clone()).await.unwrap();
            if piece == PIECES / 4 || piece + 1 == PIECES {
                let fed = (piece * text.len() as u64) >> 20;
                let took = begun.elapsed();
                println!("{fed} MiB fed in {took:?}: {} KiB at most", memory());
            }
        }
        to.end().await.unwrap();
        let summary = running.await.unwrap().unwrap();
        println!("{} rows in {:?}", summary.rows_stored, begun.elapsed());
    });
}
