//! Children speak: frames on the channel, output on the pipes.

use std::time::{Duration, Instant};

use offloop_job::FailureClass;
use offloop_lane::{Overrun, Stopped, TaskError};

use super::Shared;
use super::channel::Stdin;
use super::child::{Phase, Rung};
use super::part::{Part, drain};
use super::state::Pool;
use super::verdict::result_of;
use crate::frame::{Breach, FromChild};

/// From the end of the channel to the end of the child.
const LAST_WORDS: Duration = Duration::from_millis(200);

impl Shared {
    pub(super) fn writable(&self, pool: &mut Pool, number: u64, part: Part) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        if !matches!(part, Part::Channel | Part::Stdin) {
            return;
        }
        if let Some(channel) = child.channel.as_mut() {
            if channel.flush() {
                self.watch_room(channel, number, false);
            }
        } else if child.stdin.as_mut().is_some_and(Stdin::pump) {
            child.stdin = None;
        }
    }

    pub(super) fn readable(
        &self,
        pool: &mut Pool,
        number: u64,
        part: Part,
        buffer: &mut [u8],
        now: Instant,
    ) {
        match part {
            Part::Channel => self.listen(pool, number, buffer, now),
            Part::Stdout | Part::Stderr => {
                self.look_who_listens(pool, number);
                if let Some(child) = pool.children.get_mut(&number) {
                    drain(child, part, buffer);
                }
                pool.tell_live(number);
                self.check_printed(pool, number, now);
            }
            Part::Stdin => self.writable(pool, number, part), // its reader is gone
            Part::Death => self.died(pool, number, buffer, now),
        }
    }

    /// What a job prints has a limit. One that floods on after it was told is not waited for.
    fn check_printed(&self, pool: &mut Pool, number: u64, now: Instant) {
        let Some(limit) = self.spec.budgets.output_bytes else {
            return;
        };
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let Some(flight) = child.flight.as_ref() else {
            return;
        };
        let (printed, stop) = (flight.printed_bytes, flight.stop);
        if printed <= limit {
            return;
        }
        let over = Stopped::Limit(FailureClass::OutputLimit);
        if stop.is_none() {
            let overrun = Overrun::output("printed", limit, printed);
            self.stop_flight(child, number, over, Some(overrun), now);
        } else if stop == Some(over) && printed > limit.saturating_mul(2) {
            child.kill(now);
        }
    }

    pub(super) fn listen(&self, pool: &mut Pool, number: u64, buffer: &mut [u8], now: Instant) {
        self.look_who_listens(pool, number);
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let Some(channel) = child.channel.as_mut() else {
            return;
        };
        let heard = channel.hear(buffer);
        let mut wrong = heard.breach;
        for message in heard.messages {
            let Some(message) = self.on_the_way(pool, number, message, now) else {
                continue;
            };
            if let Err(breach) = pool.heard(number, message, buffer, now) {
                wrong = Some(breach);
                break;
            }
        }
        if heard.closed
            && let Some(child) = pool.children.get_mut(&number)
        {
            child.channel = None;
            pool.idle.retain(|idle| *idle != number);
            // Most likely it is dying, and what it dies of says more. If not, it is ended for it.
            if !child.is_leaving() {
                child.rung = Rung::Termed {
                    until: now + LAST_WORDS,
                };
            }
        }
        if let Some(breach) = wrong {
            pool.breach(number, breach, now);
        }
        self.dispatch(pool, now);
        self.fill(pool, now);
    }
}

impl Pool {
    fn heard(
        &mut self,
        number: u64,
        frame: FromChild,
        buffer: &mut [u8],
        now: Instant,
    ) -> Result<(), Breach> {
        let Some(child) = self.children.get_mut(&number) else {
            return Ok(());
        };
        match frame {
            FromChild::Ready => {
                if !matches!(child.phase, Phase::Starting { .. }) {
                    return Err(Breach::Unexpected("ready"));
                }
                child.ready_after = Some(std::mem::take(&mut self.failures));
                self.no_start_before = None;
                child.keeps = child.members();
                self.idles(number, now);
            }
            FromChild::Pong => {
                if let Phase::Idle { since, pinged } = &mut child.phase {
                    (*since, *pinged) = (now, None);
                }
            }
            FromChild::Progress { lease, note } => self.progress(number, lease, note, now),
            FromChild::Result { lease, result } => {
                let answer = result_of(result);
                self.answered(number, lease, answer, buffer, now)?;
            }
            FromChild::Error {
                lease,
                class,
                message,
            } => {
                let error = TaskError::new(class, message);
                self.answered(number, lease, Err(error), buffer, now)?;
            }
            FromChild::Snooze { lease, after } => {
                let wish = Err(TaskError::snooze(after));
                self.answered(number, lease, wish, buffer, now)?;
            }
            // Taken on the way here.
            FromChild::Checkpoint { .. } | FromChild::Partial { .. } => {}
            FromChild::Recycle => {
                child.wants_out = true;
                child.see_if_due(now);
            }
        }
        Ok(())
    }
}
