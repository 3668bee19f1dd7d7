//! Hands claimed jobs to a lane. Path: enqueue -> claim -> **dispatch** -> settle -> publish.
//!
//! Must never: touch the store, read the clock, or wait (a full lane is an answer, not a pause).

use std::time::Instant;

use offloop_job::limits::{RESULT_BYTES_MAX, TIMEOUT_DEFAULT};
use offloop_job::{Failure, FailureClass, Outcome, Timestamp};
use offloop_lane::{Work, WorkLimits};
use offloop_store::Claimed;

use crate::config::TaskDefaults;
use crate::keeper::{Keeper, Running};

/// Now, on both clocks: deadlines come by the calendar and are kept by the monotonic one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) wall: Timestamp,
    pub(crate) steady: Instant,
}

/// The attempt as its lane runs it: the job's own limits, else the task's, else the default.
pub(crate) fn work(claimed: &Claimed, task: TaskDefaults, now: Moment) -> Work {
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
            memory_bytes: memory(claimed, task),
            stall: options.stall_timeout.or(task.stall_timeout),
            result_bytes: RESULT_BYTES_MAX,
        },
        cores: options.cores,
        deadline: options
            .deadline
            .and_then(|at| now.steady.checked_add(at.since(now.wall))),
        checkpoint: claimed.checkpoint.clone(),
        trace: options.trace.clone(),
        inputs: std::sync::Arc::clone(&claimed.inputs),
    }
}

impl Keeper {
    /// Its payload could not be opened, so it is not given to any executor: a failure of that job.
    pub(crate) fn refuse_sealed(&mut self, lane: usize, claimed: Claimed) {
        let message = "its payload is sealed with a key that is not in the key folder, or is retired there; put the key back and retry the job";
        let failure = Failure::new(FailureClass::Invalid, message);
        let ended = offloop_lane::not_given(claimed.id, claimed.lease, Outcome::Failed(failure));
        self.desks[lane].work_in(1);
        let running = Running {
            claimed,
            lane,
            cancelling: false,
        };
        self.running.insert(ended.lease, running);
        self.on_ended(lane, ended);
    }
}

/// The larger memory that the task grants after a first end over the limit, if this is such an
/// attempt.
pub(crate) fn enlarged(claimed: &Claimed, task: TaskDefaults) -> Option<u64> {
    task.memory_retry_bytes
        .filter(|_| claimed.history.memory_ends > 0)
}

pub(crate) fn memory(claimed: &Claimed, task: TaskDefaults) -> Option<u64> {
    let usual = claimed
        .options
        .memory_limit_bytes
        .or(task.memory_limit_bytes)?;
    Some(enlarged(claimed, task).map_or(usual, |larger| larger.max(usual)))
}
