//! Waiting lines: how long calls wait before `c` executors that serve one line.
//!
//! M/G/c: calls come at random (Poisson), run for any distribution of times, on `c` executors. There
//! is no exact formula; these are the usual approximations:
//!
//! - P(wait) by Erlang's C formula for M/M/c (A. K. Erlang, 1917), by the stable recursion over
//!   Erlang B.
//! - Mean wait by Lee and Longton (1959), the case of Poisson arrivals of Allen and Cunneen's formula
//!   (A. O. Allen, Probability, Statistics and Queueing Theory, 2nd ed. 1990): the wait of M/M/c times
//!   (1 + CV^2) / 2. Exact for M/M/c and for M/G/1 (Pollaczek and Khinchine).
//! - Tail of the wait: exponential beyond P(wait), which is exact for M/M/c and for the far tail of
//!   M/G/c with light-tailed times.
//!
//! Pure. Must never: be asked for a load of 1 and more as if it had an answer.

/// Chance that a call has to wait in M/M/c (Erlang C).
///
/// - `servers`: 1 and more. `load`: utilisation of each server, 0 to 1; from 1 on every call waits.
pub fn erlang_c(servers: u32, load: f64) -> f64 {
    if load >= 1.0 {
        return 1.0;
    }
    if load <= 0.0 {
        return 0.0;
    }
    let offered = load * f64::from(servers);
    // Erlang B: B(0) = 1, B(n) = a B(n-1) / (n + a B(n-1)).
    let blocked = (1..=servers).fold(1.0, |before, n| {
        let part = offered * before;
        part / (f64::from(n) + part)
    });
    blocked / (1.0 - load * (1.0 - blocked))
}

/// A line before `servers` executors.
#[derive(Clone, Debug)]
pub struct Line {
    /// 1 and more.
    pub servers: u32,
    /// Mean time that a call holds its executor, seconds.
    pub service_s: f64,
    /// Coefficient of variation of that time, squared.
    pub cv2: f64,
}

/// How calls fare at one load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Utilisation, below 1.
    pub load: f64,
    /// Calls per second.
    pub per_s: f64,
    /// Chance of a wait.
    pub waits: f64,
    /// Mean wait of all calls, seconds.
    pub wait_s: f64,
    /// Answer times, seconds.
    pub p50_s: f64,
    pub p99_s: f64,
}

impl Line {
    /// Calls per second at which every executor is always busy.
    pub fn capacity_per_s(&self) -> f64 {
        f64::from(self.servers) / self.service_s
    }

    /// Mean wait of all calls at `load`, 0 to 1; infinite from 1 on.
    pub fn wait_s(&self, load: f64) -> f64 {
        if load >= 1.0 {
            return f64::INFINITY;
        }
        let exponential = erlang_c(self.servers, load) * self.service_s
            / (f64::from(self.servers) * (1.0 - load));
        exponential * (1.0 + self.cv2) / 2.0
    }

    /// Chance that a call waits longer than `seconds`.
    pub fn waits_longer(&self, load: f64, seconds: f64) -> f64 {
        let waits = erlang_c(self.servers, load);
        if seconds < 0.0 {
            return 1.0;
        }
        let mean = self.wait_s(load);
        if waits <= 0.0 || mean <= 0.0 {
            return 0.0;
        }
        if mean.is_infinite() {
            return 1.0;
        }
        waits * (-seconds * waits / mean).exp()
    }

    /// The time within which `part` (0 to 1) of the calls have their answer: wait and `alone`.
    ///
    /// - `alone`: answer times without a line, seconds, ascending, each as likely as the other.
    pub fn answer_s(&self, load: f64, part: f64, alone: &[f64]) -> f64 {
        if load >= 1.0 || alone.is_empty() {
            return f64::INFINITY;
        }
        let late = |time: f64| {
            let sum: f64 = alone
                .iter()
                .map(|alone| self.waits_longer(load, time - alone))
                .sum();
            sum / alone.len() as f64
        };
        let (mut least, mut most) = (0.0, alone[alone.len() - 1].max(1e-9));
        while late(most) > 1.0 - part {
            least = most;
            most *= 2.0;
            if most > 1e9 {
                return f64::INFINITY;
            }
        }
        for _ in 0..60 {
            let middle = f64::midpoint(least, most);
            if late(middle) > 1.0 - part {
                least = middle;
            } else {
                most = middle;
            }
        }
        most
    }

