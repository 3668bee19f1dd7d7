//! What a lane says back.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{JobId, Lease, LogTail, Outcome, Usage};

use crate::Gone;

/// The end of one attempt. Sent exactly once for each piece of work.
#[derive(Debug)]
pub struct Ended {
    pub job: JobId,
    pub lease: Lease,
    pub outcome: Outcome,
    /// Thread or child, in the lane's own words; empty if it never started.
    pub executor: Box<str>,
    /// Time inside the lane before the executor began.
    pub queued: Duration,
    pub usage: Usage,
    pub log: LogTail,
    pub gone: Gone,
}

/// News from a lane.
#[derive(Debug)]
pub enum LaneEvent {
    /// An executor began.
    Started {
        job: JobId,
        lease: Lease,
        executor: Box<str>,
    },
    /// The task's note: JSON, at most 4 KiB.
    Progress {
        job: JobId,
        lease: Lease,
        note: Bytes,
    },
    Ended(Box<Ended>),
}

/// Where lanes send their news: takes it at once, from any thread, and never blocks.
pub trait LaneSink: Send + Sync + fmt::Debug {
    fn send(&self, event: LaneEvent);
}
