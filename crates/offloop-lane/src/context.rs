//! What a Rust task sees of its attempt, and what it may answer.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::{
    CHECKPOINT_BYTES_MAX, LOG_HEAD_BYTES_MAX, LOG_TAIL_BYTES_MAX, PARTIAL_BYTES_MAX,
    PROGRESS_BYTES_MAX,
};
use offloop_job::{FailureClass, Input, LogTail, RecordWrite};

use crate::{CheckpointError, LaneEvent, LaneSink, Saving, StopToken, Work};

/// Handed to a task on the `cpu` and `io` lanes.
#[derive(Clone)]
pub struct TaskContext {
    work: Arc<Work>,
    token: StopToken,
    sink: Arc<dyn LaneSink>,
    log: Arc<Mutex<LogTail>>,
}

impl TaskContext {
    pub fn new(work: Arc<Work>, token: StopToken, sink: Arc<dyn LaneSink>) -> Self {
        Self {
            work,
            token,
            sink,
            log: Arc::default(),
        }
    }

    /// The attempt: its job, lease, number and payload.
    pub fn work(&self) -> &Work {
        &self.work
    }

    pub fn payload(&self) -> &Bytes {
        &self.work.payload
    }

    /// What became of the jobs that this one waited for, in the order of its `after`; for a group's
    /// follow-up, of its members.
    pub fn inputs(&self) -> &[Input] {
        &self.work.inputs
    }

    pub fn token(&self) -> &StopToken {
        &self.token
    }

    /// True once the task should return: cancelled, over a limit, or the server goes down.
    /// Code that runs longer than a millisecond asks often; the answer costs a nanosecond.
    pub fn should_stop(&self) -> bool {
        self.token.is_stopped()
    }

    /// A note for whoever watches, and a sign of life for the stall limit. JSON, at most 4 KiB;
    /// a longer one is refused.
    pub fn progress(&self, note: impl Into<Bytes>) -> Result<(), TaskError> {
        let note = note.into();
        if note.len() > PROGRESS_BYTES_MAX {
            let len = note.len();
            let message =
                format!("a progress note has {len} bytes; the limit is {PROGRESS_BYTES_MAX}");
            return Err(TaskError::error(message));
        }
        self.sink.send(LaneEvent::Progress {
            job: self.work.job,
            lease: self.work.lease,
            note,
        });
        Ok(())
    }

    /// Adds a line to the attempt's log. The first 16 KiB and the last 48 KiB are kept.
    pub fn log(&self, line: &str) {
        {
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            append_log(&mut log, line.as_bytes());
            append_log(&mut log, b"\n");
        }
        if self.sink.listens(self.work.job) {
            let (job, lease) = (self.work.job, self.work.lease);
            let data = Bytes::from([line.as_bytes(), b"\n"].concat());
            self.sink.send(LaneEvent::Log { job, lease, data });
        }
    }

    /// What an earlier attempt of this job left by [`TaskContext::checkpoint`], if one did.
    pub fn resumed(&self) -> Option<&Bytes> {
        self.work.checkpoint.as_ref()
    }

    /// Keeps a place in the work for the next attempt of this job: after a failure, a snooze, a
    /// restart or a crash it is what [`TaskContext::resumed`] gives. The newest one counts; it goes
    /// when the job is completed. Also a sign of life for the stall limit, and what tells a job that got
    /// on from one that crashes in the same place again and again: let it name a place, never a time.
    ///
    /// - `data`: JSON, at most 64 KiB.
    /// - It is on disk once the answer is there: `.await` it, or [`Saving::wait`] on the `cpu` lane.
    ///   What was not answered may or may not be found again.
    /// - Errors: too large; the attempt is no longer the current one; the store failed for good.
    pub fn checkpoint(&self, data: impl Into<Bytes>) -> Saving {
        let data = data.into();
        if data.len() > CHECKPOINT_BYTES_MAX {
            return Saving::refused(CheckpointError::TooLarge { len: data.len() });
        }
        let (saving, reply) = Saving::new();
        self.sink.send(LaneEvent::Checkpoint {
            job: self.work.job,
            lease: self.work.lease,
            data,
            reply,
        });
        saving
    }

