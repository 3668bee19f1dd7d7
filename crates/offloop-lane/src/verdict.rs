//! From what a task answered to the outcome of its attempt: one rule for every lane.
//!
//! It lives at the seam because a second copy would drift, and the drift would show as a job that
//! is cancelled on one lane and completed on another.

use std::time::Duration;

use offloop_job::limits::{SNOOZE_MAX, SNOOZE_MIN};
use offloop_job::{Failure, FailureClass, Outcome, RecordWrite, StopReason};

use crate::{Stopped, TaskError, TaskOutput};

/// A limit that was passed: its class, and a sentence with the limit and the reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrun {
    pub class: FailureClass,
    pub message: Box<str>,
}

impl Overrun {
    pub fn timeout(limit: Duration, ran: Duration) -> Self {
        Self::new(
            FailureClass::Timeout,
            format!("ran for {ran:.1?}; its limit is {limit:?} of wall time"),
        )
    }

    pub fn cpu(limit: Duration, used: Duration) -> Self {
        Self::new(
            FailureClass::CpuLimit,
            format!("used {used:.1?} of processor time; its limit is {limit:?}"),
        )
    }

    pub fn memory(limit: u64, used: u64) -> Self {
        Self::new(
            FailureClass::MemoryLimit,
            format!("held {used} bytes of memory; its limit is {limit} bytes"),
        )
    }

    pub fn stalled(limit: Duration, silent: Duration) -> Self {
        Self::new(
            FailureClass::Stalled,
            format!("made no progress for {silent:.1?}; its limit is {limit:?}"),
        )
    }

    /// `what`: `printed`, `the result has`.
    pub fn output(what: &str, limit: u64, bytes: u64) -> Self {
        Self::new(
            FailureClass::OutputLimit,
            format!("{what} {bytes} bytes; its limit is {limit} bytes of output"),
        )
    }

    pub fn files(limit: u32, open: u64) -> Self {
        Self::new(
            FailureClass::FileLimit,
            format!("one of its processes has {open} files open; the limit is {limit}"),
        )
    }

    pub fn processes(limit: u32, alive: u64) -> Self {
        Self::new(
            FailureClass::ProcessLimit,
            format!("had {alive} processes at once; its limit is {limit}"),
        )
    }

