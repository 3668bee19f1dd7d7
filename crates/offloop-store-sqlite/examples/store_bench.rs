//! What the store does alone, without HTTP, beside what the disk allows.
//!
//! `cargo run --release -p offloop-store-sqlite --example store_bench -- [MODE] [--folder DIR]
//! [--runs N] [--finished ROWS]`
//!
//! Modes: `sync`, `insert` (50 callers, one job each), `bulk` (batches of 512), `life` (insert,
//! claim and settle in batches of 64 and 512), `reopen` (a million queued jobs), `all`.
//! Figures are medians with the slowest and fastest run.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobOptions, LogTail, NewJob, NodeId, TaskName, Timestamp, Usage};
use offloop_store::{
    AttemptReport, ClaimRequest, Claimed, InsertBatch, JobQuery, JobStore, ListRequest, Settlement,
    Verdict, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};

const CALLERS: usize = 50;

struct Bench {
    folder: PathBuf,
    runs: usize,
    finished: usize,
    began: Instant,
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let mut bench = Bench {
        folder: std::env::temp_dir(),
        runs: 5,
        finished: 0,
        began: Instant::now(),
    };
    let mut mode = "all".to_owned();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--folder" => bench.folder = value()?.into(),
            "--runs" => bench.runs = value()?.parse()?,
            "--finished" => bench.finished = value()?.parse()?,
            _ => mode = word,
        }
    }
    println!(
        "SQLite {}, WAL, flushed before each answer, folder {}, {} finished rows, medians of {}",
        SqliteStore::sqlite_version(),
        bench.folder.display(),
        bench.finished,
        bench.runs
    );
    // The callers have one thread, the store's writer another: the two cores of a small machine.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()?;
    let all = mode == "all";
    if all || mode == "sync" {
        bench.sync()?;
    }
    if all || mode == "insert" {
        bench.repeat("insert, 50 callers, 1 job each", |b, store| {
            runtime.block_on(b.insert_by_callers(store, 100_000))
        })?;
    }
    if all || mode == "bulk" {
        for in_flight in [1, 4] {
            let title = format!("insert, batches of 512, {in_flight} in flight");
            bench.repeat(&title, |b, store| {
                runtime.block_on(b.bulk(store, 400_000, 512, in_flight))
            })?;
        }
    }
    if all || mode == "life" {
        for batch in [64, 512] {
            let title = format!("full life, batches of {batch}, call by call");
            bench.repeat(&title, |b, store| {
                runtime.block_on(b.lives(store, 200_000, batch))
            })?;
            let title = format!("full life, batches of {batch}, calls overlap");
            bench.repeat(&title, |b, store| {
                runtime.block_on(b.lives_overlapped(store, 200_000, batch))
            })?;
        }
    }
    if all || mode == "reopen" {
        runtime.block_on(bench.reopen(1_000_000))?;
    }
    Ok(())
}

