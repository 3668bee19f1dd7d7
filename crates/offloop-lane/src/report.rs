//! What a lane says back.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::{JobId, Lease, LogTail, Outcome, Usage};

use crate::{CheckpointReply, Gone};

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
    /// Somebody came who wants work: [`crate::Lane::demand`] grew.
    Wanted,
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
    /// What the job wants to find again in its next attempt: JSON, at most 64 KiB. Always told; who
    /// keeps it answers.
    Checkpoint {
        job: JobId,
        lease: Lease,
        data: Bytes,
        reply: CheckpointReply,
    },
    /// A piece of the result: JSON, at most 16 KiB. Only while somebody listens.
    Partial {
        job: JobId,
        lease: Lease,
        data: Bytes,
    },
    /// What the task printed just now. Only while somebody listens.
    Log {
        job: JobId,
        lease: Lease,
        data: Bytes,
    },
    Ended(Box<Ended>),
}

/// Where lanes send their news: takes it at once, from any thread, and never blocks.
pub trait LaneSink: Send + Sync + fmt::Debug {
    fn send(&self, event: LaneEvent);

    /// Whether somebody wants this job's [`LaneEvent::Partial`] and [`LaneEvent::Log`] at present: a
    /// load of one number while nobody does. A sink that passes news on passes this on too.
    fn listens(&self, job: JobId) -> bool {
        let _ = job;
        false
    }
}
