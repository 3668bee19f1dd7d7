//! How a CPU lane is put together.

use std::sync::Arc;
use std::time::Duration;

use offloop_lane::{TaskContext, TaskError, TaskInfo, TaskOutput};

use crate::lane::CpuLane;
use crate::tasks::Tasks;

/// The code of a task. It runs on a thread of the lane and asks [`TaskContext::should_stop`] often.
///
/// For a job with `cores` above 1 it runs inside a rayon pool of that many threads, made for the job:
/// `rayon::join` and `par_iter` use them, `rayon::current_num_threads` tells how many there are. For
/// a job of one core, rayon would use its global pool, which nobody bounds: do not.
pub type CpuHandler = Arc<dyn Fn(&TaskContext) -> Result<TaskOutput, TaskError> + Send + Sync>;

/// A thread that ignores its token this long counts as stuck.
const GRACE_DEFAULT: Duration = Duration::from_secs(5);
/// Jobs held in line, so that short ones are not slowed by the way to the store.
const AHEAD_DEFAULT: u16 = 256;
const THREADS_MAX: u16 = 4_096;
/// Ten times the wait that a lane should have, 100 ms, is worth one priority.
const AGEING_DEFAULT: Duration = Duration::from_secs(1);
const AGEING_MAX: Duration = Duration::from_secs(86_400);
/// A little over what a wake costs the submitter in a virtual machine (8 to 11 us).
const SPIN_DEFAULT: Duration = Duration::from_micros(20);
const SPIN_MAX: Duration = Duration::from_millis(1);

/// Processors that this process may use: affinity mask and cgroup quota are read, and from four up
/// one is left to the doors and the keeper.
pub fn default_threads() -> u16 {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let kept = if all >= 4 { all - 1 } else { all };
    u16::try_from(kept).unwrap_or(THREADS_MAX).min(THREADS_MAX)
}

/// Made by [`CpuLane::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct CpuLaneBuilder {
    pub(crate) name: Arc<str>,
    pub(crate) threads: u16,
    pub(crate) ahead: u16,
    pub(crate) grace: Duration,
    pub(crate) nice: u8,
    pub(crate) tasks: Vec<TaskInfo>,
    pub(crate) handlers: Tasks,
    pub(crate) ageing: Duration,
    spin: Option<Duration>,
}

impl CpuLaneBuilder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            threads: default_threads(),
            ahead: AHEAD_DEFAULT,
            grace: GRACE_DEFAULT,
            nice: 10,
            tasks: Vec::new(),
            handlers: Tasks::default(),
            ageing: AGEING_DEFAULT,
            spin: None,
        }
    }

    /// 1 to 4,096; default [`default_threads`].
    pub fn threads(mut self, threads: u16) -> Self {
        self.threads = threads.clamp(1, THREADS_MAX);
        self
    }

    /// Jobs that may wait in the lane; default 256.
    pub fn ahead(mut self, jobs: u16) -> Self {
        self.ahead = jobs;
        self
    }

    /// From the wish to stop until a thread counts as stuck; default 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Added to the nice value of each thread, 0 to 19; default 10.
    pub fn nice(mut self, by: u8) -> Self {
        self.nice = by.min(19);
        self
    }

    /// How long a job waits to be worth one priority more, up to a day; default 1 s. Zero makes all
    /// priorities equal.
    ///
    /// A job of priority p stands where one of priority 0 would that came p x `ageing` later. So a
    /// job of priority 9 is passed only by what comes within 9 s after it, and cannot starve.
    pub fn ageing(mut self, per_priority: Duration) -> Self {
        self.ageing = per_priority.min(AGEING_MAX);
        self
    }

    /// How long one idle thread looks for work before it sleeps, up to 1 ms. It saves whoever submits
    /// the price of a wake. Default 20 us where there are more processors than threads, else none: it
    /// would take the time from a thread that has work.
    pub fn spin(mut self, most: Duration) -> Self {
        self.spin = Some(most.min(SPIN_MAX));
        self
    }

    pub(crate) fn spin_for(&self) -> Duration {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let spare = usize::from(self.threads) < all;
        self.spin
            .unwrap_or(if spare { SPIN_DEFAULT } else { Duration::ZERO })
    }

    /// Adds a task; the same name again replaces it.
    pub fn task(mut self, info: TaskInfo, handler: CpuHandler) -> Self {
        if self.handlers.insert(info.name.clone(), handler) {
            self.tasks.retain(|task| task.name != info.name);
        }
        self.tasks.push(info);
        self
    }

    pub fn build(self) -> CpuLane {
        CpuLane::new(self)
    }
}

impl std::fmt::Debug for CpuLaneBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuLaneBuilder")
            .field("name", &self.name)
            .field("threads", &self.threads)
            .field("tasks", &self.tasks)
            .finish_non_exhaustive()
    }
}
