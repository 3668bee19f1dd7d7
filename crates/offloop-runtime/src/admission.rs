//! What a wait is worth: estimates, bounds and pressure, as plain functions of what is measured.
//!
//! Bounds are in time, not in number: a thousand calls of a microsecond are no line, ten of a minute
//! are. Everything here is computed before work is taken in, so that overload is refused early and
//! not suffered late.
//!
//! Must never: read a clock, draw a number, or hold a lock.

use std::time::Duration;

use offloop_job::limits::PRIORITY_MAX;

/// How full a line is, as its producers should see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Send as you like.
    #[default]
    Open,
    /// There is a line; what can wait should.
    Busy,
    /// What is not urgent is refused.
    Full,
}

impl Pressure {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Busy => "busy",
            Self::Full => "full",
        }
    }

    /// The next level at this load, the estimated wait over its bound. It rises at one figure and
    /// falls at a lower one, so that a load at the edge does not make it flutter.
    #[must_use]
    pub fn at(self, load: f64) -> Self {
        const BUSY: (f64, f64) = (0.5, 0.25); // rises at, falls below
        const FULL: (f64, f64) = (1.0, 0.75);
        let full = load >= FULL.0 || (self == Self::Full && load >= FULL.1);
        let busy = load >= BUSY.0 || (self >= Self::Busy && load >= BUSY.1);
        match (full, busy) {
            (true, _) => Self::Full,
            (false, true) => Self::Busy,
            (false, false) => Self::Open,
        }
    }
}

/// How long newcomers wait: until `ahead`, the sum of typical runs before them, is done by `slots` at a
/// time; and at least as long as the line has stood still already, which tells of a lane that is
/// blocked when no mean of past runs does.
///
/// Not the age of the head: of a line that moves it tells how long it was, not how long it is. A bound
/// on it empties the line and lets the next burst in, over and over (docs/adr/0016).
pub(crate) fn estimated_wait(still: Duration, ahead: Duration, slots: u32) -> Duration {
    still.max(ahead / slots.max(1))
}

/// A line that never emptied for this long is no burst any more; at least, and at least ten runs.
const STANDING_AFTER: Duration = Duration::from_millis(100);
const STANDING_RUNS: u32 = 10;
/// In a standing line this wait is allowed, and at least four runs, so that slots never idle for want
/// of the next piece. CoDel's target (queue.acm.org 2839461), scaled to the run: with 5 ms alone a
/// pool of longer runs sheds although it keeps up.
const STANDING_WAIT: Duration = Duration::from_millis(5);
const STANDING_WAIT_RUNS: u32 = 4;

/// The wait that a newcomer may be let in for. A burst may fill `max_wait`; a line that stands is cut
/// down, since everybody in it would only wait longer for the same rate.
///
/// - `standing`: since the line was last empty.
/// - `mean_run`: of what runs there.
pub(crate) fn allowed_wait(standing: Duration, mean_run: Duration, max_wait: Duration) -> Duration {
    let burst = STANDING_AFTER.max(mean_run * STANDING_RUNS);
    if standing < burst {
        return max_wait;
    }
    STANDING_WAIT
        .max(mean_run * STANDING_WAIT_RUNS)
        .min(max_wait)
}

/// Part of the allowed wait that a priority may fill.
const fn share(priority: u8) -> f64 {
    match priority {
        0..=2 => 1.0,
        3..=5 => 0.9,
        _ => 0.5,
    }
}

/// Whether a newcomer is turned away: surely past its priority's share of the allowed wait, never
/// below three quarters of that, by chance in between, so that callers are not all refused and all
/// let in at the same moment.
///
/// - `roll`: uniform in `0.0..1.0`.
pub(crate) fn sheds(estimated: Duration, allowed: Duration, priority: u8, roll: f64) -> bool {
    const SURE_BELOW: f64 = 0.75;
    let most = allowed.as_secs_f64() * share(priority.min(PRIORITY_MAX));
    let least = most * SURE_BELOW;
    let wait = estimated.as_secs_f64();
    wait > least && (wait - least) > (most - least) * roll
}

