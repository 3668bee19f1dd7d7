//! The lane's tasks: their code, and how long each one typically runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use offloop_job::TaskName;
use offloop_lane::drop_quietly;

use crate::builder::CpuHandler;
use crate::spread::Spreads;

/// Weight of the newest run in the average: 1/8.
const NEWEST: u64 = 8;
/// What one refusal takes off: 1/16.
const FORGET: u64 = 16;

/// One task.
pub(crate) struct Task {
    pub(crate) handler: CpuHandler,
    /// Nanoseconds; 0 is not known.
    typical: AtomicU64,
}

impl Task {
    pub(crate) fn new(handler: CpuHandler) -> Self {
        Self {
            handler,
            typical: AtomicU64::new(0),
        }
    }

    /// Exponentially weighted mean of the runs that completed.
    pub(crate) fn typical(&self) -> Option<Duration> {
        let nanos = self.typical.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// A run completed. Two at once may lose one: it is an estimate.
    pub(crate) fn ran(&self, wall: Duration) {
        let run = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mean = match self.typical.load(Ordering::Relaxed) {
            0 => run,
            mean => (mean - mean / NEWEST).saturating_add(run / NEWEST).max(1),
        };
        self.typical.store(mean, Ordering::Relaxed);
    }

    /// A job was refused for this estimate. Without a run it cannot learn that it is too high, so
    /// each refusal takes a sixteenth off: after some of them one is let through, and measured.
    pub(crate) fn refused(&self) {
        let mean = self.typical.load(Ordering::Relaxed);
        self.typical.store(mean - mean / FORGET, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let typical = self.typical();
        f.debug_struct("Task")
            .field("typical", &typical)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tasks(HashMap<TaskName, Task, Spreads>);

impl Tasks {
    /// True: it took the place of another.
    pub(crate) fn insert(&mut self, name: TaskName, handler: CpuHandler) -> bool {
        self.0.insert(name, Task::new(handler)).is_some()
    }

    pub(crate) fn get(&self, name: &TaskName) -> Option<&Task> {
        self.0.get(name)
    }
}

impl Drop for Tasks {
    /// What a handler captured has destructors of the task's own.
    fn drop(&mut self) {
        for (_, task) in self.0.drain() {
            drop_quietly(task);
        }
    }
}
