//! From what was written to what is meant: every problem at once, each with its field, its limit
//! and what to write instead. Must never: repair in silence.

use std::sync::Arc;
use std::time::Duration;

use super::place;
use super::raw::{Number, RawBatch, RawColumn, RawLimits, RawStop, RawTarget};
use super::{BatchRule, Column, Format, Header, Kind, Limits, OnBadRow, Sink, Target};
use crate::split::POSITIONS_MAX;

const NAME_BYTES_MAX: usize = 63; // what PostgreSQL keeps of an identifier
const COLUMNS_MAX: u64 = 16_384;
const NULLS_MAX: usize = 16;
const NULL_BYTES_MAX: usize = 63; // lengths are one 64-bit mask in `check`
const MIB: u64 = 1 << 20;

/// One thing that is wrong with a declaration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct TargetProblem {
    /// `ingest.targets.people.columns[2].type`.
    pub field: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

/// Collects problems under one target's name.
pub(super) struct Problems {
    target: String,
    found: Vec<TargetProblem>,
}

impl Problems {
    pub(super) fn add(&mut self, field: &str, problem: impl Into<String>) {
        self.found.push(TargetProblem {
            field: format!("ingest.targets.{}.{field}", self.target),
            problem: problem.into(),
        });
    }

    /// `value`, or the default, held to a range.
    pub(super) fn ranged(
        &mut self,
        field: &str,
        value: Option<u64>,
        default: u64,
        range: (u64, u64),
    ) -> u64 {
        let value = value.unwrap_or(default);
        if value < range.0 || value > range.1 {
            self.add(
                field,
                format!("{value} is out of range; {} to {}", range.0, range.1),
            );
            return default;
        }
        value
    }
}

