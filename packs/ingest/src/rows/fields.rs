//! The fields of one record: where they are, what they say once unescaped, and whether that will do.
//!
//! Place: called by [`Reader`] for each complete record. Must never: copy a field that stands in
//! the text as it is meant.

use super::batch::{Mapping, Slot};
use super::reader::Reader;
use super::reject::Reason;
use crate::check::{Checker, Stood, Value};
use crate::split::Mark;
use crate::target::{Header, Target};

impl Reader {
    /// Checks the fields of one record and appends their slots.
    pub(super) fn fill(
        &mut self,
        start: usize,
        fields: std::ops::Range<usize>,
    ) -> Result<(), (Option<usize>, Reason)> {
        let Self {
            batch,
            marks,
            mapping: Some(mapping),
            checker,
            scratch,
            target,
            ..
        } = self
        else {
            return Ok(());
        };
        let found = fields.len() + self.forgotten;
        let expected = mapping.fields as usize;
        if found != expected {
            return Err((None, Reason::Columns { expected, found }));
        }
        let marks = &marks.fields[fields];
        let quote = target.format().quote;
        batch.slots.reserve(mapping.columns.len());
        if matches!(target.format().header, Header::Present { .. })
            && is_header(target, mapping, &batch.text, start, marks)
        {
            return Err((None, Reason::RepeatedHeader));
        }
        for (column, at) in mapping.columns.iter().enumerate() {
            let Some(at) = *at else {
                checker
                    .missing(column)
                    .map_err(|reason| (Some(column), reason))?;
                batch.slots.push(Slot::NULL);
                continue;
            };
            let at = at as usize;
            let from = if at == 0 {
                start
            } else {
                marks[at - 1].at() + 1
            };
            let slot = one_field(
                checker,
                column,
                &batch.text,
                from,
                marks[at],
                quote,
                &mut batch.made,
                scratch,
            );
            batch
                .slots
                .push(slot.map_err(|reason| (Some(column), reason))?);
        }
        Ok(())
    }
}

/// A record whose fields are the names of its columns. One column alone may well hold its name.
fn is_header(
    target: &Target,
    mapping: &Mapping,
    text: &[u8],
    start: usize,
    marks: &[Mark],
) -> bool {
    let mut names = 0;
    for (column, at) in target.columns().iter().zip(&mapping.columns) {
        let Some(at) = *at else { continue };
        let at = at as usize;
        let from = if at == 0 {
            start
        } else {
            marks[at - 1].at() + 1
        };
        let field = &text[from..marks[at].at()];
        if field.len() < column.from.len() {
            return false;
        }
        let bare = match target.format().quote {
            Some(quote) if field.first() == Some(&quote) && field.len() >= 2 => {
                &field[1..field.len() - 1]
            }
            _ => field,
        };
        if bare.trim_ascii() != column.from.as_bytes() {
            return false;
        }
        names += 1;
    }
    names > 1
}

/// Unescapes and checks one field; hands back its place.
#[inline]
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one borrowed reader"
)]
fn one_field(
    checker: &Checker,
    column: usize,
    text: &[u8],
    from: usize,
    end: Mark,
    quote: Option<u8>,
    made: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
) -> Result<Slot, Reason> {
    let raw = &text[from..end.at()];
    let made_from = made.len();
    let quoted = quote.is_some() && raw.first().copied() == quote;
    let stood = Stood {
        quoted,
        odd: end.is_odd(),
    };
    let is_simple = !end.is_ragged() && raw.len() >= 2 && raw.last().copied() == quote;
    if !end.is_odd() {
        let is_empty = raw.is_empty() || (raw.len() == 2 && is_simple && quoted);
        if is_empty && checker.is_null_when_empty(column, quoted) {
            return Ok(Slot::NULL);
        }
        if is_simple && quoted && checker.passes_quoted(column, raw.len() - 2) {
            return Ok(Slot {
                start: from as u32 + 1,
                len: raw.len() as u32 - 2,
            });
        }
        if !quoted && checker.passes_bare(column, raw.len()) {
            return Ok(Slot {
                start: from as u32,
                len: raw.len() as u32,
            });
        }
    }
    let value = if !quoted {
        checker.field(column, raw, stood, made)?
    } else if is_simple {
        match checker.field(column, &raw[1..raw.len() - 1], stood, made)? {
            Value::Part { from, len } => Value::Part {
                from: from + 1,
                len,
            },
            other => other,
        }
    } else {
        scratch.clear();
        unescape(raw, quote, scratch);
        match checker.field(column, scratch, stood, made)? {
            Value::Part { from, len } => {
                made.extend_from_slice(&scratch[from..from + len]);
                Value::Made
            }
            other => other,
        }
    };
    Ok(match value {
        Value::Null => Slot::NULL,
        Value::Part { from: inner, len } => Slot {
            start: (from + inner) as u32,
            len: len as u32,
        },
        Value::Made => Slot {
            start: made_from as u32 | Slot::MADE,
            len: (made.len() - made_from) as u32,
        },
    })
}

/// The text of a field as it is written, by the rules of [`crate::split`].
pub(crate) fn unescape(raw: &[u8], quote: Option<u8>, out: &mut Vec<u8>) {
    let Some(quote) = quote.filter(|quote| raw.first() == Some(quote)) else {
        out.extend_from_slice(raw);
        return;
    };
    let mut rest = &raw[1..];
    while let Some(at) = memchr::memchr(quote, rest) {
        out.extend_from_slice(&rest[..at]);
        if rest.get(at + 1) != Some(&quote) {
            // Closed; what follows is text, quotes too.
            out.extend_from_slice(&rest[at + 1..]);
            return;
        }
        out.push(quote);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
}
