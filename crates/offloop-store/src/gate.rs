//! What can be paused and drained.

use std::fmt;

use offloop_job::{Mode, QueueName, TaskName, Timestamp};

use crate::AuditEntry;

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

/// Another mode for a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChange {
    pub now: Timestamp,
    pub gate: Gate,
    pub mode: Mode,
    /// Who asks, for the audit log.
    pub actor: Box<str>,
}

impl ModeChange {
    /// What the audit log says of it; nothing if it changes nothing.
    pub fn entry(&self, before: Mode) -> Option<AuditEntry> {
        (before != self.mode).then(|| AuditEntry {
            at: self.now,
            actor: self.actor.clone(),
            subject: format!("{}:{}", self.gate.kind(), self.gate.name()).into(),
            action: "mode.set".into(),
            before: Some(before.as_str().into()),
            after: Some(self.mode.as_str().into()),
        })
    }
}