impl RawTarget {
    /// What is meant, or all that is wrong.
    pub fn resolve(&self, name: &str) -> Result<Target, Vec<TargetProblem>> {
        let mut problems = Problems {
            target: name.to_owned(),
            found: Vec::new(),
        };
        let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-".contains(&c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            problems.add(
                "(name)",
                "a target's name has 1 to 63 characters of a-z, 0-9, _ and -",
            );
        }
        let sink = self.sink(&mut problems);
        let limits = limits(&self.limits, &mut problems);
        let columns = columns(&self.columns, self.key.as_deref(), limits, &mut problems);
        let key = self.key.as_ref().and_then(|key| {
            let at = columns.iter().position(|column| *column.name == **key);
            if at.is_none() {
                problems.add("key", format!("`{key}` is the name of no column"));
            }
            at
        });
        let target = Target {
            name: name.into(),
            sink,
            columns: columns.into(),
            key,
            format: self.format(&mut problems),
            batch: batch(&self.batch, &mut problems),
            on_bad_row: self.on_bad_row(&mut problems),
            place: place::rule(self, &mut |field, problem| problems.add(field, problem)),
            limits,
        };
        if problems.found.is_empty() {
            Ok(target)
        } else {
            Err(problems.found)
        }
    }

    fn sink(&self, problems: &mut Problems) -> Sink {
        let (table, topic, path, task) = match self.sink.as_str() {
            "sqlite" => (true, false, true, false),
            "postgres" => (true, false, false, false),
            "kafka" => (false, true, false, false),
            "ndjson" => (false, false, true, false),
            "jobs" => (false, false, false, true),
            other => {
                problems.add(
                    "sink",
                    format!("`{other}` is no sink; sqlite, postgres, kafka, ndjson or jobs"),
                );
                (false, false, false, false)
            }
        };
        let mut take = |field: &str, wanted: bool, value: &Option<String>| -> Arc<str> {
            match (wanted, value) {
                (true, None) => problems.add(field, format!("sink `{}` needs it", self.sink)),
                (true, Some(text)) => check_place(field, text, problems),
                (false, Some(_)) if self.sink_is_known() => {
                    problems.add(
                        field,
                        format!("sink `{}` has none; leave it out", self.sink),
                    );
                }
                (false, _) => {}
            }
            value.clone().unwrap_or_default().into()
        };
        let table = take("table", table, &self.table);
        let topic = take("topic", topic, &self.topic);
        let path = take("path", path, &self.path);
        let task = take("task", task, &self.task);
        if self.kafka.is_some() && self.sink != "kafka" && self.sink_is_known() {
            problems.add(
                "kafka",
                format!("sink `{}` has none; leave it out", self.sink),
            );
        }
        match self.sink.as_str() {
            "sqlite" => Sink::Sqlite { path, table },
            "postgres" => Sink::Postgres { table },
            "kafka" => Sink::Kafka {
                rule: Arc::new(super::topic::resolve(self.kafka.as_ref(), &topic, problems)),
                topic,
            },
            "ndjson" => Sink::Ndjson { path },
            _ => Sink::Jobs { task },
        }
    }

    fn sink_is_known(&self) -> bool {
        ["sqlite", "postgres", "kafka", "ndjson", "jobs"].contains(&self.sink.as_str())
    }

    fn format(&self, problems: &mut Problems) -> Format {
        let delimiter = one_byte("delimiter", self.delimiter.as_deref(), b',', problems);
        let quote = match self.quote.as_deref() {
            Some("none") => None,
            text => Some(one_byte("quote", text, b'"', problems)),
        };
        if quote == Some(delimiter) {
            problems.add(
                "quote",
                "it is the delimiter; one of the two must be another",
            );
        }
        let ignore_extra = match self.extra_columns.as_deref() {
            None | Some("refuse") => false,
            Some("ignore") => true,
            Some(other) => {
                problems.add("extra_columns", format!("`{other}`; refuse or ignore"));
                false
            }
        };
        let header = match self.header.as_deref() {
            None | Some("present") => Header::Present { ignore_extra },
            Some("none") => Header::Absent,
            Some("skip") => Header::Skip,
            Some(other) => {
                problems.add("header", format!("`{other}`; present, none or skip"));
                Header::Absent
            }
        };
        if self.extra_columns.is_some() && !matches!(header, Header::Present { .. }) {
            problems.add("extra_columns", "only a header that is present has names");
        }
        let nulls = self.null.clone().unwrap_or_else(|| vec![String::new()]);
        if nulls.len() > NULLS_MAX || nulls.iter().any(|null| null.len() > NULL_BYTES_MAX) {
            problems.add(
                "null",
                format!("at most {NULLS_MAX} texts of at most {NULL_BYTES_MAX} bytes"),
            );
        }
        Format {
            compression: self.compression.unwrap_or_default(),
            encoding: self.encoding.unwrap_or_default(),
            delimiter,
            quote,
            header,
            nulls: nulls
                .into_iter()
                .map(|null| null.into_bytes().into())
                .collect(),
            trim: self.trim.unwrap_or(false),
        }
    }

    fn on_bad_row(&self, problems: &mut Problems) -> OnBadRow {
        match &self.on_bad_row {
            None => OnBadRow::Reject,
            Some(RawStop::After(after)) => OnBadRow::StopAfter(after.stop_after),
            Some(RawStop::Word(word)) if word == "reject" => OnBadRow::Reject,
            Some(RawStop::Word(word)) if word == "stop" => OnBadRow::StopAfter(0),
            Some(RawStop::Word(word)) => {
                problems.add(
                    "on_bad_row",
                    format!("`{word}`; \"reject\", \"stop\" or {{ stop_after = N }}"),
                );
                OnBadRow::Reject
            }
        }
    }
}

fn check_place(field: &str, text: &str, problems: &mut Problems) {
    if text.is_empty() || text.len() > 1_024 || text.chars().any(char::is_control) {
        problems.add(field, "1 to 1,024 bytes without control characters");
    } else if field == "table" {
        let part = |part: &str| {
            let mut bytes = part.bytes();
            let first = |c: u8| c.is_ascii_alphabetic() || c == b'_';
            bytes.next().is_some_and(first)
                && bytes.all(|c| first(c) || c.is_ascii_digit())
                && part.len() <= NAME_BYTES_MAX
        };
        if text.split('.').count() > 2 || !text.split('.').all(part) {
            problems.add(
                field,
                "a table is a name of 1 to 63 letters, digits and _ that starts with no digit, \
                 with its schema and a point before it if need be",
            );
        }
    }
}

