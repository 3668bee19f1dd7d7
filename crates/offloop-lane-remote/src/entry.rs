//! One job in the lane: in line, offered, or with a worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::limits::SNOOZE_MIN;
use offloop_job::{Failure, FailureClass, LogTail, Outcome, StopReason, Usage};
use offloop_lane::{Ended, Gone, Overrun, Proof, Stopped, TaskError, TaskOutput, Work, outcome_of};

use crate::types::{Offer, RemoteTask, Report, StopWhy, WorkerEnd, add_log};

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// For somebody who wants it.
    Line,
    /// In the answer to this pull, which has not left yet.
    Matched { pull: u64 },
    /// Sent; not confirmed.
    Offered,
    /// A worker has it.
    Held,
}

/// A stop that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) why: Stopped,
    pub(crate) overrun: Option<Overrun>,
    /// When the lease is withdrawn.
    pub(crate) withdraw_at: Instant,
}

impl Asked {
    pub(crate) const fn notice(&self) -> StopWhy {
        match self.why {
            Stopped::Asked(StopReason::Cancel) => StopWhy::Cancelled,
            Stopped::Asked(StopReason::Shutdown) => StopWhy::Shutdown,
            Stopped::Limit(class) => StopWhy::Limit(class),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) work: Work,
    /// Its place in the line.
    pub(crate) seq: u64,
    pub(crate) phase: Phase,
    pub(crate) worker: Arc<str>,
    came: Instant,
    began: Instant,
    noted: Instant,
    /// When its wait, its offer or its lease runs out.
    pub(crate) until: Instant,
    pub(crate) asked: Option<Asked>,
    log: LogTail,
    note_bytes: u64,
}

impl Entry {
    pub(crate) fn new(work: Work, seq: u64, until: Instant, now: Instant) -> Self {
        Self {
            work,
            seq,
            phase: Phase::Line,
            worker: Arc::from(""),
            came: now,
            began: now,
            noted: now,
            until,
            asked: None,
            log: LogTail::default(),
            note_bytes: 0,
        }
    }

    pub(crate) fn offer(&self, task: &RemoteTask, now: Instant) -> Offer {
        let work = &self.work;
        Offer {
            job: work.job,
            lease: work.lease,
            attempt: work.attempt,
            task: work.task.clone(),
            payload: work.payload.clone(),
            checkpoint: work.checkpoint.clone(),
            inputs: Arc::clone(&work.inputs),
            lease_for: task.lease,
            timeout: work.limits.timeout,
            deadline_in: work.deadline.map(|at| at.saturating_duration_since(now)),
            trace: work.trace.clone(),
        }
    }

    /// Its worker has it and may begin.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Held;
        (self.began, self.noted) = (now, now);
    }

    /// A sign of life. A lease that is being withdrawn is not made longer.
    pub(crate) fn extend(&mut self, lease: Duration, now: Instant) {
        if self.asked.is_none() {
            self.until = later(now, lease);
        }
    }

    pub(crate) fn note(&mut self, note: Option<&Bytes>, log: Option<&Bytes>, now: Instant) {
        add_log(&mut self.log, log);
        if let Some(note) = note {
            self.note_bytes += note.len() as u64;
            self.noted = now;
        }
    }

    /// When something must be done about it.
    pub(crate) fn due(&self) -> Instant {
        match (&self.asked, self.phase) {
            (Some(asked), _) => asked.withdraw_at,
            (None, Phase::Held) => self.until.min(self.limit_at()),
            (None, _) => self.until,
        }
    }

    /// Until when its worker's word counts: past a limit it still may answer, past its lease not.
    pub(crate) fn due_for_worker(&self) -> Instant {
        let asked = self.asked.as_ref();
        asked.map_or(self.until, |asked| asked.withdraw_at)
    }

    fn limit_at(&self) -> Instant {
        let by_timeout = later(self.began, self.work.limits.timeout);
        let stall = self.work.limits.stall;
        stall.map_or(by_timeout, |stall| later(self.noted, stall).min(by_timeout))
    }

    /// The limit that it has passed.
    pub(crate) fn overrun(&self, now: Instant) -> Option<Overrun> {
        let limits = &self.work.limits;
        let ran = now.saturating_duration_since(self.began);
        if ran >= limits.timeout {
            return Some(Overrun::timeout(limits.timeout, ran));
        }
        let silent = now.saturating_duration_since(self.noted);
        let stall = limits.stall.filter(|stall| silent >= *stall)?;
        Some(Overrun::stalled(stall, silent))
    }

    /// Everything that is counted in time comes so much later: the server stood still.
    pub(crate) fn postpone(&mut self, by: Duration) {
        self.until = later(self.until, by);
        self.noted = later(self.noted, by);
        if let Some(asked) = &mut self.asked {
            asked.withdraw_at = later(asked.withdraw_at, by);
        }
    }

