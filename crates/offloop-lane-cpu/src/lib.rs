//! The `cpu` lane: a bounded pool of threads for Rust code that computes.
//!
//! A job waits in one of ten lines, is run by one of a fixed number of threads at nice +10, and is
//! stopped by its token. A thread that ignores its token past the grace is shown as stuck and
//! replaced, within a bound; its job ends when the code has really returned, never earlier.
//!
//! - **Order**: by priority, with ageing, so that nothing starves ([`CpuLaneBuilder::ageing`]).
//! - **Deadlines**: work whose deadline has passed, or is nearer than its task's typical run, ends
//!   with class `timeout` without having begun. What ends too late is counted.
//! - **Wide jobs**: a job with `cores` n takes n of the lane's processors and runs inside a private
//!   rayon pool of n threads. It starts when n are free; from the moment it is first in line, what
//!   becomes free is held for it. A job with one core must not use rayon's global pool: those
//!   threads are bounded by nobody.
//! - **Nesting**: a job must not wait for another job of its lane; [`in_lane`] tells.
//!
//! Must never: grow without bound, end a job whose code still runs, or let a panic out.

mod builder;
mod inside;
mod lane;
mod limits;
mod line;
mod meter;
mod pulse;
mod shared;
mod spread;
mod state;
mod sync;
mod tasks;
mod watch;
mod wide;
mod worker;

pub use builder::{CpuHandler, CpuLaneBuilder, default_threads};
pub use inside::{current_lane, in_lane};
pub use lane::CpuLane;
