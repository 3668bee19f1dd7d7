//! Hands claimed jobs to a lane. Path: enqueue -> claim -> **dispatch** -> settle -> publish.
//!
//! Must never: touch the store, read the clock, or wait (a full lane is an answer, not a pause).

use offloop_job::limits::TIMEOUT_DEFAULT;
use offloop_lane::{TaskInfo, Work, WorkLimits};
use offloop_store::Claimed;

/// The attempt as its lane runs it: the job's own limits, else the task's, else the default.
pub(crate) fn work(claimed: &Claimed, task: Option<&TaskInfo>) -> Work {
    let options = &claimed.options;
    let timeout = options
        .timeout
        .or_else(|| task.and_then(|task| task.timeout));
    Work {
        job: claimed.id,
        lease: claimed.lease,
        attempt: claimed.history.attempt,
        task: claimed.task.clone(),
        payload: claimed.payload.clone(),
        priority: options.priority,
        limits: WorkLimits {
            timeout: timeout.unwrap_or(TIMEOUT_DEFAULT),
            cpu: options.cpu_limit,
            memory_bytes: options.memory_limit_bytes,
            stall: options.stall_timeout,
        },
        trace: options.trace.clone(),
    }
}