impl Bench {
    /// No wall clock: a fixed day, and the time that has passed.
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000).plus(self.began.elapsed())
    }

    fn job() -> NewJob {
        NewJob {
            task: TaskName::parse("bench.noop").expect("a legal name"),
            payload: Bytes::from_static(br#"{"user":4711,"file":"report.pdf"}"#),
            options: JobOptions::default(),
            idempotency: None,
        }
    }

    fn batch(&self, jobs: usize) -> InsertBatch {
        InsertBatch {
            now: self.now(),
            jobs: vec![Self::job(); jobs],
            records: Vec::new(),
            request: None,
        }
    }

    fn ask(&self, limit: usize) -> ClaimRequest {
        ClaimRequest {
            now: self.now(),
            node: NodeId("bench".into()),
            wants: vec![Want {
                tasks: Arc::from([Self::job().task]),
                limit: limit as u16,
            }],
        }
    }

    fn settlements(&self, claimed: &[Claimed]) -> Vec<Settlement> {
        let now = self.now();
        let end = |job: &Claimed| Settlement {
            id: job.id,
            lease: job.lease,
            verdict: Verdict::Completed {
                result: Some(Bytes::from_static(br#"{"pages":12}"#)),
            },
            report: AttemptReport {
                node: NodeId("bench".into()),
                lane: "cpu".into(),
                executor: "thread 1".into(),
                started_at: now,
                ended_at: now,
                wait: Duration::from_millis(3),
                usage: Usage {
                    wall: Duration::from_micros(250),
                    cpu: Some(Duration::from_micros(240)),
                    max_rss_bytes: None,
                    bytes_in: 33,
                    bytes_out: 12,
                    executor_age: Some(Duration::from_secs(60)),
                },
                failure: None,
                log: LogTail::default(),
            },
            records: Vec::new(),
            follow: vec![],
        };
        claimed.iter().map(end).collect()
    }

    fn open(folder: &Path) -> Fallible<SqliteStore> {
        Ok(SqliteStore::open(SqliteOptions::new(folder, 7))?)
    }

    /// Runs on a store of its own each, with the finished rows that were asked for.
    fn repeat(
        &self,
        title: &str,
        run: impl Fn(&Self, Arc<SqliteStore>) -> Fallible<f64>,
    ) -> Fallible<()> {
        let folder = tempfile::tempdir_in(&self.folder)?;
        let mut rates = Vec::new();
        let mut costs = Vec::new();
        let store = Arc::new(Self::open(folder.path())?);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        // Its writer is there and has its name when it has answered.
        runtime.block_on(store.promote(self.now()))?;
        if self.finished > 0 {
            runtime.block_on(self.lives(Arc::clone(&store), self.finished, 1_024))?;
        }
        for _ in 0..self.runs {
            let before = writer_seconds()?;
            let began = Instant::now();
            let rate = run(self, Arc::clone(&store))?;
            let jobs = rate * began.elapsed().as_secs_f64();
            costs.push((writer_seconds()? - before) * 1e6 / jobs);
            rates.push(rate);
        }
        rates.sort_by(f64::total_cmp);
        costs.sort_by(f64::total_cmp);
        let cost = costs[costs.len() / 2];
        let (low, high) = (rates[0], rates[rates.len() - 1]);
        println!(
            "{title:<50} {:>9.0} /s   ({low:.0} to {high:.0}), writer {cost:.2} us each",
            rates[rates.len() / 2]
        );
        Ok(())
    }

    async fn insert_by_callers(&self, store: Arc<SqliteStore>, jobs: usize) -> Fallible<f64> {
        let began = Instant::now();
        let base = self.now();
        let callers = (0..CALLERS).map(|_| {
            let (store, job) = (Arc::clone(&store), Self::job());
            tokio::spawn(async move {
                for _ in 0..jobs / CALLERS {
                    let batch = InsertBatch {
                        now: base.plus(began.elapsed()),
                        jobs: vec![job.clone()],
                        records: Vec::new(),
                        request: None,
                    };
                    store.insert(batch).await.expect("inserted");
                }
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await?;
        }
        Ok(jobs as f64 / began.elapsed().as_secs_f64())
    }

    async fn bulk(
        &self,
        store: Arc<SqliteStore>,
        jobs: usize,
        batch: usize,
        in_flight: usize,
    ) -> Fallible<f64> {
        let began = Instant::now();
        let mut flying = std::collections::VecDeque::new();
        for _ in 0..jobs / batch {
            if flying.len() == in_flight {
                flying.pop_front().ok_or("none in flight")?.await??;
            }
            flying.push_back(tokio::spawn(store.insert(self.batch(batch))));
        }
        for last in flying {
            last.await??;
        }
        Ok(jobs as f64 / began.elapsed().as_secs_f64())
    }

    async fn lives(&self, store: Arc<SqliteStore>, jobs: usize, batch: usize) -> Fallible<f64> {
        let began = Instant::now();
        let mut done = 0;
        while done < jobs {
            store.insert(self.batch(batch)).await?;
            let claimed = store.claim(self.ask(batch)).await?.jobs;
            let settled = store.settle(self.now(), self.settlements(&claimed)).await?;
            done += settled.len();
        }
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }

    /// As a busy server calls: new jobs, claims and ends arrive side by side.
    async fn lives_overlapped(
        &self,
        store: Arc<SqliteStore>,
        jobs: usize,
        batch: usize,
    ) -> Fallible<f64> {
        let began = Instant::now();
        let mut done = 0;
        let mut claimed = Vec::new();
        while done < jobs {
            let insert = store.insert(self.batch(batch));
            let settle = store.settle(self.now(), self.settlements(&claimed));
            let claim = store.claim(self.ask(batch));
            insert.await?;
            done += settle.await?.len();
            claimed = claim.await?.jobs;
        }
        store.settle(self.now(), self.settlements(&claimed)).await?;
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }

    /// What one flush costs here: 16 KiB written over what is there, as into a log that has
    /// started over.
    fn sync(&self) -> Fallible<()> {
        let file = tempfile::tempfile_in(&self.folder)?;
        let piece = vec![7_u8; 16 << 10];
        let mut costs = Vec::new();
        for round in 0..2 {
            costs.clear();
            for at in 0..500_u64 {
                file.write_all_at(&piece, at * piece.len() as u64)?;
                let began = Instant::now();
                file.sync_data()?;
                costs.push(began.elapsed());
            }
            costs.sort();
            let kind = ["growing file", "written over"][round];
            let (half, p99) = (costs[250].as_micros(), costs[495].as_micros());
            println!("fdatasync, 16 KiB, {kind:<31} {half:>9} us   (p99 {p99} us)");
        }
        Ok(())
    }

    async fn reopen(&self, jobs: usize) -> Fallible<()> {
        let folder = tempfile::tempdir_in(&self.folder)?;
        let store = Arc::new(Self::open(folder.path())?);
        self.bulk(Arc::clone(&store), jobs / 1_024 * 1_024 + 1_024, 1_024, 2)
            .await?;
        let full = resident_mib()?;
        store.close().await?;
        drop(store);
        let mut costs = Vec::new();
        for _ in 0..self.runs {
            let began = Instant::now();
            let store = Self::open(folder.path())?;
            let queues = store.queues(self.now()).await?;
            costs.push(began.elapsed());
            assert!(queues[0].counts.ready >= jobs as u64);
            let claimed = store.claim(self.ask(10)).await?.jobs;
            assert_eq!(claimed.len(), 10);
        }
        costs.sort();
        println!(
            "reopen with {jobs} queued jobs                     {:>9} ms   ({} to {})",
            costs[costs.len() / 2].as_millis(),
            costs[0].as_millis(),
            costs[costs.len() - 1].as_millis()
        );
        let store = Self::open(folder.path())?;
        let ask = ListRequest {
            now: self.now(),
            filter: offloop_store::JobFilter::default(),
            limit: 50,
            cursor: None,
        };
        let began = Instant::now();
        store.jobs(ask).await?;
        println!("first page of the list: {} us", began.elapsed().as_micros());
        let (after, size) = (
            resident_mib()?,
            folder.path().join("offloop.db").metadata()?.len(),
        );
        println!(
            "resident: {full} MiB after queueing, {after} MiB after reopening; file {} MiB",
            size >> 20
        );
        Ok(())
    }
}

/// Processor time of the writer thread: what a job costs however busy the machine is.
fn writer_seconds() -> Fallible<f64> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.trim() == "store-write" {
            let stat = std::fs::read_to_string(task.join("schedstat"))?;
            let ns = stat.split_whitespace().next().ok_or("no schedstat")?;
            return Ok(ns.parse::<f64>()? / 1e9);
        }
    }
    Err("no writer thread".into())
}

fn resident_mib() -> Fallible<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.ok_or("no VmRSS")?.parse::<u64>()? >> 10)
}
