//! What attempts cost, summed by task, queue and tag in whole hours.
//!
//! An attempt counts once it was settled and not handed back, in the hour of its `ended_at`, with
//! the settlement's commit. The sums outlive the jobs: pruning and deleting leave them alone.

use std::time::Duration;

use offloop_job::{FailureClass, Timestamp};

use crate::AttemptReport;

/// Length of one bucket: a question is answered from the start of its hour on.
pub const USAGE_HOUR: Duration = Duration::from_secs(3_600);
/// How long an hour's sums are kept; a prune forgets older ones.
pub const USAGE_KEEP: Duration = Duration::from_secs(31 * 24 * 3_600);
/// Tasks, queues and tags (each) that have sums of their own in one hour; those that come later in
/// it are summed together, without a name. Bounds what a tag per customer can cost.
pub const USAGE_NAMES_MAX: usize = 256;
/// Rows of one answer.
pub const USAGE_ROWS_MAX: u16 = 1_000;
/// Every sum stops here.
pub const USAGE_SUM_MAX: u64 = i64::MAX as u64;

/// What the sums are made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum UsageBy {
    Task = 0,
    Queue = 1,
    /// An attempt counts under each tag of its job.
    Tag = 2,
}

impl UsageBy {
    pub const ALL: [Self; 3] = [Self::Task, Self::Queue, Self::Tag];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Queue => "queue",
            Self::Tag => "tag",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.as_str() == name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsageAsk {
    pub by: UsageBy,
    /// Rounded down to its hour.
    pub since: Timestamp,
    /// 1 to [`USAGE_ROWS_MAX`].
    pub limit: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSums {
    /// Start of the first hour that counts.
    pub since: Timestamp,
    /// The most wall time first, then by name.
    pub rows: Vec<UsageRow>,
    /// There are more rows than were asked for.
    pub truncated: bool,
}

/// The attempts of one task, queue or tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageRow {
    /// `None`: the names that came after the first [`USAGE_NAMES_MAX`] of their hour.
    pub name: Option<Box<str>>,
    /// Attempts without a failure.
    pub completed: u64,
    /// The others, by class in the order of [`FailureClass::ALL`]; classes without one are left out.
    pub failed: Vec<(FailureClass, u64)>,
    pub total: UsageSum,
}

impl UsageRow {
    /// Counts a sum whose attempts ended in `class`; `None`: without a failure.
    pub fn add(&mut self, class: Option<FailureClass>, sum: &UsageSum) {
        self.total.add(sum);
        match class {
            None => self.completed = capped(self.completed, sum.attempts),
            Some(class) => match self.failed.binary_search_by_key(&class, |entry| entry.0) {
                Ok(at) => self.failed[at].1 = capped(self.failed[at].1, sum.attempts),
                Err(at) => self.failed.insert(at, (class, sum.attempts)),
            },
        }
    }
}

/// Sums over attempts. Each counts in whole microseconds; none passes [`USAGE_SUM_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    pub attempts: u64,
    pub wall_us: u64,
    /// Of the attempts whose lane could tell; `None` if none could.
    pub cpu_us: Option<u64>,
    pub wait_us: u64,
    /// The highest, of the attempts whose lane could tell.
    pub max_rss_bytes: Option<u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl UsageSum {
    /// The sum over one attempt.
    pub fn of(report: &AttemptReport) -> Self {
        let usage = &report.usage;
        Self {
            attempts: 1,
            wall_us: micros(usage.wall),
            cpu_us: usage.cpu.map(micros),
            wait_us: micros(report.wait),
            max_rss_bytes: usage.max_rss_bytes.map(|bytes| bytes.min(USAGE_SUM_MAX)),
            bytes_in: usage.bytes_in.min(USAGE_SUM_MAX),
            bytes_out: usage.bytes_out.min(USAGE_SUM_MAX),
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.attempts = capped(self.attempts, other.attempts);
        self.wall_us = capped(self.wall_us, other.wall_us);
        self.cpu_us = match (self.cpu_us, other.cpu_us) {
            (Some(one), Some(more)) => Some(capped(one, more)),
            (one, more) => one.or(more),
        };
        self.wait_us = capped(self.wait_us, other.wait_us);
        self.max_rss_bytes = self.max_rss_bytes.max(other.max_rss_bytes);
        self.bytes_in = capped(self.bytes_in, other.bytes_in);
        self.bytes_out = capped(self.bytes_out, other.bytes_out);
    }
}

/// The number of the hour in which `at` falls, counted from 1970.
pub const fn usage_hour(at: Timestamp) -> u64 {
    at.as_millis() / (USAGE_HOUR.as_millis() as u64)
}

/// When an hour began.
pub const fn usage_hour_start(hour: u64) -> Timestamp {
    Timestamp::from_millis(hour * USAGE_HOUR.as_millis() as u64)
}

/// The first hour that a prune at `now` leaves; those before go.
pub fn usage_kept_from(now: Timestamp) -> u64 {
    usage_hour(now.minus(USAGE_KEEP))
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).map_or(USAGE_SUM_MAX, |us| us.min(USAGE_SUM_MAX))
}

const fn capped(one: u64, more: u64) -> u64 {
    let sum = one.saturating_add(more);
    if sum > USAGE_SUM_MAX {
        USAGE_SUM_MAX
    } else {
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_would_overflow_stops_at_its_end() {
        let most = UsageSum {
            attempts: 1,
            wall_us: USAGE_SUM_MAX,
            cpu_us: Some(USAGE_SUM_MAX),
            bytes_in: u64::MAX,
            ..UsageSum::default()
        };
        let mut sum = most;
        sum.add(&most);
        assert_eq!((sum.attempts, sum.wall_us), (2, USAGE_SUM_MAX));
        assert_eq!(
            (sum.cpu_us, sum.bytes_in),
            (Some(USAGE_SUM_MAX), USAGE_SUM_MAX)
        );
    }

    #[test]
    fn what_no_lane_could_tell_is_not_zero() {
        let (mut sum, told) = (
            UsageSum::default(),
            UsageSum {
                cpu_us: Some(0),
                max_rss_bytes: Some(7),
                ..UsageSum::default()
            },
        );
        sum.add(&UsageSum::default());
        assert_eq!((sum.cpu_us, sum.max_rss_bytes), (None, None));
        sum.add(&told);
        sum.add(&UsageSum::default());
        assert_eq!((sum.cpu_us, sum.max_rss_bytes), (Some(0), Some(7)));
    }

    #[test]
    fn an_hour_begins_where_the_one_before_ends() {
        let start = usage_hour_start(500_000);
        assert_eq!(usage_hour(start), 500_000);
        assert_eq!(usage_hour(start.minus(Duration::from_millis(1))), 499_999);
    }
}
