//! What was written, key by key. Nothing is checked here but the shape; unknown keys are refused.

use serde::Deserialize;

use super::topic::RawTopic;
use crate::decode::{Compression, Encoding};
use offloop::units::{Size, Span};

/// `[ingest.targets.NAME]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTarget {
    /// `sqlite`, `postgres`, `kafka`, `ndjson` or `jobs`.
    pub sink: String,
    /// Of `sqlite` and `postgres`.
    pub table: Option<String>,
    /// Of `kafka`.
    pub topic: Option<String>,
    /// Of `kafka`: how rows become messages.
    pub kafka: Option<RawTopic>,
    /// Of `sqlite` and `ndjson`: the file.
    pub path: Option<String>,
    /// Of `jobs`.
    pub task: Option<String>,
    pub columns: Vec<RawColumn>,
    /// Name of the key column.
    pub key: Option<String>,
    /// Of `sqlite` and `postgres`: make the table if it is missing. Default false.
    pub create: Option<bool>,
    /// Of `sqlite` and `postgres`: `update` (default with a key), `keep` or `reject` (default
    /// without one).
    pub on_conflict: Option<String>,
    /// Of `jobs`: one for each `row` (default) or `batch`.
    pub per: Option<String>,
    /// `present` (default), `none` or `skip`.
    pub header: Option<String>,
    /// `refuse` (default) or `ignore`: names in the header that are no column's.
    pub extra_columns: Option<String>,
    /// One ASCII character, or `tab`. Default `,`.
    pub delimiter: Option<String>,
    /// One ASCII character, or `none`. Default `"`.
    pub quote: Option<String>,
    pub encoding: Option<Encoding>,
    pub compression: Option<Compression>,
    /// Texts that stand for null. Default: the empty one.
    pub null: Option<Vec<String>>,
    pub trim: Option<bool>,
    #[serde(default)]
    pub batch: RawBatch,
    /// `reject` (default), `stop`, or `{ stop_after = N }`.
    pub on_bad_row: Option<RawStop>,
    #[serde(default)]
    pub limits: RawLimits,
}

/// One of `columns`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawColumn {
    pub name: String,
    /// Name in the header, where it is another one.
    pub from: Option<String>,
    /// `text`, `int` (`int2`, `int4`, `int8`), `float`, `decimal(p,s)`, `bool`, `date`,
    /// `timestamp`, `uuid`, `json` or `bytes`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `int`: 16, 32 or 64.
    pub bits: Option<u8>,
    /// Default true; false for the key column.
    pub null: Option<bool>,
    /// Default true.
    pub required: Option<bool>,
    pub min: Option<Number>,
    pub max: Option<Number>,
    pub max_bytes: Option<Size>,
}

/// A bound as TOML or JSON writes it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Number {
    Int(i64),
    Float(f64),
}

/// `batch = { rows = 5000, bytes = "1MiB", time = "1s" }`, the defaults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBatch {
    pub rows: Option<u64>,
    pub bytes: Option<Size>,
    pub time: Option<Span>,
}

/// `reject`, `stop`, or a number of bad rows to bear.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RawStop {
    Word(String),
    After(RawStopAfter),
}

/// `{ stop_after = N }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStopAfter {
    pub stop_after: u64,
}

/// `limits`, each with its default in [`super::Limits`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    pub record_bytes: Option<Size>,
    pub field_bytes: Option<Size>,
    pub columns: Option<u64>,
    pub decoded_bytes: Option<Size>,
    pub ratio: Option<u64>,
}
