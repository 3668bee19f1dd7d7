//! The experiment: a server for each way to work, loaded and probed in turn.
//!
//! `subject` is the server under test, `load` sends it work, `probe` asks it for `/`, `proc` reads
//! what it holds. Must never: measure in the process that is measured.

mod http;
mod load;
mod machine;
mod probe;
mod proc;
mod quantiles;
mod subject;

pub use subject::ServerCommand;

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use offloop::pulse::processes::processors;

use crate::report::{HangUp, Parameters, Probe, Record, Row, WorkDone, conclusion};
use crate::server::raise_open_files;
use crate::strategy::Kind;
use crate::work::{Done, Pace, compute};
use load::LoadPlan;
use probe::{Prober, Span};
use proc::Watch;
use subject::Subject;

/// The piece that a client hangs up on, and when.
const HANG_UP_PIECE_MS: u32 = 500;
const HANG_UP_AFTER: Duration = Duration::from_millis(150);
const HANG_UP_MOST: Duration = Duration::from_secs(2);
/// The first piece may wait for children to start.
const WARM_MAX: Duration = Duration::from_secs(30);
/// Between the start of the threads and the first probe.
const LEAD: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In this order, each once.
    pub kinds: Vec<Kind>,
    /// Of each way, and of the idle server before them.
    pub span: Duration,
    /// Processor time of one piece of work, milliseconds, 1 to 60,000.
    pub cpu_time_ms: u32,
    /// Work that comes, as a multiple of what all processors together could do; more than 0.
    pub offered: f64,
    /// When a client hangs up.
    pub patience: Duration,
    pub seed: u64,
    /// As [`crate::ServeOptions::short_slices`].
    pub short_slices: bool,
    /// An empty folder for the durable jobs, on a real disk.
    pub data: PathBuf,
    pub server: ServerCommand,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// `None`: the idle server.
    pub kind: Option<Kind>,
    /// 0 to 1, of all.
    pub part: f64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    #[error("the server under test cannot be started")]
    Spawn(#[source] io::Error),
    #[error("the server under test for `{}` did not come to listen; what it said is above", kind.name())]
    NotListening { kind: Kind },
    #[error("`{}` does not work", kind.name())]
    Broken {
        kind: Kind,
        #[source]
        cause: io::Error,
    },
    #[error("`{}` gave a wrong checksum {times} times: its work was not done", kind.name())]
    Wrong { kind: Kind, times: u64 },
    #[error("the {0} failed")]
    Thread(&'static str, #[source] io::Error),
    #[error("this machine has no /proc that can be read")]
    NoProc,
}

/// What stays the same for all ways.
struct Bench<'a> {
    plan: &'a Plan,
    pace: Pace,
    rate_per_s: f64,
    checksum: String,
    begun: usize,
    progress: &'a mut dyn FnMut(Progress),
}

/// Runs the experiment: about `plan.span` for each way and for the idle server, and a second more
/// for each. Blocks. `progress` is called ten times a second.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(Progress)) -> Result<Record, LabError> {
    raise_open_files();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let pace = Pace::measure();
    let capacity_per_s = cores as f64 * 1e3 / f64::from(plan.cpu_time_ms);
    let piece = pace.piece(plan.cpu_time_ms, plan.seed);
    // The same work for all, so that every answer can be told right or wrong at no cost.
    let right = compute(piece, || false).map(|done| done.checksum);
    let mut bench = Bench {
        plan,
        pace,
        rate_per_s: capacity_per_s * plan.offered,
        checksum: right.unwrap_or_default(),
        begun: 0,
        progress,
    };
    let (idle, others) = bench.idle()?;
    let mut rows = Vec::new();
    for kind in &plan.kinds {
        rows.push(bench.measure(*kind)?);
    }
    let mut record = Record {
        offloop: env!("CARGO_PKG_VERSION").into(),
        taken_at: machine::now(),
        machine: machine::describe(&plan.data, others),
        parameters: Parameters {
            seconds_per_strategy: plan.span.as_secs_f64(),
            cpu_time_ms: plan.cpu_time_ms,
            offered: plan.offered,
            patience_ms: plan.patience.as_millis() as u64,
            seed: plan.seed,
            short_slices: plan.short_slices,
            rounds_per_ms: pace.rounds_per_ms().get(),
        },
        capacity_per_s,
        idle,
        strategies: rows,
        conclusion: String::new(),
    };
    record.conclusion = conclusion(&record);
    Ok(record)
}

