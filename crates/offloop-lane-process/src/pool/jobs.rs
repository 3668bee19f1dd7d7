//! Jobs come, are pushed to idle children, and are asked to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Overrun, Stopped, Work, unstarted};

use super::Shared;
use super::channel::Sent;
use super::child::{Child, Flight, Phase, Rung};
use super::state::{Pool, Waiting};
use crate::frame::{ToChild, with_run};
use crate::spec::Mode;

impl Shared {
    pub(super) fn submit(&self, pool: &mut Pool, work: Vec<Work>, now: Instant) {
        for work in work {
            if pool.closed || pool.held() >= self.slots() {
                pool.tell_never_started(&work, Duration::ZERO, unstarted(StopReason::Shutdown));
                continue;
            }
            if let Some(outcome) = pool.too_late(&work, now, now) {
                pool.tell_never_started(&work, Duration::ZERO, outcome);
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
            let Some(number) = pool.take_idle() else {
                break;
            };
            let Some(waiting) = pool.waiting.pop_front() else {
                return;
            };
            if let Some(outcome) = pool.too_late(&waiting.work, waiting.since, now) {
                let queued = now.saturating_duration_since(waiting.since);
                pool.tell_never_started(&waiting.work, queued, outcome);
                pool.idle.push(number);
                continue;
            }
            let Some(child) = pool.children.get_mut(&number) else {
                pool.waiting.push_front(waiting);
                continue;
            };
            let payload = waiting.work.payload.clone();
            let sent = with_run(&waiting.work, now, |run| {
                self.send(child, number, run, Some(&payload))
            });
            match sent {
                Sent::Whole | Sent::Partly => {
                    child.log.take(); // what it said between two jobs belongs to none
                    child.phase = Phase::Busy;
                    let mut flight = Flight::new(waiting.work, waiting.since);
                    flight.began = Some(now);
                    flight.progress = now;
                    flight.cpu_from = child.cpu_now();
                    flight.age = child.born.map(|born| now.saturating_duration_since(born));
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
        self.fail_hopeless(pool, now);
    }

    pub(super) fn send(
        &self,
        child: &mut Child,
        number: u64,
        message: &ToChild<'_>,
        payload: Option<&Bytes>,
    ) -> Sent {
        let Some(channel) = child.channel.as_mut() else {
            return Sent::Refused;
        };
        let sent = channel.send(message, payload);
        if sent == Sent::Partly {
            self.watch_room(channel, number, true);
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
        let cancel = ToChild::Cancel { lease, reason };
        if self.send(child, number, &cancel, None) == Sent::Refused {
            child.kill(now);
        } else {
            child.rung = Rung::Asked {
                until: now + self.spec.grace,
            };
        }
    }
}

impl Pool {
    /// The child for the next job: the one that was busy last, whose memory is warm; one that is
    /// to be replaced only if there is no other.
    fn take_idle(&mut self) -> Option<u64> {
        let stays = |number: &u64| {
            let child = self.children.get(number);
            child.is_some_and(|child| child.due.is_none())
        };
        let at = self.idle.iter().rposition(stays);
        let at = at.or(self.idle.len().checked_sub(1))?;
        Some(self.idle.remove(at))
    }
}
