//! What the disk allows, and what the store does alone, without HTTP and without lanes: the
//! distance that the rest of the path costs.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use offloop_job::{JobOptions, LogTail, NewJob, NodeId, TaskName, Timestamp, Usage};
use offloop_store::{
    AttemptReport, ClaimRequest, Claimed, InsertBatch, JobStore, Settlement, Verdict, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};

use super::Bench;
use crate::tell::Figure;

/// Jobs per second of the store alone; `None` until measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreAlone {
    pub(super) add: Option<f64>,
    pub(super) bulk: Option<f64>,
    pub(super) life: Option<f64>,
}

/// The kind of file system that a folder is on.
pub(super) fn file_system(folder: &Path) -> anyhow::Result<String> {
    let folder = folder.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut best = ("", "");
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(at), Some(kind)) = (fields.next(), fields.next())
            && folder.starts_with(at)
            && at.len() >= best.0.len()
        {
            best = (at, kind);
        }
    }
    Ok(best.1.to_owned())
}

/// The median cost of a flush: 16 KiB written over what is there, as into a log that has started
/// over.
pub(super) fn flush_us(folder: &Path) -> anyhow::Result<f64> {
    const PIECES: u64 = 300;
    let file = tempfile::tempfile_in(folder)?;
    let piece = vec![7_u8; 16 << 10];
    let mut costs = Vec::new();
    for round in 0..2 {
        for at in 0..PIECES {
            file.write_all_at(&piece, at * piece.len() as u64)?;
            let began = Instant::now();
            file.sync_data()?;
            if round == 1 {
                costs.push(began.elapsed());
            }
        }
    }
    costs.sort_unstable();
    let median = costs.get(costs.len() / 2).context("no flush was timed")?;
    Ok(median.as_secs_f64() * 1e6)
}

/// Rounds of the store alone: 50 callers, batches of 512 with four in flight, whole lives.
pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let flush = Figure::new("fdatasync of 16 KiB", "us", vec![bench.flush_us]);
    bench.add(flush);
    let folder = bench.program.fresh()?;
    let alone = Alone {
        store: Arc::new(SqliteStore::open(SqliteOptions::new(folder.path(), 1))?),
        began: Instant::now(),
        task: TaskName::parse("offloop.noop")?,
    };
    // The callers have one thread, the store's writer another.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()?;
    let (mut add, mut bulk, mut life) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        add.push(runtime.block_on(alone.add(bench.jobs(100_000)))?);
        bulk.push(runtime.block_on(alone.bulk(bench.jobs(400_000)))?);
        runtime.block_on(alone.drain())?;
        life.push(runtime.block_on(alone.life(bench.jobs(200_000)))?);
    }
    let figures = [
        Figure::new("store alone: insert by 50 callers", "jobs/s", add),
        Figure::new("store alone: insert in batches of 512", "jobs/s", bulk),
        Figure::new("store alone: life in batches of 512", "jobs/s", life),
    ];
    bench.store = StoreAlone {
        add: Some(figures[0].ours.median()),
        bulk: Some(figures[1].ours.median()),
        life: Some(figures[2].ours.median()),
    };
    for figure in figures {
        bench.add(figure);
    }
    Ok(())
}

struct Alone {
    store: Arc<SqliteStore>,
    began: Instant,
    task: TaskName,
}

const CALLERS: usize = 50;
const BATCH: usize = 512;

impl Alone {
    /// No wall clock: a fixed day, and the time that has passed.
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000).plus(self.began.elapsed())
    }

    fn batch(&self, jobs: usize) -> InsertBatch {
        let job = NewJob {
            task: self.task.clone(),
            payload: Bytes::from_static(b"{}"),
            options: JobOptions::default(),
            idempotency: None,
        };
        InsertBatch {
            now: self.now(),
            jobs: vec![job; jobs],
            records: Vec::new(),
            request: None,
        }
    }

    async fn add(&self, jobs: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        let callers = (0..CALLERS).map(|_| {
            let store = Arc::clone(&self.store);
            let batch = self.batch(1);
            tokio::spawn(async move {
                for _ in 0..jobs / CALLERS {
                    store.insert(batch.clone()).await?;
                }
                Ok::<_, offloop_store::StoreError>(())
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await??;
        }
        Ok(jobs as f64 / began.elapsed().as_secs_f64())
    }

    async fn bulk(&self, jobs: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut flying = std::collections::VecDeque::new();
        for _ in 0..jobs.div_ceil(BATCH) {
            if flying.len() == 4
                && let Some(first) = flying.pop_front()
            {
                let first: tokio::task::JoinHandle<_> = first;
                let _: Vec<_> = first.await??;
            }
            flying.push_back(tokio::spawn(self.store.insert(self.batch(BATCH))));
        }
        for last in flying {
            last.await??;
        }
        Ok(jobs as f64 / began.elapsed().as_secs_f64())
    }

    fn ask(&self) -> ClaimRequest {
        ClaimRequest {
            now: self.now(),
            node: NodeId("bench".into()),
            wants: vec![Want {
                tasks: Arc::from([self.task.clone()]),
                limit: BATCH as u16,
            }],
        }
    }

    fn ends(&self, claimed: &[Claimed]) -> Vec<Settlement> {
        let now = self.now();
        let end = |job: &Claimed| Settlement {
            id: job.id,
            lease: job.lease,
            verdict: Verdict::Completed { result: None },
            report: AttemptReport {
                node: NodeId("bench".into()),
                lane: "cpu".into(),
                executor: "offloop-cpu-0".into(),
                started_at: now,
                ended_at: now,
                wait: Duration::from_millis(3),
                usage: Usage::default(),
                failure: None,
                log: LogTail::default(),
            },
            records: Vec::new(),
            follow: vec![],
        };
        claimed.iter().map(end).collect()
    }

    /// New jobs, claims and ends side by side, as a busy server calls.
    async fn life(&self, jobs: usize) -> anyhow::Result<f64> {
        let began = Instant::now();
        let (mut sent, mut done) = (0, 0);
        let mut claimed = Vec::new();
        while done < jobs {
            let size = BATCH.min(jobs - sent);
            sent += size;
            let insert = self.store.insert(self.batch(size));
            let settle = self.store.settle(self.now(), self.ends(&claimed));
            let claim = self.store.claim(self.ask());
            insert.await?;
            done += settle.await?.len();
            claimed = claim.await?.jobs;
        }
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }

    /// Lives out what the inserts have left.
    async fn drain(&self) -> anyhow::Result<()> {
        loop {
            let claimed = self.store.claim(self.ask()).await?.jobs;
            if claimed.is_empty() {
                return Ok(());
            }
            self.store.settle(self.now(), self.ends(&claimed)).await?;
        }
    }
}
