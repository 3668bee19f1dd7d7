//! The approximations against a simulation of the same line, event by event, by seed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use offloop_plan::queueing::Line;

const CALLS: usize = 400_000;
const MEAN_S: f64 = 0.01;

#[derive(Clone, Copy, Debug)]
enum Times {
    Fixed,
    /// Two kinds of calls: 9 of 10 short, 1 of 10 long.
    Mixed,
    Exponential,
}

impl Times {
    fn draw(self, dice: &mut fastrand::Rng) -> f64 {
        match self {
            Self::Fixed => MEAN_S,
            Self::Mixed if dice.f64() < 0.9 => MEAN_S / 2.0,
            Self::Mixed => MEAN_S * 5.5,
            Self::Exponential => -MEAN_S * (1.0 - dice.f64()).ln(),
        }
    }

    const fn cv2(self) -> f64 {
        match self {
            Self::Fixed => 0.0,
            Self::Mixed => 0.9 * 0.25 + 0.1 * 30.25 - 1.0,
            Self::Exponential => 1.0,
        }
    }
}

struct Seen {
    wait_s: f64,
    waits: f64,
    p99_s: f64,
    /// Times without a line, ascending.
    alone: Vec<f64>,
}

/// Kiefer and Wolfowitz: a call starts when the first server is free.
fn simulate(servers: u32, load: f64, times: Times) -> Seen {
    let mut dice = fastrand::Rng::with_seed(20);
    let gap = MEAN_S / (f64::from(servers) * load);
    let mut free = vec![0.0_f64; servers as usize];
    let (mut now, mut waited, mut waits) = (0.0, 0.0, 0_u32);
    let (mut answers, mut alone) = (Vec::new(), Vec::new());
    for call in 0..CALLS {
        now += -gap * (1.0 - dice.f64()).ln();
        let first = free.iter_mut().min_by(|a, b| a.total_cmp(b)).unwrap();
        let begin = first.max(now);
        let time = times.draw(&mut dice);
        *first = begin + time;
        if call >= CALLS / 10 {
            waited += begin - now;
            waits += u32::from(begin > now);
            answers.push(begin - now + time);
            alone.push(time);
        }
    }
    answers.sort_by(f64::total_cmp);
    alone.sort_by(f64::total_cmp);
    let count = answers.len() as f64;
    Seen {
        wait_s: waited / count,
        waits: f64::from(waits) / count,
        p99_s: answers[(count * 0.99) as usize],
        // Every hundredth: as good, and a hundred times as fast.
        alone: alone.into_iter().step_by(100).collect(),
    }
}

#[test]
fn waits_and_answers_are_forecast_as_they_come_out() {
    // Largest relative error of mean wait and of p99 that these approximations have here.
    let rows = [
        (Times::Exponential, 1, 0.05, 0.06),
        // Exact in theory: what is left is chance, at a load of 0.9 a twentieth.
        (Times::Exponential, 4, 0.05, 0.07),
        (Times::Exponential, 16, 0.10, 0.07),
        (Times::Fixed, 1, 0.05, 0.15),
        (Times::Fixed, 4, 0.12, 0.06),
        (Times::Mixed, 2, 0.06, 0.05),
        (Times::Mixed, 8, 0.1, 0.05),
    ];
    for (times, servers, wait_error, answer_error) in rows {
        for load in [0.5, 0.7, 0.9] {
            let seen = simulate(servers, load, times);
            let line = Line {
                servers,
                service_s: MEAN_S,
                cv2: times.cv2(),
            };
            let told = line.forecast(load, &seen.alone);
            let what = format!("{times:?} c={servers} load={load}");
            println!(
                "{what}: wait {:.3}/{:.3} ms, waits {:.3}/{:.3}, p99 {:.2}/{:.2} ms",
                told.wait_s * 1e3,
                seen.wait_s * 1e3,
                told.waits,
                seen.waits,
                told.p99_s * 1e3,
                seen.p99_s * 1e3
            );
            // What is waited for less than a twentieth of a call's time is noise.
            let error = (told.wait_s - seen.wait_s).abs();
            assert!(
                error <= wait_error * seen.wait_s + 0.02 * MEAN_S,
                "{what}: wait"
            );
            assert!((told.waits - seen.waits).abs() <= 0.05, "{what}: waits");
            let error = (told.p99_s / seen.p99_s - 1.0).abs();
            assert!(error <= answer_error, "{what}: p99 off by {error:.3}");
        }
    }
}
