//! What a lane is given to run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use offloop_job::{Input, JobId, Lease, TaskName};

/// Bounds of one attempt, all defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkLimits {
    /// Wall clock from the start on the executor.
    pub timeout: Duration,
    /// Processor time of the whole tree.
    pub cpu: Option<Duration>,
    /// Memory of the whole tree.
    pub memory_bytes: Option<u64>,
    /// Longest time without a progress note.
    pub stall: Option<Duration>,
    /// Of the result, for lanes that carry more than a job may have.
    pub result_bytes: usize,
}

/// One attempt to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    pub job: JobId,
    /// The fence: handed to the task for its own writes.
    pub lease: Lease,
    pub attempt: u16,
    pub task: TaskName,
    /// JSON text.
    pub payload: Bytes,
    /// 0 first to 9 last: the order of a lane's own line.
    pub priority: u8,
    pub limits: WorkLimits,
    /// Processors that it keeps busy, 1 or more: on the CPU lane so many threads are its own.
    pub cores: u16,
    /// When nobody waits for the result any more. Work that cannot be done by then is not begun.
    pub deadline: Option<Instant>,
    /// What an earlier attempt of the job left: JSON.
    pub checkpoint: Option<Bytes>,
    /// What became of the jobs that it waited for; empty for most.
    pub inputs: Arc<[Input]>,
    /// W3C traceparent.
    pub trace: Option<Box<str>>,
}
