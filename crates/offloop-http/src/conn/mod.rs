//! Connections: accepted within bounds, watched, and ended in time.
//!
//! hyper's own deadline for heads counts idle time too, costs a timer per request, and does not
//! cover the bytes that tell HTTP/1 from HTTP/2. So each connection keeps a few atomics, and one
//! sweeper looks at all of them (docs/adr/0006).

mod accept;
mod interim;
mod io;
mod registry;
mod state;

pub(crate) use accept::accept_loop;
pub use interim::Interim;
pub(crate) use registry::Registry;
pub(crate) use state::{Clock, ConnState, Overdue, Rules};
