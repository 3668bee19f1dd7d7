//! Is a field what its column wants, and in which form is it handed on?
//!
//! Place: inside `rows`, one call a field, after unescaping. The hot path of the pack: nothing is
//! allocated and nothing formatted unless a field must be rewritten or is refused.
//!
//! Must never: change a value. A rewritten field means the same ("+007" becomes "7"); what cannot
//! be kept exactly is refused.

mod json;
mod number;
mod time;

use crate::rows::Reason;
use crate::target::{Column, Format, Kind, Number};

/// A field that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    /// This part of the text.
    Part {
        from: usize,
        len: usize,
    },
    /// What was appended to the scratch.
    Made,
}

impl Value {
    const fn whole(text: &[u8]) -> Self {
        Self::Part {
            from: 0,
            len: text.len(),
        }
    }
}

/// How a field stood in its record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stood {
    pub(crate) quoted: bool,
    /// May hold bytes above 0x7f or NUL.
    pub(crate) odd: bool,
}

/// Checks the fields of one target's columns.
#[derive(Debug)]
pub(crate) struct Checker {
    rules: Box<[Rule]>,
    quick: Box<[Quick]>,
    nulls: Box<[Box<[u8]>]>,
    /// Bit `n`: one of `nulls` has `n` bytes.
    null_lengths: u64,
    trim: bool,
}

/// What a column makes of a field without odd bytes that was not looked at: most fields of most
/// files are told without a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quick {
    /// Longer than any text that passes as it is; 0 where the bytes matter.
    quoted_below: usize,
    /// Bit `n`: an unquoted field of `n` bytes may stand for null.
    bare_nulls: u64,
    bare: Bare,
    bare_empty_is_null: bool,
    quoted_empty_is_null: bool,
}

/// Fields outside quotes that pass as they stand. What is not told here is looked at with care.
#[derive(Debug, Clone, Copy)]
enum Bare {
    /// Shorter than this, whatever they say.
    Text(usize),
    /// Up to 18 digits between these.
    Int(i64, i64),
    /// Without bounds or exponent.
    Float,
    None,
}

impl Quick {
    fn new(rule: &Rule, nulls: u64, trim: bool) -> Self {
        let is_text = matches!(rule.kind, Kind::Text);
        let takes_empty = rule.null && nulls & 1 != 0;
        let quoted_below = if is_text { rule.max_bytes + 1 } else { 0 };
        Self {
            quoted_below,
            bare_nulls: nulls,
            bare: match (rule.kind, rule.bounds) {
                (Kind::Text, _) if !trim => Bare::Text(quoted_below),
                // A column of few bytes is left to the look with care.
                _ if rule.max_bytes < number::PLAIN_BYTES_MAX => Bare::None,
                (Kind::Int { .. }, Bounds::Int(min, max)) => Bare::Int(min, max),
                (Kind::Float, Bounds::None) => Bare::Float,
                _ => Bare::None,
            },
            bare_empty_is_null: takes_empty,
            quoted_empty_is_null: takes_empty && !is_text,
        }
    }

    /// An empty field is a null that the column takes.
    #[inline]
    pub(crate) const fn empty_is_null(&self, quoted: bool) -> bool {
        if quoted {
            self.quoted_empty_is_null
        } else {
            self.bare_empty_is_null
        }
    }

    /// A quoted field passes as it is, if this is true of its length.
    #[inline]
    pub(crate) const fn passes_quoted(&self, len: usize) -> bool {
        len < self.quoted_below
    }

    /// An unquoted field passes as it is.
    #[inline]
    pub(crate) fn passes_bare(&self, text: &[u8]) -> bool {
        if text.len() < 64 && self.bare_nulls >> text.len() & 1 != 0 {
            return false;
        }
        match self.bare {
            Bare::Text(below) => text.len() < below,
            Bare::Int(min, max) => number::is_plain_int(text, min, max),
            Bare::Float => number::is_plain(text),
            Bare::None => false,
        }
    }
}

#[derive(Debug)]
struct Rule {
    kind: Kind,
    null: bool,
    max_bytes: usize,
    bounds: Bounds,
}

