//! What one connection is doing, as far as its deadlines need to know.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::interim::Line;
use crate::body::Pace;

/// Milliseconds since the door was opened, never 0: 0 stands for "not".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }
}

/// How long each phase may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) header: Duration,
    pub(crate) idle: Duration,
    pub(crate) pace: Pace,
}

/// Why a connection is ended by the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    Header,
    Idle,
    SlowReader,
}

/// Written by the connection's own task, read by the sweeper. Times are of [`Clock`].
#[derive(Debug)]
pub(crate) struct ConnState {
    clock: Clock,
    pace: Pace,
    opened: u64,
    /// Speaks HTTP/2: its frames beside requests are not heads.
    pub(super) multiplexed: AtomicBool,
    /// Requests whose answer is not finished.
    active: AtomicU32,
    served: AtomicBool,
    /// First byte of a head whose request has not begun.
    head_since: AtomicU64,
    /// End of the last answer.
    idle_since: AtomicU64,
    /// The socket takes no more bytes since.
    blocked_since: AtomicU64,
    /// Time that the reader owes, in milliseconds: see [`Pace`].
    debt: AtomicU64,
    /// Last byte of a body.
    body_at: AtomicU64,
    /// What its route has to say before it answers.
    pub(super) interim: Line,
}

impl ConnState {
    pub(crate) fn new(clock: Clock, pace: Pace) -> Self {
        let now = clock.ms();
        Self {
            clock,
            pace,
            opened: now,
            multiplexed: AtomicBool::new(false),
            active: AtomicU32::new(0),
            served: AtomicBool::new(false),
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(now),
            blocked_since: AtomicU64::new(0),
            debt: AtomicU64::new(0),
            body_at: AtomicU64::new(0),
            interim: Line::default(),
        }
    }

    /// A head is complete.
    pub(crate) fn request_begins(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
        self.head_since.store(0, Ordering::Release);
        self.served.store(true, Ordering::Release);
    }

    /// Its answer was sent, or given up.
    pub(crate) fn request_ends(&self) {
        if self.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle_since.store(self.clock.ms(), Ordering::Release);
        }
    }

    pub(crate) fn body_came(&self) {
        self.body_at.store(self.clock.ms(), Ordering::Release);
    }

    /// How long ago a body last grew; `None` if that was never waited for.
    pub(crate) fn since_body(&self) -> Option<Duration> {
        match self.body_at.load(Ordering::Acquire) {
            0 => None,
            at => Some(Duration::from_millis(self.clock.ms().saturating_sub(at))),
        }
    }

    pub(super) fn bytes_read(&self) {
        if self.active.load(Ordering::Acquire) == 0 && self.head_since.load(Ordering::Acquire) == 0
        {
            self.head_since.store(self.clock.ms(), Ordering::Release);
        }
    }

    pub(super) fn write_blocked(&self) {
        if self.blocked_since.load(Ordering::Acquire) == 0 {
            self.blocked_since.store(self.clock.ms(), Ordering::Release);
        }
    }

    pub(super) fn bytes_written(&self, bytes: usize) {
        let since = self.blocked_since.load(Ordering::Acquire);
        let debt = self.debt.load(Ordering::Acquire);
        if since == 0 && debt == 0 {
            return;
        }
        self.blocked_since.store(0, Ordering::Release);
        let waited = if since == 0 {
            0
        } else {
            self.clock.ms().saturating_sub(since)
        };
        let worth = self.pace.worth(bytes).as_millis() as u64;
        self.debt
            .store((debt + waited).saturating_sub(worth), Ordering::Release);
    }

    /// Whether it should be ended now.
    pub(super) fn overdue(&self, now: u64, rules: &Rules) -> Option<Overdue> {
        let over =
            |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
        let blocked = self.blocked_since.load(Ordering::Acquire);
        if blocked != 0 {
            let owed = now.saturating_sub(blocked) + self.debt.load(Ordering::Acquire);
            if u128::from(owed) > rules.pace.window.as_millis() {
                return Some(Overdue::SlowReader);
            }
        }
        if self.active.load(Ordering::Acquire) > 0 {
            return None;
        }
        if !self.served.load(Ordering::Acquire) {
            return over(self.opened, rules.header).then_some(Overdue::Header);
        }
        let head = self.head_since.load(Ordering::Acquire);
        if head != 0 && !self.multiplexed.load(Ordering::Acquire) {
            return over(head, rules.header).then_some(Overdue::Header);
        }
        over(self.idle_since.load(Ordering::Acquire), rules.idle).then_some(Overdue::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        window: Duration::from_millis(300),
        rate: 1000,
    };
    const RULES: Rules = Rules {
        header: Duration::from_millis(100),
        idle: Duration::from_millis(750),
        pace: PACE,
    };

    fn state() -> ConnState {
        ConnState::new(Clock::start(), PACE)
    }

    #[test]
    fn a_connection_that_never_asks_is_ended_at_the_header_deadline() {
        let state = state();
        assert_eq!(state.overdue(state.opened + 100, &RULES), None);
        assert_eq!(
            state.overdue(state.opened + 101, &RULES),
            Some(Overdue::Header)
        );
        state.bytes_read();
        assert_eq!(
            state.overdue(state.opened + 101, &RULES),
            Some(Overdue::Header)
        );
    }

    #[test]
    fn a_request_in_hand_is_not_idle_however_long_it_takes() {
        let state = state();
        state.request_begins();
        assert_eq!(state.overdue(state.opened + 1_000_000, &RULES), None);
        state.request_ends();
        let idle = state.idle_since.load(Ordering::Acquire);
        assert_eq!(state.overdue(idle + 750, &RULES), None);
        assert_eq!(state.overdue(idle + 751, &RULES), Some(Overdue::Idle));
    }

    #[test]
    fn the_second_head_has_the_same_deadline_as_the_first() {
        let state = state();
        state.request_begins();
        state.request_ends();
        state.bytes_read();
        let head = state.head_since.load(Ordering::Acquire);
        assert_eq!(state.overdue(head + 101, &RULES), Some(Overdue::Header));
        state.multiplexed.store(true, Ordering::Release);
        assert_eq!(state.overdue(head + 101, &RULES), None);
    }

    #[test]
    fn a_reader_that_takes_a_byte_now_and_then_is_still_slow() {
        let state = state();
        state.request_begins();
        state.blocked_since.store(1, Ordering::Release);
        state.debt.store(290, Ordering::Release);
        state.bytes_written(1); // worth 1 ms
        assert!(state.debt.load(Ordering::Acquire) >= 289);
        state.blocked_since.store(50, Ordering::Release);
        assert_eq!(state.overdue(55, &RULES), None);
        assert_eq!(state.overdue(65, &RULES), Some(Overdue::SlowReader));
        state.bytes_written(100_000);
        assert_eq!(state.debt.load(Ordering::Acquire), 0);
        assert_eq!(state.overdue(1_000_000, &RULES), None);
    }
}
