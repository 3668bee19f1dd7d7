//! From text to batches of checked rows. Path: split -> **rows** -> sink.
//!
//! A [`Reader`] is pushed pieces of text and makes [`Batch`]es; what is refused is a [`Reject`]
//! of the batch in which it was found, so that both can be stored in one transaction with the
//! batch's [`Checkpoint`].
//!
//! A [`MessageReader`] does the same for messages of a topic.
//!
//! Must never: wait, read a clock, or depend on how the input was cut into pieces.

mod batch;
mod fields;
mod header;
mod message;
mod reader;
mod recover;
mod reject;

pub use batch::{Batch, Checkpoint, Mapping, Recovery, Row, Rows};
pub(crate) use fields::unescape;
pub use header::HeaderError;
pub use message::MessageReader;
pub use reader::{Finish, ReadError, Reader};
pub use reject::{RAW_BYTES_MAX, Reason, Reject};
