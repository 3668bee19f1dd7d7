//! What a Rust task sees of its attempt, and what it may answer.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use offloop_job::limits::{LOG_HEAD_BYTES_MAX, LOG_TAIL_BYTES_MAX, PROGRESS_BYTES_MAX};
use offloop_job::{FailureClass, LogTail, RecordWrite};

use crate::{LaneEvent, LaneSink, StopToken, Work};

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
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        append(&mut log, line.as_bytes());
        append(&mut log, b"\n");
    }

    /// What was logged so far.
    pub fn take_log(&self) -> LogTail {
        std::mem::take(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn append(log: &mut LogTail, bytes: &[u8]) {
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
}

impl TaskError {
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            class: FailureClass::Error,
            message: message.into(),
        }
    }

    /// The payload is wrong and will stay wrong: no retry.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            class: FailureClass::Invalid,
            message: message.into(),
        }
    }

    /// For a task that returns because it was asked to stop.
    pub fn stopped() -> Self {
        Self {
            class: FailureClass::Cancelled,
            message: "stopped on request".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_log_lines_keeps_its_start_and_its_end() {
        let mut log = LogTail::default();
        for line in 0..20_000 {
            append(&mut log, format!("line {line:06}\n").as_bytes());
        }
        assert_eq!(log.head.len(), LOG_HEAD_BYTES_MAX);
        assert_eq!(log.tail.len(), LOG_TAIL_BYTES_MAX);
        assert!(log.head.starts_with(b"line 000000\n"));
        assert!(log.tail.ends_with(b"line 019999\n"));
        let total = log.head.len() + log.tail.len() + log.dropped_bytes as usize;
        assert_eq!(total, 20_000 * 12);
    }
}
