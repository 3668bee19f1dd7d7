//! What a job costs on one worker, beside a crossbeam channel with a oneshot, rayon's `spawn` and
//! tokio's `spawn_blocking`, in interleaved rounds of one run. Round trip of 64 bytes, no-op tasks
//! per second with 1,000 in flight, and what the submitter pays. The last line is JSON.
//!
//! `cargo run --release -p offloop-lane-cpu --example throughput [rounds]`

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{JobId, Lease, Outcome, TaskName};
use offloop_lane::{Lane, LaneEvent, LaneSink, TaskInfo, TaskOutput, Work, WorkLimits};
use offloop_lane_cpu::CpuLane;
use tokio::sync::oneshot;

const ROUNDS_DEFAULT: usize = 7;
const TRIPS: usize = 5_000;
const STREAM: u64 = 300_000;
const IN_FLIGHT: u64 = 1_000;
const BATCH: u64 = 64;
const SUBMITS: usize = 20;
const PAYLOAD: [u8; 64] = [b'7'; 64];
/// Leases of jobs that only hold the worker.
const HOLDS: Lease = Lease(1 << 63);

type Failure = Box<dyn std::error::Error>;
type Reply = oneshot::Sender<Bytes>;
type Closure = Box<dyn FnOnce() + Send>;

/// One worker, and the ways of giving it work.
trait Pool {
    fn name(&self) -> &'static str;
    /// There and back, the caller asleep on a oneshot meanwhile.
    fn trip(&self) -> Result<(), Failure>;
    /// So many no-ops; each adds one to `done`.
    fn submit(&self, count: u64);
    fn done(&self) -> u64;
    /// Processor time of the worker until now.
    fn worker_cpu(&self) -> Result<Duration, Failure>;
    /// Keeps the worker busy until `release` is set.
    fn hold(&self, release: Arc<AtomicBool>);
}

/// Pools that take a closure.
struct Closures<S> {
    name: &'static str,
    spawn: S,
    done: Arc<AtomicU64>,
}

impl<S: Fn(Closure)> Pool for Closures<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn trip(&self) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let payload = Bytes::copy_from_slice(&PAYLOAD);
        (self.spawn)(Box::new(move || {
            let _ = reply.send(payload);
        }));
        std::hint::black_box(answer.blocking_recv()?);
        Ok(())
    }

    fn submit(&self, count: u64) {
        for _ in 0..count {
            let done = self.done.clone();
            (self.spawn)(Box::new(move || {
                done.fetch_add(1, Ordering::Release);
            }));
        }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    fn worker_cpu(&self) -> Result<Duration, Failure> {
        let (reply, answer) = oneshot::channel();
        (self.spawn)(Box::new(move || {
            let _ = reply.send(own_cpu());
        }));
        Ok(answer.blocking_recv()?)
    }

    fn hold(&self, release: Arc<AtomicBool>) {
        (self.spawn)(Box::new(move || wait_for(&release)));
    }
}

fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn wait_for(release: &AtomicBool) {
    while !release.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_micros(100));
    }
}

#[derive(Debug, Default)]
struct Sink {
    reply: Mutex<Option<Reply>>,
    done: AtomicU64,
}

impl LaneSink for Sink {
    fn send(&self, event: LaneEvent) {
        let LaneEvent::Ended(ended) = event else {
            return;
        };
        if ended.lease == Lease(0) {
            let reply = self
                .reply
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let (Some(reply), Outcome::Completed { result, .. }) = (reply, ended.outcome) {
                let _ = reply.send(result.unwrap_or_default());
            }
        } else if ended.lease < HOLDS {
            self.done.fetch_add(1, Ordering::Release);
        }
    }
}

struct Offloop {
    lane: CpuLane,
    sink: Arc<Sink>,
    next: AtomicU64,
    held: Arc<Mutex<Option<Arc<AtomicBool>>>>,
    echo: TaskName,
    noop: TaskName,
    hold: TaskName,
    cpu: TaskName,
}

impl Offloop {
    fn open() -> Result<Self, Failure> {
        let info = |name: &str| -> Result<TaskInfo, Failure> {
            let name = TaskName::parse(name)?;
            Ok(TaskInfo {
                name,
                timeout: None,
                about: "".into(),
            })
        };
        let (echo, noop, hold) = (info("echo")?, info("noop")?, info("hold")?);
        let cpu = info("cpu")?;
        let held = Arc::new(Mutex::new(None::<Arc<AtomicBool>>));
        let gate = held.clone();
        let made = Self {
            echo: echo.name.clone(),
            noop: noop.name.clone(),
            hold: hold.name.clone(),
            cpu: cpu.name.clone(),
            sink: Arc::default(),
            next: AtomicU64::new(1),
            held,
            lane: CpuLane::builder("cpu")
                .threads(1)
                .nice(0) // as the others: what is compared is the way, not the place in line
                .ahead(4_096)
                .task(
                    echo,
                    Arc::new(|ctx| Ok(TaskOutput::json(ctx.payload().clone()))),
                )
                .task(
                    cpu,
                    Arc::new(|_| Ok(TaskOutput::json(own_cpu().as_nanos().to_string()))),
                )
                .task(noop, Arc::new(|_| Ok(TaskOutput::none())))
                .task(
                    hold,
                    Arc::new(move |_| {
                        let release = gate.lock().unwrap_or_else(PoisonError::into_inner).take();
                        if let Some(release) = release {
                            wait_for(&release);
                        }
                        Ok(TaskOutput::none())
                    }),
                )
                .build(),
        };
        made.lane.open(made.sink.clone())?;
        Ok(made)
    }

