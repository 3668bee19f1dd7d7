//! Time passes: the next rung of the ladder, limits, start timeouts, signs of life.

use std::time::{Duration, Instant};

use offloop_lane::Stopped;

use super::Shared;
use super::channel::Sent;
use super::child::{Phase, Rung};
use super::state::Pool;
use crate::frame::{Breach, ToChild};
use crate::spec::Mode;

/// An idle child is asked for a sign of life this often, and must give it within.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(10);

impl Shared {
    pub(super) fn tick(&self, pool: &mut Pool, now: Instant) {
        let mut breaches = Vec::new();
        for (number, child) in &mut pool.children {
            let number = *number;
            match child.rung {
                Rung::Asked { until } if now >= until => child.term(now + self.spec.term_grace),
                Rung::Termed { until } if now >= until => {
                    let asked = child.flight.as_ref().is_some_and(|f| f.stop.is_some());
                    if self.spec.mode == Mode::Process && child.channel.is_none() && !asked {
                        child.breach.get_or_insert(Breach::Closed);
                    }
                    child.kill(now);
                }
                _ => {}
            }
            if let Err(overrun) = child.check(now) {
                let why = Stopped::Limit(overrun.class);
                self.stop_flight(child, number, why, Some(overrun), now);
            }
            match child.phase {
                Phase::Starting { until } if now >= until && !child.is_leaving() => {
                    breaches.push((number, Breach::NotReady));
                }
                Phase::Idle {
                    pinged: Some(at), ..
                } if now >= at + PONG_WITHIN => {
                    breaches.push((number, Breach::Silent));
                }
                Phase::Idle {
                    since,
                    pinged: None,
                } if now >= since + PING_EVERY => {
                    child.phase = Phase::Idle {
                        since,
                        pinged: Some(now),
                    };
                    let ping = ToChild::Ping.encode(&[]);
                    if self.send(child, number, ping) == Sent::Refused {
                        breaches.push((number, Breach::Closed));
                    }
                }
                _ => {}
            }
        }
        for (number, breach) in breaches {
            pool.breach(number, breach, now);
        }
        self.fill(pool, now);
    }
}
