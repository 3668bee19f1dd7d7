//! Whether a failed attempt is followed by another.

use std::time::Duration;

use crate::limits::{ATTEMPTS_DEFAULT, POISON_ENDS};
use crate::{Backoff, FailureClass, FinalReason, retry_delay};

/// The caller's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Runs in all, 1 to 1,000; default 5.
    pub max_attempts: u16,
    pub backoff: Backoff,
    /// Classes with a smaller number of runs; 1 means "no retry after this".
    pub by_class: Vec<(FailureClass, u16)>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: ATTEMPTS_DEFAULT,
            backoff: Backoff::default(),
            by_class: Vec::new(),
        }
    }
}

/// What a job has behind it when an attempt ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Number of the attempt that ends now, 1 for the first.
    pub attempt: u16,
    /// Crash-like ends in a row before this attempt, since the job last got on (kept a checkpoint
    /// that was not the one its attempt began with).
    pub crash_streak: u16,
    /// Attempts before this one, of this life, that ended over their memory limit.
    pub memory_ends: u16,
    /// Snoozes in a row before this attempt.
    pub snoozes: u16,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Retry { after: Duration },
    GiveUp { reason: FinalReason },
}

/// Decides by class, count and crash streak.
///
/// - `enlarged`: this attempt had the larger memory that its task grants after a first end over the
///   limit. That is granted once.
/// - `dice`: 0.0 to 1.0, for the jitter.
pub fn decide(
    policy: &RetryPolicy,
    history: History,
    class: FailureClass,
    enlarged: bool,
    dice: f64,
) -> Decision {
    let final_class = match class {
        FailureClass::Invalid => true,
        FailureClass::MemoryLimit => enlarged,
        _ => false,
    };
    if final_class {
        return Decision::GiveUp {
            reason: FinalReason::NotRetryable,
        };
    }
    if class.is_crash_like() && history.crash_streak + 1 >= POISON_ENDS {
        return Decision::GiveUp {
            reason: FinalReason::Poison,
        };
    }
    let own = policy
        .by_class
        .iter()
        .find(|rule| rule.0 == class)
        .map(|rule| rule.1);
    let runs = own.unwrap_or(policy.max_attempts).min(policy.max_attempts);
    if history.attempt >= runs {
        let reason = if runs <= 1 && own.is_some() {
            FinalReason::NotRetryable
        } else {
            FinalReason::Exhausted
        };
        return Decision::GiveUp { reason };
    }
    // Crashes with a new checkpoint in between are not one trouble that lasts.
    let failed = if class.is_crash_like() {
        history.crash_streak + 1
    } else {
        history.attempt
    };
    Decision::Retry {
        after: retry_delay(&policy.backoff, failed, dice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BackoffKind;

    #[test]
    fn a_failure_is_retried_by_its_class_its_count_and_its_streak() {
        use FailureClass::{Crashed, Error, Invalid, Lost, MemoryLimit, Timeout};
        let policy = RetryPolicy {
            max_attempts: 5,
            backoff: Backoff {
                kind: BackoffKind::Fixed,
                base: Duration::from_secs(1),
                jitter_percent: 0,
                ..Backoff::default()
            },
            by_class: vec![(Timeout, 1), (Error, 9)],
        };
        let again = Some(Decision::Retry {
            after: Duration::from_secs(1),
        });
        let stop = |reason| Some(Decision::GiveUp { reason });
        #[rustfmt::skip]
        let rows = [
            (Error, 1, 0, again), (Error, 4, 0, again), (Error, 5, 0, stop(FinalReason::Exhausted)),
            (Timeout, 1, 0, stop(FinalReason::NotRetryable)),
            (Invalid, 1, 0, stop(FinalReason::NotRetryable)),
            (Crashed, 1, 0, again), (Lost, 2, 1, again),
            (Crashed, 3, 2, stop(FinalReason::Poison)), (MemoryLimit, 4, 2, stop(FinalReason::Poison)),
            (Error, 3, 2, again),
        ];
        for (class, attempt, crash_streak, want) in rows {
            let got = decide(
                &policy,
                History {
                    attempt,
                    crash_streak,
                    ..History::default()
                },
                class,
                false,
                0.5,
            );
            assert_eq!(Some(got), want, "{class:?} {attempt} {crash_streak}");
        }
        let first = History {
            attempt: 1,
            ..History::default()
        };
        let over_again = decide(&policy, first, MemoryLimit, true, 0.5);
        assert_eq!(Some(over_again), stop(FinalReason::NotRetryable));
        assert_eq!(Some(decide(&policy, first, Error, true, 0.5)), again);
    }

    #[test]
    fn a_job_that_got_on_does_not_wait_longer_with_each_crash() {
        let policy = RetryPolicy {
            max_attempts: 99,
            backoff: Backoff {
                jitter_percent: 0,
                ..Backoff::default()
            },
            by_class: Vec::new(),
        };
        let wait = |class, crash_streak| {
            let history = History {
                attempt: 9,
                crash_streak,
                ..History::default()
            };
            decide(&policy, history, class, false, 0.5)
        };
        let after = |seconds| Decision::Retry {
            after: Duration::from_secs(seconds),
        };
        assert_eq!(wait(FailureClass::Lost, 0), after(1));
        assert_eq!(wait(FailureClass::Lost, 1), after(2));
        assert_eq!(wait(FailureClass::Error, 0), after(256));
    }
}
