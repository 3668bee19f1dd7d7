//! Event loops as they are now: how late they are, how busy, and what blocks them.
//!
//! A plain thread posts a no-op to every [watched](Pulse::watch) runtime and times it. A timer
//! inside a loop stands still with the loop; this one sees a block while it lasts. Marks around
//! polls ([`doing`], [`enter`]) tell it the name of what blocks, on which thread, since when.
//!
//! Everything that it knows is published as a [`Snapshot`]; readers take that and ask nobody.
//!
//! Must never: wait for a loop, hold a lock that a short poll takes, know lanes or HTTP (those who
//! have figures bring them as a [`Source`]).

mod beat;
mod config;
mod hint;
pub mod machine;
mod name;
mod polls;
pub mod processes;
mod pulse;
mod sched;
mod slot;
mod snapshot;
mod thread;
mod utilisation;
mod warn;
mod watched;
mod window;

pub use config::PulseConfig;
pub use hint::{DISPATCHED_MIN, Hint, HintKind, INLINE_MAX};
pub use name::{Kind, Name};
pub use pulse::{Pulse, Source};
pub use slot::{Entered, doing, enter};
pub use snapshot::{
    Blocked, DelayView, LaneSample, LaneView, LoopView, OwnCost, PollView, RecentBlock, Snapshot,
    TaskSample, TaskView,
};
pub use window::{BOUNDS_US, Buckets, Figures, Windowed};
