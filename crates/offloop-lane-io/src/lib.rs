//! The `io` lane: futures that wait, on a runtime of their own, never the doors'.
//!
//! For code that spends its time in waiting: HTTP calls, databases. One thread drives up to
//! [`SLOTS_DEFAULT`] futures. A stop sets the token; a future that does not answer within the grace
//! is dropped, and that is the end of it.
//!
//! Must never: be given code that computes. A future that does not yield cannot be dropped, delays
//! all others, and is shown as stuck.

mod flight;
mod future;
mod lane;

pub use lane::{IoFuture, IoHandler, IoLane, IoLaneBuilder, SLOTS_DEFAULT};
