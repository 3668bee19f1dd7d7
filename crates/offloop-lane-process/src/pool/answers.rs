//! What a warm child says of its job: progress, and the answer that frees it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::limits::PROGRESS_BYTES_MAX;
use offloop_job::limits::RESULT_BYTES_MAX;
use offloop_job::{Lease, Usage};
use offloop_lane::{Ended, Gone, LaneEvent, Proof, TaskError, TaskOutput, outcome_of};

use super::child::{Child, Flight, Notes, Phase, Rung};
use super::exits::ExitReason;
use super::part::{Part, drain};
use super::state::Pool;
use crate::frame::Breach;
use crate::json;
use crate::log::Log;
use crate::procfs;
use crate::tree::{self, Roots};

/// Waited ticks are read for jobs over this; below it they could not be seen.
const WORTH_A_LOOK: Duration = Duration::from_millis(10);
/// Nobody starts a helper process in less.
const WORTH_A_LIST: Duration = Duration::from_millis(1);
/// What a child held so long ago is taken for what it holds now.
const RSS_FRESH: Duration = Duration::from_millis(5);
/// Between two progress notes of a job that are told; of those between, the newest.
const NOTE_EVERY: Duration = Duration::from_millis(20);

impl Pool {
    pub(super) fn progress(&mut self, number: u64, lease: Lease, note: Bytes, now: Instant) {
        let child = self.children.get_mut(&number);
        let Some(child) = child else { return };
        let flight = child.flight.as_mut().filter(|f| f.work.lease == lease);
        let Some(flight) = flight else {
            return; // late, by code that was not awaited
        };
        flight.progress = now;
        flight.notes.bytes += note.len() as u64;
        if note.len() > PROGRESS_BYTES_MAX || !json::is_json(&note) {
            let line = format!(
                "offloop: a progress note is not JSON of at most {PROGRESS_BYTES_MAX} bytes\n"
            );
            child.log.push(line.as_bytes());
            return;
        }
        let soon = |at: Instant| now.saturating_duration_since(at) < NOTE_EVERY;
        if flight.notes.told.is_some_and(soon) {
            flight.notes.left_out += u64::from(flight.notes.held.is_some());
            flight.notes.held = Some(note);
            return;
        }
        flight.notes.told = Some(now);
        let job = flight.work.job;
        self.news.push(LaneEvent::Progress { job, lease, note });
    }

    /// Tells the newest note of each job whose turn it is.
    pub(super) fn tell_held_notes(&mut self, now: Instant) {
        let flights = self.children.values_mut().filter_map(|c| c.flight.as_mut());
        for flight in flights {
            let due = flight.notes.due_at().is_some_and(|at| now >= at);
            let note = if due { flight.notes.held.take() } else { None };
            if let Some(note) = note {
                flight.notes.told = Some(now);
                let (job, lease) = (flight.work.job, flight.work.lease);
                self.news.push(LaneEvent::Progress { job, lease, note });
            }
        }
    }

    /// The last note of a job that ends, before its end.
    pub(super) fn tell_last_note(&mut self, flight: &mut Flight, log: &mut Log) {
        if let Some(note) = flight.notes.held.take() {
            let (job, lease) = (flight.work.job, flight.work.lease);
            self.news.push(LaneEvent::Progress { job, lease, note });
        }
        if flight.notes.left_out > 0 {
            let count = flight.notes.left_out;
            let line = format!("offloop: {count} progress notes were followed by newer ones\n");
            log.push(line.as_bytes());
        }
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
        let (ours, began) = (flight.work.lease, flight.began);
        if lease != ours {
            return Err(Breach::OtherLease {
                theirs: lease,
                ours,
            });
        }
        // A failed job may run again at once, and must not meet itself.
        let left_behind = !leaving && answer.is_err() && child.has_left_behind();
        if leaving || left_behind {
            child.end_after(answer, left_behind, now);
            return Ok(());
        }
        if answer.is_ok() && began.is_some_and(|at| now > at + WORTH_A_LIST) {
            child.keeps = child.members();
        }
        // Frames: one pipe takes both outputs. Lines: standard output is the channel.
        drain(child, Part::Stdout, buffer);
        drain(child, Part::Stderr, buffer);
        self.news.extend(child.take_live());
        let Some(mut flight) = child.flight.take() else {
            return Ok(());
        };
        let mut usage = usage_of_answer(child, &flight, now);
        usage.bytes_out += bytes_of(&answer);
        let mut log = std::mem::take(&mut child.log);
        let (executor, pid) = (child.executor(), child.pid);
        child.rung = Rung::Calm;
        child.served += 1;
        child.see_if_due(now);
        if child.is_to_be_weighed(now) {
            child.phase = Phase::Weighing;
        } else {
            self.idles(number, now);
        }
        self.tell_last_note(&mut flight, &mut log);
        let ended = Ended {
            job: flight.work.job,
            lease,
            executor,
            queued: flight.queued(now),
            usage,
            log: log.take(),
            outcome: outcome_of(
                answer,
                RESULT_BYTES_MAX,
                flight.stop,
                flight.overrun.as_ref(),
            ),
            gone: Gone::proven(Proof::ChildAnswered { pid }),
        };
        self.note_end(&flight.work, &ended, now);
        self.tell_end(ended);
        Ok(())
    }

    /// Ready for a job, from now on.
    pub(super) fn idles(&mut self, number: u64, now: Instant) {
        if let Some(child) = self.children.get_mut(&number) {
            child.phase = Phase::Idle {
                since: now,
                pinged: None,
            };
            if child.rung == Rung::Calm {
                self.idle.push(number);
            }
        }
    }
}

impl Child {
    pub(super) fn members(&self) -> Vec<i32> {
        tree::members(Roots {
            leader: self.pid,
            group: self.group.as_ref().map(|kill| &**kill.group()),
            marker: &self.marker,
        })
    }

    /// Its job is answered and ends with it: the answer waits for the burial.
    fn end_after(
        &mut self,
        answer: Result<TaskOutput, TaskError>,
        left_behind: bool,
        now: Instant,
    ) {
        if left_behind {
            self.retired = Some(ExitReason::LeftProcesses);
        }
        if let Some(flight) = self.flight.as_mut() {
            flight.answer.get_or_insert(answer);
        }
        self.kill(now); // it has nothing more to say
    }

    /// Processes that its job started and did not end.
    fn has_left_behind(&self) -> bool {
        let known = |pid: &i32| *pid == self.pid || self.keeps.contains(pid);
        !self.members().iter().all(known)
    }
}

impl Notes {
    /// When the note that waits is told.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.held.as_ref()?;
        Some(self.told? + NOTE_EVERY)
    }
}

pub(super) fn bytes_of(answer: &Result<TaskOutput, TaskError>) -> u64 {
    match answer {
        Ok(output) => output.result.as_ref().map_or(0, Bytes::len) as u64,
        Err(error) => error.message.len() as u64,
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
    // A look costs as much as a short job: those share one.
    let fresh = |at: Instant| now.saturating_duration_since(at) < RSS_FRESH;
    if wall > WORTH_A_LOOK || !child.rss_at.is_some_and(fresh) {
        child.rss = procfs::resident_bytes(child.pid).unwrap_or(0);
        child.rss_at = Some(now);
    }
    flight.usage(now, cpu, child.rss)
}
