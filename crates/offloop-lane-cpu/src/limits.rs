//! The limits of running jobs: one round of the watch over all seats.
//!
//! Must never: block or read the clock. The processor time of threads is read only for jobs that
//! have a limit on it.

use std::time::{Duration, Instant};

use offloop_job::{FailureClass, Lease, TaskName};
use offloop_lane::{Overrun, Stopped};

use crate::meter::cpu_time_of;
use crate::pulse::SeatSink;
use crate::state::{Running, State};

/// How long the watch sleeps when no job needs it earlier.
const WATCH_IDLE: Duration = Duration::from_secs(60);

/// What one round found.
#[derive(Debug)]
pub(crate) struct Round {
    /// When to look again.
    pub(crate) next: Instant,
    pub(crate) newly_stuck: Vec<Deaf>,
}

/// A job that ignores its token.
#[derive(Debug)]
pub(crate) struct Deaf {
    pub(crate) task: TaskName,
    pub(crate) lease: Lease,
    pub(crate) ran: Duration,
    /// Since it was asked to stop.
    pub(crate) ignored: Duration,
}

impl Deaf {
    fn of(running: &Running, now: Instant) -> Option<Self> {
        Some(Self {
            task: running.work.task.clone(),
            lease: running.work.lease,
            ran: now.saturating_duration_since(running.started),
            ignored: now.saturating_duration_since(running.stop_at?),
        })
    }
}

impl std::fmt::Display for Deaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            task,
            lease,
            ran,
            ignored,
        } = self;
        write!(
            f,
            "task `{task}` (lease {lease}) has run for {ran:.1?} and was asked to stop {ignored:.1?} ago"
        )
    }
}

impl State {
    /// One round of the watch: stops what is over a limit and marks what is stuck.
    pub(crate) fn inspect(&mut self, now: Instant, grace: Duration) -> Round {
        let mut next = now + WATCH_IDLE;
        let mut newly_stuck = Vec::new();
        for seat in &mut self.seats {
            let (tid, pulse) = (seat.tid, &seat.pulse);
            let Some(running) = seat.running.as_mut() else {
                continue;
            };
            if running.stop_at.is_none() {
                match check_limits(running, now, pulse.as_deref(), tid) {
                    Ok(due) => {
                        next = due.map_or(next, |due| next.min(due));
                        continue;
                    }
                    Err(overrun) => {
                        let class: FailureClass = overrun.class;
                        running.overrun = Some(overrun);
                        Self::ask(running, Stopped::Limit(class), now);
                    }
                }
            }
            let stuck_at = running.stop_at.and_then(|at| at.checked_add(grace));
            match stuck_at {
                Some(at) if at > now => next = next.min(at),
                Some(_) if !running.stuck => {
                    running.stuck = true;
                    self.stuck += 1;
                    newly_stuck.extend(Deaf::of(running, now));
                }
                _ => {}
            }
        }
        self.watch_until = next;
        Round { next, newly_stuck }
    }

    /// Every job that was asked to stop, and has not for longer than the grace.
    pub(crate) fn deaf_jobs(&self, now: Instant) -> Vec<Deaf> {
        let running = self.seats.iter().filter_map(|seat| seat.running.as_ref());
        let stuck = running.filter(|running| running.stuck);
        stuck.filter_map(|running| Deaf::of(running, now)).collect()
    }
}

/// The next time at which a limit may be passed, or the limit that was.
fn check_limits(
    running: &Running,
    now: Instant,
    pulse: Option<&SeatSink>,
    tid: i32,
) -> Result<Option<Instant>, Overrun> {
    let limits = &running.work.limits;
    let ran = now.saturating_duration_since(running.started);
    if ran >= limits.timeout {
        return Err(Overrun::timeout(limits.timeout, ran));
    }
    let mut due = running.started.checked_add(limits.timeout);
    let mut sooner = |at: Option<Instant>| {
        due = match (due, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    };
    if let Some(limit) = limits.stall {
        let since = pulse
            .and_then(|pulse| pulse.progress_of(running.work.lease))
            .map_or(running.started, |at| at.max(running.started));
        let silent = now.saturating_duration_since(since);
        if silent >= limit {
            return Err(Overrun::stalled(limit, silent));
        }
        sooner(since.checked_add(limit));
    }
    if let Some(limit) = limits.cpu {
        let from = running.cpu_from.unwrap_or_default();
        let reading = running.cpu_from.and_then(|_| cpu_time_of(tid));
        let crew = running
            .crew
            .as_ref()
            .map_or(Duration::ZERO, |crew| crew.cpu());
        let used = reading.map_or(Duration::ZERO, |reading| reading.saturating_sub(from)) + crew;
        if used >= limit {
            return Err(Overrun::cpu(limit, used));
        }
        // Threads cannot use processor time faster than time passes for each; a reading may lag.
        let left = limit.saturating_sub(used) / u32::from(running.cores);
        sooner(now.checked_add(left.max(Duration::from_millis(2))));
    }
    Ok(due)
}
