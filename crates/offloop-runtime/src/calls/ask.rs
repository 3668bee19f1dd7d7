//! What a call asks, and how it can end.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::{CALL_TIMEOUT_MAX, PRIORITY_DEFAULT};
use offloop_job::{Failure, TaskName, Usage};
use offloop_store::PayloadProblem;

/// One call: work whose caller waits for it. Not durable; gone with its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallAsk {
    pub task: TaskName,
    /// JSON text, at most 8 MiB; 1 MiB where a child process runs it.
    pub payload: Bytes,
    /// From now to the answer, waiting included; `None`: the task's. At most 5 minutes.
    pub timeout: Option<Duration>,
    /// 0 first to 9 last; default 5. The last are refused first.
    pub priority: u8,
    /// W3C traceparent.
    pub trace: Option<Box<str>>,
}

impl CallAsk {
    pub fn new(task: TaskName, payload: impl Into<Bytes>) -> Self {
        Self {
            task,
            payload: payload.into(),
            timeout: None,
            priority: PRIORITY_DEFAULT,
            trace: None,
        }
    }
}

/// The answer of a call whose task completed.
#[derive(Clone, Debug, PartialEq)]
pub struct CallAnswer {
    /// JSON, at most 8 MiB; `None` for nothing.
    pub result: Option<Bytes>,
    /// From the call to the start on its executor.
    pub waited: Duration,
    pub usage: Usage,
    pub lane: Box<str>,
    pub executor: Box<str>,
    /// It was the answer to an equal call that was under way already.
    pub shared: bool,
}

/// How calls of one task are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSettings {
    /// Of calls that name none; default 10 s.
    pub timeout: Duration,
    /// The longest estimated wait that a burst may fill; default 1 s.
    pub max_wait: Duration,
    /// Calls of the task that may wait; default 1,024.
    pub line: u32,
    /// Equal calls (same task, same payload byte for byte, at most 64 KiB) that are under way at the
    /// same time share one run. Only for tasks whose answer depends on the payload alone.
    pub single_flight: bool,
}

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            max_wait: Duration::from_secs(1),
            line: 1_024,
            single_flight: false,
        }
    }
}

/// Why a call was not taken in, or was let go before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedWhy {
    /// It would be done too late: wait and typical run do not fit in what is left.
    Deadline { left: Duration, typical: Duration },
    /// The line is longer than its bound.
    Wait { allowed: Duration },
    /// So many calls of the task wait already.
    Line { limit: u32 },
    /// The whole server is pressed, and others come first.
    Pressed,
}

/// A call that was not begun, because it could not be done well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub why: RefusedWhy,
    /// What it would have waited, or has.
    pub wait: Duration,
    /// When to try again.
    pub retry_after: Duration,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wait = self.wait;
        match self.why {
            RefusedWhy::Deadline { left, typical } => write!(
                f,
                "it would not be done in time: estimated wait {wait:.1?}, typical run {typical:.1?}, time left {left:.1?}; give it a longer timeout_ms, or come again later"
            ),
            RefusedWhy::Wait { allowed } => write!(
                f,
                "the line is too long: estimated wait {wait:.1?}, allowed {allowed:.1?} for its priority; come again later"
            ),
            RefusedWhy::Pressed => write!(
                f,
                "the server is hard pressed and others come first (GET /v1/pulse says by what); come again later"
            ),
            RefusedWhy::Line { limit } => write!(
                f,
                "{limit} calls of this task wait already, which is its limit (`line`); estimated wait {wait:.1?}"
            ),
        }
    }
}

/// Why a call has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    #[error("task: `{task}` is not declared here; callable are {known}")]
    UnknownTask { task: TaskName, known: String },
    #[error(
        "task: `{task}` runs as jobs only; declare `[tasks.{task}.calls] processes = 1` to keep executors for calls"
    )]
    NotCallable { task: TaskName },
    #[error(
        "payload: has {len} bytes; the limit of `{task}` is {limit}; put larger data in a file or an object store and name it in the payload"
    )]
    PayloadTooLarge {
        task: TaskName,
        len: usize,
        limit: usize,
    },
    #[error(
        "payload: `{task}` does not take it: {}",
        offloop_store::told(problems)
    )]
    Payload {
        task: TaskName,
        problems: Vec<PayloadProblem>,
    },
    #[error("timeout_ms: is {asked:?}; give 1 ms to {CALL_TIMEOUT_MAX:?}, or make it a job")]
    Timeout { asked: Duration },
    #[error("{0}")]
    Refused(Refused),
    /// It began, and failed.
    #[error("{}", .0.message)]
    Failed(Failure),
    #[error("no answer within {limit:.1?}{}; its work was stopped", started(*.ran))]
    TimedOut {
        limit: Duration,
        /// It ran for so long; `None`: it had not begun.
        ran: Option<Duration>,
    },
    #[error("the server is shutting down; send it to another one or try again later")]
    ShuttingDown,
}

fn started(ran: Option<Duration>) -> String {
    ran.map_or_else(
        || ", all of it in line".to_owned(),
        |ran| format!(", of which it ran {ran:.1?}"),
    )
}