/// Bounds in the kind's own arithmetic, inclusive.
#[derive(Debug, Clone, Copy)]
enum Bounds {
    None,
    Int(i64, i64),
    Float(f64, f64),
    /// In units of the last digit.
    Decimal(i128, i128),
}

impl Checker {
    pub(crate) fn new(columns: &[Column], format: &Format) -> Self {
        let rule = |column: &Column| Rule {
            kind: column.kind,
            null: column.null,
            max_bytes: column.max_bytes,
            bounds: bounds(column),
        };
        let null_lengths = format
            .nulls
            .iter()
            .fold(0, |mask, null| mask | 1 << null.len());
        let rules: Box<[Rule]> = columns.iter().map(rule).collect();
        let quick = |rule: &Rule| Quick::new(rule, null_lengths, format.trim);
        Self {
            quick: rules.iter().map(quick).collect(),
            rules,
            nulls: format.nulls.iter().cloned().collect(),
            null_lengths,
            trim: format.trim,
        }
    }

    /// A column that the input does not have.
    pub(crate) fn missing(&self, column: usize) -> Result<Value, Reason> {
        if self.rules[column].null {
            Ok(Value::Null)
        } else {
            Err(Reason::Null)
        }
    }

    /// What is told of each column's fields without their bytes.
    pub(crate) fn quick(&self) -> &[Quick] {
        &self.quick
    }

    /// One of the texts that stand for null; one of them has its length.
    fn is_null(&self, text: &[u8]) -> bool {
        // Nothing is compared with nothing: an empty slice may point anywhere, and processors that
        // load there under an empty mask take a hundred times as long for it.
        text.is_empty() || self.nulls.iter().any(|null| **null == *text)
    }

    /// `text` is unescaped. `made` gets the field's new form where it has one.
    pub(crate) fn field(
        &self,
        column: usize,
        text: &[u8],
        stood: Stood,
        made: &mut Vec<u8>,
    ) -> Result<Value, Reason> {
        let rule = &self.rules[column];
        let is_text = matches!(rule.kind, Kind::Text);
        let (from, text) = if !stood.quoted && (self.trim || !is_text) {
            trimmed(text)
        } else {
            (0, text)
        };
        if text.len() < 64
            && self.null_lengths >> text.len() & 1 != 0
            && !(stood.quoted && is_text)
            && self.is_null(text)
        {
            return if rule.null {
                Ok(Value::Null)
            } else {
                Err(Reason::Null)
            };
        }
        if text.len() > rule.max_bytes {
            return Err(Reason::FieldTooLong {
                bytes: text.len(),
                limit: rule.max_bytes,
            });
        }
        let value = match rule.kind {
            Kind::Text => plain_text(text, stood.odd),
            Kind::Int { bits } => number::int(text, bits, rule.bounds, made),
            Kind::Float => number::float(text, rule.bounds, made),
            Kind::Decimal { precision, scale } => {
                number::decimal(text, precision, scale, rule.bounds, made)
            }
            Kind::Bool => boolean(text, made),
            Kind::Date if time::is_date(text) => Ok(Value::whole(text)),
            Kind::Timestamp if time::is_timestamp(text) => Ok(Value::whole(text)),
            Kind::Uuid => uuid(text, made),
            Kind::Json => json_text(text, stood.odd),
            Kind::Bytes => hexadecimal(text),
            kind @ (Kind::Date | Kind::Timestamp) => Err(Reason::Not(kind)),
        }?;
        Ok(match value {
            Value::Part { from: inner, len } => Value::Part {
                from: from + inner,
                len,
            },
            other => other,
        })
    }
}

fn trimmed(text: &[u8]) -> (usize, &[u8]) {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    if let (Some(first), Some(last)) = (text.first(), text.last())
        && !is_blank(first)
        && !is_blank(last)
    {
        return (0, text);
    }
    let Some(from) = text.iter().position(|byte| !is_blank(byte)) else {
        return (0, &[]);
    };
    let to = text
        .iter()
        .rposition(|byte| !is_blank(byte))
        .map_or(from, |last| last + 1);
    (from, &text[from..to])
}