    fn outcome(&self, answer: Result<TaskOutput, TaskError>) -> Outcome {
        let asked = self.asked.as_ref();
        let overrun = asked.and_then(|asked| asked.overrun.as_ref());
        let most = self.work.limits.result_bytes;
        outcome_of(answer, most, asked.map(|asked| asked.why), overrun)
    }

    /// Its worker has answered.
    pub(crate) fn answered(mut self, end: WorkerEnd, report: &Report, now: Instant) -> Ended {
        add_log(&mut self.log, report.log.as_ref());
        let outcome = match end {
            WorkerEnd::Completed { result } => self.outcome(Ok(TaskOutput {
                result,
                records: Vec::new(),
            })),
            WorkerEnd::Failed { class, message } => {
                self.outcome(Err(TaskError::new(class, message)))
            }
            WorkerEnd::Snooze { after } => self.outcome(Err(TaskError::snooze(after))),
            WorkerEnd::HandBack => Outcome::Stopped {
                reason: StopReason::Shutdown,
                failure: Failure::new(FailureClass::Cancelled, "handed back by its worker"),
            },
        };
        let mut ended = self.ended(outcome, Proof::WorkerAnswered, now);
        ended.usage.cpu = report.cpu;
        ended.usage.max_rss_bytes = report.max_rss_bytes;
        ended
    }

    /// Its worker was asked to stop and has not answered in its grace.
    pub(crate) fn withdrawn(self, now: Instant) -> Ended {
        let message = format!(
            "worker `{}` did not answer the notice to stop; its lease was withdrawn",
            self.worker
        );
        let outcome = self.outcome(Err(TaskError::error(message)));
        self.ended(outcome, Proof::NodeGone, now)
    }

    /// Its worker has been silent for its whole lease.
    pub(crate) fn lost(self, lease: Duration, now: Instant) -> Ended {
        let message = format!(
            "worker `{}` was silent for {lease:?}: its lease ran out",
            self.worker
        );
        let failure = Failure::new(FailureClass::Lost, message);
        self.ended(Outcome::Failed(failure), Proof::NodeGone, now)
    }

    /// It was offered again and again, and no worker confirmed that it has it.
    pub(crate) fn never_confirmed(self, now: Instant) -> Ended {
        let message = format!(
            "no worker confirmed it, the last one was `{}`: it may end its workers",
            self.worker
        );
        let failure = Failure::new(FailureClass::Lost, message);
        self.ended(Outcome::Failed(failure), Proof::NodeGone, now)
    }

    /// The lane ends while its worker is at it: run again once the lease has surely run out. It is
    /// this server's doing, so no attempt is spent.
    pub(crate) fn put_off(self, now: Instant) -> Ended {
        let left = self.due_for_worker().saturating_duration_since(now);
        let after = left.max(SNOOZE_MIN);
        self.ended(Outcome::Snoozed { after }, Proof::NodeGone, now)
    }

    /// It never was with a worker.
    pub(crate) fn unstarted(self, reason: StopReason, now: Instant) -> Ended {
        let outcome = offloop_lane::unstarted(reason);
        self.ended(outcome, Proof::NeverStarted, now)
    }

    pub(crate) fn refused(self, outcome: Outcome, now: Instant) -> Ended {
        self.ended(outcome, Proof::NeverStarted, now)
    }

    fn ended(self, outcome: Outcome, proof: Proof, now: Instant) -> Ended {
        let began = if self.phase == Phase::Held {
            self.began
        } else {
            now
        };
        let result_bytes = match &outcome {
            Outcome::Completed { result, .. } => result.as_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        Ended {
            job: self.work.job,
            lease: self.work.lease,
            outcome,
            executor: executor(&self.worker),
            queued: began.saturating_duration_since(self.came),
            usage: Usage {
                wall: now.saturating_duration_since(began),
                bytes_in: self.work.payload.len() as u64,
                bytes_out: result_bytes + self.note_bytes + self.log.written_bytes(),
                ..Usage::default()
            },
            log: self.log,
            gone: Gone::proven(proof),
        }
    }
}

/// What of a job fills the answer to its worker.
pub(crate) fn offered_bytes(work: &Work) -> usize {
    let len = |data: &Option<Bytes>| data.as_ref().map_or(0, Bytes::len);
    let inputs = work.inputs.iter().map(|input| len(&input.result));
    work.payload.len() + len(&work.checkpoint) + inputs.sum::<usize>()
}

/// A worker in the lane's own words; empty where it is with none.
pub(crate) fn executor(worker: &str) -> Box<str> {
    if worker.is_empty() {
        "".into()
    } else {
        format!("worker {worker}").into()
    }
}

/// Saturating: far enough in the future is never.
pub(crate) fn later(at: Instant, by: Duration) -> Instant {
    at.checked_add(by).unwrap_or(at)
}
