//! What a schedule is: what it asks for, when, and what becomes of times that cannot be kept.
//!
//! Words: a *due time* is an instant that the schedule names. Each one becomes one row of the ledger:
//! fired, or skipped and why. Rules and reasons: docs/adr/0021.
//!
//! Must never: know a calendar or a zone. `offloop-schedule` reckons the due times.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::limits::{
    SCHEDULE_ALERT_DEFAULT, SCHEDULE_AT_MAX, SCHEDULE_CATCH_UP_MAX, SCHEDULE_CRON_BYTES_MAX,
    SCHEDULE_EVERY_MAX, SCHEDULE_EVERY_MIN, SCHEDULE_JITTER_MAX, SCHEDULE_ZONE_BYTES_MAX,
};
use crate::{JobId, JobOptions, OptionProblem, ScheduleName, TaskName, Timestamp};

/// When a schedule is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timing {
    /// 5 fields (minute to weekday), 6 (second first), or a name such as `@hourly`.
    Cron(Arc<str>),
    /// At the anchor (`starts_at`, else its creation) and every so often after it.
    Every(Duration),
    /// At these instants: ascending, each once.
    At(Arc<[Timestamp]>),
}

/// What becomes of due times that passed while nobody could fire them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// Nothing, but for the last one if it is less than a minute late.
    Skip,
    /// The last one is fired, however late; those before it are not.
    #[default]
    Once,
    /// The last so many are fired, oldest first.
    CatchUp { max: u16 },
}

/// What becomes of a due time while a job of the schedule is unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Overlap {
    /// It is fired: the jobs may run beside each other.
    #[default]
    Allow = 0,
    /// It is skipped.
    Skip = 1,
    /// One waits until the job has ended; more are skipped.
    QueueOne = 2,
    /// The job is cancelled, and the due time fired once its executor is proven gone.
    CancelRunning = 3,
}

impl Overlap {
    pub const ALL: [Self; 4] = [Self::Allow, Self::Skip, Self::QueueOne, Self::CancelRunning];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::QueueOne => "queue_one",
            Self::CancelRunning => "cancel_running",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|overlap| overlap.as_str() == name)
    }
}

/// Everything about a schedule but its name.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSpec {
    pub task: TaskName,
    /// JSON text, as of a job.
    pub payload: Bytes,
    /// Of each job that it makes. Without times: those are the schedule's.
    pub options: JobOptions,
    pub timing: Timing,
    /// IANA name; the clock that a cron expression is read by. Default `UTC`.
    pub timezone: Arc<str>,
    pub missed: Missed,
    pub overlap: Overlap,
    /// Each due time is fired later by a part of this, the same part on every node.
    pub jitter: Duration,
    /// Due times are skipped.
    pub paused: bool,
    /// No due time before this one.
    pub starts_at: Option<Timestamp>,
    /// No due time after this one.
    pub ends_at: Option<Timestamp>,
    /// So late without a row, it counts as silent. Default one minute.
    pub alert_after: Duration,
}

impl Timing {
    /// What needs no calendar to be seen.
    fn problem(&self, say: &mut impl FnMut(&'static str, String)) {
        match self {
            Timing::Cron(text) if text.len() > SCHEDULE_CRON_BYTES_MAX => {
                let len = text.len();
                say(
                    "cron",
                    format!("has {len} bytes; the limit is {SCHEDULE_CRON_BYTES_MAX}"),
                );
            }
            Timing::Every(every) if *every < SCHEDULE_EVERY_MIN || *every > SCHEDULE_EVERY_MAX => {
                let (min, max) = (
                    SCHEDULE_EVERY_MIN.as_millis(),
                    SCHEDULE_EVERY_MAX.as_millis(),
                );
                say(
                    "every_ms",
                    format!("is {}; give {min} to {max} (a year)", every.as_millis()),
                );
            }
            Timing::At(at) if at.is_empty() || at.len() > SCHEDULE_AT_MAX => {
                say(
                    "at",
                    format!("has {}; give 1 to {SCHEDULE_AT_MAX} times", at.len()),
                );
            }
            _ => {}
        }
    }
}

impl ScheduleSpec {
    /// As asked for with nothing but a task and a timing.
    pub fn new(task: TaskName, timing: Timing) -> Self {
        Self {
            task,
            payload: Bytes::from_static(b"null"),
            options: JobOptions::default(),
            timing,
            timezone: "UTC".into(),
            missed: Missed::default(),
            overlap: Overlap::default(),
            jitter: Duration::ZERO,
            paused: false,
            starts_at: None,
            ends_at: None,
            alert_after: SCHEDULE_ALERT_DEFAULT,
        }
    }

    /// Whether both name the same due times, asked at the same anchor.
    pub fn same_times(&self, other: &Self) -> bool {
        self.timing == other.timing
            && self.timezone == other.timezone
            && self.starts_at == other.starts_at
            && self.ends_at == other.ends_at
    }

