//! A server that freezes, so that one can look at it: the same work inline in a route, as a task on
//! the loop of the io lane, and where it belongs, on the cpu lane.
//!
//! `cargo run -p offloop --example freeze`, then as in docs/guides/pulse.md.
#![allow(clippy::unwrap_used, reason = "an example may stop at once")]

use std::time::{Duration, Instant};

use offloop::http::axum::{Router, extract::Path, routing::get};
use offloop::http::{Door, DoorConfig, PackRoutes};
use offloop::{Builder, Pack, PackError, RuntimeHandle, Setup, TaskContext, TaskError, TaskOutput};
use serde::Deserialize;

#[derive(Deserialize)]
struct Report {
    cpu_ms: u64,
}

/// Half a minute at most.
fn compute(cpu_ms: u64) -> u64 {
    let end = Instant::now() + Duration::from_millis(cpu_ms.min(30_000));
    let mut sum = 0_u64;
    while Instant::now() < end {
        sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
    }
    sum
}

fn report(context: &TaskContext) -> Result<TaskOutput, TaskError> {
    let Report { cpu_ms } = offloop::payload(context)?;
    compute(cpu_ms);
    Ok(TaskOutput::json(format!("\"computed for {cpu_ms} ms\"")))
}

/// `GET /v1/freeze/{cpu_ms}`: computes in its handler.
#[derive(Debug)]
struct Freeze;

impl Pack for Freeze {
    fn name(&self) -> &'static str {
        "freeze"
    }

    fn install(&mut self, _setup: &mut Setup<'_>) -> Result<(), PackError> {
        Ok(())
    }

    fn open(self: Box<Self>, _server: &RuntimeHandle) -> Result<PackRoutes, PackError> {
        let inline = |Path(cpu_ms): Path<u64>| async move {
            compute(cpu_ms);
            format!("computed for {cpu_ms} ms\n")
        };
        Ok(PackRoutes {
            name: "freeze".into(),
            router: Router::new().route("/v1/freeze/{cpu_ms}", get(inline)),
            ..PackRoutes::default()
        })
    }
}

fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let mut server = Builder::in_memory(std::env::temp_dir().join("offloop-freeze"))
        .io_task("report.inline", |context| async move { report(&context) })
        .unwrap()
        .cpu_task("report", report)
        .unwrap()
        .pack(Freeze)
        .start()
        .unwrap();
    let doors = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listen = std::env::args().nth(1);
    let listen = listen.as_deref().unwrap_or("127.0.0.1:7979");
    let config = DoorConfig::new(listen.parse().unwrap());
    let door = server.door(config.clone());
    doors.block_on(async {
        let listener = Door::listen(&config).await.unwrap();
        println!("http://{listen}/ freezes on demand; end it with Ctrl-C");
        door.serve(listener, std::future::pending()).await.unwrap();
    });
}
