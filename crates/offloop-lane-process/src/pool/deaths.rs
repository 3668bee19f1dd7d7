//! Children go: to the undertaker, and off the books when nothing of their tree is left.

use std::time::Instant;

use offloop_lane::{Ended, Gone, Proof};

use super::Shared;
use super::channel::READ_BYTES;
use super::child::{Phase, Rung, exit_words};
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
        if child.rung == Rung::Calm {
            child.rung = Rung::Killed { at: now }; // the undertaker's clock starts
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
        let asked = child.flight.as_ref().is_some_and(|f| f.stop.is_some());
        if child.served == 0 && !asked && !pool.ending {
            pool.back_off(now);
        }
        let Some(flight) = child.flight.take() else {
            if child.served == 0 && !pool.ending {
                let how = breach.unwrap_or_else(|| format!("ended by {}", exit_words(exit)));
                let why = quoted(format!("the child could not start: it {how}"), &said);
                pool.fail_one_waiting(&why, now);
            }
            self.dispatch(pool, now);
            self.fill(pool, now);
            return;
        };
        let cpu = buried.spent.cpu.saturating_sub(flight.cpu_from);
        // The highest of its whole life, which is the job's only if that was its first.
        let rss = if child.served == 0 {
            buried.spent.max_rss_bytes
        } else {
            0
        };
        let ended = Ended {
            job: flight.work.job,
            lease: flight.work.lease,
            executor: child.executor(),
            queued: flight.queued(now),
            usage: flight.usage(now, cpu, rss),
            log: child.log.take(),
            outcome: of_dead_child(flight, exit, breach, &said),
            gone: Gone::proven(Proof::Reaped { pid: child.pid }),
        };
        pool.tell_end(ended);
        self.fill(pool, now);
    }
}
