//! From costs to capacity: how many requests so many cores carry, and how long they take by load.
//!
//! `capacity = cores x 1/E[S] x scaling x utilisation`, where E[S] is the processor time of one request
//! on one core, HTTP included, and scaling what is left of a core's speed when all of them are busy.
//! Pure. Must never: hide that it guesses beyond the cores that were measured.

use crate::cores::Cores;
use crate::measure::{Cost, Measured, processes};
use crate::queueing::{Forecast, Line};

/// Loads at which answers are forecast.
pub const LOADS: [f64; 7] = [0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95];

/// A mix as numbers. Times per call; a request is so many calls.
#[derive(Clone, Debug)]
pub struct Model {
    /// Calls of one request.
    pub calls: f64,
    /// Processor time of one call on one core, seconds, and with all cores of the machine busy.
    pub one_s: f64,
    pub all_s: f64,
    /// What a call costs among the others at random times, over what it costs by itself; both costs
    /// above hold it already.
    pub together: f64,
    /// Of that, the way there and back.
    pub empty_s: f64,
    /// Cores of the machine that was measured.
    pub cores: f64,
    /// Variation of the answer times without a line, squared.
    pub cv2: f64,
    /// Answer times without a line, ascending, seconds.
    pub alone: Vec<f64>,
    /// Of declared tasks: time held over processor time; 1 and more.
    pub wait_ratio: f64,
    /// Time that a child is held by the average call of the mix, seconds; 0 without declared tasks.
    pub holds_s: f64,
    /// Processor time of the load's client for one call, seconds.
    pub client_s: f64,
}

impl Model {
    pub fn of(measured: &Measured) -> Self {
        let parts = &measured.parts;
        let calls: f64 = parts.iter().map(|part| part.weight).sum();
        let mean = |of: &dyn Fn(&Cost) -> f64| {
            parts.iter().map(|part| part.weight * of(part)).sum::<f64>() / calls
        };
        let first = mean(&|part| part.alone.mean_s);
        // E[X^2] of the mixture from mean and variation of its parts.
        let second = mean(&|part| part.alone.mean_s.powi(2) * (1.0 + part.alone.cv.powi(2)));
        Self {
            calls,
            one_s: mean(&|part| part.one_core_s) * measured.together.ratio,
            all_s: mean(&|part| part.all_cores_s) * measured.together.ratio,
            together: measured.together.ratio,
            empty_s: measured.empty.one_core_s,
            cores: measured.cores.into(),
            cv2: (second / first.powi(2).max(1e-18) - 1.0).max(0.0),
            alone: mixture(measured),
            wait_ratio: parts.iter().map(Cost::wait_ratio).fold(1.0, f64::max),
            holds_s: mean(&|part| part.holding_s(measured.together.ratio)),
            client_s: measured.together.client_s,
        }
    }

    /// What is left of a core's speed when all cores of the machine are busy: 1 for all of it. More
    /// than 1 where a busy server is cheaper per call, because it need not be woken.
    pub fn scaling(&self) -> f64 {
        self.one_s / self.all_s
    }

    /// Processor time of one call with `cores` busy, seconds: a straight line between the two that
    /// were measured, and no cheaper beyond them.
    pub fn cost_s(&self, cores: f64) -> f64 {
        if self.cores <= 1.0 || cores <= 1.0 {
            return if cores <= 1.0 { self.one_s } else { self.all_s };
        }
        let slope = (self.all_s - self.one_s) / (self.cores - 1.0);
        if cores > self.cores {
            return self.all_s + slope.max(0.0) * (cores - self.cores);
        }
        self.one_s + slope * (cores - 1.0)
    }

    /// Children for calls of the mix's declared tasks.
    pub fn processes(&self, cores: f64) -> u16 {
        processes(self.wait_ratio, cores)
    }

    /// Calls per second at which `cores` are full, of a server with `processes` for its tasks.
    pub fn calls_per_s(&self, cores: f64, processes: u16) -> f64 {
        let by_cores = cores / self.cost_s(cores);
        if self.holds_s <= 0.0 {
            return by_cores;
        }
        by_cores.min(f64::from(processes) / self.holds_s)
    }

    /// Requests per second at which `cores` are full.
    pub fn requests_per_s(&self, cores: f64) -> f64 {
        self.calls_per_s(cores, self.processes(cores)) / self.calls
    }

    /// The line before `cores` that take `calls_per_s` when they are full.
    pub fn line(&self, cores: f64, calls_per_s: f64) -> Line {
        let servers = if self.wait_ratio > 1.0 {
            self.processes(cores).into()
        } else {
            cores.ceil().max(1.0) as u32
        };
        Line {
            servers,
            service_s: f64::from(servers) / calls_per_s,
            cv2: self.cv2,
        }
    }