    fn ask(&self, task: &TaskName, payload: Bytes) -> Result<Bytes, Failure> {
        let (reply, answer) = oneshot::channel();
        *self
            .sink
            .reply
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(reply);
        self.lane.start(vec![Self::work(task, 0, payload)]);
        Ok(answer.blocking_recv()?)
    }

    fn work(task: &TaskName, lease: u64, payload: Bytes) -> Work {
        Work {
            job: JobId::from_parts(lease, lease),
            lease: Lease(lease),
            attempt: 1,
            task: task.clone(),
            payload,
            priority: 5,
            limits: WorkLimits {
                timeout: Duration::from_secs(3600),
                cpu: None,
                memory_bytes: None,
                stall: None,
                result_bytes: offloop_job::limits::RESULT_BYTES_MAX,
            },
            cores: 1,
            deadline: None,
            checkpoint: None,
            trace: None,
            inputs: std::sync::Arc::default(),
        }
    }
}

impl Pool for Offloop {
    fn name(&self) -> &'static str {
        "offloop"
    }

    fn trip(&self) -> Result<(), Failure> {
        let payload = Bytes::copy_from_slice(&PAYLOAD);
        std::hint::black_box(self.ask(&self.echo, payload)?);
        Ok(())
    }

    fn submit(&self, count: u64) {
        let from = self.next.fetch_add(count, Ordering::Relaxed);
        let make = |lease| Self::work(&self.noop, lease, Bytes::from_static(b"null"));
        self.lane.start((from..from + count).map(make).collect());
    }

    fn done(&self) -> u64 {
        self.sink.done.load(Ordering::Acquire)
    }

    fn worker_cpu(&self) -> Result<Duration, Failure> {
        let nanos = self.ask(&self.cpu, Bytes::new())?;
        Ok(Duration::from_nanos(std::str::from_utf8(&nanos)?.parse()?))
    }

    fn hold(&self, release: Arc<AtomicBool>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(release);
        let lease = HOLDS.0 + self.next.fetch_add(1, Ordering::Relaxed);
        self.lane
            .start(vec![Self::work(&self.hold, lease, Bytes::new())]);
    }
}

/// One round of one pool.
#[derive(Clone, Copy, Default)]
struct Sample {
    trip_p50_us: f64,
    trip_p99_us: f64,
    stream_m_per_s: f64,
    /// By the worker's own processor time: what a busy machine does not change.
    stream_m_per_cpu_s: f64,
    submit_busy_ns: f64,
    submit_parked_us: f64,
}

fn measure(pool: &dyn Pool) -> Result<Sample, Failure> {
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let begin = Instant::now();
        pool.trip()?;
        trips.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    trips.sort_by(f64::total_cmp);

    let cpu = pool.worker_cpu()?;
    let from = pool.done();
    let begin = Instant::now();
    let mut sent = 0;
    while sent < STREAM {
        while from + sent - pool.done() > IN_FLIGHT {
            std::thread::yield_now();
        }
        pool.submit(BATCH);
        sent += BATCH;
    }
    settle(pool, from + sent);
    let stream = sent as f64 / begin.elapsed().as_secs_f64();
    let cpu = pool.worker_cpu()?.saturating_sub(cpu);
    let per_cpu = sent as f64 / cpu.as_secs_f64();

    Ok(Sample {
        trip_p50_us: trips[TRIPS / 2],
        trip_p99_us: trips[TRIPS * 99 / 100],
        stream_m_per_s: stream / 1e6,
        stream_m_per_cpu_s: per_cpu / 1e6,
        submit_busy_ns: submit_busy(pool),
        submit_parked_us: submit_parked(pool),
    })
}

fn settle(pool: &dyn Pool, done: u64) {
    while pool.done() < done {
        std::thread::yield_now();
    }
}

