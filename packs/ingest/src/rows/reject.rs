//! A row that was refused: where it stood, why, and what was written there.
//! Must never: hold more of it than [`RAW_BYTES_MAX`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::target::Kind;

/// Bytes of a refused row that are kept.
pub const RAW_BYTES_MAX: usize = 1_024;

/// Why a row was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The record has another number of fields than the header, or the declaration without one.
    Columns {
        expected: usize,
        found: usize,
    },
    /// A null where the column takes none.
    Null,
    /// Not what the column's type is written like.
    Not(Kind),
    /// Written like the type, but outside its range or the column's.
    OutOfRange(Kind),
    /// Not valid in the input's encoding.
    NotText,
    /// A NUL byte in text.
    Nul,
    FieldTooLong {
        bytes: usize,
        limit: usize,
    },
    /// The record passes the limit; what is refused is its first line, or all of it.
    RecordTooLong {
        limit: usize,
    },
    /// A quote is still open at the end of the input; what is refused is the line it stands in.
    UnclosedQuote,
    /// The header once more, as in files that were joined.
    RepeatedHeader,
    /// A message without a value, as compacted topics have them for what is deleted.
    NoValue,
    /// A message that is no JSON object.
    NotObject,
    /// A name in an object that is no column's.
    UnknownField,
    /// A name that comes twice in one object.
    FieldTwice,
    /// A required column that an object does not have.
    MissingField,
    /// A message with more than one record.
    ManyRecords,
    /// The message passes the limit.
    MessageTooLong {
        limit: usize,
    },
}

impl Reason {
    /// A stable word for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Columns { .. } => "columns",
            Self::Null => "null",
            Self::Not(_) => "type",
            Self::OutOfRange(_) => "range",
            Self::NotText => "encoding",
            Self::Nul => "nul",
            Self::FieldTooLong { .. } => "field_too_long",
            Self::RecordTooLong { .. } => "record_too_long",
            Self::UnclosedQuote => "unclosed_quote",
            Self::RepeatedHeader => "repeated_header",
            Self::NoValue => "no_value",
            Self::NotObject => "not_object",
            Self::UnknownField => "unknown_field",
            Self::FieldTwice => "field_twice",
            Self::MissingField => "missing_field",
            Self::ManyRecords => "many_records",
            Self::MessageTooLong { .. } => "message_too_long",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Columns { expected, found } => write!(f, "{found} fields, {expected} expected"),
            Self::Null => f.write_str("null, where the column takes none"),
            Self::Not(kind) => write!(f, "not {kind}"),
            Self::OutOfRange(kind) => write!(f, "out of range of {kind}, or of the column"),
            Self::NotText => f.write_str("not valid in the input's encoding"),
            Self::Nul => f.write_str("a NUL byte in text"),
            Self::FieldTooLong { bytes, limit } => write!(f, "{bytes} bytes, limit {limit}"),
            Self::RecordTooLong { limit } => {
                write!(
                    f,
                    "longer than limits.record_bytes, {limit} (a quote that never closes?)"
                )
            }
            Self::UnclosedQuote => f.write_str("a quote that never closes"),
            Self::RepeatedHeader => f.write_str("the header once more"),
            Self::NoValue => f.write_str("a message without a value"),
            Self::NotObject => f.write_str("no JSON object"),
            Self::UnknownField => f.write_str(
                "a name that is no column's (extra_columns = \"ignore\" would pass it over)",
            ),
            Self::FieldTwice => f.write_str("comes twice in the object"),
            Self::MissingField => f.write_str("is missing (required = false would make it null)"),
            Self::ManyRecords => f.write_str("more than one record in a message"),
            Self::MessageTooLong { limit } => {
                write!(f, "longer than limits.record_bytes, {limit}")
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Int { bits } => write!(f, "int{}", bits / 8),
            Self::Float => f.write_str("float"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Bool => f.write_str("bool"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Uuid => f.write_str("uuid"),
            Self::Json => f.write_str("json"),
            Self::Bytes => f.write_str("bytes"),
        }
    }
}

/// One refused row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// 1 for the first record behind the header; empty lines do not count.
    pub row: u64,
    /// Of the record's first byte in the decoded text (without a byte order mark).
    pub offset: u64,
    /// Of the sink, where one column is to blame.
    pub column: Option<Arc<str>>,
    pub reason: Reason,
    /// As it was written, the first [`RAW_BYTES_MAX`] bytes, without its line end.
    pub raw: Vec<u8>,
    /// Bytes of all of it.
    pub raw_bytes: u64,
}

impl Reject {
    /// What was written, with U+FFFD for what is not text.
    pub fn raw_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.raw)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} (byte {})", self.row, self.offset)?;
        if let Some(column) = &self.column {
            write!(f, ", column `{column}`")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// One line of a reject file: `row`, `offset`, `column`, `reason` (the code), `message`, `raw`
/// and `raw_bytes`.
impl Serialize for Reject {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut line = to.serialize_struct("Reject", 7)?;
        line.serialize_field("row", &self.row)?;
        line.serialize_field("offset", &self.offset)?;
        line.serialize_field("column", &self.column)?;
        line.serialize_field("reason", self.reason.code())?;
        line.serialize_field("message", &self.reason.to_string())?;
        line.serialize_field("raw", &self.raw_text())?;
        line.serialize_field("raw_bytes", &self.raw_bytes)?;
        line.end()
    }
}