    /// Answer times without a line on `cores`, ascending.
    pub fn alone_on(&self, cores: f64) -> Vec<f64> {
        // Slower where cores hinder one another, and where a part of one is all there is.
        let slower = (self.cost_s(cores) / self.one_s).max(1.0) * (1.0 / cores).max(1.0);
        self.alone.iter().map(|time| time * slower).collect()
    }

    /// Answers of calls at each of [`LOADS`].
    pub fn forecasts(&self, cores: f64) -> Vec<Forecast> {
        let line = self.line(cores, self.calls_per_s(cores, self.processes(cores)));
        let alone = self.alone_on(cores);
        LOADS
            .iter()
            .map(|load| line.forecast(*load, &alone))
            .collect()
    }

    /// Cores that carry `requests_per_s` at `utilisation`, to a thousandth; `None` if not even
    /// 4,096 do.
    pub fn cores_for(&self, requests_per_s: f64, utilisation: f64) -> Option<f64> {
        let fits = |cores: f64| self.requests_per_s(cores) * utilisation >= requests_per_s;
        let most = crate::cores::CORES_MAX;
        if !fits(most) {
            return None;
        }
        let (mut least, mut enough) = (0.0, most);
        for _ in 0..40 {
            let middle = f64::midpoint(least, enough);
            if fits(middle) {
                enough = middle;
            } else {
                least = middle;
            }
        }
        Some((enough * 1e3).ceil() / 1e3)
    }

    /// Pods that carry `requests_per_s` at `utilisation`.
    pub fn pods_for(&self, requests_per_s: f64, utilisation: f64, pod: Cores) -> f64 {
        (requests_per_s / (self.requests_per_s(pod.count()) * utilisation)).ceil()
    }

    /// Whether so many cores are more than were measured.
    pub fn is_guess(&self, cores: f64) -> bool {
        cores > self.cores
    }
}

/// Answer times of the average call: each part's by how often it comes.
fn mixture(measured: &Measured) -> Vec<f64> {
    let mut weighted: Vec<(f64, f64)> = Vec::new();
    for part in &measured.parts {
        let samples = &part.alone.samples;
        let each = part.weight / samples.len().max(1) as f64;
        weighted.extend(samples.iter().map(|time| (*time, each)));
    }
    weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
    let count = crate::measure::SAMPLES_MAX;
    let mut out = Vec::with_capacity(count);
    let (mut at, mut before) = (0, 0.0);
    for n in 0..count {
        let target = (n as f64 + 0.5) / count as f64 * sum;
        while at + 1 < weighted.len() && before + weighted[at].1 < target {
            before += weighted[at].1;
            at += 1;
        }
        out.extend(weighted.get(at).map(|(time, _)| *time));
    }
    out
}

/// What to configure for a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub threads: u16,
    /// Of declared tasks; `None` without one.
    pub processes: Option<u16>,
    /// Longest wait that is let in, seconds.
    pub max_wait_s: f64,
    /// Calls that may wait.
    pub line: u32,
}