fn one_byte(field: &str, text: Option<&str>, default: u8, problems: &mut Problems) -> u8 {
    let byte = match text.map(str::as_bytes) {
        None => return default,
        Some(b"tab") => b'\t',
        Some([byte]) => *byte,
        Some(_) => 0,
    };
    if byte == 0 || byte >= 0x80 || byte == b'\r' || byte == b'\n' || byte.is_ascii_alphanumeric() {
        problems.add(
            field,
            "one ASCII character that is no letter, digit or line end (or the word `tab`)",
        );
        return default;
    }
    byte
}

fn batch(raw: &RawBatch, problems: &mut Problems) -> BatchRule {
    let bytes = raw.bytes.map(|size| size.0);
    let time = raw.time.map_or(Duration::from_secs(1), |span| span.0);
    if time.is_zero() || time > Duration::from_secs(3_600) {
        problems.add("batch.time", "out of range; 1ms to 1h");
    }
    BatchRule {
        rows: problems.ranged("batch.rows", raw.rows, 5_000, (1, 1_000_000)) as u32,
        bytes: problems.ranged("batch.bytes", bytes, MIB, (1 << 10, 64 * MIB)) as u32,
        time,
    }
}

fn limits(raw: &RawLimits, problems: &mut Problems) -> Limits {
    let size = |size: Option<super::Size>| size.map(|size| size.0);
    let record = problems.ranged(
        "limits.record_bytes",
        size(raw.record_bytes),
        MIB,
        (1 << 10, 64 * MIB),
    );
    // A buffer holds a batch, a record and a slice; marks must be able to point into it.
    debug_assert!(POSITIONS_MAX as u64 > 4 * 64 * MIB);
    let field = problems.ranged(
        "limits.field_bytes",
        size(raw.field_bytes),
        record,
        (1, record),
    );
    let decoded = size(raw.decoded_bytes);
    Limits {
        record_bytes: record as u32,
        field_bytes: field as u32,
        columns: problems.ranged("limits.columns", raw.columns, 1_024, (1, COLUMNS_MAX)) as u32,
        decoded_bytes: problems.ranged("limits.decoded_bytes", decoded, 1 << 40, (1, 1 << 50)),
        ratio: problems.ranged("limits.ratio", raw.ratio, 200, (1, 10_000)) as u32,
    }
}

fn columns(
    raw: &[RawColumn],
    key: Option<&str>,
    limits: Limits,
    problems: &mut Problems,
) -> Vec<Column> {
    if raw.is_empty() {
        problems.add("columns", "at least one is needed");
    }
    if raw.len() > limits.columns as usize {
        problems.add(
            "columns",
            format!(
                "{} of them; limits.columns is {}",
                raw.len(),
                limits.columns
            ),
        );
    }
    let mut columns: Vec<Column> = Vec::with_capacity(raw.len());
    for (i, raw) in raw.iter().enumerate() {
        let column = column(raw, &format!("columns[{i}]"), key, limits, problems);
        let same = |other: &&Column| other.name.eq_ignore_ascii_case(&column.name);
        if columns.iter().any(|other| same(&other)) {
            let problem = format!("`{}` is declared twice (case does not count)", column.name);
            problems.add(&format!("columns[{i}].name"), problem);
        }
        if columns.iter().any(|other| other.from == column.from) {
            let problem = format!("two columns take `{}` of the header", column.from);
            problems.add(&format!("columns[{i}].from"), problem);
        }
        columns.push(column);
    }
    columns
}

