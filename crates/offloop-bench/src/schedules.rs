//! Many schedules: how late they are fired, spread over time and all at once, on the embedded store.
//!
//! Late is from the due time to the turn that fired it (the ledger's word, kept in the commit of the job)
//! and to the moment when the job's code began.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use offloop_job::{JobId, NodeId, ScheduleName, ScheduleSpec, TaskName, Timestamp, Timing};
use offloop_lane::{TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::clock::{Clock as _, SystemClock};
use offloop_runtime::{RuntimeBuilder, RuntimeHandle, ShutdownPlan};
use offloop_store::{LedgerAsk, LedgerOutcome};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};

use crate::report;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Schedules
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Each is due so often, in milliseconds
    #[arg(long, default_value_t = 20_000)]
    every_ms: u64,
    /// Due times of each
    #[arg(long, default_value_t = 2)]
    times: u64,
    /// Cron expressions that are due at once, instead of intervals that are spread evenly
    #[arg(long)]
    at_once: bool,
}

/// They share commits.
const PUTS_AT_ONCE: usize = 256;

type Begun = Arc<Mutex<HashMap<JobId, Timestamp>>>;

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
    let begun: Begun = Arc::default();
    let seen = Arc::clone(&begun);
    let code = move |context: &offloop_lane::TaskContext| {
        let mut seen = seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.insert(context.work().job, SystemClock.now());
        Ok(TaskOutput::none())
    };
    let lane = CpuLane::builder("cpu")
        .ahead(1024)
        .task(info, Arc::new(code));
    let runtime = RuntimeBuilder::new(Arc::new(store), NodeId("bench".into()))
        .lane(Arc::new(lane.build()))
        .start()?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio.block_on(measure(runtime.handle(), &task, args, &begun))?;
    let (_keep, force) = tokio::sync::oneshot::channel();
    tokio.block_on(runtime.shutdown(ShutdownPlan::default(), force));
    Ok(())
}

fn name(nth: usize) -> anyhow::Result<ScheduleName> {
    Ok(ScheduleName::parse(&format!("s{nth}"))?)
}

async fn measure(
    handle: &RuntimeHandle,
    task: &TaskName,
    args: &Args,
    begun: &Begun,
) -> anyhow::Result<()> {
    let every = Duration::from_millis(args.every_ms);
    // Time to make them all before the first one is due.
    let lead = Duration::from_millis(5_000 + args.count as u64);
    let first = handle.now().plus(lead);
    let last = first.plus(every * u32::try_from(args.times)?);
    let made = std::time::Instant::now();
    let mut puts = tokio::task::JoinSet::new();
    for nth in 0..args.count {
        let timing = if args.at_once {
            Timing::Cron("*/10 * * * * *".into())
        } else {
            Timing::Every(every)
        };
        let share = args.every_ms * nth as u64 / args.count as u64;
        let starts_at = if args.at_once {
            Duration::ZERO
        } else {
            Duration::from_millis(share)
        };
        let spec = ScheduleSpec {
            starts_at: Some(first.plus(starts_at)),
            ends_at: Some(last.minus(Duration::from_millis(1))),
            ..ScheduleSpec::new(task.clone(), timing)
        };
        let (handle, name) = (handle.clone(), name(nth)?);
        puts.spawn(async move { handle.put_schedule(name, spec).await });
        if puts.len() >= PUTS_AT_ONCE
            && let Some(put) = puts.join_next().await
        {
            put??;
        }
    }
    while let Some(put) = puts.join_next().await {
        put??;
    }
    report::print(
        "schedules.put",
        "per s",
        vec![args.count as f64 / made.elapsed().as_secs_f64()],
    );
    anyhow::ensure!(
        handle.now() < first,
        "making them took longer than {lead:?}; give fewer"
    );
    tokio::time::sleep(last.since(handle.now()) + Duration::from_secs(5)).await;
    tell(handle, args.count, begun).await
}

/// What the ledgers say, and when the jobs began.
async fn tell(handle: &RuntimeHandle, count: usize, begun: &Begun) -> anyhow::Result<()> {
    let (mut fired, mut began, mut missed) = (Vec::new(), Vec::new(), 0_u64);
    for nth in 0..count {
        let ask = LedgerAsk {
            name: name(nth)?,
            before: None,
            limit: 500,
        };
        for row in handle.ledger(ask).await?.rows.unwrap_or_default() {
            let LedgerOutcome::Fired { job, .. } = row.outcome else {
                missed += 1;
                continue;
            };
            fired.push(row.late.as_millis() as f64);
            let begun = begun
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(at) = begun.get(&job) {
                began.push(at.since(row.due_at).as_millis() as f64);
            }
        }
    }
    println!(
        "{}",
        serde_json::json!({ "fired": fired.len(), "skipped": missed, "ran": began.len() })
    );
    for (measure, mut late) in [
        ("schedules.fired_late", fired),
        ("schedules.began_late", began),
    ] {
        late.sort_by(f64::total_cmp);
        let at = |share: f64| {
            late.get(((late.len() as f64 - 1.0) * share) as usize)
                .copied()
        };
        let figures = serde_json::json!({ "measure": measure, "unit": "ms",
            "p50": at(0.5), "p99": at(0.99), "max": at(1.0) });
        println!("{figures}");
    }
    Ok(())
}