impl Model {
    /// Executors for `cores`, and bounds of the line: twice the wait that one call in a hundred has
    /// at a load of 0.9, 20 ms to 1 s, so that bursts pass and an overload is refused early.
    pub fn pool(&self, cores: f64) -> Pool {
        let calls_per_s = self.calls_per_s(cores, self.processes(cores));
        let line = self.line(cores, calls_per_s);
        // P(wait > t) = 0.01.
        let (load, mean) = (0.9, line.wait_s(0.9));
        let waits = crate::queueing::erlang_c(line.servers, load);
        let tail = (mean / waits) * (waits / 0.01).max(1.0).ln();
        let max_wait_s = (2.0 * tail).clamp(0.02, 1.0);
        let least = f64::from(line.servers) * 2.0;
        Pool {
            threads: cores.ceil().max(1.0) as u16,
            processes: (self.holds_s > 0.0).then(|| self.processes(cores)),
            max_wait_s,
            line: (max_wait_s * calls_per_s)
                .clamp(least.max(16.0), 100_000.0)
                .ceil() as u32,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measure::{Times, Together};
    use crate::mix::Mix;
    use crate::setup::Sizing;

    /// Two calls a request: 10 ms and, twice as often, 1 ms; a tenth slower on all 4 cores.
    pub(crate) fn measured() -> Measured {
        let cost = |operation: &str, weight, ms: f64| Cost {
            operation: operation.into(),
            weight,
            alone: Times::of(vec![ms / 1e3; 100]),
            one_core_s: ms / 1e3,
            all_cores_s: ms * 1.1 / 1e3,
            client_s: 1e-5,
            calls: 100,
            ..Cost::default()
        };
        Measured {
            mix: Mix::parse("cpu:10ms + 2*cpu:1ms").unwrap(),
            cores: 4,
            empty: cost("an empty call", 0.0, 0.1),
            parts: vec![cost("cpu:10ms", 1.0, 10.0), cost("cpu:1ms", 2.0, 1.0)],
            together: Together {
                call_s: 0.0044,
                ratio: 1.0,
                client_s: 1e-5,
                calls: 100,
            },
            others: 0.0,
            sizing: Sizing {
                threads: 4,
                processes: 4,
            },
        }
    }

    #[test]
    fn capacity_is_cores_over_the_sum_of_costs_times_scaling() {
        let model = Model::of(&measured());
        assert!((model.calls - 3.0).abs() < 1e-12);
        assert!((model.one_s - 0.004).abs() < 1e-12);
        // 12 ms of processor time per request.
        assert!((model.requests_per_s(1.0) - 1.0 / 0.012).abs() < 1e-6);
        assert!((model.requests_per_s(4.0) - 4.0 / 0.0132).abs() < 1e-6);
        assert!((model.scaling() - 1.0 / 1.1).abs() < 1e-9);
        assert!((model.requests_per_s(0.5) - 0.5 / 0.012).abs() < 1e-6);
        assert!(model.cost_s(2.0) > model.one_s && model.cost_s(2.0) < model.all_s);
        // Beyond what was measured it goes on getting worse, and says that it guesses.
        assert!(model.cost_s(8.0) > model.all_s && model.is_guess(8.0) && !model.is_guess(4.0));
    }

    #[test]
    fn what_a_call_costs_among_others_is_in_the_capacity() {
        let mut measured = measured();
        let apart = Model::of(&measured);
        measured.together.ratio = 1.25;
        let together = Model::of(&measured);
        for cores in [0.5, 1.0, 2.5, 4.0] {
            let part = together.requests_per_s(cores) / apart.requests_per_s(cores);
            assert!((part - 0.8).abs() < 1e-9, "{cores}: {part}");
        }
        assert!((together.scaling() - apart.scaling()).abs() < 1e-9);
    }

    #[test]
    fn a_target_turned_round_is_carried() {
        let model = Model::of(&measured());
        for target in [10.0, 250.0, 1_000.0] {
            let cores = model.cores_for(target, 0.7).unwrap();
            let carried = model.requests_per_s(cores) * 0.7;
            assert!(
                carried >= target * 0.999 && carried < target * 1.02,
                "{target}: {carried}"
            );
            let pod = Cores::parse("1500m").unwrap();
            let pods = model.pods_for(target, 0.7, pod);
            assert!(pods * model.requests_per_s(1.5) * 0.7 >= target);
            assert!((pods - 1.0) * model.requests_per_s(1.5) * 0.7 < target);
        }
        assert_eq!(model.cores_for(1e12, 0.7), None);
    }

    #[test]
    fn a_mixture_varies_more_than_its_parts() {
        let model = Model::of(&measured());
        // Two thirds 1 ms, one third 10 ms: mean 4, second moment (2 + 100) / 3.
        assert!(
            (model.cv2 - (34.0 / 16.0 - 1.0)).abs() < 1e-9,
            "{}",
            model.cv2
        );
        let short = model.alone.iter().filter(|time| **time < 0.005).count();
        assert!((short as f64 / model.alone.len() as f64 - 2.0 / 3.0).abs() < 0.01);
        let p99: Vec<_> = model.forecasts(2.0).iter().map(|f| f.p99_s).collect();
        assert!(p99.windows(2).all(|two| two[0] < two[1]), "{p99:?}");
    }

    /// Alone it held its child for longer than it computed: it was woken each time.
    #[test]
    fn a_pool_of_tasks_that_compute_is_bounded_by_what_they_cost_a_full_server() {
        let mut measured = measured();
        measured.parts.truncate(1);
        let cost_s = measured.parts[0].all_cores_s;
        measured.parts[0].holds_s = Some(measured.parts[0].one_core_s * 1.2);
        measured.together.ratio = 0.8;
        let model = Model::of(&measured);
        assert!((model.calls_per_s(2.0, 1) - 1.0 / (cost_s * 0.8)).abs() < 1e-6);
    }

    #[test]
    fn a_pool_of_waiting_tasks_is_bounded_by_its_children() {
        let mut measured = measured();
        measured.parts.truncate(1);
        measured.parts[0].holds_s = Some(0.1);
        let model = Model::of(&measured);
        assert!((model.wait_ratio - 10.0).abs() < 1e-9);
        assert_eq!(model.processes(2.0), 20);
        assert!((model.calls_per_s(2.0, 5) - 50.0).abs() < 1e-9);
        let pool = model.pool(2.0);
        assert_eq!((pool.threads, pool.processes), (2, Some(20)));
        assert!(
            pool.line >= 40 && (0.02..=1.0).contains(&pool.max_wait_s),
            "{pool:?}"
        );
    }
}
