//! What limits and fairness cost the store, and what they keep: claims under many keys, a quiet tenant
//! beside a noisy one, bursts of due jobs and of retries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use offloop_job::{
    Backoff, JobId, JobOptions, Limit, LimitTarget, LogTail, NewJob, NodeId, Tag, TaskName,
    Timestamp, Usage, retry_delay,
};
use offloop_lane::{TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{RuntimeBuilder, RuntimeHandle, ShutdownPlan};
use offloop_store::{
    AttemptReport, ClaimRequest, Claimed, InsertBatch, InsertOutcome, JobStore, LimitChange,
    LimitStore, Settlement, Verdict, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use serde_json::json;

use crate::report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Jobs that wait under the keys
    #[arg(long, default_value_t = 1_000_000)]
    jobs: usize,
    /// Keys that they belong to; measured beside a thousand
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Batches of claims that are timed
    #[arg(long, default_value_t = 3_000)]
    claims: usize,
    /// Seconds of the quiet tenant, with and without the noisy one
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Measures by name: keys, noisy, due, retries
    #[arg(long, value_delimiter = ',', default_value = "keys,noisy,due,retries")]
    only: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    println!("{}", report::machine());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    for measure in &args.only {
        match measure.as_str() {
            "keys" => {
                for keys in [1_000, args.keys] {
                    runtime.block_on(keys_blocked(args, keys))?;
                }
            }
            "noisy" => noisy(&runtime, args.seconds)?,
            "due" => runtime.block_on(due_at_once())?,
            "retries" => retries(),
            other => bail!("no measure is called {other}; known are keys, noisy, due, retries"),
        }
    }
    Ok(())
}

const BATCH: usize = 512;
/// Jobs of one timed claim.
const CLAIM: u16 = 64;

struct Filled {
    store: SqliteStore,
    began: Instant,
    task: TaskName,
    _folder: tempfile::TempDir,
}

impl Filled {
    fn open() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(".")?;
        let options = SqliteOptions::new(folder.path().join("data"), 1);
        Ok(Self {
            store: SqliteStore::open(options)?,
            began: Instant::now(),
            task: TaskName::parse("t")?,
            _folder: folder,
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000).plus(self.began.elapsed())
    }

    fn job(&self, change: impl FnOnce(&mut JobOptions)) -> NewJob {
        let mut options = JobOptions::default();
        change(&mut options);
        NewJob {
            task: self.task.clone(),
            payload: Bytes::from_static(b"{}"),
            options,
            idempotency: None,
        }
    }

    async fn insert(&self, jobs: Vec<NewJob>) -> anyhow::Result<()> {
        let batch = InsertBatch {
            now: self.now(),
            jobs,
            records: Vec::new(),
            request: None,
        };
        self.store.insert(batch).await?;
        Ok(())
    }

    async fn limit(&self, target: &str, limit: Limit) -> anyhow::Result<()> {
        let change = LimitChange {
            origin: offloop_store::Origin::Api,
            now: self.now(),
            target: LimitTarget::parse(target)?,
            limit: Some(limit),
            actor: "bench".into(),
        };
        self.store.set_limit(change).await?;
        Ok(())
    }

    async fn claim(&self, limit: u16) -> anyhow::Result<Vec<Claimed>> {
        let ask = ClaimRequest {
            now: self.now(),
            node: NodeId("bench".into()),
            wants: vec![Want {
                tasks: [self.task.clone()].into(),
                limit,
            }],
        };
        Ok(self.store.claim(ask).await?.jobs)
    }

    async fn settle(&self, claimed: &[Claimed]) -> anyhow::Result<()> {
        let end = |job: &Claimed| Settlement {
            id: job.id,
            lease: job.lease,
            verdict: Verdict::Completed { result: None },
            report: AttemptReport {
                node: job.node.clone(),
                lane: "cpu".into(),
                executor: "".into(),
                started_at: job.claimed_at,
                ended_at: self.now(),
                wait: Duration::ZERO,
                usage: Usage::default(),
                failure: None,
                log: LogTail::default(),
            },
            records: Vec::new(),
            follow: Vec::new(),
        };
        let ends = claimed.iter().map(end).collect();
        self.store.settle(self.now(), ends).await?;
        Ok(())
    }
}

/// Every key runs as much as it may, but for those that just ended: claims must find these few.
async fn keys_blocked(args: &Args, keys: usize) -> anyhow::Result<()> {
    let store = Filled::open()?;
    let one = Limit {
        concurrency: Some(1),
        ..Limit::default()
    };
    store.limit("key:*", one).await?;
    let names: Vec<Tag> = (0..keys)
        .map(|key| Tag::parse(&format!("tenant-{key}")))
        .collect::<Result<_, _>>()?;
    for start in (0..args.jobs).step_by(BATCH) {
        let some = start..args.jobs.min(start + BATCH);
        let job =
            |at: usize| store.job(|options| options.group_key = Some(names[at % keys].clone()));
        store.insert(some.map(job).collect()).await?;
    }
    let mut running = Vec::new();
    loop {
        let claimed = store.claim(BATCH as u16).await?;
        if claimed.is_empty() {
            break;
        }
        running.extend(claimed);
    }
    let blocked = running.len();
    let (mut claims, mut empty) = (Vec::new(), Vec::new());
    for _ in 0..args.claims {
        let ended: Vec<_> = running
            .drain(..usize::from(CLAIM).min(running.len()))
            .collect();
        store.settle(&ended).await?;
        let began = Instant::now();
        let claimed = store.claim(CLAIM).await?;
        claims.push(began.elapsed());
        running.extend(claimed);
        let began = Instant::now();
        let none = store.claim(CLAIM).await?;
        empty.push(began.elapsed());
        running.extend(none);
    }
    tell(
        &format!("claim of {CLAIM} under {keys} keys, {blocked} blocked"),
        claims,
    );
    tell(
        &format!("claim of nothing under {keys} blocked keys"),
        empty,
    );
    Ok(())
}

fn tell(measure: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| {
        let at = ((times.len() - 1) as f64 * part) as usize;
        times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "{}",
        json!({ "measure": measure, "unit": "ms", "p50": at(0.5), "p99": at(0.99), "max": at(1.0), "count": times.len() })
    );
}

/// One job's run.
const RUN: Duration = Duration::from_millis(20);
const QUIET_EVERY: Duration = Duration::from_millis(100);
/// Jobs of the noisy tenant for each of the quiet one.
const NOISE: usize = 100;

fn noisy(runtime: &tokio::runtime::Runtime, seconds: u64) -> anyhow::Result<()> {
    let mut p99 = Vec::new();
    for noise in [0, NOISE] {
        let store = Filled::open()?;
        let task = store.task.clone();
        let info = TaskInfo {
            name: task.clone(),
            timeout: None,
            about: "".into(),
        };
        // Sleeps, so that what is measured is the order, not the machine.
        let lane = CpuLane::builder("cpu").threads(2).task(
            info,
            Arc::new(|_| {
                std::thread::sleep(RUN);
                Ok(TaskOutput::none())
            }),
        );
        let server = RuntimeBuilder::new(Arc::new(store.store), NodeId("bench".into()))
            .lane(Arc::new(lane.build()))
            .start()?;
        let waits = runtime.block_on(quiet(server.handle(), &task, seconds, noise))?;
        let (_keep, force) = tokio::sync::oneshot::channel();
        let plan = ShutdownPlan {
            drain: Duration::ZERO,
            ..ShutdownPlan::default()
        };
        runtime.block_on(server.shutdown(plan, force));
        let mut sorted = waits.clone();
        sorted.sort_unstable();
        let at = sorted.len() * 99 / 100;
        p99.push(sorted.get(at).copied().unwrap_or_default());
        tell(
            &format!("pickup of a quiet tenant beside {noise} times as much"),
            waits,
        );
    }
    let [alone, beside] = p99[..] else {
        bail!("two rounds make two figures")
    };
    println!(
        "{}",
        json!({ "measure": "raised by the noisy tenant", "unit": "runs", "value": (beside.as_secs_f64() - alone.as_secs_f64()) / RUN.as_secs_f64() })
    );
    Ok(())
}

/// Waits of the quiet tenant's jobs from due to started.
async fn quiet(
    handle: &RuntimeHandle,
    task: &TaskName,
    seconds: u64,
    noise: usize,
) -> anyhow::Result<Vec<Duration>> {
    let job = |key: &str| -> anyhow::Result<NewJob> {
        Ok(NewJob {
            task: task.clone(),
            payload: Bytes::from_static(b"{}"),
            options: JobOptions {
                group_key: Some(Tag::parse(key)?),
                ..JobOptions::default()
            },
            idempotency: None,
        })
    };
    let (calm, loud) = (job("quiet")?, job("noisy")?);
    let mut ids: Vec<JobId> = Vec::new();
    let rounds = seconds * 1_000 / QUIET_EVERY.as_millis() as u64;
    let mut beat = tokio::time::interval(QUIET_EVERY);
    for round in 0..rounds {
        beat.tick().await;
        if noise > 0 {
            handle.enqueue(vec![loud.clone(); noise]).await?;
        }
        // Not in step with the runs.
        tokio::time::sleep(Duration::from_millis(round * 7 % 50)).await;
        let outcomes = handle.enqueue(vec![calm.clone()]).await?;
        if let Some(InsertOutcome::Created { id, .. }) = outcomes.first() {
            ids.push(*id);
        }
    }
    tokio::time::sleep(RUN * 20).await; // the last ones
    let mut waits = Vec::new();
    for id in ids {
        let job = handle.job(id).await?.context("a quiet job is gone")?;
        let attempt = job.attempts.first().context("a quiet job never ran")?;
        waits.push(attempt.started_at.since(job.summary.due_at));
    }
    Ok(waits)
}

const DUE: usize = 100_000;

/// Jobs whose time comes in one second, beside as many that were ready all along.
async fn due_at_once() -> anyhow::Result<()> {
    const ROUNDS: usize = 5;
    let ready = |_: usize| None;
    let in_order = |at: usize| Some((at * 1_000 / DUE) as u64);
    // Neighbours in the order of their time lie on pages of their own.
    let scattered = |at: usize| Some((at % 1_000) as u64);
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        rates[0].push(rate_of_due(ready).await?);
        rates[1].push(rate_of_due(in_order).await?);
        rates[2].push(rate_of_due(scattered).await?);
    }
    let [steady, in_order, scattered] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[ROUNDS / 2]
    });
    for (order, rate) in [
        ("in the order of their ids", in_order),
        ("scattered", scattered),
    ] {
        println!(
            "{}",
            json!({ "measure": format!("100,000 jobs due in one second, {order}"), "unit": "jobs/s", "rounds": ROUNDS, "steady": steady, "at_once": rate, "ratio": rate / steady })
        );
    }
    Ok(())
}

