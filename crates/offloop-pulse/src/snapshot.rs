//! What the pulse publishes, and what others bring to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hint::{Hint, remedy};
use crate::machine::Machine;
use crate::name::Name;
use crate::window::{Buckets, Figures};

/// Everything at one time. Readers share it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every publication; 0: nothing was published.
    pub number: u64,
    pub taken: Option<Instant>,
    pub loops: Vec<LoopView>,
    /// The last blocks that ended, newest first, at most 16.
    pub recent: Vec<RecentBlock>,
    pub lanes: Arc<[LaneView]>,
    pub tasks: Arc<[TaskView]>,
    /// Names with polls of 1 ms and more in the last minute or two, the longest first.
    pub polls: Arc<[PollView]>,
    pub machine: Arc<Machine>,
    pub own: OwnCost,
}

/// One runtime.
#[derive(Clone, Debug)]
pub struct LoopView {
    pub name: Arc<str>,
    pub threads: usize,
    pub delay: DelayView,
    /// Delays since it is watched, for scraping.
    pub buckets: Box<Buckets>,
    /// Share of its threads' time that went into polls in the last 2 s, 0 to 1.
    pub utilisation: f64,
    /// The longest first.
    pub blocked: Vec<Blocked>,
}

/// From the post of a no-op to its run.
#[derive(Clone, Copy, Debug, Default)]
pub struct DelayView {
    /// The age of the no-op that is out, if it is late; else what the last one took.
    pub now: Duration,
    /// Over 10 to 15 s.
    pub lately: Option<Figures>,
    /// Over 60 to 65 s.
    pub minute: Option<Figures>,
    /// The median of no-ops that found the loop parked, over the same minute: what the wake of a
    /// thread costs on this machine. No loop is better than this.
    pub idle: Option<Duration>,
}

/// A poll that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// `None`: code without a mark.
    pub what: Option<Name>,
    pub lasts: Duration,
    /// Of which its thread may have waited for a processor: an upper bound.
    pub waited: Duration,
}

impl Blocked {
    /// What to do about it, in a clause.
    pub fn remedy(&self) -> &'static str {
        remedy(self.what.map(Name::kind))
    }
}

/// A block that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentBlock {
    pub on: Arc<str>,
    pub what: Option<Name>,
    /// As last seen: at least this long.
    pub lasted: Duration,
    pub ended: Instant,
}

/// A lane as its owner shows it. Taken four times a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSample {
    pub name: Arc<str>,
    pub running: u32,
    /// Attempts at once.
    pub slots: u32,
    pub queued: u32,
    pub stuck: u32,
    pub head_age: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct LaneView {
    pub sample: LaneSample,
    /// Mean share of its slots that were taken in the last 2 s, 0 to 1.
    pub saturation: f64,
}

/// A task as its owner shows it. Taken once a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSample {
    /// `None`: tasks over the bound, together.
    pub task: Option<Arc<str>>,
    /// It was handed to a thread or process of a lane; false: it runs on a loop.
    pub dispatched: bool,
    pub wait: Option<Figures>,
    pub run: Option<Figures>,
}

#[derive(Clone, Debug)]
pub struct TaskView {
    pub sample: TaskSample,
    pub hints: Vec<Hint>,
}

/// Polls of one name that were long.
#[derive(Clone, Debug)]
pub struct PollView {
    pub on: Arc<str>,
    pub what: Name,
    /// Of 1 ms and more.
    pub long: u64,
    pub longest: Duration,
    pub hint: Option<Hint>,
}

/// What the pulse itself costs, over its last second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnCost {
    /// Share of one processor.
    pub cpu: f64,
    /// Wakes of its own thread and of loops that were parked.
    pub wakes_per_s: f64,
    /// How late the thread itself was woken at worst: the machine's doing, no loop's.
    pub late: Duration,
}