    fn new(class: FailureClass, message: String) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

/// The outcome of an attempt that answered.
///
/// - An answer that is good came first, whatever was asked in the meantime: completed.
/// - An error after a stop was asked is the stop's doing: stopped, or failed by the limit's class.
/// - A wish to be run again later is heeded unless the job was cancelled or is over a limit.
/// - A result or a record over its limit is an error that names the limit.
///
/// - `result_max`: bytes that the result may have.
/// - `overrun`: the limit that was passed, where `stop` is [`Stopped::Limit`].
pub fn outcome_of(
    answer: Result<TaskOutput, TaskError>,
    result_max: usize,
    stop: Option<Stopped>,
    overrun: Option<&Overrun>,
) -> Outcome {
    let error = match answer.and_then(|output| within_limits(output, result_max)) {
        Ok(output) => {
            return Outcome::Completed {
                result: output.result,
                records: output.records,
            };
        }
        Err(error) => error,
    };
    let stopped_for_good = match stop {
        Some(Stopped::Asked(StopReason::Cancel) | Stopped::Limit(_)) => true,
        Some(Stopped::Asked(StopReason::Shutdown)) | None => false,
    };
    if let Some(after) = error.snooze.filter(|_| !stopped_for_good) {
        return snoozed(after);
    }
    match stop {
        Some(Stopped::Asked(reason)) => Outcome::Stopped {
            reason,
            failure: Failure::new(FailureClass::Cancelled, error.message),
        },
        Some(Stopped::Limit(class)) => {
            let limit = overrun.map_or("passed a limit", |overrun| &overrun.message);
            let message = format!("{limit}; at its end: {}", error.message);
            Outcome::Failed(Failure::new(class, message))
        }
        None => Outcome::Failed(Failure::new(own_class(error.class), error.message)),
    }
}

/// A time that nobody can mean is a mistake of the task, and said so.
fn snoozed(after: Duration) -> Outcome {
    if (SNOOZE_MIN..=SNOOZE_MAX).contains(&after) {
        return Outcome::Snoozed { after };
    }
    let message = format!(
        "asked to be run again in {after:?}; give {SNOOZE_MIN:?} to {SNOOZE_MAX:?} (30 days)"
    );
    Outcome::Failed(Failure::new(FailureClass::Error, message))
}

/// A task cannot say that it was cancelled or lost when nobody stopped it.
const fn own_class(class: FailureClass) -> FailureClass {
    match class {
        FailureClass::Cancelled | FailureClass::Lost => FailureClass::Error,
        other => other,
    }
}

fn within_limits(output: TaskOutput, result_max: usize) -> Result<TaskOutput, TaskError> {
    let len = output.result.as_ref().map_or(0, bytes::Bytes::len);
    if len > result_max {
        let message = format!("the result has {len} bytes; the limit is {result_max}");
        return Err(TaskError::error(message));
    }
    let problem = output.records.iter().find_map(RecordWrite::problem);
    problem.map_or(Ok(output), |problem| Err(TaskError::error(problem)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use offloop_job::limits::RESULT_BYTES_MAX;
    use offloop_job::{StopReason, TaskName};

    #[test]
    fn a_good_answer_is_never_thrown_away_and_a_stop_is_never_shown_as_an_error() {
        let cancel = Some(Stopped::Asked(StopReason::Cancel));
        let limit = Some(Stopped::Limit(FailureClass::Timeout));
        let overrun = Overrun::timeout(Duration::from_secs(1), Duration::from_millis(1_234));
        for stop in [None, cancel, limit] {
            let outcome = outcome_of(
                Ok(TaskOutput::json("1")),
                RESULT_BYTES_MAX,
                stop,
                Some(&overrun),
            );
            assert!(matches!(outcome, Outcome::Completed { .. }), "{stop:?}");
        }
        let class =
            |error, stop| match outcome_of(Err(error), RESULT_BYTES_MAX, stop, Some(&overrun)) {
                Outcome::Completed { .. } | Outcome::Snoozed { .. } => panic!("an error completed"),
                Outcome::Failed(failure) => (failure.class, failure.message, None),
                Outcome::Stopped { reason, failure } => {
                    (failure.class, failure.message, Some(reason))
                }
            };
        let cancelled = class(TaskError::stopped(), cancel);
        assert_eq!(cancelled.0, FailureClass::Cancelled);
        assert_eq!(cancelled.2, Some(StopReason::Cancel));
        let timeout = class(TaskError::error("late"), limit);
        assert_eq!(timeout.0, FailureClass::Timeout);
        assert_eq!(
            &*timeout.1,
            "ran for 1.2s; its limit is 1s of wall time; at its end: late"
        );
        assert_eq!(class(TaskError::stopped(), None).0, FailureClass::Error);
        assert_eq!(
            class(TaskError::invalid("x"), None).0,
            FailureClass::Invalid
        );
    }

    #[test]
    fn a_snooze_is_heeded_in_its_range_and_never_gets_a_job_past_a_stop() {
        let cancel = Some(Stopped::Asked(StopReason::Cancel));
        let shutdown = Some(Stopped::Asked(StopReason::Shutdown));
        let limit = Some(Stopped::Limit(FailureClass::Timeout));
        let of =
            |after, stop| outcome_of(Err(TaskError::snooze(after)), RESULT_BYTES_MAX, stop, None);
        for after in [SNOOZE_MIN, Duration::from_secs(90), SNOOZE_MAX] {
            assert_eq!(of(after, None), Outcome::Snoozed { after });
            assert_eq!(of(after, shutdown), Outcome::Snoozed { after });
            assert!(matches!(of(after, cancel), Outcome::Stopped { .. }));
            assert!(matches!(of(after, limit), Outcome::Failed(_)));
        }
        let millisecond = Duration::from_millis(1);
        for after in [
            Duration::ZERO,
            SNOOZE_MIN.checked_sub(millisecond).unwrap(),
            SNOOZE_MAX + millisecond,
        ] {
            let Outcome::Failed(failure) = of(after, None) else {
                panic!("{after:?} was taken");
            };
            assert!(failure.message.contains("30 days"), "{}", failure.message);
        }
    }

    #[test]
    fn an_answer_over_a_limit_is_refused_by_name() {
        let big = TaskOutput::json(vec![b'1'; RESULT_BYTES_MAX + 1]);
        let bad_record = TaskOutput {
            result: None,
            records: vec![RecordWrite {
                collection: TaskName::parse("photos").unwrap(),
                key: Bytes::new(),
                label: None,
                value: Bytes::new(),
            }],
        };
        for (output, says) in [(big, "1048576"), (bad_record, "key has 0 bytes")] {
            let Outcome::Failed(failure) = outcome_of(Ok(output), RESULT_BYTES_MAX, None, None)
            else {
                panic!("was taken");
            };
            assert_eq!(failure.class, FailureClass::Error);
            assert!(failure.message.contains(says), "{}", failure.message);
        }
    }
}
