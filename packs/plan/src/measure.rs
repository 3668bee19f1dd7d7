//! What each operation of a mix costs, measured on the real server.
//!
//! Three looks at each operation, each for the same share of the time, and one at all together:
//!
//! 1. **alone**: one call at a time, all processors. Answer times without a line.
//! 2. **one core**: the server on one processor, always busy. Processor time per call.
//! 3. **all cores**: all processors busy. Processor time per call again: memory, caches and turbo are
//!    shared, so it differs; the quotient is the scaling.
//! 4. **together**: all parts by their weights, at random times, a little more than the sum of their
//!    costs allows. What one call costs then, over that sum, corrects all costs: calls that come at
//!    random and of several kinds drive each other out of the caches.
//!
//! Costs are processor time of the server's process tree, not wall time: neither the load's client nor
//! other programs of the machine are counted in, and what waits costs nothing.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tempfile::TempDir;

use crate::load::{self, LoadPlan, Pace, Seen};
use crate::mix::{Mix, Operation};
use crate::operation;
use crate::proc::{Share, Used};
use crate::server::{On, Server, ServerCommand};
use crate::setup::{self, Sizing, UserConfig};
use crate::{PlanError, Trial};

/// Answer times without a line, seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    pub mean_s: f64,
    pub p50_s: f64,
    pub p99_s: f64,
    /// Coefficient of variation. Times beyond the last half percent count as that: they are the
    /// machine's, and one of them would decide.
    pub cv: f64,
    /// Quantiles, evenly apart, ascending; at most [`SAMPLES_MAX`].
    pub samples: Vec<f64>,
}

pub const SAMPLES_MAX: usize = 400;
/// What is beyond counts as this.
const TRIM: f64 = 0.995;

impl Times {
    /// Of times in any order; nothing for none.
    pub fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let Some(last) = times.len().checked_sub(1) else {
            return Self::default();
        };
        let at = |part: f64| times[(last as f64 * part).round() as usize];
        let most = at(TRIM);
        let count = times.len() as f64;
        let mean =
            |of: &dyn Fn(f64) -> f64| times.iter().map(|time| of(*time)).sum::<f64>() / count;
        let trimmed = mean(&|time| time.min(most));
        let squares = mean(&|time| (time.min(most) - trimmed).powi(2));
        let samples = SAMPLES_MAX.min(times.len());
        Self {
            mean_s: mean(&|time| time),
            p50_s: at(0.5),
            p99_s: at(0.99),
            cv: squares.sqrt() / trimmed.max(1e-12),
            samples: (0..samples)
                .map(|n| at((n as f64 + 0.5) / samples as f64))
                .collect(),
        }
    }
}

/// What one operation costs.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub operation: String,
    /// Calls of it in one request.
    pub weight: f64,
    pub alone: Times,
    /// Processor time of one call, seconds, the way there and back included.
    pub one_core_s: f64,
    pub all_cores_s: f64,
    /// Processor time that the load's client used for one call, seconds.
    pub client_s: f64,
    /// Of a declared task: how long it holds its child, seconds.
    pub holds_s: Option<f64>,
    /// Of a declared task: children for its calls that the operator's configuration has.
    pub configured: Option<u16>,
    /// Calls that were counted on all cores.
    pub calls: u64,
}

impl Cost {
    /// Of a declared task: time that it holds its child, over processor time. 1: it never waits.
    pub fn wait_ratio(&self) -> f64 {
        let ratio = self.holds_s.unwrap_or(0.0) / self.one_core_s.max(1e-9);
        if ratio > WAITS_FROM { ratio } else { 1.0 }
    }

    /// How long a call of a declared task holds its child while the server is full, seconds; 0 for
    /// others. `together`: the ratio of [`Together`].
    ///
    /// The time of one that waits was measured. Of one that computes it is what it costs then: alone it
    /// runs in a child that is cold and must be woken, and a bound by that would be too low.
    pub fn holding_s(&self, together: f64) -> f64 {
        match self.holds_s {
            Some(holds_s) if self.wait_ratio() > 1.0 => holds_s,
            Some(holds_s) => holds_s.min(self.all_cores_s * together),
            None => 0.0,
        }
    }
}

/// Below, a task counts as one that never waits: the rest is scheduling.
const WAITS_FROM: f64 = 1.5;
/// Children per core for tasks that wait; more is a job for the `io` lane.
const PROCESSES_PER_CORE_MAX: f64 = 32.0;