#[inline]
fn plain_text(text: &[u8], odd: bool) -> Result<Value, Reason> {
    if odd {
        if std::str::from_utf8(text).is_err() {
            return Err(Reason::NotText);
        }
        // PostgreSQL cannot store it, C libraries end there, and no text needs it.
        if memchr::memchr(0, text).is_some() {
            return Err(Reason::Nul);
        }
    }
    Ok(Value::whole(text))
}

fn boolean(text: &[u8], made: &mut Vec<u8>) -> Result<Value, Reason> {
    if text.len() > 5 {
        return Err(Reason::Not(Kind::Bool));
    }
    let is = |words: [&[u8]; 5]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    let (truth, form): (_, &[u8]) = if is([b"true", b"t", b"yes", b"y", b"1"]) {
        (true, b"true")
    } else if is([b"false", b"f", b"no", b"n", b"0"]) {
        (false, b"false")
    } else {
        return Err(Reason::Not(Kind::Bool));
    };
    if text == form {
        return Ok(Value::whole(text));
    }
    made.extend_from_slice(if truth { b"true" } else { b"false" });
    Ok(Value::Made)
}

fn uuid(text: &[u8], made: &mut Vec<u8>) -> Result<Value, Reason> {
    const HYPHENS: [usize; 4] = [8, 13, 18, 23];
    let is_hyphen = |at: &usize| HYPHENS.contains(at);
    let fits = match text.len() {
        32 => text.iter().all(u8::is_ascii_hexdigit),
        36 => (0..36).all(|at| match text[at] {
            b'-' => is_hyphen(&at),
            digit => digit.is_ascii_hexdigit() && !is_hyphen(&at),
        }),
        _ => false,
    };
    if !fits {
        return Err(Reason::Not(Kind::Uuid));
    }
    if text.len() == 36 && !text.iter().any(u8::is_ascii_uppercase) {
        return Ok(Value::whole(text));
    }
    let digits = text.iter().filter(|byte| **byte != b'-');
    for (at, digit) in digits.enumerate() {
        if [8, 12, 16, 20].contains(&at) {
            made.push(b'-');
        }
        made.push(digit.to_ascii_lowercase());
    }
    Ok(Value::Made)
}

fn json_text(text: &[u8], odd: bool) -> Result<Value, Reason> {
    plain_text(text, odd)?;
    if json::is_json(text) {
        Ok(Value::whole(text))
    } else {
        Err(Reason::Not(Kind::Json))
    }
}

fn hexadecimal(text: &[u8]) -> Result<Value, Reason> {
    let digits = text.strip_prefix(b"\\x").unwrap_or(text);
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Reason::Not(Kind::Bytes));
    }
    Ok(Value::Part {
        from: text.len() - digits.len(),
        len: digits.len(),
    })
}

fn bounds(column: &Column) -> Bounds {
    let float = |number: Option<Number>, default: f64| match number {
        None => default,
        Some(Number::Int(int)) => int as f64,
        Some(Number::Float(float)) => float,
    };
    match column.kind {
        Kind::Int { bits } => {
            let int = |number: Option<Number>, default: i64| match number {
                Some(Number::Int(int)) => int,
                _ => default,
            };
            let top = i64::MAX >> (64 - bits);
            let (min, max) = (int(column.min, -top - 1), int(column.max, top));
            Bounds::Int(min.max(-top - 1), max.min(top))
        }
        _ if column.min.is_none() && column.max.is_none() => Bounds::None,
        Kind::Float => Bounds::Float(
            float(column.min, f64::NEG_INFINITY),
            float(column.max, f64::INFINITY),
        ),
        Kind::Decimal { scale, .. } => {
            let units = 10_i128.pow(u32::from(scale));
            let scaled = |number: Option<Number>, default: i128| match number {
                None => default,
                Some(Number::Int(int)) => i128::from(int).saturating_mul(units),
                Some(Number::Float(float)) => (float * units as f64).round() as i128,
            };
            Bounds::Decimal(scaled(column.min, i128::MIN), scaled(column.max, i128::MAX))
        }
        _ => Bounds::None,
    }
}
