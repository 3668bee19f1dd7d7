//! The path alone: enqueue in batches, run a no-op on the CPU lane, settle, all durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobOptions, NewJob, NodeId, TaskName};
use offloop_lane::{TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{RuntimeBuilder, RuntimeHandle, ShutdownPlan};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};

use crate::report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Jobs in one round
    #[arg(long, default_value_t = 200_000)]
    jobs: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Jobs in one enqueue
    #[arg(long, default_value_t = 512)]
    batch: usize,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    println!("{}", report::machine());
    let folder = tempfile::tempdir_in(".")?;
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("data"), 1))?;
    let task = TaskName::parse("noop")?;
    let info = TaskInfo {
        name: task.clone(),
        timeout: None,
        about: "".into(),
    };
    let lane = CpuLane::builder("cpu")
        .ahead(1024)
        .task(info, Arc::new(|_| Ok(TaskOutput::none())));
    let runtime = RuntimeBuilder::new(Arc::new(store), NodeId("bench".into()))
        .lane(Arc::new(lane.build()))
        .start()?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push(tokio.block_on(round(runtime.handle(), &task, args))?);
    }
    report::print("path.life", "jobs/s", rounds);
    let (_keep, force) = tokio::sync::oneshot::channel();
    tokio.block_on(runtime.shutdown(ShutdownPlan::default(), force));
    Ok(())
}

async fn round(handle: &RuntimeHandle, task: &TaskName, args: &Args) -> anyhow::Result<f64> {
    let job = NewJob {
        task: task.clone(),
        payload: Bytes::from_static(b"{}"),
        options: JobOptions::default(),
        idempotency: None,
    };
    let started = Instant::now();
    let mut sent = 0;
    while sent < args.jobs {
        let size = args.batch.min(args.jobs - sent);
        handle.enqueue(vec![job.clone(); size]).await?;
        sent += size;
    }
    loop {
        let queues = handle.queues().await?;
        let counts = queues.iter().map(|queue| queue.counts);
        if counts
            .map(|c| c.ready + c.running + c.scheduled)
            .sum::<u64>()
            == 0
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(args.jobs as f64 / started.elapsed().as_secs_f64())
}
