//! What a warm child says of its job: progress, and the answer that frees it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::limits::PROGRESS_BYTES_MAX;
use offloop_job::{Lease, Usage};
use offloop_lane::{Ended, Gone, LaneEvent, Proof, TaskError, TaskOutput, outcome_of};
use serde::de::IgnoredAny;

use super::child::{Child, Flight, Phase, Rung};
use super::part::{Part, drain};
use super::state::Pool;
use crate::frame::Breach;
use crate::procfs;

/// Waited ticks are read for jobs over this; below it they could not be seen.
const WORTH_A_LOOK: Duration = Duration::from_millis(10);

impl Pool {
    pub(super) fn progress(&mut self, number: u64, lease: Lease, note: Bytes, now: Instant) {
        let child = self.children.get_mut(&number);
        let Some(child) = child else { return };
        let flight = child.flight.as_mut().filter(|f| f.work.lease == lease);
        let Some(flight) = flight else {
            return; // late, by code that was not awaited
        };
        flight.progress = now;
        if note.len() > PROGRESS_BYTES_MAX || serde_json::from_slice::<IgnoredAny>(&note).is_err() {
            let line = format!(
                "offloop: a progress note is not JSON of at most {PROGRESS_BYTES_MAX} bytes\n"
            );
            child.log.push(line.as_bytes());
            return;
        }
        let job = flight.work.job;
        self.news.push(LaneEvent::Progress { job, lease, note });
    }

    pub(super) fn answered(
        &mut self,
        number: u64,
        lease: Lease,
        answer: Result<TaskOutput, TaskError>,
        buffer: &mut [u8],
        now: Instant,
    ) -> Result<(), Breach> {
        let Some(child) = self.children.get_mut(&number) else {
            return Ok(());
        };
        let leaving = child.is_leaving();
        let Some(flight) = child.flight.as_mut() else {
            return Err(Breach::Unexpected("an answer"));
        };
        let ours = flight.work.lease;
        if lease != ours {
            return Err(Breach::OtherLease {
                theirs: lease,
                ours,
            });
        }
        if leaving {
            flight.answer.get_or_insert(answer);
            child.kill(now); // it has nothing more to say
            return Ok(());
        }
        drain(child, Part::Stdout, buffer);
        let Some(flight) = child.flight.take() else {
            return Ok(());
        };
        let usage = usage_of_answer(child, &flight, now);
        let ended = Ended {
            job: flight.work.job,
            lease,
            executor: child.executor(),
            queued: flight.queued(now),
            usage,
            log: child.log.take(),
            outcome: outcome_of(answer, flight.stop, flight.overrun.as_ref()),
            gone: Gone::proven(Proof::ChildAnswered { pid: child.pid }),
        };
        child.rung = Rung::Calm;
        child.served += 1;
        child.phase = Phase::Idle {
            since: now,
            pinged: None,
        };
        self.failures = 0;
        self.idle.push(number);
        self.tell_end(ended);
        Ok(())
    }
}

fn usage_of_answer(child: &mut Child, flight: &Flight, now: Instant) -> Usage {
    let wall = flight
        .began
        .map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
    if wall > WORTH_A_LOOK
        && let Some(stat) = procfs::stat(child.pid)
    {
        child.cpu_below = child.cpu_below.max(procfs::ticks(stat.waited_ticks));
    }
    let cpu = child.cpu_now().saturating_sub(flight.cpu_from);
    flight.usage(now, cpu, procfs::resident_bytes(child.pid).unwrap_or(0))
}
