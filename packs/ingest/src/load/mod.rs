//! One input into one target: started, fed, watched, taken up again.
//!
//! Path: feed -> decoder -> reader -> batches -> [`crate::sink`]. A [`Loader`] knows the targets
//! and shares memory and connections out among the loads; a [`Load`] is one of them. Uploads,
//! spooled jobs and the command line all go through [`Load::run`].
//!
//! Must never: take more of an input than the sink keeps up with; hold more memory than the
//! [`Settings`] say, however many loads there are; call rows stored that are not.

mod error;
mod feed;
mod flight;
mod governor;
mod id;
mod loader;
mod pipeline;
mod status;

pub use error::{LoadError, LoadFailed, LoadRefused};
pub use feed::{Ended, Feed, Intake, PIECE_BYTES_MAX, feed};
pub(crate) use governor::BATCH_MEMORY;
pub use governor::Settings;
pub use id::{LoadId, LoadIdError};
pub use loader::{Load, LoadAsk, Loader};
pub use status::{Phase, Status, Summary};