/// Children for calls of a task on `cores` (B. Goetz: cores x time held / processor time).
pub fn processes(wait_ratio: f64, cores: f64) -> u16 {
    let each = wait_ratio.clamp(1.0, PROCESSES_PER_CORE_MAX);
    (cores * each).ceil().clamp(1.0, 4_096.0) as u16
}

/// The parts of a mix, called by their weights at random times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Together {
    /// Processor time of the average call, seconds.
    pub call_s: f64,
    /// Of that, by the sum of the parts' costs; 1: as much as they cost each by itself.
    pub ratio: f64,
    /// Processor time that the load's client used for one call, seconds.
    pub client_s: f64,
    /// Calls that were counted.
    pub calls: u64,
}

/// A mix, measured.
#[derive(Clone, Debug)]
pub struct Measured {
    pub mix: Mix,
    /// Processors that the server may use here.
    pub cores: u16,
    /// A call that does nothing.
    pub empty: Cost,
    pub parts: Vec<Cost>,
    /// All parts together.
    pub together: Together,
    /// Processors that other programs kept busy meanwhile, on average.
    pub others: f64,
    /// Executors of the server that was measured.
    pub(crate) sizing: Sizing,
}

/// What every measurement needs.
pub(crate) struct Bench<'a> {
    pub(crate) command: &'a ServerCommand,
    pub(crate) user: &'a UserConfig,
    pub(crate) mix: &'a Mix,
    pub(crate) folder: TempDir,
    pub(crate) cores: u16,
    pub(crate) seed: u64,
    pub(crate) stop: &'a AtomicBool,
}

/// Makes keys in a folder: names and algorithms of `offloop vault keygen`.
pub type MakeKeys<'a> = dyn Fn(&Path, &[(String, &'static str)]) -> Result<(), String> + 'a;

impl<'a> Bench<'a> {
    pub(crate) fn new(trial: &Trial<'a>, make_keys: &MakeKeys<'_>) -> Result<Self, PlanError> {
        let folder = tempfile::Builder::new()
            .prefix("offloop-plan-")
            .tempdir()
            .map_err(PlanError::Folder)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let bench = Self {
            command: trial.command,
            user: trial.user,
            mix: trial.mix,
            folder,
            cores: u16::try_from(cores).unwrap_or(u16::MAX),
            seed: trial.seed,
            stop: trial.stop,
        };
        if let Some(folder) = bench.keys() {
            make_keys(&folder, &operation::keys(trial.mix)).map_err(PlanError::Keys)?;
        }
        Ok(bench)
    }

    /// `None`: the mix needs none.
    fn keys(&self) -> Option<std::path::PathBuf> {
        let needs = !operation::keys(self.mix).is_empty();
        needs.then(|| self.folder.path().join("keys"))
    }

    /// A server with these executors, in a folder of its own.
    pub(crate) fn server(&self, name: &str, on: On, sizing: &Sizing) -> Result<Server, PlanError> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).map_err(PlanError::Folder)?;
        let config = setup::config(self.user, self.mix, self.keys().as_deref(), sizing)?;
        Server::start(self.command, &folder, &config, on)
    }

    /// A request for each part of the mix, each answered once.
    pub(crate) fn requests(&self, server: &Server) -> Result<Vec<Vec<u8>>, PlanError> {
        let parts = self.mix.parts().iter();
        parts
            .map(|part| operation::request(&part.operation, server.address))
            .collect()
    }

    pub(crate) fn clients(&self) -> usize {
        usize::from(self.cores / 8).max(1)
    }

    /// One look: a load, and what everybody used in its window.
    pub(crate) fn look(
        &self,
        server: &Server,
        requests: &[Vec<u8>],
        weights: &[f64],
        pace: Pace,
        span: Duration,
        keep: usize,
    ) -> Result<(Seen, Share), PlanError> {
        let plan = LoadPlan {
            address: server.address,
            requests,
            weights,
            pace,
            warm: (span / 4).clamp(WARM.0, WARM.1),
            span,
            drain: DRAIN,
            seed: self.seed,
            clients: self.clients(),
            stop: self.stop,
            keep,
        };
        let look = || Used::now(server.pid());
        let (seen, before, after) = load::run(&plan, look).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::Interrupted => PlanError::Stopped,
            _ => PlanError::Load(cause),
        })?;
        Ok((seen, before.until(after)))
    }
}

