//! Payloads as Rust types.

use offloop_job::{JobOptions, NameError, NewJob, TaskName};
use offloop_lane::{TaskContext, TaskError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The attempt's payload. A payload that does not fit is `invalid`: no retry helps.
pub fn payload<T: DeserializeOwned>(context: &TaskContext) -> Result<T, TaskError> {
    serde_json::from_slice(context.payload())
        .map_err(|error| TaskError::invalid(format!("the payload does not fit the task: {error}")))
}

/// A job that cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum NewJobError {
    #[error("task: {0}")]
    Task(#[from] NameError),
    #[error("payload: cannot be written as JSON")]
    Payload(#[from] serde_json::Error),
}

/// Jobs from Rust values.
pub trait NewJobExt: Sized {
    /// A job of this task with default options.
    fn of(task: &str, payload: &impl Serialize) -> Result<Self, NewJobError>;

    #[must_use]
    fn with(self, options: JobOptions) -> Self;
}

impl NewJobExt for NewJob {
    fn of(task: &str, payload: &impl Serialize) -> Result<Self, NewJobError> {
        Ok(Self {
            task: TaskName::parse(task)?,
            payload: serde_json::to_vec(payload)?.into(),
            options: JobOptions::default(),
            idempotency: None,
        })
    }

    fn with(mut self, options: JobOptions) -> Self {
        self.options = options;
        self
    }
}
