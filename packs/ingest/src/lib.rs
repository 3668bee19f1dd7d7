//! Delimited text into a database, a topic or jobs, with constant memory: one bad row costs one row.
//!
//! The way of an upload: [`Decoder`] (decompression, encoding) -> [`Reader`] (records by
//! [`split`], fields by their [`Column`]'s [`Kind`]) -> [`Batch`]es with their [`Reject`]s and a
//! [`Checkpoint`] -> a [`sink`]. Up to the batches it is pushed, piece by piece, and never waits;
//! [`load`] is who pushes, and decides about time, back pressure and storage. [`pack`] is the door.
//!
//! Must never: hold more than a batch, a record and some slices of an input; lose a row without a
//! reject that says where it stood; give other rows for other pieces of the same bytes.

mod check;
pub mod consume;
pub mod decode;
mod infer;
pub mod load;
pub mod pack;
pub mod rejects;
mod rows;
pub mod sink;
pub mod split;
pub mod target;

pub use decode::{Compression, DecodeError, Decoder, Encoding, Step};
pub use infer::{InferError, Inferred, SAMPLE_BYTES_MAX, infer};
pub use pack::{IngestOptions, IngestPack};
pub use rows::{
    Batch, Checkpoint, Finish, HeaderError, Mapping, MessageReader, RAW_BYTES_MAX, ReadError,
    Reader, Reason, Recovery, Reject, Row, Rows,
};
pub use target::{Column, Kind, RawTarget, Sink, Target, TargetProblem};
