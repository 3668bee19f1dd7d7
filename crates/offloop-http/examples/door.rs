//! A door with three tasks, for a look at the dashboard and for measuring the door alone.
//! `cargo run --release -p offloop-http --example door [ADDRESS] [FOLDER|memory] [TOKEN]`: with a
//! folder the jobs are durable in SQLite.

use std::sync::Arc;
use std::time::Duration;

use offloop_http::{Door, DoorConfig};
use offloop_job::{NodeId, TaskName};
use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};
use offloop_lane_cpu::CpuLane;
use offloop_runtime::{RuntimeBuilder, ShutdownPlan};
use offloop_store::Engine;
use offloop_store_memory::{MemoryOptions, MemoryStore};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};

fn info(name: &str, about: &str) -> Result<TaskInfo, offloop_job::NameError> {
    Ok(TaskInfo {
        name: TaskName::parse(name)?,
        timeout: None,
        about: about.into(),
    })
}

fn sleep(context: &TaskContext) -> Result<TaskOutput, TaskError> {
    for step in 0..50 {
        if context.should_stop() {
            return Err(TaskError::stopped());
        }
        context.progress(format!("{{\"step\":{step},\"of\":50}}"))?;
        context.log(&format!("step {step}"));
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(TaskOutput::json("{\"slept_ms\":5000}"))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments
        .next()
        .unwrap_or("127.0.0.1:7878".into())
        .parse()?;
    let lane = CpuLane::builder("cpu")
        .threads(2)
        .task(
            info("noop", "Does nothing.")?,
            Arc::new(|_| Ok(TaskOutput::none())),
        )
        .task(info("sleep", "Takes five seconds.")?, Arc::new(sleep))
        .task(
            info("fail", "Always fails.")?,
            Arc::new(|context| {
                context.log("about to fail");
                Err(TaskError::error("the report has no rows"))
            }),
        )
        .build();
    let seed = u64::from(std::process::id());
    let store: Arc<dyn Engine> = match arguments.next() {
        Some(folder) if folder != "memory" => {
            Arc::new(SqliteStore::open(SqliteOptions::new(folder, seed))?)
        }
        _ => Arc::new(MemoryStore::new(MemoryOptions {
            id_seed: seed,
            queue_jobs_max: 1_000_000,
        })),
    };
    let runtime = RuntimeBuilder::new(store, NodeId(format!("node-{seed}").into()))
        .lane(Arc::new(lane))
        .start()?;
    let doors = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    doors.block_on(async {
        let mut config = DoorConfig::new(listen);
        config.token = arguments.next();
        let listener = Door::listen(&config).await?;
        println!("http://{}/", listener.local_addr()?);
        let closing = async {
            let _ = tokio::signal::ctrl_c().await;
        };
        let report = Door::new(runtime.handle().clone(), config)
            .serve(listener, closing)
            .await?;
        println!("{report:?}");
        let (_force, forced) = tokio::sync::oneshot::channel();
        let plan = ShutdownPlan {
            drain: Duration::from_secs(1),
            stop: Duration::from_secs(1),
        };
        println!("{:?}", runtime.shutdown(plan, forced).await);
        Ok(())
    })
}
