//! The prediction, held against the server: loads below it, and the load at which no more is done.
//!
//! The load's client shares the machine, and so do other programs. What they use is measured in the
//! same window and taken off the processors that the prediction may count on; both are told.

use std::time::Duration;

use crate::PlanError;
use crate::load::{Pace, Seen};
use crate::measure::{Bench, Measured, connections};
use crate::predict::Model;
use crate::proc::Share;
use crate::server::On;

/// Parts of the prediction that are offered.
pub const LOADS: [f64; 3] = [0.5, 0.7, 0.9];
/// And beyond it, to find the most that is done.
const BEYOND: [f64; 3] = [1.0, 1.2, 1.5];

/// One load that was offered.
#[derive(Clone, Debug)]
pub struct Point {
    /// Of the prediction.
    pub load: f64,
    /// Calls per second.
    pub offered_per_s: f64,
    pub done_per_s: f64,
    /// Of the calls that were due, 0 to 1.
    pub refused: f64,
    pub failed: f64,
    pub predicted_p99_s: f64,
    pub measured_p50_s: f64,
    pub measured_p99_s: f64,
    /// Processors used by the server, by the client, by others.
    pub server_cores: f64,
    pub client_cores: f64,
    pub other_cores: f64,
    /// Calls per second that were predicted for the processors that were left.
    pub predicted_per_s: f64,
}

/// A prediction that was tried.
#[derive(Clone, Debug)]
pub struct Validation {
    pub points: Vec<Point>,
    /// The one at which most was done.
    pub saturation: Point,
    /// Predicted over measured saturation, less one.
    pub error: f64,
}

/// Calls per second of a server whose calls cost `each_s`, on the processors that are left to it.
fn predicted(model: &Model, processes: u16, taken: f64, each_s: f64) -> f64 {
    let by_cores = (model.cores - taken).max(0.05) / each_s;
    if model.holds_s > 0.0 {
        by_cores.min(f64::from(processes) / model.holds_s)
    } else {
        by_cores
    }
}

/// Takes about `seconds`.
pub(crate) fn validate(
    bench: &Bench<'_>,
    measured: &Measured,
    seconds: f64,
    tell: &mut dyn FnMut(f64, &str),
) -> Result<Validation, PlanError> {
    let model = Model::of(measured);
    let processes = measured.sizing.processes;
    let server = bench.server("validate", On::AllCores, &measured.sizing)?;
    let parts = bench.mix.parts();
    let requests = bench.requests(&server)?;
    let weights: Vec<_> = parts.iter().map(|part| part.weight).collect();
    // What the client will use is not known yet: so much for each call as in the measurement.
    let each_s = model.all_s + model.client_s;
    let base = predicted(&model, processes, measured.others, each_s);
    let looks = (LOADS.len() + BEYOND.len()) as f64;
    let longest = 20.0 * model.alone.last().copied().unwrap_or(0.0);
    let span = Duration::from_secs_f64((seconds / (1.25 * looks)).max(longest.min(10.0)));
    let mut points = Vec::new();
    for (at, load) in LOADS.iter().chain(&BEYOND).enumerate() {
        // Others may have given up what they used before.
        let seen = points.iter().map(|point: &Point| point.predicted_per_s);
        let full = if *load < 1.0 {
            base
        } else {
            seen.fold(base, f64::max)
        };
        let offered = full * load;
        tell(at as f64 / looks, &format!("offering {offered:.0} calls/s"));
        let pace = Pace::Open {
            per_s: offered,
            connections: connections(offered, &measured.sizing),
        };
        let (seen, share) = bench.look(&server, &requests, &weights, pace, span, 0)?;
        points.push(point(*load, &seen, share, &model, processes));
    }
    let saturation = saturation(&points).ok_or(PlanError::NotListening)?;
    // What others use while the server is not busy, they might give up if it were: only a full
    // machine tells what was left for it.
    for point in &mut points {
        point.predicted_p99_s = p99(&model, point.offered_per_s, saturation.predicted_per_s);
    }
    Ok(Validation {
        error: saturation.predicted_per_s / saturation.done_per_s.max(1e-9) - 1.0,
        saturation,
        points,
    })
}

