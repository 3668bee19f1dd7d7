//! How the server ends: in phases with deadlines, losing nothing.

use std::time::Duration;

use offloop_job::{JobId, TaskName};

/// How long each phase may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPlan {
    /// Running attempts may finish on their own; default 25 s.
    pub drain: Duration,
    /// After that they are asked to stop, and made to where their lane can; default 5 s.
    pub stop: Duration,
}

impl Default for ShutdownPlan {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(25),
            stop: Duration::from_secs(5),
        }
    }
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Attempts that were running when it began.
    pub running: usize,
    /// Of these and of those in line, handed back without spending the attempt.
    pub handed_back: usize,
    /// Threads that ignored their token: their jobs are rescued when the server starts again.
    pub abandoned: Vec<(JobId, TaskName)>,
    /// A second signal cut the drain short.
    pub forced: bool,
    /// Everything was settled and the store closed.
    pub settled: bool,
}

impl ShutdownReport {
    /// What the exit code tells.
    pub const fn is_clean(&self) -> bool {
        self.settled && self.abandoned.is_empty() && !self.forced
    }
}
