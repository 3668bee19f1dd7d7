//! What a target is: where rows go, which columns they have, how the text is written.
//!
//! Place: declared under `[ingest.targets.NAME]` ([`RawTarget`]), resolved once ([`Target`]), then
//! trusted by every other module. Must never: be built but by [`RawTarget::resolve`].

mod place;
mod raw;
mod resolve;
mod topic;

use std::sync::Arc;
use std::time::Duration;

pub use offloop::units::{Size, Span};
pub use raw::{Number, RawBatch, RawColumn, RawLimits, RawStop, RawTarget};
pub use resolve::TargetProblem;
pub(crate) use topic::is_topic;
pub use topic::{RawTopic, RawTopicCreate, TopicCreate, TopicRule, Value};

use crate::decode::{Compression, Encoding};

/// A declaration that makes sense. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    name: Arc<str>,
    sink: Sink,
    columns: Arc<[Column]>,
    key: Option<usize>,
    format: Format,
    batch: BatchRule,
    on_bad_row: OnBadRow,
    limits: Limits,
    place: PlaceRule,
}

impl Target {
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn sink(&self) -> &Sink {
        &self.sink
    }
    /// In the order of the declaration: field `i` of a row belongs to column `i`.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }
    /// Position of the key column: a topic's key, an upsert's conflict target.
    pub fn key(&self) -> Option<usize> {
        self.key
    }
    pub fn format(&self) -> &Format {
        &self.format
    }
    pub fn batch(&self) -> BatchRule {
        self.batch
    }
    pub fn on_bad_row(&self) -> OnBadRow {
        self.on_bad_row
    }
    pub fn limits(&self) -> Limits {
        self.limits
    }
    pub fn place(&self) -> PlaceRule {
        self.place
    }
}

/// How rows go into their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceRule {
    /// A table that is missing is made.
    pub create: bool,
    pub on_conflict: OnConflict,
    /// Of jobs: all rows of a batch are one job's payload, an array; otherwise each is one's.
    pub job_per_batch: bool,
}

/// What a row does whose key is in the table already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// It is refused, if the table has a unique index; so is whatever else a table refuses.
    Reject,
    /// It replaces the columns of the other one; of several in one input, the last.
    Update,
    /// It is passed over; of several in one input, all but the first.
    Keep,
}

/// Where rows go. What only the running server knows (addresses, secrets) is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// A table of a SQLite file.
    Sqlite { path: Arc<str>, table: Arc<str> },
    /// `table` or `schema.table`.
    Postgres { table: Arc<str> },
    /// One message a row; the key is the key column's text.
    Kafka {
        topic: Arc<str>,
        rule: Arc<TopicRule>,
    },
    /// One JSON object a line.
    Ndjson { path: Arc<str> },
    /// Jobs of this task.
    Jobs { task: Arc<str> },
}

impl Sink {
    /// The table, without one the empty text.
    pub(crate) fn table(&self) -> Arc<str> {
        match self {
            Self::Sqlite { table, .. } | Self::Postgres { table } => Arc::clone(table),
            _ => "".into(),
        }
    }
}

/// One column of the sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// In the sink. 1 to 63 bytes, no control characters; sinks quote it.
    pub name: Arc<str>,
    /// In the header; the name, if nothing else was said.
    pub from: Arc<str>,
    pub kind: Kind,
    /// A null may stand here.
    pub null: bool,
    /// The header must have it; otherwise its fields are null where it is missing.
    pub required: bool,
    /// Inclusive, numbers only.
    pub min: Option<Number>,
    /// Inclusive, numbers only.
    pub max: Option<Number>,
    /// Bytes of UTF-8 after unescaping, at most [`Limits::field_bytes`].
    pub max_bytes: usize,
}

/// What the text of a column must be, and the form it is handed on in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 without NUL, untouched.
    Text,
    /// Decimal digits in `bits` (16, 32 or 64) with a sign; without `+` and leading zeros.
    Int { bits: u8 },
    /// A finite binary64; handed on as a JSON number.
    Float,
    /// At most `precision` (1 to 38) digits, `scale` of them behind the point; never rounded.
    Decimal { precision: u8, scale: u8 },
    /// `true`, `t`, `yes`, `y`, `1` and their opposites in any case; handed on as `true` or `false`.
    Bool,
    /// `YYYY-MM-DD`, years 0001 to 9999.
    Date,
    /// A date, `T` or a space, `HH:MM[:SS[.ffffff]]`, and optionally `Z` or `+HH[:MM]`.
    Timestamp,
    /// 32 hexadecimal digits with or without the usual hyphens; handed on lower-case, with them.
    Uuid,
    /// One JSON value of at most 128 levels, without U+0000; untouched.
    Json,
    /// Hexadecimal digits, with or without a leading `\x`; handed on without.
    Bytes,
}

/// How the text is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    pub compression: Compression,
    pub encoding: Encoding,
    /// Below 0x80.
    pub delimiter: u8,
    /// Below 0x80. `None`: quotes are text.
    pub quote: Option<u8>,
    pub header: Header,
    /// Fields that are null when unquoted; quoted too where the column is not text.
    pub nulls: Arc<[Box<[u8]>]>,
    /// Spaces and tabs around unquoted fields go; around numbers and the like they always do.
    pub trim: bool,
}

/// What the first record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Names, in any order. Without `ignore_extra`, those of no column are refused.
    Present { ignore_extra: bool },
    /// A row; columns are in the order of the declaration.
    Absent,
    /// Skipped unread; columns are in the order of the declaration.
    Skip,
}

/// A batch ends when one of these is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchRule {
    /// 1 to 1,000,000.
    pub rows: u32,
    /// Bytes of text read for it, 1 KiB to 64 MiB; the record that passes it is still in.
    pub bytes: u32,
    /// Since its first row. Told to the pipeline: a [`crate::Reader`] has no clock.
    pub time: Duration,
}

/// What a row that is refused does to the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBadRow {
    /// It is put aside; the rest goes on.
    Reject,
    /// The one after this many ends the input; 0 is "the first". Rows before it stay.
    StopAfter(u64),
}

/// Bounds of what one input may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One record, quotes and line ends inside included. 1 KiB to 64 MiB.
    pub record_bytes: u32,
    /// One field after unescaping.
    pub field_bytes: u32,
    /// Fields of one record, 1 to 16,384.
    pub columns: u32,
    /// Everything after decompression.
    pub decoded_bytes: u64,
    /// Decompressed bytes for each compressed one, beyond the first MiB.
    pub ratio: u32,
}
