//! Hands claimed jobs to a lane. Path: enqueue -> claim -> **dispatch** -> settle -> publish.
//!
//! Must never: touch the store, read the clock, or wait (a full lane is an answer, not a pause).

use offloop_job::limits::TIMEOUT_DEFAULT;
use offloop_lane::{Work, WorkLimits};
use offloop_store::Claimed;

use crate::config::TaskDefaults;

/// The attempt as its lane runs it: the job's own limits, else the task's, else the default.
pub(crate) fn work(claimed: &Claimed, task: TaskDefaults) -> Work {
    let options = &claimed.options;
    Work {
        job: claimed.id,
        lease: claimed.lease,
        attempt: claimed.history.attempt,
        task: claimed.task.clone(),
        payload: claimed.payload.clone(),
        priority: options.priority,
        limits: WorkLimits {
            timeout: options.timeout.or(task.timeout).unwrap_or(TIMEOUT_DEFAULT),
            cpu: options.cpu_limit.or(task.cpu_limit),
            memory_bytes: options.memory_limit_bytes.or(task.memory_limit_bytes),
            stall: options.stall_timeout.or(task.stall_timeout),
        },
        trace: options.trace.clone(),
    }
}
