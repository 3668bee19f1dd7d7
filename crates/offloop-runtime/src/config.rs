//! What an operator may set about the runtime. Resolved already: every value is in its range.

use std::time::Duration;

/// Numbers of the runtime, with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Completed jobs are kept this long; default 7 days.
    pub completed_for: Duration,
    /// Failed, cancelled and expired jobs are kept this long; default 30 days.
    pub others_for: Duration,
    /// Finished jobs kept in all; default 10 million.
    pub finished_max: u64,
    /// Events that a subscriber may be behind before it is told so; default 65,536.
    pub events_kept: usize,
    /// The longest pause between two looks for work, whatever was missed; default 1 s.
    pub tick: Duration,
    /// Pause between two pieces of pruning; default 10 s.
    pub prune_every: Duration,
    /// Cores that jobs of more than one core may take together; default those that this process may
    /// use (affinity and control group).
    pub admission_cores: Option<u32>,
    /// Memory that jobs with a memory limit may take together; default the control group's limit, else
    /// four fifths of the machine's.
    pub admission_memory_bytes: Option<u64>,
}

/// What a node gives to jobs that ask for cores or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) cores: u32,
    /// `None`: nothing is known.
    pub(crate) memory_bytes: Option<u64>,
}

impl RuntimeConfig {
    pub(crate) fn budget(&self) -> Budget {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cores = u32::try_from(cores).unwrap_or(u32::MAX);
        Budget {
            cores: self.admission_cores.unwrap_or(cores),
            memory_bytes: self
                .admission_memory_bytes
                .or_else(offloop_pulse::machine::memory_for_jobs),
        }
    }
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            completed_for: Duration::from_secs(7 * 24 * 3600),
            others_for: Duration::from_secs(30 * 24 * 3600),
            finished_max: 10_000_000,
            events_kept: 1 << 16,
            tick: Duration::from_secs(1),
            prune_every: Duration::from_secs(10),
            admission_cores: None,
            admission_memory_bytes: None,
        }
    }
}

/// Limits of a task's jobs where they name none. `None`: the job's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskDefaults {
    pub timeout: Option<Duration>,
    pub cpu_limit: Option<Duration>,
    pub memory_limit_bytes: Option<u64>,
    pub stall_timeout: Option<Duration>,
    /// What a job gets instead after its first end over the memory limit; a second such end is
    /// final. `None`: retried within the same limit.
    pub memory_retry_bytes: Option<u64>,
    /// Jobs of the task that may wait, ready and scheduled; more are refused. `None`: as many as their
    /// queue takes.
    pub max_queued: Option<u64>,
    /// The longest estimated wait that a new job may have; `None`: any.
    pub max_wait: Option<Duration>,
    /// Snoozes of a job in a row; the next one is a failure that says so. `None`:
    /// [`offloop_job::limits::SNOOZES_DEFAULT`].
    pub snoozes_max: Option<u16>,
    /// How long its finished jobs are kept where they do not say; filled in when a job is taken in.
    /// `None`: as long as the server keeps finished jobs.
    pub keep: Option<Duration>,
    /// What is not shown of its jobs.
    pub redact: Redact,
    /// What its jobs work on is kept in sealed form, so it does not go into jobs of other tasks.
    pub sealed: bool,
}

/// What of a task's jobs is for its handler alone: left out wherever jobs are shown. The store keeps it,
/// since an attempt may need it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redact {
    /// The payload, and what could quote it: messages of failures and progress notes.
    pub payload: bool,
    pub result: bool,
    /// What attempts printed.
    pub log: bool,
}