    /// Everything at one load.
    pub fn forecast(&self, load: f64, alone: &[f64]) -> Forecast {
        Forecast {
            load,
            per_s: load * self.capacity_per_s(),
            waits: erlang_c(self.servers, load),
            wait_s: self.wait_s(load),
            p50_s: self.answer_s(load, 0.5, alone),
            p99_s: self.answer_s(load, 0.99, alone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erlang_c_is_as_in_the_tables() {
        // One server: the load itself. Two: 2 r^2 / (1 + r). The others by the sum that defines it.
        let by_sum = |servers: u32, load: f64| {
            let offered = load * f64::from(servers);
            let term = |n: u32| (1..=n).fold(1.0, |term, k| term * offered / f64::from(k));
            let last = term(servers) / (1.0 - load);
            last / ((0..servers).map(term).sum::<f64>() + last)
        };
        for load in [0.1, 0.5, 0.7, 0.9, 0.99] {
            assert!((erlang_c(1, load) - load).abs() < 1e-12);
            assert!((erlang_c(2, load) - 2.0 * load * load / (1.0 + load)).abs() < 1e-12);
            for servers in [3, 5, 10, 50] {
                let (got, want) = (erlang_c(servers, load), by_sum(servers, load));
                assert!((got - want).abs() < 1e-9, "{servers} {load}: {got} {want}");
            }
        }
        // Printed tables of C(c, a): a = 3 at 4, a = 8 at 10, a = 15 at 20.
        for (servers, offered, want) in [(4, 3.0, 0.5094), (10, 8.0, 0.4092), (20, 15.0, 0.1604)] {
            let got = erlang_c(servers, offered / f64::from(servers));
            assert!((got - want).abs() < 5e-5, "{servers} {offered}: {got}");
        }
    }

    #[test]
    fn many_servers_and_the_ends_of_the_range_have_numbers() {
        assert!((erlang_c(10_000, 0.5)).abs() < 1e-12);
        assert!(erlang_c(10_000, 0.9999) > 0.9);
        for servers in [1, 64] {
            assert!(erlang_c(servers, 0.0).abs() < 1e-12);
            assert!((erlang_c(servers, 1.0) - 1.0).abs() < 1e-12);
            assert!((erlang_c(servers, 7.0) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_wait_is_exact_where_a_formula_is() {
        let line = |servers, cv2| Line {
            servers,
            service_s: 0.01,
            cv2,
        };
        // M/M/1: r S / (1 - r). M/D/1: half of it. M/G/1: Pollaczek and Khinchine.
        assert!((line(1, 1.0).wait_s(0.8) - 0.04).abs() < 1e-12);
        assert!((line(1, 0.0).wait_s(0.8) - 0.02).abs() < 1e-12);
        assert!((line(1, 3.0).wait_s(0.8) - 0.08).abs() < 1e-12);
        // M/M/2: r^2 S / (1 - r^2).
        assert!((line(2, 1.0).wait_s(0.5) - 0.01 * 0.25 / 0.75).abs() < 1e-12);
        assert!(line(2, 1.0).wait_s(1.0).is_infinite());
    }

    #[test]
    fn answers_are_the_wait_and_the_work() {
        // M/M/1 answers are exponential: p99 = ln(100) S / (1 - r).
        let count = 4_000;
        let alone: Vec<f64> = (0..count)
            .map(|n| -0.01 * (1.0 - (f64::from(n) + 0.5) / f64::from(count)).ln())
            .collect();
        let line = Line {
            servers: 1,
            service_s: 0.01,
            cv2: 1.0,
        };
        let got = line.answer_s(0.8, 0.99, &alone);
        let want = 100.0_f64.ln() * 0.05;
        assert!((got / want - 1.0).abs() < 0.01, "{got} {want}");
        // Nobody waits: the work alone.
        let got = line.answer_s(1e-9, 0.99, &[0.01; 100]);
        assert!((got - 0.01).abs() < 1e-6, "{got}");
        assert!(line.answer_s(1.0, 0.99, &alone).is_infinite());
        assert!(line.answer_s(0.5, 0.99, &[]).is_infinite());
    }
}
