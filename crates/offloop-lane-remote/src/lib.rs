//! The `remote` lane: workers on other machines that come and ask for work.
//!
//! Nothing is pushed and nothing is known of the worker but what it says. So everything hangs on the
//! lease: a worker that has one may run its job and says so again before it runs out; whoever has
//! none is refused, whatever it has done (docs/adr/0023).
//!
//! - An offer that is not confirmed within [`CONFIRM_WITHIN`] is handed back, unspent.
//! - A lease that was promised is kept: no job is given out again before it has run out, but where
//!   its end is final (a cancel).
//! - Leases run by this machine's monotonic clock. Time in which the server itself stood still is
//!   nobody's silence.
//!
//! Must never: know HTTP, give one lease to two workers, or take anything under a lease that is over.

mod board;
mod entry;
mod lane;
mod memory;
#[cfg(feature = "sabotage")]
mod sabotage;
mod types;

pub use lane::RemoteLane;
pub use offloop_lane::CheckpointError;
pub use types::{
    CONFIRM_WITHIN, ClaimRefusal, Extended, GRACE_DEFAULT, LEASE_DEFAULT, LEASE_MAX, LEASE_MIN,
    News, OFFER_BYTES_MAX, Offer, PULLS_MAX, Pull, RemoteTask, RemoteView, RemoteWorker, Report,
    Settle, Stale, StopNotice, StopWhy, Watched, WorkerEnd,
};