impl Bench<'_> {
    /// Without load: the probe, and how busy others keep the machine, 0 to 1.
    fn idle(&mut self) -> Result<(Probe, f64), LabError> {
        let kind = Kind::Inline; // the plainest server
        let data = self.plan.data.join("idle");
        let server = Subject::start(self.plan, kind, &data, self.pace)?;
        let (probe, _, others) = self.probe(&server, None, None)?;
        Ok((probe, others))
    }

    fn measure(&mut self, kind: Kind) -> Result<Row, LabError> {
        let plan = self.plan;
        let broken = |cause| LabError::Broken { kind, cause };
        let data = plan.data.join(kind.name());
        let server = Subject::start(plan, kind, &data, self.pace)?;
        let path = |cpu_time_ms: u32, wait: Duration| {
            let (path, wait, seed) = (kind.path(), wait.as_millis(), plan.seed);
            format!("{path}?cpu_time_ms={cpu_time_ms}&timeout_ms={wait}&seed={seed}")
        };
        // Warm, and shown to work, before anything is counted.
        let body = server
            .ask(&path(plan.cpu_time_ms, WARM_MAX))
            .map_err(broken)?;
        let done: Option<Done> = serde_json::from_slice(&body).ok();
        if done.is_none_or(|done| done.checksum != self.checksum) {
            return Err(LabError::Wrong { kind, times: 1 });
        }
        let after = server
            .hang_up(
                &path(HANG_UP_PIECE_MS, WARM_MAX),
                HANG_UP_AFTER,
                HANG_UP_MOST,
            )
            .map_err(broken)?;
        let watch = Watch::begin(server.pid());
        let load = LoadPlan {
            address: server.address,
            // What a client tells is a little less than what it waits: the answer has a way to go.
            path: path(plan.cpu_time_ms, plan.patience * 19 / 20),
            rate_per_s: self.rate_per_s,
            patience: plan.patience,
            seed: plan.seed,
            checksum: self.checksum.clone(),
        };
        let (probe, work, others) = self.probe(&server, Some(kind), Some(load))?;
        let peak = watch.end();
        let work = work.unwrap_or_default();
        if work.wrong > 0 {
            let times = work.wrong;
            return Err(LabError::Wrong { kind, times });
        }
        Ok(Row {
            strategy: kind,
            probe,
            work,
            hang_up: HangUp {
                piece_ms: HANG_UP_PIECE_MS,
                after_ms: HANG_UP_AFTER.as_millis() as u64,
                cpu_after_ms: after.as_millis() as u64,
            },
            threads: peak.threads,
            rss_bytes: peak.rss_bytes,
            others_busy: others,
        })
    }

    /// One span of probing, with or without load. Answers also how busy others kept the processors.
    fn probe(
        &mut self,
        server: &Subject,
        kind: Option<Kind>,
        load: Option<LoadPlan>,
    ) -> Result<(Probe, Option<WorkDone>, f64), LabError> {
        let before = Spent::now()?;
        let begin = Instant::now() + LEAD;
        let span = Span {
            begin,
            end: begin + self.plan.span,
        };
        let address = server.address;
        let prober = spawn("lab-probe", move || Prober::new(address, span)?.run())?;
        let load = load.map(|plan| spawn("lab-load", move || load::load(plan, span)));
        let load = load.transpose()?;
        while Instant::now() < span.end {
            thread::sleep(PROGRESS_EVERY);
            let here = begin.elapsed().as_secs_f64() / self.plan.span.as_secs_f64();
            let part = (self.begun as f64 + here.min(1.0)) / (self.plan.kinds.len() + 1) as f64;
            (self.progress)(Progress { kind, part });
        }
        self.begun += 1;
        let others = Spent::now()?.others_since(&before);
        let probe = join("prober", prober)?;
        let work = load.map(|load| join("load", load)).transpose()?;
        Ok((probe, work, others))
    }
}

/// Processor time so far, of the machine and of this experiment.
struct Spent {
    /// Milliseconds, as the rest.
    busy: u64,
    all: u64,
    own: u64,
}

impl Spent {
    fn now() -> Result<Self, LabError> {
        let machine = processors().ok_or(LabError::NoProc)?;
        // The server under test is a child of this process.
        let own = proc::cpu_time(std::process::id()).as_millis() as u64;
        let ms = |time: Duration| time.as_millis() as u64;
        Ok(Self {
            busy: ms(machine.busy),
            all: ms(machine.all),
            own,
        })
    }

    /// How busy others kept the processors, 0 to 1.
    fn others_since(&self, before: &Self) -> f64 {
        let others = (self.busy - before.busy).saturating_sub(self.own.saturating_sub(before.own));
        let part = others as f64 / (self.all - before.all).max(1) as f64;
        (part.min(1.0) * 1e3).round() / 1e3
    }
}

type Running<T> = thread::JoinHandle<io::Result<T>>;

fn spawn<T: Send + 'static>(
    name: &'static str,
    run: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<Running<T>, LabError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(|error| LabError::Thread(name, error))
}

fn join<T>(name: &'static str, thread: Running<T>) -> Result<T, LabError> {
    let ended = thread
        .join()
        .map_err(|_| LabError::Thread(name, io::Error::other("it panicked")))?;
    ended.map_err(|error| LabError::Thread(name, error))
}
