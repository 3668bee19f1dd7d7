//! No-op tasks per second of one worker, streaming and in round trips.
//!
//! `cargo run --release -p offloop-lane-cpu --example throughput`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobId, Lease, TaskName};
use offloop_lane::{Lane, LaneEvent, LaneSink, TaskInfo, TaskOutput, Work, WorkLimits};
use offloop_lane_cpu::CpuLane;

const JOBS: u64 = 2_000_000;
const IN_FLIGHT: u64 = 1_000;
const BATCH: u64 = 64;
const TRIPS: u64 = 50_000;

#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl LaneSink for Counter {
    fn send(&self, event: LaneEvent) {
        if let LaneEvent::Ended(ended) = event {
            std::hint::black_box(&ended);
            self.0.fetch_add(1, Ordering::Release);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = TaskName::parse("noop")?;
    let info = TaskInfo {
        name: name.clone(),
        timeout: None,
        about: "nothing".into(),
    };
    let lane = CpuLane::builder("cpu")
        .threads(1)
        .ahead(4_096)
        .task(info, Arc::new(|_| Ok(TaskOutput::none())))
        .build();
    let done = Arc::new(Counter::default());
    lane.open(done.clone())?;
    let make = |lease: u64| Work {
        job: JobId::from_parts(lease, lease),
        lease: Lease(lease),
        attempt: 1,
        task: name.clone(),
        payload: Bytes::from_static(b"null"),
        priority: 5,
        limits: WorkLimits {
            timeout: Duration::from_secs(3600),
            cpu: None,
            memory_bytes: None,
            stall: None,
        },
        cores: 1,
        deadline: None,
        trace: None,
    };
    for round in 0..5 {
        let from = done.0.load(Ordering::Acquire);
        let begin = Instant::now();
        let mut sent = 0;
        while sent < JOBS {
            while from + sent - done.0.load(Ordering::Acquire) > IN_FLIGHT {
                std::thread::yield_now();
            }
            lane.start((sent..sent + BATCH).map(&make).collect());
            sent += BATCH;
        }
        while done.0.load(Ordering::Acquire) < from + sent {
            std::thread::yield_now();
        }
        let rate = sent as f64 / begin.elapsed().as_secs_f64();
        println!("round {round}: {:.2} M tasks/s streaming", rate / 1e6);
    }
    let from = done.0.load(Ordering::Acquire);
    let begin = Instant::now();
    for trip in 0..TRIPS {
        lane.start(vec![make(trip)]);
        while done.0.load(Ordering::Acquire) <= from + trip {
            std::hint::spin_loop();
        }
    }
    println!(
        "{:.2} us round trip",
        begin.elapsed().as_secs_f64() * 1e6 / TRIPS as f64
    );
    Ok(())
}
