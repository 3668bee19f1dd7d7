//! JSON Schema as the rule of a task's payloads: drafts 4 to 2020-12, by the schema's `$schema`, the
//! last without one.
//!
//! A schema is the operator's, a payload is anybody's. So patterns are of the kind that is matched in
//! linear time (no look-around, no back-references), references lead nowhere outside the schema, and what
//! is said of a payload never quotes it.
//!
//! Must never: read a file, fetch, or let a payload decide how long a look takes beyond its size.

use std::fmt;

use jsonschema::{PatternOptions, ValidationError, Validator};
use offloop_runtime::PayloadCheck;
use offloop_store::PayloadProblem;
use serde_json::Value;

/// A larger one is no rule for what has a megabyte.
pub const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Problems of one payload that are told.
const PROBLEMS_MAX: usize = 20;
/// Of one problem: a schema may be talkative.
const MESSAGE_BYTES_MAX: usize = 512;
/// Compiled size of one pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Why a text is no schema.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    #[error("has {len} bytes; the limit is {SCHEMA_BYTES_MAX}")]
    TooLarge { len: usize },
    #[error("is not JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    #[error("{at} {message}")]
    Schema {
        /// JSON pointer into the schema, or `it`.
        at: String,
        message: String,
    },
}

/// A compiled schema.
pub struct Schema(Validator);

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

impl Schema {
    /// Reads the text of a schema.
    pub fn parse(text: &[u8]) -> Result<Self, SchemaError> {
        if text.len() > SCHEMA_BYTES_MAX {
            return Err(SchemaError::TooLarge { len: text.len() });
        }
        let schema: Value = serde_json::from_slice(text).map_err(SchemaError::Syntax)?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX);
        let options = jsonschema::options()
            .with_pattern_options(patterns)
            .should_validate_formats(true);
        options.build(&schema).map(Self).map_err(|error| {
            let at = error.instance_path().as_str();
            SchemaError::Schema {
                at: if at.is_empty() { "it" } else { at }.to_owned(),
                message: cut(&error.to_string()),
            }
        })
    }
}

impl PayloadCheck for Schema {
    fn problems(&self, payload: &[u8]) -> Vec<PayloadProblem> {
        // The door has read it once; deeper than that is refused there.
        let value: Value = match serde_json::from_slice(payload) {
            Ok(value) => value,
            Err(error) => {
                return vec![PayloadProblem {
                    pointer: String::new(),
                    message: format!("is not JSON that can be checked: {error}"),
                }];
            }
        };
        if self.0.is_valid(&value) {
            return Vec::new();
        }
        let errors = self.0.iter_errors(&value).take(PROBLEMS_MAX);
        errors.map(|error| problem(&error)).collect()
    }
}

fn problem(error: &ValidationError<'_>) -> PayloadProblem {
    PayloadProblem {
        pointer: error.instance_path().as_str().to_owned(),
        message: cut(&format!(
            "breaks `{}`: {}",
            error.kind().keyword(),
            error.masked_with("the value")
        )),
    }
}

fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MESSAGE_BYTES_MAX);
    let rest = if end < text.len() { " ..." } else { "" };
    format!("{}{rest}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{
        "type": "object",
        "properties": {
            "customer": { "type": "string", "pattern": "^[a-z]{2,20}$" },
            "rows": { "type": "array", "items": { "type": "integer", "minimum": 1 }, "maxItems": 3 },
            "day": { "type": "string", "format": "date" }
        },
        "required": ["customer"],
        "additionalProperties": false
    }"#;

    fn pointers(schema: &Schema, payload: &str) -> Vec<String> {
        let problems = schema.problems(payload.as_bytes());
        problems
            .into_iter()
            .map(|problem| problem.pointer)
            .collect()
    }

    #[test]
    fn what_the_schema_allows_passes_and_the_rest_is_named_by_its_place() {
        let schema = Schema::parse(REPORT.as_bytes()).unwrap();
        #[rustfmt::skip]
        let cases: [(&str, &[&str]); 9] = [
            (r#"{"customer": "acme"}"#, &[]),
            (r#"{"customer": "acme", "rows": [1, 2], "day": "2026-11-21"}"#, &[]),
            ("null", &[""]),
            ("{}", &[""]),
            (r#"{"customer": "ACME"}"#, &["/customer"]),
            (r#"{"customer": "acme", "rows": [1, 0, "x"]}"#, &["/rows/1", "/rows/2"]),
            (r#"{"customer": "acme", "rows": [1, 2, 3, 4]}"#, &["/rows"]),
            (r#"{"customer": "acme", "day": "2026-02-30"}"#, &["/day"]),
            (r#"{"customer": "acme", "mode": 1}"#, &[""]),
        ];
        for (payload, want) in cases {
            assert_eq!(pointers(&schema, payload), want, "{payload}");
        }
    }

    #[test]
    fn a_secret_in_a_payload_is_not_quoted() {
        let schema = Schema::parse(REPORT.as_bytes()).unwrap();
        let payload = r#"{"customer": "S3CRET", "rows": ["S3CRET"], "day": "S3CRET"}"#;
        let problems = schema.problems(payload.as_bytes());
        assert_eq!(problems.len(), 3);
        for problem in problems {
            assert!(!problem.message.contains("S3CRET"), "{}", problem.message);
            assert!(problem.message.contains('`'), "{}", problem.message);
        }
    }

    #[test]
    fn a_flood_of_problems_is_told_in_part() {
        let schema = Schema::parse(br#"{"items": {"type": "string"}}"#).unwrap();
        let payload = format!("[{}1]", "1,".repeat(5_000));
        assert_eq!(pointers(&schema, &payload).len(), PROBLEMS_MAX);
    }

    #[test]
    fn a_schema_that_is_none_says_what_is_wrong() {
        let reads = |text: &str| Schema::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(reads("{").contains("is not JSON"));
        assert!(reads(r#"{"type": "strin"}"#).starts_with("/type "));
        assert!(reads(&" ".repeat(SCHEMA_BYTES_MAX + 1)).contains("the limit is"));
    }

    /// A pattern that backtracks would let a payload of a few bytes hold a core for hours.
    #[test]
    fn a_pattern_that_could_run_for_ever_is_refused_with_its_schema() {
        for pattern in [r"(a+)+(?=b)", r"(a)\\1"] {
            let text = format!(r#"{{"pattern": "{pattern}"}}"#);
            assert!(Schema::parse(text.as_bytes()).is_err(), "{pattern}");
        }
        let slow_elsewhere = Schema::parse(br#"{"pattern": "^(a+)+$"}"#).unwrap();
        let payload = format!("\"{}b\"", "a".repeat(100_000));
        assert_eq!(slow_elsewhere.problems(payload.as_bytes()).len(), 1);
    }

    #[test]
    fn a_reference_that_leads_outside_is_refused() {
        for place in ["http://127.0.0.1:9/x.json", "file:///etc/hostname"] {
            let text = format!(r#"{{"$ref": "{place}"}}"#);
            assert!(Schema::parse(text.as_bytes()).is_err(), "{place}");
        }
    }
}
