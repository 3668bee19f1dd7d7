//! How long to wait before the next attempt.

use std::time::Duration;

use crate::limits::{BACKOFF_CAP_MAX, CUSTOM_BACKOFF_STEPS_MAX};

/// The shape of the waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackoffKind {
    /// Always `base`.
    Fixed,
    /// `base` x 2^(n-1) after the n-th failure.
    Exponential,
    /// The caller's own list, 1 to 64 waits; the last one repeats.
    Custom(Box<[Duration]>),
}

/// The wait before an attempt that follows a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub kind: BackoffKind,
    /// First wait. Unused by `Custom`.
    pub base: Duration,
    /// No wait is longer; at most 30 days.
    pub cap: Duration,
    /// Share of the wait that is drawn, in percent: 0 none, 100 "full jitter"
    /// (Brooker, "Exponential Backoff And Jitter", 2015).
    pub jitter_percent: u8,
}

impl Default for Backoff {
    /// 1 s, 2 s, 4 s ... 10 min, with full jitter.
    fn default() -> Self {
        Self {
            kind: BackoffKind::Exponential,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(600),
            jitter_percent: 100,
        }
    }
}

impl Backoff {
    /// What is wrong with it, if anything.
    pub fn problem(&self) -> Option<String> {
        if self.cap > BACKOFF_CAP_MAX {
            return Some(format!(
                "cap_ms is {}; the limit is {} (30 days)",
                self.cap.as_millis(),
                BACKOFF_CAP_MAX.as_millis()
            ));
        }
        if self.jitter_percent > 100 {
            return Some("jitter is over 1.0; give 0.0 (none) to 1.0 (full)".into());
        }
        match &self.kind {
            BackoffKind::Custom(waits)
                if waits.is_empty() || waits.len() > CUSTOM_BACKOFF_STEPS_MAX =>
            {
                Some(format!(
                    "a custom backoff lists {} waits; give 1 to {CUSTOM_BACKOFF_STEPS_MAX} in delays_ms",
                    waits.len()
                ))
            }
            _ => None,
        }
    }
}

/// Wait before the next attempt.
///
/// - Unit: [`Duration`] in `0..=cap`.
/// - `failed`: attempts ended in failure, so 1 after the first.
/// - `dice`: 0.0 to 1.0, drawn by the caller; full jitter is uniform in `0..=wait`.
/// - Errors: none; overflow saturates at `cap`.
pub fn retry_delay(backoff: &Backoff, failed: u16, dice: f64) -> Duration {
    let nth = failed.max(1) - 1;
    let wait = match &backoff.kind {
        BackoffKind::Fixed => backoff.base,
        BackoffKind::Exponential => {
            let factor = 1_u32.checked_shl(u32::from(nth)).unwrap_or(u32::MAX);
            backoff.base.checked_mul(factor).unwrap_or(Duration::MAX)
        }
        BackoffKind::Custom(waits) => waits
            .get(usize::from(nth))
            .or(waits.last())
            .copied()
            .unwrap_or(backoff.base),
    };
    let wait = wait.min(backoff.cap);
    let share = f64::from(backoff.jitter_percent.min(100)) / 100.0;
    wait.mul_f64(1.0 - share * (1.0 - dice.clamp(0.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_grow_as_asked_and_stop_at_the_cap() {
        let fixed = Backoff {
            kind: BackoffKind::Fixed,
            base: ms(50),
            cap: ms(1000),
            jitter_percent: 0,
        };
        let exponential = Backoff {
            kind: BackoffKind::Exponential,
            ..fixed.clone()
        };
        let custom = Backoff {
            kind: BackoffKind::Custom([ms(5), ms(7), ms(5000)].into()),
            ..fixed.clone()
        };
        let rows = [
            (&fixed, 1, 50),
            (&fixed, 9, 50),
            (&exponential, 0, 50),
            (&exponential, 1, 50),
            (&exponential, 2, 100),
            (&exponential, 5, 800),
            (&exponential, 6, 1000),
            (&exponential, 65535, 1000),
            (&custom, 1, 5),
            (&custom, 2, 7),
            (&custom, 3, 1000),
            (&custom, 40, 1000),
        ];
        for (backoff, failed, want) in rows {
            assert_eq!(
                retry_delay(backoff, failed, 0.3),
                ms(want),
                "{backoff:?} {failed}"
            );
        }
    }

    #[test]
    fn full_jitter_covers_the_whole_wait() {
        let backoff = Backoff {
            base: ms(1000),
            ..Backoff::default()
        };
        assert_eq!(retry_delay(&backoff, 1, 0.0), ms(0));
        assert_eq!(retry_delay(&backoff, 1, 0.5), ms(500));
        assert_eq!(retry_delay(&backoff, 1, 1.0), ms(1000));
        let half = Backoff {
            jitter_percent: 50,
            ..backoff
        };
        assert_eq!(retry_delay(&half, 1, 0.0), ms(500));
    }
}
