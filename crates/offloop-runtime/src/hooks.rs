//! How a pack keeps its rows in step with its jobs.

use std::fmt;

use bytes::Bytes;
use offloop_job::{Failure, JobId, JobState, RecordWrite, TaskName};

/// A job that will not run again.
#[derive(Clone, Debug)]
pub struct FinalEnd<'a> {
    pub id: JobId,
    pub task: &'a TaskName,
    pub payload: &'a Bytes,
    /// `Failed`, `Cancelled` or `Expired`; a completed job brings its rows itself.
    pub state: JobState,
    pub failure: Option<&'a Failure>,
}

/// Rows for a job that ended without success, written in the commit that ends it. Pure: it is
/// called on the keeper's thread, and may be called again if that commit fails.
pub trait TaskHook: Send + Sync + fmt::Debug {
    fn on_final(&self, end: &FinalEnd<'_>) -> Vec<RecordWrite>;
}
