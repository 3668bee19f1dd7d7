//! The proof that nothing of an attempt runs any more.

/// How it was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It never reached an executor.
    NeverStarted,
    /// The function returned (or its panic was caught) on the lane's own thread.
    ThreadReturned,
    /// The future completed or was dropped.
    FutureDropped,
    /// The child answered and is idle again, and a job that failed has left no process behind.
    ChildAnswered { pid: i32 },
    /// The child was reaped and no member of its tree was left.
    Reaped { pid: i32 },
    /// A worker on another machine answered under its lease.
    WorkerAnswered,
    /// The node that had it is dead: its lock was free, or its lease ran out.
    NodeGone,
}

/// Held by whoever may settle an attempt. `xtask tidy` checks that only lanes, and the rescue of
/// dead nodes' jobs, make one.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an executor that is gone must be settled"]
pub struct Gone(Proof);

impl Gone {
    pub const fn proven(by: Proof) -> Self {
        Self(by)
    }

    pub const fn proof(&self) -> Proof {
        self.0
    }
}
