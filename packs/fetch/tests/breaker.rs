//! Ten million random steps: whatever happens, a breaker comes back.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use offloop::runtime::clock::Dice;
use offloop_fetch::{Breaker, BreakerRule, BreakerState};

#[test]
fn no_breaker_is_stuck_after_ten_million_random_steps() {
    let seed = 0x0FF1_00B5;
    let dice = Dice::new(seed);
    let rule = BreakerRule {
        calls: 5,
        probes: 2,
        ..BreakerRule::default()
    };
    let breaker = Arc::new(Breaker::new(rule));
    let mut now = Duration::ZERO;
    let mut held = Vec::new();
    for step in 0..10_000_000_u32 {
        match (dice.roll() * 5.0) as u32 {
            0 => now += Duration::from_millis((dice.roll() * 1_500.0) as u64),
            1 | 2 if held.len() < 20 => {
                if let Ok(permit) = breaker.permit(now) {
                    held.push(permit);
                }
            }
            _ if !held.is_empty() => {
                let permit = held.swap_remove((dice.roll() * held.len() as f64) as usize);
                match (dice.roll() * 4.0) as u32 {
                    0 => drop(permit),
                    1 => permit.good(now),
                    _ => permit.bad(now),
                }
            }
            _ => {}
        }
        if step % 100_000 != 99_999 {
            continue;
        }
        // All go away without a word. Half a minute later it lets through what it needs, and closes.
        held.clear();
        now += Duration::from_secs(30);
        for _ in 0..2 {
            if breaker.state(now) == BreakerState::HalfOpen {
                let probe = breaker.permit(now);
                probe
                    .unwrap_or_else(|_| panic!("stuck at step {step} of seed {seed:#x}"))
                    .good(now);
            }
        }
        assert_eq!(breaker.state(now), BreakerState::Closed, "step {step}");
    }
    assert!(breaker.events().opened > 1_000, "{:?}", breaker.events());
}