/// Less than this part of what was predicted leaves a server room, and tells nothing of its end.
const FULL: f64 = 0.95;

/// The point at which most was done, of those that were offered as much as fits; of all if none was.
fn saturation(points: &[Point]) -> Option<Point> {
    let is_full = |point: &&Point| point.offered_per_s >= FULL * point.predicted_per_s;
    let most = |a: &&Point, b: &&Point| a.done_per_s.total_cmp(&b.done_per_s);
    let full = points.iter().filter(is_full).max_by(most);
    full.or_else(|| points.iter().max_by(most)).cloned()
}

/// Infinite for a load of `full_per_s` and more.
fn p99(model: &Model, offered_per_s: f64, full_per_s: f64) -> f64 {
    let line = model.line(model.cores, full_per_s);
    line.answer_s(
        offered_per_s / full_per_s,
        0.99,
        &model.alone_on(model.cores),
    )
}

fn point(load: f64, seen: &Seen, share: Share, model: &Model, processes: u16) -> Point {
    let wall = share.wall.max(1e-9);
    let due = (seen.offered as f64).max(1.0);
    let offered_per_s = seen.offered as f64 / wall;
    let taken = share.others_cores() + share.own / wall;
    let predicted_per_s = predicted(model, processes, taken, model.all_s);
    let latency = seen.sorted();
    let at = |part: f64| {
        let last = latency.len().saturating_sub(1) as f64;
        latency.get((last * part).round() as usize).copied()
    };
    Point {
        load,
        offered_per_s,
        done_per_s: seen.done as f64 / wall,
        refused: seen.refused as f64 / due,
        failed: seen.failed as f64 / due,
        predicted_p99_s: p99(model, offered_per_s, predicted_per_s),
        measured_p50_s: at(0.5).unwrap_or(f64::NAN),
        measured_p99_s: at(0.99).unwrap_or(f64::NAN),
        server_cores: share.server / wall,
        client_cores: share.own / wall,
        other_cores: share.others_cores(),
        predicted_per_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::tests::measured;

    #[test]
    fn what_others_use_is_taken_off_the_prediction() {
        let model = Model::of(&measured());
        let all = predicted(&model, 4, 0.0, model.all_s);
        assert!((all - 4.0 / 0.0044).abs() < 1e-6);
        assert!((predicted(&model, 4, 1.0, model.all_s) / all - 0.75).abs() < 1e-9);
        assert!(
            predicted(&model, 4, 99.0, model.all_s) > 0.0,
            "never by nothing"
        );
    }

    #[test]
    fn a_server_that_was_not_full_is_not_taken_for_saturated() {
        let point = |offered_per_s, done_per_s, predicted_per_s| {
            let share = Share {
                wall: 1.0,
                ..Share::default()
            };
            Point {
                offered_per_s,
                done_per_s,
                predicted_per_s,
                ..super::point(1.0, &Seen::default(), share, &Model::of(&measured()), 4)
            }
        };
        // Most was done where there was room for more; later others took half of the machine.
        let points = [
            point(800.0, 800.0, 990.0),
            point(980.0, 630.0, 700.0),
            point(1_200.0, 570.0, 600.0),
        ];
        let full = saturation(&points).unwrap();
        assert!((full.done_per_s - 630.0).abs() < 1e-9);
        assert!((saturation(&points[..1]).unwrap().done_per_s - 800.0).abs() < 1e-9);
        assert!(saturation(&[]).is_none());
    }

    #[test]
    fn a_load_above_the_prediction_has_no_forecast() {
        let seen = Seen {
            offered: 2_000,
            done: 900,
            answered: 900,
            refused: 1_100,
            latency_s: vec![vec![0.01; 900]],
            ..Seen::default()
        };
        let share = Share {
            wall: 1.0,
            server: 3.9,
            own: 0.1,
            others: 0.0,
        };
        let told = point(1.5, &seen, share, &Model::of(&measured()), 4);
        assert!(told.predicted_p99_s.is_infinite());
        assert!((told.refused - 0.55).abs() < 1e-9 && told.failed.abs() < 1e-9);
        assert!((told.measured_p99_s - 0.01).abs() < 1e-9);
    }
}
