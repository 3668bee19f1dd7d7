//! What the first record says about the others. Must never: guess which column was meant.

use super::batch::Mapping;
use crate::target::{Column, Header, Target};

/// Why an input has no rows that could be meant for the target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    #[error("the input is empty; the header is missing (header = \"none\" would do without)")]
    Missing,
    #[error("the header is longer than limits.record_bytes, {limit}: is this delimited text?")]
    TooLong { limit: usize },
    #[error("the header has a quote that never closes")]
    UnclosedQuote,
    #[error("the header has {found} columns, limits.columns is {limit}")]
    TooMany { found: usize, limit: usize },
    #[error("the header is not valid in the input's encoding, in its field {field}")]
    NotText { field: usize },
    #[error("the header has `{name}` twice, in its fields {first} and {second}")]
    Duplicate {
        name: String,
        first: usize,
        second: usize,
    },
    #[error(
        "the header does not fit the target: {}{}its fields are: {}",
        list("missing: ", missing),
        list("of no column: ", unknown),
        found.join(", ")
    )]
    Mismatch {
        missing: Vec<String>,
        unknown: Vec<String>,
        /// The first 20 of the header.
        found: Vec<String>,
    },
}

fn list(title: &str, names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!("{title}{}; ", names.join(", "))
    }
}

/// Names in messages: not all of a hostile header's.
const NAMES_TOLD_MAX: usize = 20;

/// Columns in the order of the declaration: no header, or an unread one.
pub(super) fn by_position(target: &Target) -> Mapping {
    let fields = target.columns().len() as u32;
    Mapping {
        fields,
        columns: (0..fields).map(Some).collect(),
    }
}

/// Reads `names`, the unescaped fields of the first record.
pub(super) fn read(target: &Target, names: &[Vec<u8>]) -> Result<Mapping, HeaderError> {
    let Header::Present { ignore_extra } = target.format().header else {
        return Ok(by_position(target));
    };
    let mut texts = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let text = std::str::from_utf8(name).map_err(|_| HeaderError::NotText { field: at + 1 })?;
        texts.push(text.trim());
    }
    let find = |column: &Column| texts.iter().position(|text| *text == &*column.from);
    let columns: Vec<_> = target.columns().iter().map(find).collect();
    let told = |name: &&str| name.chars().take(100).collect::<String>();
    let taken: std::collections::HashMap<&str, usize> = texts
        .iter()
        .enumerate()
        .rev()
        .map(|(at, text)| (*text, at))
        .collect();
    for (at, text) in texts.iter().enumerate() {
        let wanted = target.columns().iter().any(|column| *column.from == **text);
        if taken[text] != at && (wanted || !ignore_extra) {
            return Err(HeaderError::Duplicate {
                name: told(text),
                first: taken[text] + 1,
                second: at + 1,
            });
        }
    }
    let missing: Vec<_> = (target.columns().iter().zip(&columns))
        .filter(|(column, at)| column.required && at.is_none())
        .map(|(column, _)| column.from.to_string())
        .take(NAMES_TOLD_MAX)
        .collect();
    let of_no_column = |text: &&&str| {
        !target
            .columns()
            .iter()
            .any(|column| *column.from == ***text)
    };
    let unknown: Vec<_> = if ignore_extra {
        Vec::new()
    } else {
        texts
            .iter()
            .filter(of_no_column)
            .take(NAMES_TOLD_MAX)
            .map(told)
            .collect()
    };
    if !missing.is_empty() || !unknown.is_empty() {
        return Err(HeaderError::Mismatch {
            missing,
            unknown,
            found: texts.iter().take(NAMES_TOLD_MAX).map(told).collect(),
        });
    }
    Ok(Mapping {
        fields: texts.len() as u32,
        columns: columns
            .into_iter()
            .map(|at| at.map(|at| at as u32))
            .collect(),
    })
}