/// Jobs per second, claimed and settled; `within` gives the millisecond in which one is due, if it is
/// not ready at once.
async fn rate_of_due(within: impl Fn(usize) -> Option<u64>) -> anyhow::Result<f64> {
    let store = Filled::open()?;
    let soon = store.now().plus(Duration::from_secs(30));
    for start in (0..DUE).step_by(BATCH) {
        let job = |at: usize| {
            let due = within(at).map(|ms| soon.plus(Duration::from_millis(ms)));
            store.job(|options| options.run_at = due)
        };
        let some = start..DUE.min(start + BATCH);
        store.insert(some.map(job).collect()).await?;
    }
    let began = Instant::now();
    store
        .store
        .promote(soon.plus(Duration::from_secs(1)))
        .await?;
    let mut done = 0;
    while done < DUE {
        let claimed = store.claim(BATCH as u16).await?;
        store.settle(&claimed).await?;
        done += claimed.len();
    }
    Ok(DUE as f64 / began.elapsed().as_secs_f64())
}

/// When 10,000 jobs that failed together come back, with the default backoff.
fn retries() {
    const JOBS: u32 = 10_000;
    let backoff = Backoff::default();
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    for failed in 1..=6_u16 {
        let mut seconds = vec![0_u32; 1 << failed];
        for _ in 0..JOBS {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let roll = (dice >> 11) as f64 / (1_u64 << 53) as f64;
            let after = retry_delay(&backoff, failed, roll).as_secs() as usize;
            if let Some(second) = seconds.get_mut(after) {
                *second += 1;
            }
        }
        let used = 1_usize << (failed - 1);
        let most = seconds.iter().max().copied().unwrap_or(0);
        let mean = f64::from(JOBS) / used as f64;
        println!(
            "{}",
            json!({ "measure": format!("retries after {failed} failures together"), "unit": "of the mean second", "busiest": f64::from(most) / mean, "seconds": used })
        );
    }
}