    /// A piece of the result for whoever listens to the job now (`GET /v1/jobs/{id}/events`). Nothing
    /// is kept of it and nothing is done while nobody listens: the result has to hold everything.
    /// JSON, at most 16 KiB; a longer one is refused.
    pub fn partial(&self, data: impl Into<Bytes>) -> Result<(), TaskError> {
        let data = data.into();
        if data.len() > PARTIAL_BYTES_MAX {
            let len = data.len();
            let message =
                format!("a partial result has {len} bytes; the limit is {PARTIAL_BYTES_MAX}");
            return Err(TaskError::error(message));
        }
        let (job, lease) = (self.work.job, self.work.lease);
        if self.sink.listens(job) {
            self.sink.send(LaneEvent::Partial { job, lease, data });
        }
        Ok(())
    }

    /// What was logged so far.
    pub fn take_log(&self) -> LogTail {
        std::mem::take(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Adds to a log within its bounds: the first 16 KiB and the last 48 KiB are kept.
pub fn append_log(log: &mut LogTail, bytes: &[u8]) {
    let room = LOG_HEAD_BYTES_MAX.saturating_sub(log.head.len());
    let (first, rest) = bytes.split_at(room.min(bytes.len()));
    if !first.is_empty() {
        log.head = [&log.head[..], first].concat().into();
    }
    if !rest.is_empty() {
        let mut tail = [&log.tail[..], rest].concat();
        let over = tail.len().saturating_sub(LOG_TAIL_BYTES_MAX);
        tail.drain(..over);
        log.dropped_bytes += over as u64;
        log.tail = tail.into();
    }
}

impl fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskContext")
            .field("job", &self.work.job)
            .finish_non_exhaustive()
    }
}

/// What a task that succeeded gives back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskOutput {
    /// JSON, at most 1 MiB; `None` for nothing.
    pub result: Option<Bytes>,
    /// Rows written in the commit that completes the job.
    pub records: Vec<RecordWrite>,
}

impl TaskOutput {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn json(text: impl Into<Bytes>) -> Self {
        Self {
            result: Some(text.into()),
            records: Vec::new(),
        }
    }
}

/// What a task that failed gives back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// `Error` is retried by the job's rule, `Invalid` is not.
    pub class: FailureClass,
    pub message: String,
    /// Not a failure: run it again after this; [`TaskError::snooze`].
    pub snooze: Option<Duration>,
}

impl TaskError {
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            snooze: None,
        }
    }

    /// The job is not to be done yet: it goes back to its queue and is run again after this time. No
    /// attempt is spent and no failure is on record. What was done so far belongs into a checkpoint.
    ///
    /// - `after`: 1 s to 30 days; another one is a failure that says so.
    /// - A job may snooze 1,000 times in a row (its task may set another number); then it fails.
    pub fn snooze(after: Duration) -> Self {
        Self {
            class: FailureClass::Error,
            message: format!("asked to be run again in {after:?}"),
            snooze: Some(after),
        }
    }

    pub fn error(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Error, message)
    }

    /// The payload is wrong and will stay wrong: no retry.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Invalid, message)
    }

    /// For a task that returns because it was asked to stop.
    pub fn stopped() -> Self {
        Self::new(FailureClass::Cancelled, "stopped on request")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_log_lines_keeps_its_start_and_its_end() {
        let mut log = LogTail::default();
        for line in 0..20_000 {
            append_log(&mut log, format!("line {line:06}\n").as_bytes());
        }
        assert_eq!(log.head.len(), LOG_HEAD_BYTES_MAX);
        assert_eq!(log.tail.len(), LOG_TAIL_BYTES_MAX);
        assert!(log.head.starts_with(b"line 000000\n"));
        assert!(log.tail.ends_with(b"line 019999\n"));
        let total = log.head.len() + log.tail.len() + log.dropped_bytes as usize;
        assert_eq!(total, 20_000 * 12);
    }
}