const WARM: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
const DRAIN: Duration = Duration::from_secs(10);
/// Calls that a look should count at least, if that takes no longer than the most.
const CALLS_LEAST: f64 = 30.0;
const LOOK_MAX_S: f64 = 6.0;
/// Wait in line that is always let in, for calls that are shorter; others may wait for two runs.
const IN_LINE_S: f64 = 0.002;

/// What a look is at.
struct Subject<'m> {
    operation: Option<&'m Operation>,
    weight: f64,
}

impl<'m> Subject<'m> {
    /// An empty call, and each part.
    fn all(mix: &'m Mix) -> Vec<Self> {
        let empty = Subject {
            operation: None,
            weight: 0.0,
        };
        let parts = mix.parts().iter().map(|part| Subject {
            operation: Some(&part.operation),
            weight: part.weight,
        });
        std::iter::once(empty).chain(parts).collect()
    }

    /// Not yet measured.
    fn cost(&self, user: &UserConfig) -> Cost {
        let name = self.operation.map(ToString::to_string);
        Cost {
            operation: name.unwrap_or_else(|| "an empty call".into()),
            weight: self.weight,
            configured: match self.operation {
                Some(Operation::Task { name, .. }) => setup::processes_of(user, name.as_str()),
                _ => None,
            },
            ..Cost::default()
        }
    }
}

/// Measures a mix in about `seconds`; `tell`: part that is done, and what comes now.
pub(crate) fn measure(
    bench: &Bench<'_>,
    seconds: f64,
    tell: &mut dyn FnMut(f64, &str),
) -> Result<Measured, PlanError> {
    let subjects = Subject::all(bench.mix);
    // A quarter on top of each look is its warm-up.
    let looks = (3 * subjects.len() + TOGETHER_LOOKS) as f64;
    let span = Duration::from_secs_f64(seconds / (1.25 * looks));
    let mut others = Vec::new();
    let mut costs: Vec<Cost> = Vec::new();
    let mut step = 0.0;
    let mut next = |what: &str, operation: &str| {
        tell(step / looks, &format!("{operation}: {what}"));
        step += 1.0;
    };
    let mut sizing = Sizing {
        threads: bench.cores,
        processes: bench.cores,
    };
    let server = bench.server("alone", On::AllCores, &sizing)?;
    for subject in &subjects {
        let mut cost = subject.cost(bench.user);
        next("one at a time", &cost.operation);
        alone(bench, &server, subject, span, &mut cost)?;
        costs.push(cost);
    }
    drop(server);
    let mut empty_s = costs[0].one_core_s;
    let ratio = costs.iter().map(Cost::wait_ratio).fold(1.0, f64::max);
    for (on, name) in [(On::OneCore, "one core"), (On::AllCores, "all cores")] {
        let cores = if on == On::OneCore { 1 } else { bench.cores };
        sizing = Sizing {
            threads: cores,
            processes: processes(ratio, cores.into()),
        };
        let server = bench.server(name, on, &sizing)?;
        for (subject, cost) in subjects.iter().zip(&mut costs) {
            next(name, &cost.operation);
            let full = Full {
                on,
                sizing: &sizing,
                // What a refused call cost; of an empty call itself, what it cost alone.
                refused_s: empty_s,
            };
            let share = full.look(bench, &server, subject, span, cost)?;
            if subject.operation.is_none() {
                empty_s = cost.one_core_s.max(cost.all_cores_s);
            }
            if on == On::AllCores {
                others.push(share.others_cores());
            }
        }
    }
    let parts = costs.split_off(1);
    let empty = costs.remove(0);
    let others = others.iter().sum::<f64>() / others.len() as f64;
    next("together", &bench.mix.to_string());
    let together = together(bench, (&empty, &parts), &sizing, others, span)?;
    Ok(Measured {
        mix: bench.mix.clone(),
        cores: bench.cores,
        empty,
        parts,
        together,
        others,
        sizing,
    })
}

/// Looks at all parts, at the least and at the most; of the last three the one in the middle counts,
/// because what others do to caches and memory meanwhile is not the mix's.
const TOGETHER_LOOKS: usize = 3;
const TOGETHER_LOOKS_MAX: usize = 7;
/// Part of the capacity that is offered in each: what a call costs falls with the load, since a busy
/// server is woken less often, and capacity is what it costs a full one. So each look offers what the
/// look before it makes possible, until the cost falls no more.
const TOGETHER_LOAD: f64 = 1.05;
/// A cost that falls by less stands still.
const STANDS_STILL: f64 = 0.97;

