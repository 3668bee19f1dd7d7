//! Pausing, draining and opening queues and tasks.

use offloop_job::{Mode, QueueName, TaskName};
use offloop_store::{Gate, ModeChange, StoreError};

use crate::handle::{QueryError, RuntimeHandle};

impl RuntimeHandle {
    /// Pauses, drains or opens a queue or a task; what runs goes on. `actor`: who asks, for the audit
    /// log.
    pub async fn set_mode(&self, gate: Gate, mode: Mode, actor: &str) -> Result<(), StoreError> {
        let change = ModeChange {
            now: self.now(),
            gate,
            mode,
            actor: actor.into(),
        };
        self.0.engine.set_mode(change).await?;
        self.0.wake();
        Ok(())
    }

    /// A paused queue takes jobs in and gives none out; what runs goes on. On the audit log as `api`.
    pub async fn set_paused(&self, queue: QueueName, paused: bool) -> Result<(), StoreError> {
        let mode = if paused { Mode::Paused } else { Mode::Open };
        self.set_mode(Gate::Queue(queue), mode, "api").await
    }

    /// Tasks whose mode was ever set.
    pub async fn task_modes(&self) -> Result<Vec<(TaskName, Mode)>, QueryError> {
        self.0.engine.task_modes().await
    }
}
