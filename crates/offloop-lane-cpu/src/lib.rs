//! The `cpu` lane: a bounded pool of threads for Rust code that computes.
//!
//! A job waits in one of ten lines, is run by one of a fixed number of threads at nice +10, and is
//! stopped by its token. A thread that ignores its token past the grace is shown as stuck and
//! replaced, within a bound; its job ends when the code has really returned, never earlier.
//!
//! Must never: grow without bound, end a job whose code still runs, or let a panic out.

mod builder;
mod lane;
mod meter;
mod pulse;
mod state;
mod watch;
mod worker;

pub use builder::{CpuHandler, CpuLaneBuilder, default_threads};
pub use lane::CpuLane;
