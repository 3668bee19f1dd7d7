//! Children go: to the undertaker, and off the books when nothing of their tree is left.

use std::time::Instant;

use offloop_lane::{Ended, Gone, Proof};

use super::Shared;
use super::answers::bytes_of;
use super::channel::READ_BYTES;
use super::child::{Phase, Rung, exit_words};
use super::exits::ExitReason;
use super::part::{Part, drain};
use super::state::Pool;
use super::verdict::{exit_of, of_dead_child, quoted};
use crate::host::{Burial, Buried};
use crate::spec::Mode;

impl Shared {
    pub(super) fn died(&self, pool: &mut Pool, number: u64, buffer: &mut [u8], now: Instant) {
        self.listen(pool, number, buffer, now); // its last words
        pool.idle.retain(|idle| *idle != number);
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        if child.pidfd.take().is_none() {
            return; // told already
        }
        // The ladder is climbed, however far it was; the undertaker's clock starts.
        if !matches!(child.rung, Rung::Killed { .. }) {
            child.rung = Rung::Killed { at: now };
        }
        child.phase = Phase::Dead;
        let Some(shared) = self.me.upgrade() else {
            return;
        };
        self.host.bury(Burial {
            pid: child.pid,
            marker: child.marker.clone(),
            roster: child.roster.clone(),
            reply: Box::new(move |buried| {
                let mut pool = shared.lock();
                shared.buried(&mut pool, number, buried, Instant::now());
                shared.settle(pool);
                shared.ring(); // its thread leaves with the last child
            }),
        });
    }

    fn buried(&self, pool: &mut Pool, number: u64, buried: Buried, now: Instant) {
        let mut buffer = vec![0; READ_BYTES];
        let Some(child) = pool.children.get_mut(&number) else {
            return;
        };
        if let (Some(held), Some(flight)) = (buried.out_of_memory, child.flight.as_mut()) {
            flight.note_memory_kill(held);
        }
        // Nobody can write any more: this finds the end.
        for part in [Part::Stdout, Part::Stderr] {
            drain(child, part, &mut buffer);
        }
        pool.tell_live(number);
        match self.spec.mode {
            Mode::Process => self.warm_child_gone(pool, number, buried, now),
            Mode::Exec => self.command_gone(pool, number, buried, now),
        }
    }

    fn warm_child_gone(&self, pool: &mut Pool, number: u64, buried: Buried, now: Instant) {
        let Some(mut child) = pool.children.remove(&number) else {
            return;
        };
        let exit = exit_of(buried.exit);
        let breach = child.breach.as_ref().map(ToString::to_string);
        let said = child.log.quote();
        let reason = ExitReason::of_warm(&child, exit, pool.ending);
        pool.exits.count(reason);
        let Some(mut flight) = child.flight.take() else {
            let unserved = matches!(
                reason,
                ExitReason::NotReady
                    | ExitReason::Protocol
                    | ExitReason::Silent
                    | ExitReason::IdleDeath
            );
            if child.served == 0 && unserved && !pool.ending {
                let how = breach.unwrap_or_else(|| format!("ended by {}", exit_words(exit)));
                let why = quoted(format!("the child could not start: it {how}"), &said);
                pool.start_failed(child.ready_after.unwrap_or(0), &why, now);
                self.fail_waiting(pool, &why, now);
            }
            self.dispatch(pool, now);
            self.fill(pool, now);
            return;
        };
        let mut log = std::mem::take(&mut child.log);
        pool.tell_last_note(&mut flight, &mut log);
        let cpu = buried.spent.cpu.saturating_sub(flight.cpu_from);
        // The highest of its whole life, which is the job's only if that was its first.
        let rss = if child.served == 0 {
            buried.spent.max_rss_bytes
        } else {
            0
        };
        let mut usage = flight.usage(now, cpu, rss);
        usage.bytes_out += flight.answer.as_ref().map_or(0, bytes_of);
        let work = flight.work.clone();
        let ended = Ended {
            job: flight.work.job,
            lease: flight.work.lease,
            executor: child.executor(),
            queued: flight.queued(now),
            usage,
            log: log.take(),
            outcome: of_dead_child(flight, exit, breach, &said),
            gone: Gone::proven(Proof::Reaped { pid: child.pid }),
        };
        pool.note_end(&work, &ended, now);
        pool.tell_end(ended);
        self.dispatch(pool, now);
        self.fill(pool, now);
    }
}
