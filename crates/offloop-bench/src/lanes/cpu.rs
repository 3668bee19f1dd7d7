//! The CPU lane beside the thread pools of Rust: one worker each, the same oneshot to wait on, and
//! threads at the same priority.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use offloop_job::TaskName;
use offloop_lane::{Lane, LaneEvent, LaneSink, TaskOutput};
use offloop_lane_cpu::CpuLane;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Bench;
use super::work::{Answer, info, quantile, work};
use crate::tell::{Figure, Goal, Rounds};

const TRIPS: usize = 5_000;
const STREAM: usize = 400_000;
const IN_FLIGHT: u64 = 1_000;
/// Jobs that come in one call, as they do from the store.
const BATCH: u64 = 64;
const HOUR: Duration = Duration::from_secs(3_600);

/// One pool: microseconds of its round trip (median), and tasks per second with many in flight.
trait Contestant {
    fn name(&self) -> &'static str;
    fn trip(&mut self);
    fn stream(&mut self, count: u64) -> Duration;
}

pub(super) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let mut all: Vec<Box<dyn Contestant>> = vec![
        Box::new(Ours::new()?),
        Box::new(Crossbeam::new()),
        Box::new(Rayon::new()?),
        Box::new(Blocking::new()?),
    ];
    let mut trips = vec![Vec::new(); all.len()];
    let mut streams = vec![Vec::new(); all.len()];
    let (count, stream) = (bench.count(TRIPS), bench.count(STREAM) as u64);
    for _ in 0..bench.rounds {
        for (at, one) in all.iter_mut().enumerate() {
            let mut times: Vec<_> = (0..count).map(|_| timed(|| one.trip())).collect();
            trips[at].push(quantile(&mut times, 0.5, 1e6));
            streams[at].push(stream as f64 / one.stream(stream).as_secs_f64());
        }
    }
    let names: Vec<_> = all.iter().map(|one| one.name()).collect();
    let others = |rounds: &[Vec<f64>]| -> Value {
        let told = names.iter().zip(rounds).skip(1);
        told.map(|(name, rounds)| (*name, json!(Rounds::new(rounds.clone()).median())))
            .map(|(name, median)| json!({ "rival": name, "median": median }))
            .collect()
    };
    let (more_trips, more_streams) = (others(&trips), others(&streams));
    bench.add(
        Figure::new(
            "CPU lane round trip, rival crossbeam + oneshot",
            "us",
            trips[0].clone(),
        )
        .rival(trips[1].clone())
        .goal(Goal::AtMostTimesRival(1.2))
        .more(more_trips),
    );
    for (at, name) in names.iter().enumerate().skip(2) {
        bench.add(
            Figure::new(
                format!("CPU lane round trip, rival {name}"),
                "us",
                trips[0].clone(),
            )
            .rival(trips[at].clone()),
        );
    }
    bench.add(
        Figure::new(
            "CPU lane stream of one worker, rival crossbeam",
            "tasks/s",
            streams[0].clone(),
        )
        .rival(streams[1].clone())
        .goal(Goal::AtLeast(1.5e6))
        .more(more_streams),
    );
    for (at, name) in names.iter().enumerate().skip(2) {
        bench.add(
            Figure::new(
                format!("CPU lane stream, rival {name}"),
                "tasks/s",
                streams[0].clone(),
            )
            .rival(streams[at].clone()),
        );
    }
    Ok(())
}

fn timed(body: impl FnOnce()) -> Duration {
    let began = Instant::now();
    body();
    began.elapsed()
}

/// Many tasks, at most [`IN_FLIGHT`] of them under way.
fn streamed(count: u64, done: &AtomicU64, mut send: impl FnMut(u64)) -> Duration {
    let from = done.load(Ordering::Acquire);
    let began = Instant::now();
    let mut sent = 0;
    while sent < count {
        while from + sent - done.load(Ordering::Acquire) > IN_FLIGHT {
            std::thread::yield_now();
        }
        let size = BATCH.min(count - sent);
        send(size);
        sent += size;
    }
    while done.load(Ordering::Acquire) < from + count {
        std::thread::yield_now();
    }
    began.elapsed()
}

