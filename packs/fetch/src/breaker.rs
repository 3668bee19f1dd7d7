//! A circuit breaker: a host that does nothing but fail is left alone for a while.
//!
//! Its state is what happened and what time it is: no timer has to come for it to go on, so none can be
//! lost. A permit is a guard. Dropped without an outcome (a caller that went away, a hedge that lost) it
//! counts for nothing and gives its place back.
//!
//! Must never: read a clock, wait, or let an outcome from before a change of state count after it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::sync::{Mutex, MutexGuard, Step, takes};

/// Pieces of the window: the oldest goes when a new one begins.
const PIECES: usize = 10;
/// How soon to look again when all probes are out.
const PROBE_LOOK: Duration = Duration::from_millis(100);

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerRule {
    /// Outcomes in the window before it may open; default 20.
    pub calls: u32,
    /// Share of failures that opens it, above 0 to 1; default 0.9: it is for hosts that are gone. One
    /// that is merely sick is spared by the budget of retries.
    pub failed_share: f64,
    /// Outcomes older than this are forgotten; default 10 s.
    pub window: Duration,
    /// First time open; doubles with each probe that fails; default 2 s.
    pub open: Duration,
    /// At most so long; default 30 s.
    pub open_max: Duration,
    /// Calls that are let through to see whether the host is back, and that must succeed; default 1.
    pub probes: u32,
}

impl Default for BreakerRule {
    fn default() -> Self {
        Self {
            calls: 20,
            failed_share: 0.9,
            window: Duration::from_secs(10),
            open: Duration::from_secs(2),
            open_max: Duration::from_secs(30),
            probes: 1,
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    /// Nothing is let through.
    Open,
    /// Probes are.
    HalfOpen,
}

/// No call now; look again after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNow(pub Duration);

/// How often it changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerEvents {
    pub opened: u64,
    pub closed: u64,
}

#[derive(Debug, Default)]
struct Window {
    /// Number of the piece in time, good and bad.
    pieces: [(u64, u32, u32); PIECES],
}

impl Window {
    fn count(&mut self, piece: u64, good: bool) {
        let slot = &mut self.pieces[(piece % PIECES as u64) as usize];
        if slot.0 != piece {
            *slot = (piece, 0, 0);
        }
        if good {
            slot.1 += 1;
        } else {
            slot.2 += 1;
        }
    }

    /// Good and bad ones that are not too old.
    fn sums(&self, piece: u64) -> (u32, u32) {
        let young = |slot: &&(u64, u32, u32)| slot.0 + PIECES as u64 > piece;
        let slots = self.pieces.iter().filter(young);
        slots.fold((0, 0), |sums, slot| (sums.0 + slot.1, sums.1 + slot.2))
    }
}

#[derive(Debug)]
enum Phase {
    Closed(Window),
    /// Open until then, half open from then on.
    Tripped {
        until: Duration,
        /// Times in a row.
        times: u32,
        out: u32,
        good: u32,
    },
}

#[derive(Debug)]
struct Inner {
    /// One more with each change of phase.
    generation: u64,
    phase: Phase,
    events: BreakerEvents,
}

/// One host's breaker. Times are since any fixed moment, the same for all calls.
#[derive(Debug)]
pub struct Breaker {
    rule: BreakerRule,
    inner: Mutex<Inner>,
}

impl Breaker {
    pub fn new(rule: BreakerRule) -> Self {
        Self {
            rule,
            inner: Mutex::new(Inner {
                generation: 0,
                phase: Phase::Closed(Window::default()),
                events: BreakerEvents::default(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piece(&self, now: Duration) -> u64 {
        let one = (self.rule.window / PIECES as u32).max(Duration::from_millis(1));
        // From one on: zero is a piece that never was.
        (now.as_nanos() / one.as_nanos()) as u64 + PIECES as u64
    }

    pub fn state(&self, now: Duration) -> BreakerState {
        match self.lock().phase {
            Phase::Closed(_) => BreakerState::Closed,
            Phase::Tripped { until, .. } if now < until => BreakerState::Open,
            Phase::Tripped { .. } => BreakerState::HalfOpen,
        }
    }

    pub fn events(&self) -> BreakerEvents {
        self.lock().events
    }

    /// Asks for one call.
    pub fn permit(self: &Arc<Self>, now: Duration) -> Result<Permit, NotNow> {
        let mut inner = self.lock();
        let generation = inner.generation;
        let is_probe = match &mut inner.phase {
            Phase::Closed(_) => false,
            Phase::Tripped { until, .. } if now < *until => {
                return Err(NotNow(until.saturating_sub(now)));
            }
            Phase::Tripped { out, good, .. } => {
                if *out + *good >= self.rule.probes.max(1) {
                    return Err(NotNow(PROBE_LOOK));
                }
                *out += 1;
                true
            }
        };
        drop(inner);
        Ok(Permit {
            breaker: Arc::clone(self),
            generation,
            is_probe,
            settled: false,
        })
    }

    fn settle(&self, permit: &Permit, now: Duration, good: bool) {
        let mut inner = self.lock();
        if inner.generation != permit.generation && takes(Step::Generation) {
            return;
        }
        let piece = self.piece(now);
        let next = match &mut inner.phase {
            Phase::Closed(window) => {
                window.count(piece, good);
                let (well, bad) = window.sums(piece);
                let all = well + bad;
                let share = f64::from(bad) / f64::from(all.max(1));
                let trips = !good && all >= self.rule.calls && share >= self.rule.failed_share;
                trips.then(|| self.tripped(now, 1))
            }
            Phase::Tripped { times, .. } if !good => Some(self.tripped(now, *times + 1)),
            Phase::Tripped { out, good, .. } => {
                *out = out.saturating_sub(1);
                *good += 1;
                let all = *good >= self.rule.probes.max(1);
                all.then(|| Phase::Closed(Window::default()))
            }
        };
        if let Some(next) = next {
            match next {
                Phase::Closed(_) => inner.events.closed += 1,
                Phase::Tripped { .. } => inner.events.opened += 1,
            }
            inner.generation += 1;
            inner.phase = next;
        }
    }

    fn tripped(&self, now: Duration, times: u32) -> Phase {
        let longer = 1_u32.checked_shl(times - 1).unwrap_or(u32::MAX);
        let open = self.rule.open.saturating_mul(longer);
        Phase::Tripped {
            until: now + open.min(self.rule.open_max),
            times,
            out: 0,
            good: 0,
        }
    }

    fn give_back(&self, permit: &Permit) {
        let mut inner = self.lock();
        if inner.generation != permit.generation || !takes(Step::GiveBack) {
            return;
        }
        if let Phase::Tripped { out, .. } = &mut inner.phase
            && permit.is_probe
        {
            *out = out.saturating_sub(1);
        }
    }
}

/// Leave for one call. Say how it went, or drop it.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once lets nothing through"]
pub struct Permit {
    breaker: Arc<Breaker>,
    generation: u64,
    is_probe: bool,
    settled: bool,
}

impl Permit {
    /// It answered, whatever it said.
    pub fn good(mut self, now: Duration) {
        self.settled = true;
        self.breaker.settle(&self, now, true);
    }

    /// It did not answer, or only to say that it is broken.
    pub fn bad(mut self, now: Duration) {
        self.settled = true;
        self.breaker.settle(&self, now, false);
    }

    pub fn is_probe(&self) -> bool {
        self.is_probe
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.settled {
            self.breaker.give_back(self);
        }
    }
}
