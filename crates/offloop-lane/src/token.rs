//! The wish that an attempt stops, as running code sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use offloop_job::{FailureClass, StopReason};

/// Why it should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    Asked(StopReason),
    /// A limit was passed: its class.
    Limit(FailureClass),
}

/// Checked by code that cooperates: one relaxed load.
#[derive(Clone, Debug, Default)]
pub struct StopToken(Arc<AtomicU8>);

const RUN: u8 = 0;
const CANCEL: u8 = 1;
const SHUTDOWN: u8 = 2;
const LIMIT: u8 = 16;

impl StopToken {
    pub fn new() -> Self {
        Self::default()
    }

    /// The first reason stays.
    pub fn stop(&self, why: Stopped) {
        let code = match why {
            Stopped::Asked(StopReason::Cancel) => CANCEL,
            Stopped::Asked(StopReason::Shutdown) => SHUTDOWN,
            Stopped::Limit(class) => LIMIT + class as u8,
        };
        let _ = self
            .0
            .compare_exchange(RUN, code, Ordering::AcqRel, Ordering::Acquire);
    }

    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed) != RUN
    }

    pub fn reason(&self) -> Option<Stopped> {
        match self.0.load(Ordering::Acquire) {
            RUN => None,
            CANCEL => Some(Stopped::Asked(StopReason::Cancel)),
            SHUTDOWN => Some(Stopped::Asked(StopReason::Shutdown)),
            code => FailureClass::from_code(code - LIMIT).map(Stopped::Limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_to_stop_stays() {
        let token = StopToken::new();
        assert_eq!(token.reason(), None);
        token.clone().stop(Stopped::Limit(FailureClass::Timeout));
        token.stop(Stopped::Asked(StopReason::Cancel));
        assert!(token.is_stopped());
        assert_eq!(token.reason(), Some(Stopped::Limit(FailureClass::Timeout)));
    }
}
