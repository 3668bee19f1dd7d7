//! A topic into a table: each message once, whatever is killed, by an upsert whose commit holds the
//! offsets too.
//!
//! Path: partition -> [`crate::MessageReader`] -> batches -> [`crate::sink`]. A [`Consumer`] is what
//! was declared; [`start`] runs it on a thread of its own, which alone talks to the group, while
//! batches are stored by tasks. The position of a partition is the table's word (one row, which is
//! the fence too); the group is told it afterwards, for who looks at lag. Decisions: docs/adr/0029.
//!
//! Must never: take a position from the group; give a partition back while a batch of it may still
//! be committed behind the next owner's first look.

#[cfg(feature = "kafka")]
mod client;
#[cfg(feature = "kafka")]
mod engine;
#[cfg(feature = "kafka")]
mod error;
#[cfg(feature = "kafka")]
mod letters;
#[cfg(feature = "kafka")]
mod moves;
#[cfg(feature = "kafka")]
mod part;
mod raw;
#[cfg(feature = "kafka")]
mod run;
#[cfg(feature = "kafka")]
mod status;

#[cfg(feature = "kafka")]
pub use error::ConsumeError;
pub use raw::{Consumer, RawConsumer, Start};
#[cfg(feature = "kafka")]
pub use run::{Plan, Running, start};
#[cfg(feature = "kafka")]
pub use status::{ConsumerState, ConsumerStatus, PartitionStatus};
