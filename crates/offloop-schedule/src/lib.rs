//! When schedules are due, and what becomes of each due time. Rules and reasons: docs/adr/0021.
//!
//! [`Plan`] reckons due times from a spec: the next one is computed, never walked to. [`decide`] says
//! what one turn of a schedule does with those that have passed.
//!
//! Must never: read a clock, draw a number, or wait. Equal arguments give equal answers on every node.

mod cron;
mod decide;
mod plan;
mod zone;

pub use decide::{MISSED_ROWS_MAX, SKIP_GRACE, Seen, Turn, by_hand, decide, waits_for_the_clock};
pub use plan::{Plan, Tail};
