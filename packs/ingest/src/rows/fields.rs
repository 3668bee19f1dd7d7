//! The fields of one record: where they are, what they say once unescaped, and whether that will do.
//!
//! Place: called by [`Reader`] for each complete record. Must never: copy a field that stands in
//! the text as it is meant.

use super::batch::{Mapping, Slot};
use super::reader::Reader;
use super::reject::Reason;
use crate::check::{Checker, Quick, Stood, Value};
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
        if matches!(target.format().header, Header::Present { .. })
            && is_header(target, mapping, &batch.text, start, marks)
        {
            return Err((None, Reason::RepeatedHeader));
        }
        let columns = &mapping.columns[..];
        let first = batch.slots.len();
        batch.slots.resize(first + columns.len(), Slot::NULL);
        let slots = &mut batch.slots[first..][..columns.len()];
        let quick = &checker.quick()[..columns.len()];
        // Columns mostly stand in their order: then a field begins where the last one ended.
        let (mut next, mut from) = (0, start);
        for column in 0..columns.len() {
            let Some(at) = columns[column] else {
                checker
                    .missing(column)
                    .map_err(|reason| (Some(column), reason))?;
                continue;
            };
            let at = at as usize;
            if at != next {
                from = begin(marks, start, at);
            }
            let end = marks[at];
            if let Some(known) = at_once(&quick[column], &batch.text, from, end, quote) {
                slots[column] = known;
            } else {
                slots[column] = one_field(
                    checker,
                    column,
                    &batch.text,
                    from,
                    end,
                    quote,
                    &mut batch.made,
                    scratch,
                )
                .map_err(|reason| (Some(column), reason))?;
            }
            (next, from) = (at + 1, end.at() + 1);
        }
        Ok(())
    }
}

/// Where field `at` of the record at `start` begins.
#[inline]
fn begin(marks: &[Mark], start: usize, at: usize) -> usize {
    match at.checked_sub(1) {
        Some(before) => marks[before].at() + 1,
        None => start,
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
        let from = begin(marks, start, at);
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

/// The place of a field that passes without a look at what is in it.
#[inline]
fn at_once(quick: &Quick, text: &[u8], from: usize, end: Mark, quote: Option<u8>) -> Option<Slot> {
    if end.is_odd() {
        return None;
    }
    let raw = &text[from..end.at()];
    let [first, rest @ ..] = raw else {
        return quick.empty_is_null(false).then_some(Slot::NULL);
    };
    if Some(*first) != quote {
        return quick.passes_bare(raw).then_some(Slot {
            start: from as u32,
            len: raw.len() as u32,
        });
    }
    let [inner @ .., last] = rest else {
        return None;
    };
    if end.is_ragged() || Some(*last) != quote {
        return None;
    }
    if inner.is_empty() && quick.empty_is_null(true) {
        return Some(Slot::NULL);
    }
    quick.passes_quoted(inner.len()).then_some(Slot {
        start: from as u32 + 1,
        len: inner.len() as u32,
    })
}

/// Unescapes and checks one field; hands back its place.
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