struct Ours {
    trips: CpuLane,
    answer: Arc<Answer>,
    streams: CpuLane,
    done: Arc<Count>,
    task: TaskName,
    lease: u64,
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl LaneSink for Count {
    fn send(&self, event: LaneEvent) {
        if let LaneEvent::Ended(ended) = event {
            std::hint::black_box(&ended);
            self.0.fetch_add(1, Ordering::Release);
        }
    }
}

impl Ours {
    fn new() -> anyhow::Result<Self> {
        let lane = || -> anyhow::Result<CpuLane> {
            let handler = Arc::new(|_: &offloop_lane::TaskContext| Ok(TaskOutput::none()));
            // By default its threads are nicer than others: the rivals' are not.
            let lane = CpuLane::builder("cpu").threads(1).nice(0).ahead(4_096);
            Ok(lane.task(info()?, handler).build())
        };
        let (trips, streams) = (lane()?, lane()?);
        let (answer, done) = (Arc::new(Answer::default()), Arc::new(Count::default()));
        trips.open(Arc::<Answer>::clone(&answer))?;
        streams.open(Arc::<Count>::clone(&done))?;
        Ok(Self {
            trips,
            answer,
            streams,
            done,
            task: info()?.name,
            lease: 0,
        })
    }
}

impl Contestant for Ours {
    fn name(&self) -> &'static str {
        "offloop"
    }

    fn trip(&mut self) {
        self.lease += 1;
        let answer = self.answer.expect();
        let null = Bytes::from_static(b"null");
        self.trips
            .start(vec![work(self.lease, &self.task, &null, HOUR)]);
        let _ = answer.blocking_recv(); // a lane that ends its job always answers
    }

    fn stream(&mut self, count: u64) -> Duration {
        let null = Bytes::from_static(b"null");
        let (done, mut lease) = (Arc::clone(&self.done), self.lease);
        let took = streamed(count, &done.0, |size| {
            let batch = (lease..lease + size).map(|lease| work(lease, &self.task, &null, HOUR));
            self.streams.start(batch.collect());
            lease += size;
        });
        self.lease = lease;
        took
    }
}

type Task = Box<dyn FnOnce() + Send>;

struct Crossbeam {
    sender: crossbeam_channel::Sender<Task>,
}

impl Crossbeam {
    fn new() -> Self {
        let (sender, tasks) = crossbeam_channel::unbounded::<Task>();
        std::thread::spawn(move || tasks.into_iter().for_each(|task| task()));
        Self { sender }
    }
}

/// A task that answers, and the wait for it.
fn answered() -> (Task, oneshot::Receiver<()>) {
    let (sender, answer) = oneshot::channel();
    let task = Box::new(move || {
        let _ = sender.send(()); // somebody waits
    });
    (task, answer)
}

fn counted(done: &Arc<AtomicU64>) -> Task {
    let done = Arc::clone(done);
    Box::new(move || {
        done.fetch_add(1, Ordering::Release);
    })
}

impl Contestant for Crossbeam {
    fn name(&self) -> &'static str {
        "crossbeam + oneshot"
    }

    fn trip(&mut self) {
        let (task, answer) = answered();
        let _ = self.sender.send(task); // its thread lives as long as this
        let _ = answer.blocking_recv();
    }

    fn stream(&mut self, count: u64) -> Duration {
        let done = Arc::new(AtomicU64::new(0));
        streamed(count, &done, |size| {
            for _ in 0..size {
                let _ = self.sender.send(counted(&done));
            }
        })
    }
}

struct Rayon {
    pool: rayon::ThreadPool,
}

impl Rayon {
    fn new() -> anyhow::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        Ok(Self {
            pool: pool.context("rayon")?,
        })
    }
}

impl Contestant for Rayon {
    fn name(&self) -> &'static str {
        "rayon spawn"
    }

    fn trip(&mut self) {
        let (task, answer) = answered();
        self.pool.spawn(task);
        let _ = answer.blocking_recv();
    }

    fn stream(&mut self, count: u64) -> Duration {
        let done = Arc::new(AtomicU64::new(0));
        streamed(count, &done, |size| {
            for _ in 0..size {
                self.pool.spawn(counted(&done));
            }
        })
    }
}

struct Blocking {
    runtime: tokio::runtime::Runtime,
}

impl Blocking {
    fn new() -> anyhow::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.max_blocking_threads(1).build()?;
        Ok(Self { runtime })
    }
}

#[expect(clippy::disallowed_methods, reason = "a rival, not a way to do work")]
impl Contestant for Blocking {
    fn name(&self) -> &'static str {
        "tokio spawn_blocking"
    }

    fn trip(&mut self) {
        let (task, answer) = answered();
        self.runtime.spawn_blocking(task);
        let _ = answer.blocking_recv();
    }

    fn stream(&mut self, count: u64) -> Duration {
        let done = Arc::new(AtomicU64::new(0));
        streamed(count, &done, |size| {
            for _ in 0..size {
                self.runtime.spawn_blocking(counted(&done));
            }
        })
    }
}