fn column(
    raw: &RawColumn,
    place: &str,
    key: Option<&str>,
    limits: Limits,
    problems: &mut Problems,
) -> Column {
    let field = |name: &str| format!("{place}.{name}");
    let from = raw.from.as_ref().unwrap_or(&raw.name);
    for (name, text, max) in [("name", &raw.name, NAME_BYTES_MAX), ("from", from, 1_024)] {
        if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
            problems.add(
                &field(name),
                format!("1 to {max} bytes without control characters"),
            );
        }
    }
    let kind = kind(raw, &field, problems);
    let is_key = key == Some(raw.name.as_str());
    let null = raw.null.unwrap_or(!is_key);
    if is_key && null {
        problems.add(
            &field("null"),
            "the key column cannot be null; leave it out",
        );
    }
    let required = raw.required.unwrap_or(true);
    if !required && !null {
        problems.add(
            &field("required"),
            "a column that may be missing must be allowed to be null",
        );
    }
    bounds(raw, kind, &field, problems);
    let max_bytes = raw
        .max_bytes
        .map_or(u64::from(limits.field_bytes), |size| size.0);
    if max_bytes == 0 || max_bytes > u64::from(limits.field_bytes) {
        problems.add(
            &field("max_bytes"),
            format!(
                "out of range; 1 to limits.field_bytes, {}",
                limits.field_bytes
            ),
        );
    }
    Column {
        name: raw.name.as_str().into(),
        from: from.as_str().into(),
        kind,
        null,
        required,
        min: raw.min,
        max: raw.max,
        max_bytes: max_bytes as usize,
    }
}

fn bounds(raw: &RawColumn, kind: Kind, field: &dyn Fn(&str) -> String, problems: &mut Problems) {
    let is_number = matches!(kind, Kind::Int { .. } | Kind::Float | Kind::Decimal { .. });
    for (name, bound) in [("min", raw.min), ("max", raw.max)] {
        match bound {
            Some(_) if !is_number => {
                problems.add(&field(name), "only numbers have it; for text use max_bytes");
            }
            Some(Number::Float(_)) if matches!(kind, Kind::Int { .. }) => {
                problems.add(&field(name), "a whole number, as the column's type is");
            }
            Some(Number::Float(bound)) if !bound.is_finite() => {
                problems.add(&field(name), "a finite number");
            }
            _ => {}
        }
    }
    let value = |number: Number| match number {
        Number::Int(int) => int as f64,
        Number::Float(float) => float,
    };
    if let (Some(min), Some(max)) = (raw.min, raw.max)
        && value(min) > value(max)
    {
        problems.add(&field("min"), "above max: no value could pass");
    }
}

fn kind(raw: &RawColumn, field: &dyn Fn(&str) -> String, problems: &mut Problems) -> Kind {
    let bits = match raw.bits {
        None => 64,
        Some(bits @ (16 | 32 | 64)) => bits,
        Some(bits) => {
            problems.add(&field("bits"), format!("{bits}; 16, 32 or 64"));
            64
        }
    };
    if raw.bits.is_some() && raw.kind != "int" {
        problems.add(&field("bits"), "only type `int` has it");
    }
    match raw.kind.as_str() {
        "text" => Kind::Text,
        "int" => Kind::Int { bits },
        "int2" => Kind::Int { bits: 16 },
        "int4" => Kind::Int { bits: 32 },
        "int8" => Kind::Int { bits: 64 },
        "float" => Kind::Float,
        "bool" => Kind::Bool,
        "date" => Kind::Date,
        "timestamp" => Kind::Timestamp,
        "uuid" => Kind::Uuid,
        "json" => Kind::Json,
        "bytes" => Kind::Bytes,
        other => decimal(other).unwrap_or_else(|| {
            problems.add(
                &field("type"),
                format!(
                    "`{other}`; text, int (int2, int4, int8), float, decimal(p,s) with \
                     1 <= p <= 38 and s <= p, bool, date, timestamp, uuid, json or bytes"
                ),
            );
            Kind::Text
        }),
    }
}

/// `decimal(p,s)` or `decimal(p)`.
fn decimal(text: &str) -> Option<Kind> {
    let inner = text.strip_prefix("decimal(")?.strip_suffix(')')?;
    let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
    let precision: u8 = precision.trim().parse().ok()?;
    let scale: u8 = scale.trim().parse().ok()?;
    let fits = (1..=38).contains(&precision) && scale <= precision;
    fits.then_some(Kind::Decimal { precision, scale })
}
