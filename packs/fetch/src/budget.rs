//! How many retries a host may be asked for: what it answers well pays for them.
//!
//! Retries multiply load just when a host can bear it least. So each success earns a part of one, and
//! a floor lets a few through where there is no success to live on. A dead host gets the floor and no
//! more, however many items want it.
//!
//! Must never: read a clock, or hold up a first call.

use std::time::Duration;

/// What a host's retries live on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetRule {
    /// Retries that one success pays for; default 0.6: at most 1.6 times the calls that a host
    /// answers well. A host that fails 30 % of its calls needs 0.43.
    pub per_success: f64,
    /// Retries per second in any case; default 10.
    pub floor: f64,
    /// Saved up at most; default 100.
    pub most: f64,
}

impl Default for BudgetRule {
    fn default() -> Self {
        Self {
            per_success: 0.6,
            floor: 10.0,
            most: 100.0,
        }
    }
}

/// One host's budget. Times are since any fixed moment.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    rule: BudgetRule,
    saved: f64,
    at: Duration,
}

impl Budget {
    /// Begins with a second of its floor.
    pub fn new(rule: BudgetRule) -> Self {
        Self {
            rule,
            saved: rule.floor.min(rule.most),
            at: Duration::ZERO,
        }
    }

    /// A call was answered well.
    pub fn earn(&mut self) {
        self.saved = (self.saved + self.rule.per_success).min(self.rule.most);
    }

    /// One retry, or how long until there is one at the floor's pace.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let since = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.saved = (self.saved + since * self.rule.floor).min(self.rule.most.max(1.0));
        if self.saved >= 1.0 {
            self.saved -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.saved) / self.rule.floor.max(0.01);
        Err(Duration::from_secs_f64(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_dead_host_is_not_asked_again_more_often_than_the_floor() {
        let mut budget = Budget::new(BudgetRule::default());
        let mut got = 0;
        for ms in 0..60_000 {
            got += u32::from(budget.take(Duration::from_millis(ms)).is_ok());
        }
        assert!((600..=620).contains(&got), "{got}");
    }

    #[test]
    fn a_host_that_fails_a_third_of_its_calls_gets_all_the_retries_that_needs() {
        let mut budget = Budget::new(BudgetRule::default());
        let refused = (0..100_000).filter(|turn| {
            let now = Duration::from_micros(turn * 10);
            if turn % 3 == 0 {
                return budget.take(now).is_err();
            }
            budget.earn();
            false
        });
        assert_eq!(refused.count(), 0);
    }

    proptest! {
        #[test]
        fn no_order_of_events_buys_more_than_what_was_earned(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..50), 1..2_000),
        ) {
            let rule = BudgetRule::default();
            let mut budget = Budget::new(rule);
            let (mut now, mut earned, mut taken) = (0_u64, 0_u64, 0_u64);
            for (good, wait) in steps {
                now += wait;
                if good {
                    budget.earn();
                    earned += 1;
                } else {
                    taken += u64::from(budget.take(Duration::from_millis(now)).is_ok());
                }
            }
            let most = rule.floor * (1.0 + now as f64 / 1_000.0) + rule.per_success * earned as f64;
            prop_assert!(taken as f64 <= most + 1e-6, "{taken} of {most}");
        }
    }
}
