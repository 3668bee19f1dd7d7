//! Ending attempts, under the fence of their lease.

use std::sync::Arc;

use offloop_job::limits::ATTEMPTS_KEPT_MAX;
use offloop_job::{Attempt, FailureClass, JobState, Progress, Timestamp};
use offloop_store::{
    AttemptReport, Checkpoint, CheckpointOutcome, FollowOf, ProgressNote, Settled, Settlement,
    Verdict,
};

use crate::insert::Room;
use crate::state::{Row, State};

impl State {
    pub(crate) fn settle(&mut self, now: Timestamp, end: Settlement) -> Settled {
        let Some(row) = self.jobs.get_mut(&end.id) else {
            return Settled::Stale;
        };
        if row.lease != Some(end.lease) {
            return Settled::Stale;
        }
        if row.state != JobState::Running {
            return Settled::Already(row.state);
        }
        let asked_to_end = end.verdict.step().edge().1.is_final();
        let verdict = row.heed_cancel(end.verdict);
        let Ok(state) = row.state.after(verdict.step()) else {
            return Settled::Stale;
        };
        let (task, options) = (row.task.clone(), Arc::clone(&row.options));
        let flow = row.flow();
        self.wake |= self.end_frees(&flow);
        if verdict != Verdict::HandBack {
            self.spend(&task, &options, &end.report);
        }
        let Some(row) = self.jobs.get_mut(&end.id) else {
            return Settled::Stale;
        };
        row.end_attempt(now, state, verdict, end.report);
        self.wake |= state == JobState::Ready;
        if state.is_final() {
            self.ended(end.id, now);
            if !asked_to_end {
                self.unheard.insert(end.id);
            }
        }
        self.write_records(now, &end.records);
        for job in end.follow {
            self.follow(now, job, FollowOf::Job(end.id), Room::Checked);
        }
        Settled::Done(state)
    }

    pub(crate) fn checkpoint(&mut self, note: Checkpoint) -> CheckpointOutcome {
        match self.jobs.get_mut(&note.id) {
            Some(row) if row.running_lease() == Some(note.lease) => {
                row.checkpoint = Some(note.data);
                if note.advances {
                    row.history.crash_streak = 0;
                }
                CheckpointOutcome::Kept
            }
            _ => CheckpointOutcome::Stale,
        }
    }

    pub(crate) fn note_progress(&mut self, now: Timestamp, notes: Vec<ProgressNote>) {
        for note in notes {
            if let Some(row) = self.jobs.get_mut(&note.id)
                && row.running_lease() == Some(note.lease)
            {
                row.progress = Some(Progress {
                    at: now,
                    note: note.note,
                });
            }
        }
    }
}

impl Row {
    /// A job whose cancel was answered must not run again.
    fn heed_cancel(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Retry { .. } | Verdict::Snooze { .. } | Verdict::HandBack
                if self.cancelling =>
            {
                Verdict::Abort
            }
            verdict => verdict,
        }
    }

    fn end_attempt(
        &mut self,
        now: Timestamp,
        state: JobState,
        verdict: Verdict,
        report: AttemptReport,
    ) {
        let class = report.failure.as_ref().map(|failure| failure.class);
        if matches!(verdict, Verdict::Retry { .. }) && class == Some(FailureClass::MemoryLimit) {
            self.history.memory_ends += 1;
        }
        match verdict {
            Verdict::HandBack => self.history.attempt -= 1,
            Verdict::Snooze { .. } => {
                self.history.attempt -= 1;
                self.history.snoozes = self.history.snoozes.saturating_add(1);
            }
            _ => self.put_on_record(report),
        }
        self.state = state;
        self.cancelling = false;
        self.progress = None;
        if state.is_final() {
            self.finished_at = Some(now);
        } else {
            self.claimed_at = None;
        }
        match verdict {
            Verdict::Completed { result } => {
                self.result = result;
                self.checkpoint = None;
            }
            Verdict::Retry { due } => {
                self.due_at = due;
                self.history.snoozes = 0;
            }
            Verdict::Snooze { due } => self.due_at = due,
            Verdict::GiveUp { reason } => self.reason = Some(reason),
            Verdict::HandBack | Verdict::Abort => {}
        }
    }

    fn put_on_record(&mut self, report: AttemptReport) {
        let Some(lease) = self.lease else { return };
        let class = report.failure.as_ref().map(|failure| failure.class);
        if class.is_some_and(FailureClass::is_crash_like) {
            self.history.crash_streak += 1;
        } else {
            self.history.crash_streak = 0;
        }
        if report.failure.is_some() {
            self.failure.clone_from(&report.failure);
        }
        self.attempts.push(Attempt {
            number: self.history.attempt,
            lease,
            node: report.node,
            lane: report.lane,
            executor: report.executor,
            started_at: report.started_at,
            ended_at: Some(report.ended_at),
            wait: report.wait,
            usage: report.usage,
            failure: report.failure,
            log: report.log,
        });
        let dropped = self.attempts.len().saturating_sub(ATTEMPTS_KEPT_MAX);
        self.attempts.drain(..dropped);
    }
}
