//! The lane's tasks: their code, and how long each one typically runs.

use std::collections::HashMap;

use offloop_job::TaskName;
use offloop_lane::{TypicalRun, drop_quietly};

use crate::builder::CpuHandler;
use crate::spread::Spreads;

/// One task.
pub(crate) struct Task {
    pub(crate) handler: CpuHandler,
    pub(crate) typical: TypicalRun,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("typical", &self.typical)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tasks(HashMap<TaskName, Task, Spreads>);

impl Tasks {
    /// True: it took the place of another.
    pub(crate) fn insert(&mut self, name: TaskName, handler: CpuHandler) -> bool {
        let typical = TypicalRun::default();
        self.0.insert(name, Task { handler, typical }).is_some()
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
