//! Work that is not begun: asked to stop before, or nobody waits for it any more. One rule and one
//! sentence for every lane.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use offloop_job::{Failure, FailureClass, JobId, Lease, LogTail, Outcome, StopReason, Usage};

use crate::{Ended, Gone, Proof, Work};

/// Weight of the newest run in the mean: 1/8.
const NEWEST: u64 = 8;
/// What one refusal takes off: 1/16.
const FORGET: u64 = 16;

/// How long a task typically runs: an exponentially weighted mean of the runs that completed.
#[derive(Debug, Default)]
pub struct TypicalRun {
    /// Nanoseconds; 0 is not known.
    nanos: AtomicU64,
}

impl TypicalRun {
    /// `None` until a run completed.
    pub fn get(&self) -> Option<Duration> {
        let nanos = self.nanos.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// A run completed. Two at once may lose one: it is an estimate.
    pub fn ran(&self, wall: Duration) {
        let run = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mean = match self.nanos.load(Ordering::Relaxed) {
            0 => run,
            mean => (mean - mean / NEWEST).saturating_add(run / NEWEST).max(1),
        };
        self.nanos.store(mean, Ordering::Relaxed);
    }

    /// Work was refused for this estimate. Without a run it cannot learn that it is too high, so
    /// each refusal takes a sixteenth off: after some of them one is let through, and measured.
    pub fn refused(&self) {
        let mean = self.nanos.load(Ordering::Relaxed);
        self.nanos.store(mean - mean / FORGET, Ordering::Relaxed);
    }
}

/// Whether work should not be begun at `now`: its deadline has passed, or is nearer than a typical
/// run. A refusal that rests on the estimate is noted there.
pub fn cannot_be_done(work: &Work, typical: Option<&TypicalRun>, now: Instant) -> bool {
    let Some(deadline) = work.deadline else {
        return false;
    };
    let left = deadline.saturating_duration_since(now);
    if left.is_zero() {
        return true;
    }
    let by_estimate = typical.filter(|typical| typical.get().is_some_and(|run| left < run));
    if let Some(typical) = by_estimate {
        typical.refused();
    }
    by_estimate.is_some()
}

/// The outcome of such work. `waited`: in the lane.
pub fn not_begun(
    work: &Work,
    waited: Duration,
    typical: Option<Duration>,
    now: Instant,
) -> Outcome {
    let left = work.deadline.unwrap_or(now).saturating_duration_since(now);
    let typical = typical.map_or_else(|| "not known".to_owned(), |run| format!("{run:.1?}"));
    let what = if left.is_zero() {
        "its deadline passed"
    } else {
        "its deadline cannot be met"
    };
    let message = format!(
        "{what}: it waited {waited:.1?} in the lane, typical run {typical}, remaining {left:.1?}; it was not started"
    );
    Outcome::Failed(Failure::new(FailureClass::Timeout, message))
}

/// The outcome of work that was stopped before it began.
pub fn unstarted(reason: StopReason) -> Outcome {
    let why = match reason {
        StopReason::Cancel => "cancelled before it began",
        StopReason::Shutdown => "handed back before it began: the lane takes no more work",
    };
    Outcome::Stopped {
        reason,
        failure: Failure::new(FailureClass::Cancelled, why),
    }
}

/// The end of an attempt that was given to no lane.
pub fn not_given(job: JobId, lease: Lease, outcome: Outcome) -> Ended {
    Ended {
        job,
        lease,
        outcome,
        executor: "".into(),
        queued: Duration::ZERO,
        usage: Usage::default(),
        log: LogTail::default(),
        gone: Gone::proven(Proof::NeverStarted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkLimits;
    use bytes::Bytes;
    use offloop_job::TaskName;

    fn work(deadline: Option<Instant>) -> Work {
        Work {
            job: JobId::from_parts(1, 1),
            lease: Lease(1),
            attempt: 1,
            task: TaskName::parse("t").unwrap(),
            payload: Bytes::new(),
            priority: 5,
            limits: WorkLimits {
                timeout: Duration::from_secs(1),
                cpu: None,
                memory_bytes: None,
                stall: None,
                result_bytes: 1,
            },
            cores: 1,
            deadline,
            checkpoint: None,
            trace: None,
            inputs: std::sync::Arc::default(),
        }
    }

    #[test]
    fn work_is_refused_only_when_its_deadline_passed_or_a_typical_run_would_miss_it() {
        let now = Instant::now();
        let typical = TypicalRun::default();
        typical.ran(Duration::from_millis(100));
        let after = |ms| Some(now + Duration::from_millis(ms));
        let rows = [
            (None, false),
            (after(0), true),
            (after(50), true),
            (after(500), false),
        ];
        for (deadline, want) in rows {
            let work = work(deadline);
            assert_eq!(cannot_be_done(&work, Some(&typical), now), want, "{work:?}");
        }
        assert!(
            !cannot_be_done(&work(after(50)), None, now),
            "nothing is known"
        );
    }

    #[test]
    fn one_long_run_does_not_refuse_a_task_for_ever() {
        let now = Instant::now();
        let typical = TypicalRun::default();
        typical.ran(Duration::from_secs(3_600));
        let work = work(Some(now + Duration::from_secs(1)));
        let refused = (0..1_000).take_while(|_| cannot_be_done(&work, Some(&typical), now));
        assert!(refused.count() < 200);
    }
}