/// Whether a newcomer is turned away because the whole server is pressed (load 1 is full): what can wait
/// surely from there on, the usual surely at four times that, both by chance down to half as much, and
/// never the urgent.
///
/// - `roll`: uniform in `0.0..1.0`.
pub(crate) fn crowds_out(load: f64, priority: u8, roll: f64) -> bool {
    let from = match priority {
        0..=2 => return false,
        3..=5 => 2.0,
        _ => 0.5,
    };
    load > from && (load - from) / from > roll
}

/// When to come again: after the wait that is too long now, spread over half to one and a half of it,
/// so that the refused do not return together. At least 50 ms.
///
/// - `roll`: uniform in `0.0..1.0`.
pub(crate) fn retry_after(estimated: Duration, roll: f64) -> Duration {
    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(3_600);
    estimated.clamp(LEAST, MOST).mul_f64(0.5 + roll)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn pressure_does_not_flutter_at_an_edge() {
        use Pressure::{Busy, Full, Open};
        let rows = [
            (Open, 0.49, Open),
            (Open, 0.5, Busy),
            (Busy, 0.3, Busy),
            (Busy, 0.24, Open),
            (Open, 1.0, Full),
            (Busy, 0.9, Busy),
            (Full, 0.76, Full),
            (Full, 0.74, Busy),
            (Full, 0.1, Open),
        ];
        for (now, load, want) in rows {
            assert_eq!(now.at(load), want, "{now:?} at {load}");
        }
    }

    #[test]
    fn a_line_that_does_not_move_is_seen_although_its_runs_were_short() {
        assert_eq!(estimated_wait(ms(900), ms(10), 2), ms(900));
        assert_eq!(estimated_wait(ms(1), ms(300), 3), ms(100));
        assert_eq!(estimated_wait(ms(0), ms(300), 0), ms(300));
    }

    #[test]
    fn a_burst_may_wait_and_a_standing_line_is_cut_down_to_a_few_runs() {
        let most = ms(1_000);
        let rows = [
            (ms(0), ms(1), most),
            (ms(99), ms(1), most),
            (ms(100), ms(1), ms(5)),
            (ms(100), ms(40), most), // not yet ten runs
            (ms(400), ms(40), ms(160)),
            (ms(9_000), ms(800), most), // never over the operator's bound
        ];
        for (standing, run, want) in rows {
            assert_eq!(
                allowed_wait(standing, run, most),
                want,
                "{standing:?} {run:?}"
            );
        }
    }

    #[test]
    fn what_can_wait_is_turned_away_before_what_cannot() {
        let allowed = ms(100);
        let turned_away = |wait, priority| {
            let rolls = (0..100).map(|n| f64::from(n) / 100.0);
            rolls
                .filter(|roll| sheds(ms(wait), allowed, priority, *roll))
                .count()
        };
        assert_eq!((turned_away(37, 9), turned_away(51, 9)), (0, 100));
        assert_eq!((turned_away(67, 5), turned_away(91, 5)), (0, 100));
        assert_eq!((turned_away(74, 0), turned_away(101, 0)), (0, 100));
        let some = turned_away(85, 1);
        assert!((30..=50).contains(&some), "{some}");
    }

    #[test]
    fn a_pressed_server_lets_the_urgent_in_and_turns_away_what_can_wait() {
        let out = |load, priority| crowds_out(load, priority, 0.5);
        assert!((0..=2).all(|priority| !out(9.0, priority)));
        assert!((0..=9).all(|priority| !out(0.5, priority)));
        assert!(out(0.8, 8) && !out(0.7, 8) && crowds_out(0.7, 8, 0.1));
        assert!(out(3.1, 5) && !out(2.9, 5) && (3..=5).all(|usual| !out(2.0, usual)));
    }

    #[test]
    fn the_refused_do_not_come_back_together_nor_at_once() {
        assert_eq!(retry_after(ms(1_000), 0.0), ms(500));
        assert_eq!(retry_after(ms(1_000), 1.0), ms(1_500));
        assert_eq!(retry_after(ms(0), 0.0), ms(25));
    }
}