fn together(
    bench: &Bench<'_>,
    (empty, parts): (&Cost, &[Cost]),
    sizing: &Sizing,
    others: f64,
    span: Duration,
) -> Result<Together, PlanError> {
    let server = bench.server("together", On::AllCores, sizing)?;
    let requests = bench.requests(&server)?;
    let weights: Vec<_> = parts.iter().map(|part| part.weight).collect();
    let calls: f64 = weights.iter().sum();
    let mean = |of: &dyn Fn(&Cost) -> f64| {
        parts.iter().map(|part| part.weight * of(part)).sum::<f64>() / calls
    };
    let sum_s = mean(&|part| part.all_cores_s);
    let cores = (f64::from(bench.cores) - others).max(0.1);
    let mut each_s = sum_s + mean(&|part| part.client_s);
    let mut looks: Vec<Together> = Vec::new();
    while looks.len() < TOGETHER_LOOKS_MAX {
        let ratio = looks.last().map_or(1.0, |look| look.ratio);
        let holds_s = mean(&|part| part.holding_s(ratio));
        let most = f64::from(sizing.processes) / holds_s.max(1e-9);
        let per_s = TOGETHER_LOAD * (cores / each_s).min(most);
        // Long enough for some calls of each executor.
        let enough = (CALLS_LEAST / per_s).min(LOOK_MAX_S);
        let pace = Pace::Open {
            per_s,
            connections: connections(per_s, sizing),
        };
        let span = span.max(Duration::from_secs_f64(enough));
        let (seen, share) = bench.look(&server, &requests, &weights, pace, span, 0)?;
        if seen.done == 0 || seen.failed * 50 > seen.offered {
            let why = seen.failure;
            let why = why.unwrap_or_else(|| "no call was answered".into());
            return Err(PlanError::Operation {
                operation: bench.mix.to_string(),
                cause: std::io::Error::other(why),
            });
        }
        let done = seen.done as f64;
        // What is refused costs as well, and is no call.
        let refused_s = empty.all_cores_s * seen.refused as f64;
        let call_s = (share.server - refused_s).max(0.0) / done;
        let client_s = share.own / done;
        let stands = call_s + client_s >= each_s * STANDS_STILL;
        each_s = call_s + client_s;
        looks.push(Together {
            call_s,
            ratio: call_s / sum_s,
            client_s,
            calls: seen.done,
        });
        if stands && looks.len() >= TOGETHER_LOOKS {
            break;
        }
    }
    let mut last = looks.split_off(looks.len() - TOGETHER_LOOKS);
    last.sort_by(|a, b| a.call_s.total_cmp(&b.call_s));
    Ok(last[TOGETHER_LOOKS / 2])
}

/// Enough that the server, and not the client, decides what waits: 5 ms of calls, and several for
/// each executor.
pub(crate) fn connections(per_s: f64, sizing: &Sizing) -> usize {
    let executors = sizing.threads.max(sizing.processes);
    let most = (per_s * 0.005).clamp(64.0, 1_024.0) as usize;
    most.max(8 * usize::from(executors)).min(4_096)
}

fn request(subject: &Subject<'_>, server: &Server) -> Result<Vec<u8>, PlanError> {
    match subject.operation {
        None => Ok(operation::empty(server.address)),
        Some(operation) => operation::request(operation, server.address),
    }
}

/// Nothing may be measured of calls that fail.
fn sound(seen: &Seen, cost: &Cost) -> Result<(), PlanError> {
    if seen.done == 0 || seen.failed * 50 > seen.offered {
        return Err(PlanError::Operation {
            operation: cost.operation.clone(),
            cause: std::io::Error::other(seen.failure.clone().unwrap_or_else(|| {
                format!(
                    "{} of {} calls were answered, {} were refused",
                    seen.done, seen.offered, seen.refused
                )
            })),
        });
    }
    Ok(())
}

