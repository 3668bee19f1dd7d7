//! Time passes: the next rung of the ladder, limits, start timeouts, signs of life.

use std::time::Instant;

use offloop_lane::Stopped;

use super::Shared;
use super::channel::Sent;
use super::child::{Child, Phase, Rung};
use super::state::Pool;
use crate::frame::{Breach, ToChild};
use crate::spec::{Mode, Pacing};

impl Shared {
    pub(super) fn tick(&self, pool: &mut Pool, now: Instant) {
        let pacing = self.spec.pacing;
        let mut breaches = Vec::new();
        for (number, child) in &mut pool.children {
            let number = *number;
            match child.rung {
                Rung::Asked { until } if now >= until => child.term(now + self.spec.term_grace),
                Rung::Termed { until } if now >= until => {
                    let asked = child.flight.as_ref().is_some_and(|f| f.stop.is_some());
                    if self.spec.mode == Mode::Process
                        && child.channel.is_none()
                        && child.retired.is_none()
                        && !asked
                    {
                        child.breach.get_or_insert(Breach::Closed);
                    }
                    child.kill(now);
                }
                _ => {}
            }
            if child.due_at().is_some_and(|at| now >= at) {
                child.see_if_due(now);
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
                } if now >= at + pacing.pong_within => {
                    breaches.push((number, Breach::Silent));
                }
                Phase::Idle {
                    since,
                    pinged: None,
                } if now >= since + pacing.ping_every => {
                    child.phase = Phase::Idle {
                        since,
                        pinged: Some(now),
                    };
                    if self.send(child, number, &ToChild::Ping, None) == Sent::Refused {
                        breaches.push((number, Breach::Closed));
                    }
                }
                _ => {}
            }
        }
        for (number, breach) in breaches {
            pool.breach(number, breach, now);
        }
        pool.tell_held_notes(now);
        pool.drop_late(now);
        self.fill(pool, now);
    }
}

impl Child {
    /// When it is asked for a sign of life, or must have given it.
    pub(super) fn ping_at(&self, pacing: &Pacing) -> Option<Instant> {
        match self.phase {
            Phase::Idle { since, pinged } if !self.is_leaving() => match pinged {
                None => since.checked_add(pacing.ping_every),
                Some(at) => at.checked_add(pacing.pong_within),
            },
            _ => None,
        }
    }
}
