//! A declaration from a sample: what a person would write after a look at the first lines.
//!
//! Place: beside the path, for `--infer`; its answer is printed, kept, and read like any other
//! declaration. Must never: be asked again while rows are read (a type that changes in the middle
//! of a file is a reject, not a new type), or type what a number would lose: "007" is text.

mod kinds;
mod print;
mod shape;

use crate::decode::{DecodeError, Decoder, Encoding};
use crate::target::{Limits, RawColumn, RawTarget, Target, TargetProblem};

/// Bytes of decoded text that are looked at.
pub const SAMPLE_BYTES_MAX: usize = 1 << 20;

/// What a sample looks like.
#[derive(Debug, Clone)]
pub struct Inferred {
    /// Without a sink's place: [`Inferred::into_toml`] and the caller add it.
    pub raw: RawTarget,
    /// What a person should look at, one sentence each.
    pub doubts: Vec<String>,
    /// Records that were looked at, the header included.
    pub records: usize,
}

/// Why a sample tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the sample holds no record")]
    Empty,
    #[error("no line of the sample ends within {SAMPLE_BYTES_MAX} bytes: is this delimited text?")]
    NoRecord,
    #[error("the sample holds NUL bytes: it is no text, or UTF-16 without a byte order mark")]
    Binary,
    #[error("the sample has {found} columns, more than {limit}")]
    Columns { found: usize, limit: usize },
}

/// Looks at the first bytes of an input, as they would be uploaded (packed or not). `is_whole`:
/// nothing follows, so that the last line counts.
pub fn infer(sample: &[u8], is_whole: bool) -> Result<Inferred, InferError> {
    let (text, encoding, is_whole) = decoded(sample, is_whole)?;
    if memchr::memchr(0, &text).is_some() {
        return Err(InferError::Binary);
    }
    let shape = shape::find(&text, is_whole)?;
    let limit = default_limits().columns as usize;
    if shape.fields > limit {
        return Err(InferError::Columns {
            found: shape.fields,
            limit,
        });
    }
    let mut doubts = shape.doubts.clone();
    let header = if shape.has_preamble {
        None
    } else {
        kinds::header(&shape, &mut doubts)
    };
    let rows = &shape.records[usize::from(header.is_some())..];
    let (kinds, nulls) = kinds::of_columns(rows, shape.fields, &mut doubts);
    let (columns, has_names) = columns(header.as_deref(), &kinds, &mut doubts);
    let raw = RawTarget {
        columns,
        header: Some(
            match (&header, has_names) {
                (None, _) if !shape.has_preamble => "none",
                (Some(_), true) => "present",
                _ => "skip",
            }
            .to_owned(),
        ),
        delimiter: Some(match shape.delimiter {
            b'\t' => "tab".to_owned(),
            byte => char::from(byte).to_string(),
        }),
        quote: Some(char::from(shape.quote).to_string()),
        encoding: Some(encoding),
        null: Some(nulls),
        ..RawTarget::default()
    };
    Ok(Inferred {
        raw,
        doubts,
        records: shape.records.len(),
    })
}

impl Inferred {
    /// The declaration, with comments for what is in doubt: rows go to the table `name` of a
    /// SQLite file `name.db` until somebody writes another sink.
    pub fn into_toml(self, name: &str) -> Result<String, Vec<TargetProblem>> {
        let (raw, doubts) = (self.with_sink(name), self.doubts);
        raw.resolve(name)?;
        Ok(print::toml(name, &raw, &doubts))
    }

    /// The same as it would be read back.
    pub fn target(&self, name: &str) -> Result<Target, Vec<TargetProblem>> {
        self.with_sink(name).resolve(name)
    }

    fn with_sink(&self, name: &str) -> RawTarget {
        let mut table = name.replace('-', "_");
        if table.starts_with(|first: char| first.is_ascii_digit()) {
            table.insert(0, '_');
        }
        RawTarget {
            sink: "sqlite".to_owned(),
            path: Some(format!("{name}.db")),
            table: Some(table),
            create: Some(true),
            ..self.raw.clone()
        }
    }
}

