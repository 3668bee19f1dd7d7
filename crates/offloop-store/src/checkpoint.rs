//! What a job leaves for its own next attempt.

use bytes::Bytes;
use offloop_job::{JobId, Lease};

/// A job's place in its own work. JSON, at most [`offloop_job::limits::CHECKPOINT_BYTES_MAX`] bytes.
///
/// It is there for every later attempt: after a retry, a snooze, a hand-back, a crash, and in the
/// next life of a job that failed, was cancelled or expired. It goes when the job is completed,
/// deleted or pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub id: JobId,
    /// Of the attempt that runs; under another one nothing is written.
    pub lease: Lease,
    pub data: Bytes,
    /// It is another place than the one where this attempt began: whatever ended the attempts before
    /// did not stop the job here. The crash streak of its [`offloop_job::History`] begins anew with it,
    /// in the same commit.
    pub advances: bool,
}

/// What became of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// It is on disk, in the place of the one before.
    Kept,
    /// Another lease holds the job, or nobody runs it any more: nothing was written.
    Stale,
}
