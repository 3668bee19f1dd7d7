//! Types of columns, texts that stand for null, and whether the first record is a header.
//!
//! A type must hold for every value of the sample; otherwise the column is text. Must never: type
//! what it would change: digits with leading zeros are codes, not numbers.

use super::shape::{Field, Shape};
use crate::check::{Checker, Stood};
use crate::target::{RawColumn, RawTarget};

/// In the order of preference.
const KINDS: [&str; 7] = ["int", "float", "bool", "date", "timestamp", "uuid", "json"];
/// Texts that people write for "nothing", besides nothing.
const NULLS: [&str; 6] = ["NULL", "null", "\\N", "NA", "N/A", "n/a"];

/// Tells whether one value is of a type, by the rules that will check it.
struct Judge {
    checkers: Vec<(&'static str, Checker)>,
    made: Vec<u8>,
}

impl Judge {
    fn new() -> Self {
        let checker = |kind: &'static str| {
            let raw = RawTarget {
                sink: "jobs".to_owned(),
                task: Some("x".to_owned()),
                columns: vec![RawColumn {
                    name: "x".to_owned(),
                    kind: kind.to_owned(),
                    ..RawColumn::default()
                }],
                null: Some(Vec::new()),
                ..RawTarget::default()
            };
            raw.resolve("x")
                .ok()
                .map(|target| (kind, Checker::new(target.columns(), target.format())))
        };
        Self {
            checkers: KINDS.into_iter().filter_map(checker).collect(),
            made: Vec::new(),
        }
    }

    /// The types that `text` has.
    fn kinds(&mut self, text: &str) -> Vec<bool> {
        let made = &mut self.made;
        self.checkers
            .iter()
            .map(|(kind, checker)| {
                made.clear();
                let stood = Stood {
                    quoted: false,
                    odd: true,
                };
                checker.field(0, text.as_bytes(), stood, made).is_ok() && is_meant(kind, text)
            })
            .collect()
    }
}

/// The checks accept more than a guess should.
fn is_meant(kind: &str, text: &str) -> bool {
    let digits = text.trim().trim_start_matches(['-', '+']);
    match kind {
        "int" | "float" => {
            let has_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
            // "1e5" may well be a code.
            !has_zero && !text.starts_with('+') && !digits.contains(['e', 'E'])
        }
        // 0 and 1 are numbers first; a letter may be anything.
        "bool" => text.len() > 1,
        // A number or a word in quotes is JSON, too.
        "json" => text.trim_start().starts_with(['{', '[']),
        _ => true,
    }
}

/// The type of each column, and the texts that stand for null.
pub(super) fn of_columns(
    rows: &[Vec<Field>],
    fields: usize,
    doubts: &mut Vec<String>,
) -> (Vec<&'static str>, Vec<String>) {
    let mut judge = Judge::new();
    let mut nulls = vec![String::new()];
    let mut kinds = Vec::with_capacity(fields);
    for column in 0..fields {
        let (kind, words) = of_column(rows, column, &mut judge);
        for word in words {
            if !nulls.iter().any(|null| null == word) {
                doubts.push(format!(
                    "`{word}` in column {} is taken for null, in every column",
                    column + 1
                ));
                nulls.push(word.to_owned());
            }
        }
        kinds.push(kind);
    }
    (kinds, nulls)
}

fn of_column(
    rows: &[Vec<Field>],
    column: usize,
    judge: &mut Judge,
) -> (&'static str, Vec<&'static str>) {
    let mut may: Option<Vec<bool>> = None;
    let mut words: Vec<&'static str> = Vec::new();
    for row in rows {
        let text = row[column].text.as_str();
        if text.is_empty() {
            continue;
        }
        if let Some(word) = NULLS.iter().find(|word| **word == text) {
            if !words.contains(word) {
                words.push(word);
            }
            continue;
        }
        let kinds = judge.kinds(text);
        let still = may.get_or_insert_with(|| vec![true; kinds.len()]);
        for (still, now) in still.iter_mut().zip(kinds) {
            *still &= now;
        }
    }
    let kind = may.and_then(|may| {
        may.iter()
            .position(|may| *may)
            .map(|at| judge.checkers[at].0)
    });
    match kind {
        Some(kind) => (kind, words),
        // "NA" in a column of text may be Namibia.
        None => ("text", Vec::new()),
    }
}

/// The names of the first record, if it looks like names.
pub(super) fn header(shape: &Shape, doubts: &mut Vec<String>) -> Option<Vec<String>> {
    let (first, rest) = shape.records.split_first()?;
    let mut judge = Judge::new();
    let is_word = |field: &Field, judge: &mut Judge| !judge.kinds(&field.text).contains(&true);
    if !first.iter().all(|field| is_word(field, &mut judge)) {
        return None;
    }
    if first.iter().all(|field| field.text.is_empty()) {
        return None;
    }
    let (kinds, _) = of_columns(rest, shape.fields, &mut Vec::new());
    let is_clear = kinds.iter().any(|kind| *kind != "text");
    if !is_clear {
        // Names are written once; a first row of text may well be a row.
        let again =
            (0..shape.fields).any(|at| rest.iter().any(|row| row[at].text == first[at].text));
        if again {
            return None;
        }
        doubts.push("every column is text: the first record is taken for a header".to_owned());
    }
    Some(
        first
            .iter()
            .map(|field| field.text.trim().to_owned())
            .collect(),
    )
}
