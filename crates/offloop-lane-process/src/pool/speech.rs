//! Children speak: frames on the channel, output on the pipes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use offloop_lane::TaskError;

use super::Shared;
use super::channel::{Stdin, read_some};
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
        match part {
            Part::Channel => {
                if let Some(channel) = child.channel.as_mut()
                    && channel.flush()
                {
                    self.watch_again(&channel.fd, Part::Channel.token(number), false);
                }
            }
            Part::Stdin => {
                if child.stdin.as_mut().is_some_and(Stdin::pump) {
                    child.stdin = None;
                }
            }
            Part::Stdout | Part::Stderr | Part::Death => {}
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
                if let Some(child) = pool.children.get_mut(&number) {
                    drain(child, part, buffer);
                }
            }
            Part::Stdin => self.writable(pool, number, part), // its reader is gone
            Part::Death => self.died(pool, number, buffer, now),
        }
    }

    pub(super) fn listen(&self, pool: &mut Pool, number: u64, buffer: &mut [u8], now: Instant) {
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        let Some(channel) = child.channel.as_mut() else {
            return;
        };
        let (mut frames, mut wrong) = (VecDeque::new(), None);
        let decoder = &mut channel.decoder;
        let read = read_some(&channel.fd, buffer, |bytes| {
            if wrong.is_none() {
                wrong = decoder.push(bytes, &mut frames).err();
            }
        });
        let closed = read.unwrap_or(true);
        for frame in frames {
            if let Err(breach) = pool.heard(number, frame, buffer, now) {
                wrong = Some(breach);
                break;
            }
        }
        if closed && let Some(child) = pool.children.get_mut(&number) {
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
                child.phase = Phase::Idle {
                    since: now,
                    pinged: None,
                };
                if child.rung == Rung::Calm {
                    self.idle.push(number);
                }
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
                invalid,
                message,
            } => {
                let error = if invalid {
                    TaskError::invalid(message)
                } else {
                    TaskError::error(message)
                };
                self.answered(number, lease, Err(error), buffer, now)?;
            }
        }
        Ok(())
    }
}
