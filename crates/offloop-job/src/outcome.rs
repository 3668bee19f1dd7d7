//! How an attempt, and how a job, ended.

use std::time::Duration;

use bytes::Bytes;

use crate::{Failure, RecordWrite};

/// What came out of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Completed {
        /// JSON, at most 1 MiB.
        result: Option<Bytes>,
        /// Rows to be written in the commit that completes the job.
        records: Vec<RecordWrite>,
    },
    Failed(Failure),
    /// The task asked to be run again later. Between [`crate::limits::SNOOZE_MIN`] and
    /// [`crate::limits::SNOOZE_MAX`].
    Snoozed {
        after: Duration,
    },
    /// Stopped because somebody asked; the failure says how it ended in the end.
    Stopped {
        reason: StopReason,
        failure: Failure,
    },
}

/// Why a lane was asked to stop an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A person or a program cancelled the job.
    Cancel,
    /// The server goes down: hand the job back, unspent.
    Shutdown,
}

/// Why a job failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FinalReason {
    /// All attempts were used.
    Exhausted = 0,
    /// The class of the last failure is not retried.
    NotRetryable = 1,
    /// Three crash-like ends in a row: quarantined.
    Poison = 2,
    /// A job that it waited for did not complete: it never ran.
    Dependency = 3,
}

impl FinalReason {
    pub const ALL: [Self; 4] = [
        Self::Exhausted,
        Self::NotRetryable,
        Self::Poison,
        Self::Dependency,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::NotRetryable => "not_retryable",
            Self::Poison => "poison",
            Self::Dependency => "dependency",
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}