fn default_limits() -> Limits {
    let nothing = RawTarget {
        sink: "jobs".to_owned(),
        task: Some("x".to_owned()),
        columns: vec![RawColumn {
            name: "x".to_owned(),
            kind: "text".to_owned(),
            ..RawColumn::default()
        }],
        ..RawTarget::default()
    };
    match nothing.resolve("x") {
        Ok(target) => target.limits(),
        Err(_) => unreachable!("the smallest declaration resolves"),
    }
}

/// The sample as UTF-8, its encoding, and whether its end is the input's.
fn decoded(sample: &[u8], is_whole: bool) -> Result<(Vec<u8>, Encoding, bool), InferError> {
    let utf8 = decode(sample, Encoding::Utf8);
    let (text, whole) = match utf8 {
        Err(DecodeError::Utf16) => {
            let (text, whole) = decode(sample, Encoding::Utf16)?;
            return Ok((text, Encoding::Utf16, is_whole && whole));
        }
        other => other?,
    };
    let cut = |error: std::str::Utf8Error| error.error_len().is_none() && !(is_whole && whole);
    match std::str::from_utf8(&text) {
        Ok(_) => Ok((text, Encoding::Utf8, is_whole && whole)),
        Err(error) if cut(error) => Ok((text, Encoding::Utf8, false)),
        Err(_) => {
            // Latin-1 has control characters where Windows has its quotes, dashes and euro.
            let is_windows = text.iter().any(|byte| (0x80..0xa0).contains(byte));
            let encoding = if is_windows {
                Encoding::Windows1252
            } else {
                Encoding::Latin1
            };
            let (text, whole) = decode(sample, encoding)?;
            Ok((text, encoding, is_whole && whole))
        }
    }
}

/// Decodes as much as is looked at; false: there was more, or the end is missing.
fn decode(sample: &[u8], encoding: Encoding) -> Result<(Vec<u8>, bool), DecodeError> {
    let mut decoder = Decoder::of(crate::Compression::Auto, encoding, default_limits());
    let (mut text, mut rest) = (Vec::new(), sample);
    loop {
        let step = decoder.push(rest, &mut text)?;
        rest = &rest[step.taken..];
        if text.len() >= SAMPLE_BYTES_MAX {
            return Ok((text, false));
        }
        if rest.is_empty() && !step.more {
            break;
        }
    }
    match decoder.finish(&mut text) {
        Ok(()) => Ok((text, true)),
        Err(DecodeError::Truncated { .. }) => Ok((text, false)),
        Err(error) => Err(error),
    }
}

/// Columns by the header's names where these can be names; else by position.
fn columns(
    header: Option<&[String]>,
    kinds: &[&'static str],
    doubts: &mut Vec<String>,
) -> (Vec<RawColumn>, bool) {
    let is_usable = header.is_some_and(|names| {
        names.iter().enumerate().all(|(at, name)| {
            !name.is_empty()
                && name.len() <= 1_024
                && !name.chars().any(char::is_control)
                && !names[..at].contains(name)
        })
    });
    if header.is_some() && !is_usable {
        doubts.push(
            "the header has empty or repeated names, so it is skipped and columns go by position"
                .to_owned(),
        );
    }
    let mut columns: Vec<RawColumn> = Vec::with_capacity(kinds.len());
    for (at, kind) in kinds.iter().enumerate() {
        let from = header.filter(|_| is_usable).map(|names| names[at].clone());
        let mut name = from.as_deref().map(plain_name).unwrap_or_default();
        if name.is_empty() {
            name = format!("column_{}", at + 1);
        }
        let taken = |name: &str| {
            columns
                .iter()
                .any(|other| other.name.eq_ignore_ascii_case(name))
        };
        if taken(&name) {
            let base: String = name.chars().take(50).collect();
            // One of so many numbers is free: there are fewer columns before this one.
            name = (2..=at + 2)
                .map(|n| format!("{base}_{n}"))
                .find(|name| !taken(name))
                .unwrap_or(base);
        }
        columns.push(RawColumn {
            from: from.filter(|from| *from != name),
            name,
            kind: (*kind).to_owned(),
            ..RawColumn::default()
        });
    }
    (columns, is_usable)
}

/// A name that needs no quotes in SQL: letters, digits, `_`; 60 of them at most.
fn plain_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.trim().chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('_') && !name.is_empty() {
            name.push('_');
        }
    }
    let name = name.trim_end_matches('_');
    let mut name: String = name.chars().take(60).collect();
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}