fn alone(
    bench: &Bench<'_>,
    server: &Server,
    subject: &Subject<'_>,
    span: Duration,
    cost: &mut Cost,
) -> Result<(), PlanError> {
    let requests = [request(subject, server)?];
    let mut span = span;
    let pace = Pace::Closed { connections: 1 };
    loop {
        let (seen, share) = bench.look(server, &requests, &[1.0], pace, span, 2_000)?;
        // A call that is longer than the look: one more look that is long enough.
        if seen.done < 3 && span.as_secs_f64() < LOOK_MAX_S * 10.0 {
            span = Duration::from_secs_f64(LOOK_MAX_S).max(span * 4);
            continue;
        }
        sound(&seen, cost)?;
        cost.alone = Times::of(seen.sorted());
        // For how long the children are to be sized; the looks under load tell it better.
        cost.one_core_s = share.server / seen.done as f64;
        if matches!(subject.operation, Some(Operation::Task { .. })) {
            let mut walls: Vec<f64> = seen.bodies.iter().filter_map(|body| wall_s(body)).collect();
            walls.sort_by(f64::total_cmp);
            // The lower quartile: what other programs of the machine add is no wait of the task.
            cost.holds_s = walls.get(walls.len() / 4).copied();
        }
        return Ok(());
    }
}

/// How long the call held its executor, by its answer.
fn wall_s(body: &[u8]) -> Option<f64> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(answer["wall_ms"].as_f64()? / 1e3)
}

/// A look at executors that are never idle.
struct Full<'a> {
    on: On,
    sizing: &'a Sizing,
    /// Processor time of a call that was refused.
    refused_s: f64,
}

impl Full<'_> {
    fn look(
        &self,
        bench: &Bench<'_>,
        server: &Server,
        subject: &Subject<'_>,
        span: Duration,
        cost: &mut Cost,
    ) -> Result<Share, PlanError> {
        let requests = [request(subject, server)?];
        let executors = match cost.holds_s {
            Some(_) => self.sizing.processes,
            None => self.sizing.threads,
        };
        let executors = f64::from(executors);
        let each = cost.alone.p50_s.max(1e-5);
        let enough = (CALLS_LEAST * each / executors).min(LOOK_MAX_S);
        let span = span.max(Duration::from_secs_f64(enough));
        // Calls in hand: always one more for each executor, and never a line that is refused.
        let mut connections =
            (executors * IN_LINE_S / each).clamp(2.0 * executors, 16.0 * executors) as usize;
        loop {
            let pace = Pace::Closed { connections };
            let (seen, share) = bench.look(server, &requests, &[1.0], pace, span, 0)?;
            if seen.refused * 50 > seen.offered && connections > executors as usize {
                connections = (connections / 2).max(executors as usize);
                continue;
            }
            sound(&seen, cost)?;
            let done = seen.done as f64;
            let refused_s = self.refused_s * seen.refused as f64;
            let each_s = (share.server - refused_s).max(0.0) / done;
            match self.on {
                On::OneCore => cost.one_core_s = each_s,
                On::AllCores => {
                    cost.all_cores_s = each_s;
                    cost.client_s = share.own / done;
                    cost.calls = seen.done;
                }
            }
            return Ok(share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_with_their_spread_and_one_stray_does_not_decide() {
        let times = Times::of((0..1_000).map(|n| f64::from(n % 100) + 1.0).collect());
        assert!((times.mean_s - 50.5).abs() < 1e-9);
        assert!((times.p50_s - 50.0).abs() <= 1.0 && (times.p99_s - 99.0).abs() <= 1.0);
        assert!((times.cv - 28.866 / 50.5).abs() < 0.01, "{}", times.cv);
        assert_eq!(times.samples.len(), SAMPLES_MAX);
        let mut stray = vec![1.0; 999];
        stray.push(1e6);
        let times = Times::of(stray);
        assert!(times.cv < 1e-9, "{}", times.cv);
        assert_eq!(Times::of(Vec::new()), Times::default());
        assert!((Times::of(vec![2.0]).p99_s - 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_task_that_waits_gets_more_children_and_never_without_bound() {
        let cost = |holds, cpu| Cost {
            holds_s: Some(holds),
            one_core_s: cpu,
            ..Cost::default()
        };
        assert!((cost(0.011, 0.010).wait_ratio() - 1.0).abs() < 1e-12);
        assert!((cost(0.050, 0.010).wait_ratio() - 5.0).abs() < 1e-9);
        assert_eq!(processes(1.0, 2.0), 2);
        assert_eq!(processes(5.0, 2.0), 10);
        assert_eq!(processes(1.0, 0.5), 1);
        assert_eq!(processes(1e9, 4.0), 128);
    }
}
