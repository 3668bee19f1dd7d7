//! What can be paused and drained.

use std::fmt;

use offloop_job::{QueueName, TaskName};

/// A queue or a task, as something that has a [`offloop_job::Mode`]. A job is given out while both of
/// its own are not paused, and taken in while neither is draining.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gate {
    Queue(QueueName),
    Task(TaskName),
}

impl Gate {
    /// `queue` or `task`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Queue(_) => "queue",
            Self::Task(_) => "task",
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Queue(name) => name.as_str(),
            Self::Task(name) => name.as_str(),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind(), self.name())
    }
}