/// Per task, in batches, while the worker is in a job: no wake is needed.
fn submit_busy(pool: &dyn Pool) -> f64 {
    let mut costs: Vec<f64> = Vec::new();
    for _ in 0..SUBMITS {
        let release = Arc::new(AtomicBool::new(false));
        pool.hold(release.clone());
        std::thread::sleep(Duration::from_micros(300));
        let from = pool.done();
        let begin = Instant::now();
        pool.submit(BATCH);
        costs.push(begin.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
        release.store(true, Ordering::Release);
        settle(pool, from + BATCH);
        std::thread::sleep(Duration::from_micros(300));
    }
    costs.sort_by(f64::total_cmp);
    costs[SUBMITS / 2]
}

/// One task while the worker sleeps: the wake is paid by whoever submits.
fn submit_parked(pool: &dyn Pool) -> f64 {
    let mut costs: Vec<f64> = Vec::new();
    for _ in 0..SUBMITS {
        std::thread::sleep(Duration::from_millis(1));
        let from = pool.done();
        let begin = Instant::now();
        pool.submit(1);
        costs.push(begin.elapsed().as_secs_f64() * 1e6);
        settle(pool, from + 1);
    }
    costs.sort_by(f64::total_cmp);
    costs[SUBMITS / 2]
}

fn crossbeam() -> Box<dyn Pool> {
    let (to, from) = crossbeam_channel::unbounded::<Closure>();
    std::thread::spawn(move || from.iter().for_each(|task| task()));
    Box::new(Closures {
        name: "crossbeam+oneshot",
        spawn: move |task| drop(to.send(task)),
        done: Arc::default(),
    })
}

fn rayon() -> Result<Box<dyn Pool>, Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    Ok(Box::new(Closures {
        name: "rayon spawn",
        spawn: move |task: Closure| pool.spawn(task),
        done: Arc::default(),
    }))
}

fn tokio() -> Result<Box<dyn Pool>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .build()?;
    let spawn = move |task: Closure| drop(runtime.spawn_blocking(task));
    Ok(Box::new(Closures {
        name: "tokio spawn_blocking",
        spawn,
        done: Arc::default(),
    }))
}

struct Figure {
    median: f64,
    least: f64,
    most: f64,
}

fn figure(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Figure {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    Figure {
        median: values[values.len() / 2],
        least: values[0],
        most: values[values.len() - 1],
    }
}

type Column = (&'static str, fn(&Sample) -> f64);

const COLUMNS: [Column; 6] = [
    ("trip_p50_us", |s| s.trip_p50_us),
    ("trip_p99_us", |s| s.trip_p99_us),
    ("stream_m_per_s", |s| s.stream_m_per_s),
    ("stream_m_per_cpu_s", |s| s.stream_m_per_cpu_s),
    ("submit_busy_ns", |s| s.submit_busy_ns),
    ("submit_parked_us", |s| s.submit_parked_us),
];

fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split(": ").nth(1))
        .unwrap_or("unknown");
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{model}, {cores} processors, Linux {}, load {}",
        kernel.trim(),
        read("/proc/loadavg").trim()
    )
}

fn main() -> Result<(), Failure> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(ROUNDS_DEFAULT), |text| text.parse())?;
    let pools: Vec<Box<dyn Pool>> =
        vec![Box::new(Offloop::open()?), crossbeam(), rayon()?, tokio()?];
    println!("{}", machine());
    println!(
        "crossbeam-channel 0.5, rayon 1.12, tokio 1.54; {rounds} interleaved rounds after one of warming up\n"
    );
    let mut samples: Vec<Vec<Sample>> = pools.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        for at in 0..pools.len() {
            let at = (at + round) % pools.len();
            let sample = measure(&*pools[at])?;
            if round > 0 {
                samples[at].push(sample);
            }
        }
    }
    let mut json = Vec::new();
    for (pool, samples) in pools.iter().zip(&samples) {
        println!("{}", pool.name());
        let mut fields = Vec::new();
        for (name, of) in COLUMNS {
            let Figure {
                median,
                least,
                most,
            } = figure(samples, of);
            println!("  {name:<18} {median:>9.2}  ({least:.2} to {most:.2})");
            fields.push(format!(
                "\"{name}\":{{\"median\":{median:.3},\"min\":{least:.3},\"max\":{most:.3}}}"
            ));
        }
        json.push(format!("\"{}\":{{{}}}", pool.name(), fields.join(",")));
    }
    let ratio = |of: fn(&Sample) -> f64| {
        let pairs = samples[0].iter().zip(&samples[1]);
        let mut ratios: Vec<f64> = pairs.map(|(own, other)| of(own) / of(other)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    };
    let (p50, p99) = (ratio(|s| s.trip_p50_us), ratio(|s| s.trip_p99_us));
    println!(
        "\nround trip against crossbeam + oneshot, median of the rounds' ratios: p50 {p50:.2}, p99 {p99:.2}"
    );
    // Bimodal: where the worker is quicker than the caller falls asleep, nobody sleeps at all.
    for (pool, samples) in pools.iter().zip(&samples) {
        let trips = samples
            .iter()
            .map(|sample| format!("{:.1}", sample.trip_p50_us));
        println!(
            "p50 by round: {:<21} {}",
            pool.name(),
            trips.collect::<Vec<_>>().join(" ")
        );
    }
    println!(
        "{{\"machine\":\"{}\",\"rounds\":{rounds},{},\"trip_p50_ratio\":{p50:.3},\"trip_p99_ratio\":{p99:.3}}}",
        machine().replace('"', "'"),
        json.join(",")
    );
    Ok(())
}