    /// Every problem that needs no calendar, none if it is sound.
    pub fn problems(&self) -> Vec<OptionProblem> {
        let mut found = self.options.problems();
        let mut say = |field, message: String| found.push(OptionProblem { field, message });
        self.timing.problem(&mut say);
        if self.timezone.len() > SCHEDULE_ZONE_BYTES_MAX {
            say(
                "timezone",
                format!("is over {SCHEDULE_ZONE_BYTES_MAX} bytes"),
            );
        }
        if let Missed::CatchUp { max } = self.missed
            && (max == 0 || max > SCHEDULE_CATCH_UP_MAX)
        {
            say(
                "catch_up_max",
                format!("is {max}; give 1 to {SCHEDULE_CATCH_UP_MAX}"),
            );
        }
        if self.jitter > SCHEDULE_JITTER_MAX {
            let max = SCHEDULE_JITTER_MAX.as_millis();
            say("jitter_ms", format!("give 0 to {max} (a day)"));
        }
        if let Timing::Every(every) = self.timing
            && self.jitter >= every
            && !self.jitter.is_zero()
        {
            say(
                "jitter_ms",
                "is not below every_ms: times would pass each other; give less".into(),
            );
        }
        if self.alert_after.is_zero() {
            say("alert_after_ms", "is 0; give at least 1".into());
        }
        if let (Some(start), Some(end)) = (self.starts_at, self.ends_at)
            && end <= start
        {
            say("ends_at", "is not after starts_at".into());
        }
        for (field, given) in [
            ("run_at", self.options.run_at.is_some()),
            ("deadline", self.options.deadline.is_some()),
            ("expires_at", self.options.expires_at.is_some()),
        ] {
            if given {
                say(
                    field,
                    "is one instant, and a schedule makes many jobs; leave it out".into(),
                );
            }
        }
        found
    }
}

/// Which schedule made a job, and for which of its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledBy {
    pub name: ScheduleName,
    /// As the schedule names it: jitter and lateness are not in it.
    pub due_at: Timestamp,
}

/// Why a due time was not fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    Paused,
    /// It passed while nobody could fire it, and the rule is not to make it up.
    Missed,
    /// A job of the schedule was unfinished.
    Overlap,
    /// It waited for a job to end when the schedule's times were changed.
    Replaced,
    /// A job holds the unique key.
    Unique {
        holder: JobId,
    },
    /// The job could not be taken in.
    Refused(Box<str>),
}

impl std::fmt::Display for SkipReason {
    /// One word, and what more there is to say after a colon.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Paused => f.write_str("paused"),
            Self::Missed => f.write_str("missed"),
            Self::Overlap => f.write_str("overlap"),
            Self::Replaced => f.write_str("replaced"),
            Self::Unique { holder } => write!(f, "unique: job {holder} holds the key"),
            Self::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(timing: Timing) -> ScheduleSpec {
        ScheduleSpec::new(TaskName::parse("t").unwrap(), timing)
    }

    #[test]
    fn what_cannot_be_is_named_by_its_field() {
        let at = |ms| Timestamp::from_millis(ms);
        let minute = Duration::from_secs(60);
        let rows: [(&str, ScheduleSpec); 9] = [
            ("every_ms", spec(Timing::Every(Duration::ZERO))),
            ("every_ms", spec(Timing::Every(SCHEDULE_EVERY_MAX * 2))),
            ("at", spec(Timing::At([].into()))),
            (
                "at",
                spec(Timing::At(vec![at(1); SCHEDULE_AT_MAX + 1].into())),
            ),
            (
                "cron",
                spec(Timing::Cron("*".repeat(SCHEDULE_CRON_BYTES_MAX + 1).into())),
            ),
            (
                "catch_up_max",
                ScheduleSpec {
                    missed: Missed::CatchUp { max: 0 },
                    ..spec(Timing::Every(minute))
                },
            ),
            (
                "jitter_ms",
                ScheduleSpec {
                    jitter: minute,
                    ..spec(Timing::Every(minute))
                },
            ),
            (
                "ends_at",
                ScheduleSpec {
                    starts_at: Some(at(9)),
                    ends_at: Some(at(9)),
                    ..spec(Timing::Every(minute))
                },
            ),
            (
                "alert_after_ms",
                ScheduleSpec {
                    alert_after: Duration::ZERO,
                    ..spec(Timing::Every(minute))
                },
            ),
        ];
        for (field, spec) in rows {
            let found: Vec<_> = spec
                .problems()
                .iter()
                .map(|problem| problem.field)
                .collect();
            assert_eq!(found, [field], "{:?}", spec.timing);
        }
        assert!(spec(Timing::Every(minute)).problems().is_empty());
        let mut timed = spec(Timing::Every(minute));
        timed.options.run_at = Some(at(1));
        assert_eq!(timed.problems()[0].field, "run_at");
    }
}
