//! Jobs come, are pushed to idle children, and are asked to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Overrun, Stopped, Work};

use super::Shared;
use super::channel::Sent;
use super::child::{Child, Flight, Phase, Rung};
use super::part::Part;
use super::state::{Pool, Waiting, unstarted};
use crate::frame::{ToChild, run_frame};
use crate::spec::Mode;

impl Shared {
    pub(super) fn submit(&self, pool: &mut Pool, work: Vec<Work>, now: Instant) {
        for work in work {
            if pool.closed || pool.held() >= self.slots() {
                pool.tell_never_started(&work, Duration::ZERO, unstarted(StopReason::Shutdown));
                continue;
            }
            let work = Arc::new(work);
            match self.spec.mode {
                Mode::Process => pool.wait(Waiting { work, since: now }),
                Mode::Exec => self.begin_command(pool, work, now),
            }
        }
        self.dispatch(pool, now);
        self.fill(pool, now);
    }

    /// Pushes waiting jobs to idle children.
    pub(super) fn dispatch(&self, pool: &mut Pool, now: Instant) {
        while !pool.waiting.is_empty() {
            let Some(number) = pool.idle.pop() else {
                return;
            };
            let Some(child) = pool.children.get_mut(&number) else {
                continue;
            };
            let Some(waiting) = pool.waiting.pop_front() else {
                return;
            };
            match self.send(child, number, run_frame(&waiting.work)) {
                Sent::Whole | Sent::Partly => {
                    child.log.take(); // what it said between two jobs belongs to none
                    child.phase = Phase::Busy;
                    let mut flight = Flight::new(waiting.work, waiting.since);
                    flight.began = Some(now);
                    flight.progress = now;
                    flight.cpu_from = child.cpu_now();
                    child.flight = Some(flight);
                    pool.tell_started(number);
                }
                Sent::Refused => {
                    // It died while it was idle; the job never reached it.
                    child.kill(now);
                    pool.waiting.push_front(waiting);
                }
            }
        }
    }

    pub(super) fn send(&self, child: &mut Child, number: u64, frame: Vec<u8>) -> Sent {
        let Some(channel) = child.channel.as_mut() else {
            return Sent::Refused;
        };
        let sent = channel.send(frame);
        if sent == Sent::Partly {
            self.watch_again(&channel.fd, Part::Channel.token(number), true);
        }
        sent
    }

    pub(super) fn ask(&self, pool: &mut Pool, lease: Lease, reason: StopReason, now: Instant) {
        let here = |waiting: &Waiting| waiting.work.lease == lease;
        if let Some(at) = pool.waiting.iter().position(here) {
            if let Some(waiting) = pool.waiting.remove(at) {
                let queued = now.saturating_duration_since(waiting.since);
                pool.tell_never_started(&waiting.work, queued, unstarted(reason));
            }
            return;
        }
        let flies = |child: &Child| child.flight.as_ref().is_some_and(|f| f.work.lease == lease);
        let found = pool.children.iter_mut().find(|(_, child)| flies(child));
        if let Some((number, child)) = found {
            let number = *number;
            self.stop_flight(child, number, Stopped::Asked(reason), None, now);
        }
    }

    /// Steps on the ladder. The first reason stays.
    pub(super) fn stop_flight(
        &self,
        child: &mut Child,
        number: u64,
        why: Stopped,
        overrun: Option<Overrun>,
        now: Instant,
    ) {
        let Some(flight) = child.flight.as_mut().filter(|f| f.stop.is_none()) else {
            return;
        };
        flight.stop = Some(why);
        flight.overrun = overrun;
        let lease = flight.work.lease.0;
        if !matches!(child.phase, Phase::Busy) || child.rung != Rung::Calm {
            return; // not there yet: its arrival looks at `stop`; or on its way out already
        }
        // Memory that runs away does not wait for a grace.
        if why == Stopped::Limit(FailureClass::MemoryLimit) {
            child.kill(now);
            return;
        }
        if self.spec.mode == Mode::Exec {
            child.term(now + self.spec.grace);
            return;
        }
        let reason = match why {
            Stopped::Asked(StopReason::Cancel) => "cancelled",
            Stopped::Asked(StopReason::Shutdown) => "shutdown",
            Stopped::Limit(class) => class.as_str(),
        };
        let frame = ToChild::Cancel { lease, reason }.encode(&[]);
        if self.send(child, number, frame) == Sent::Refused {
            child.kill(now);
        } else {
            child.rung = Rung::Asked {
                until: now + self.spec.grace,
            };
        }
    }
}
