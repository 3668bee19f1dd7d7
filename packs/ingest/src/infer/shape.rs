//! Delimiter, quote and records of a sample: the delimiter with which most records have the same
//! number of fields, more than one. Must never: read a record that the sample cuts.

use super::InferError;
use crate::rows::unescape;
use crate::split::Splitter;

/// Records that are looked at.
const RECORDS_MAX: usize = 10_000;

/// A sample, taken apart.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    /// Of most records.
    pub(super) fields: usize,
    /// Those with that number of fields.
    pub(super) records: Vec<Vec<Field>>,
    /// The first record of the sample is none of them: something stands above the table.
    pub(super) has_preamble: bool,
    pub(super) doubts: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) text: String,
    pub(super) quoted: bool,
}

pub(super) fn find(text: &[u8], is_whole: bool) -> Result<Shape, InferError> {
    let quote = quote(text);
    let mut best: Option<(u64, u8, usize)> = None;
    for delimiter in [b',', b'\t', b';', b'|'] {
        let counts = counts(text, delimiter, quote, is_whole);
        let Some((fields, same)) = most(&counts) else {
            continue;
        };
        // Share of records that agree, in parts of a thousand; then the number of fields.
        let agree = (same * 1_000 / counts.len()) as u64;
        let score = if fields < 2 {
            0
        } else {
            agree * 1_000 + (fields as u64).min(999)
        };
        if best.is_none_or(|(other, ..)| score > other) {
            best = Some((score, delimiter, fields));
        }
    }
    let Some((score, delimiter, fields)) = best else {
        return Err(if text.is_empty() {
            InferError::Empty
        } else {
            InferError::NoRecord
        });
    };
    let all = records(text, delimiter, quote, is_whole);
    let seen = all.len();
    let has_preamble = all.first().is_some_and(|record| record.len() != fields);
    let records: Vec<_> = all
        .into_iter()
        .filter(|record| record.len() == fields)
        .collect();
    let mut doubts = Vec::new();
    if score == 0 {
        doubts.push("no delimiter makes more than one column of it".to_owned());
    }
    if records.len() < seen {
        doubts.push(format!(
            "{} of {seen} records have another number of fields and will be refused",
            seen - records.len()
        ));
    }
    if has_preamble {
        doubts.push("the first record is not like the others: it is skipped unread".to_owned());
    }
    Ok(Shape {
        delimiter,
        quote,
        fields,
        records,
        has_preamble,
        doubts,
    })
}

/// `'` where no `"` is, and a line begins with it; the usual `"` otherwise.
fn quote(text: &[u8]) -> u8 {
    let lines = text.split(|byte| *byte == b'\n').take(100);
    let (mut all, mut single) = (0, 0);
    for line in lines {
        all += 1;
        single += usize::from(line.first() == Some(&b'\''));
    }
    if single > 1 && single * 2 > all && !text.contains(&b'"') {
        b'\''
    } else {
        b'"'
    }
}

/// Ends of whole records.
fn ends(text: &[u8], delimiter: u8, quote: u8, is_whole: bool) -> Vec<(usize, usize)> {
    let mut splitter = Splitter::new(delimiter, Some(quote));
    let mut ends = Vec::new();
    splitter.push(text, |record| {
        if ends.len() < RECORDS_MAX {
            ends.push((record.start as usize, record.end as usize));
        }
    });
    if is_whole {
        splitter.finish(|record| ends.push((record.start as usize, record.end as usize)));
    }
    ends
}

fn counts(text: &[u8], delimiter: u8, quote: u8, is_whole: bool) -> Vec<usize> {
    ends(text, delimiter, quote, is_whole)
        .into_iter()
        .map(|(start, end)| fields(&text[start..end], delimiter, quote).len())
        .collect()
}

fn records(text: &[u8], delimiter: u8, quote: u8, is_whole: bool) -> Vec<Vec<Field>> {
    let field = |raw: &[u8]| {
        let mut bytes = Vec::new();
        unescape(raw, Some(quote), &mut bytes);
        Field {
            text: String::from_utf8_lossy(&bytes).into_owned(),
            quoted: raw.first() == Some(&quote),
        }
    };
    ends(text, delimiter, quote, is_whole)
        .into_iter()
        .map(|(start, end)| {
            let raw = fields(&text[start..end], delimiter, quote);
            raw.into_iter().map(field).collect()
        })
        .collect()
}

/// Raw fields of one record.
fn fields(record: &[u8], delimiter: u8, quote: u8) -> Vec<&[u8]> {
    let mut splitter = Splitter::new(delimiter, Some(quote));
    let mut marks = crate::split::Marks::default();
    splitter.scan(record, 0, &mut marks);
    let mut fields = Vec::with_capacity(marks.fields.len() + 1);
    let mut from = 0;
    for mark in &marks.fields {
        fields.push(&record[from..mark.at()]);
        from = mark.at() + 1;
    }
    fields.push(&record[from..]);
    fields
}

/// The most frequent count, the larger one of two; and how often.
fn most(counts: &[usize]) -> Option<(usize, usize)> {
    let mut times = std::collections::BTreeMap::new();
    for count in counts {
        *times.entry(*count).or_insert(0_usize) += 1;
    }
    times.into_iter().max_by_key(|(_, times)| *times)
}
