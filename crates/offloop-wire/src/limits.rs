//! Limits and the audit log: what operators write and read.

use offloop_job::{Limit, LimitTarget, Rate};
use serde::{Deserialize, Serialize};

use crate::json::Lit;
use crate::problem::FieldProblem;
use crate::read::{BodyError, Wrong, object, small, text, token};

/// Fields of the body of `PUT /v1/limits/{target}`.
pub const LIMIT_FIELDS: [&str; 4] = ["concurrency", "rate", "burst", "weight"];

/// One limit, and what it does now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitView {
    /// `queue:mail`, `task:report`, `key:acme`, `key:*`, `task:report/key:*`.
    pub target: String,
    pub concurrency: Option<u32>,
    /// Units in a time: `100/s`, `5/10m`.
    pub rate: Option<String>,
    pub burst: Option<u32>,
    pub weight: Option<u16>,
    /// `api`, or `config`: declared there, and removed when it is declared no more.
    pub origin: String,
    /// Jobs that run under it now.
    pub running: u64,
    /// `concurrency` or `rate`, if the next job may not start. Never told of `key:*`.
    pub blocked_by: Option<String>,
    /// When the rate lets the next job start.
    pub blocked_until: Option<String>,
}

/// `GET /v1/limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitList {
    pub limits: Vec<LimitView>,
    /// The `after` of the next page.
    pub next_cursor: Option<String>,
}

/// One change of an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// They grow, and never return.
    pub number: u64,
    pub at: String,
    pub actor: String,
    pub subject: String,
    pub action: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// `GET /v1/audit`, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditList {
    pub entries: Vec<AuditView>,
    /// The `before` of the next page.
    pub next_cursor: Option<u64>,
}

/// The body of `PUT /v1/limits/{target}`: the whole limit, not a change of it.
pub fn read_limit(body: &[u8], target: &LimitTarget) -> Result<Limit, BodyError> {
    let syntax = |detail: String| BodyError::Syntax { detail };
    let lit: Lit<'_> = serde_json::from_slice(body).map_err(|error| syntax(error.to_string()))?;
    let fields = object(lit).map_err(|Wrong(detail)| syntax(format!("the body {detail}")))?;
    let mut limit = Limit::default();
    let mut burst = None;
    let mut problems = Vec::new();
    for (key, value) in fields {
        if value == Lit::Null && LIMIT_FIELDS.contains(&&*key) {
            continue;
        }
        let number = || small(&value, u32::MAX.into());
        let taken = match &*key {
            "concurrency" => number().map(|most| limit.concurrency = Some(most as u32)),
            "rate" => text(&value)
                .and_then(rate)
                .map(|rate| limit.rate = Some(rate)),
            "burst" => number().map(|units| burst = Some(units as u32)),
            "weight" => {
                small(&value, u16::MAX.into()).map(|picks| limit.weight = Some(picks as u16))
            }
            _ => Err(Wrong(format!(
                "is unknown; known are {}",
                LIMIT_FIELDS.join(", ")
            ))),
        };
        if let Err(Wrong(detail)) = taken {
            problems.push(FieldProblem::new(format!("/{}", token(&key)), detail));
        }
    }
    match (&mut limit.rate, burst) {
        (Some(rate), Some(burst)) => rate.burst = burst,
        (None, Some(_)) if problems.is_empty() => {
            problems.push(FieldProblem::new(
                "/burst",
                "belongs to a rate; give one, or leave it out",
            ));
        }
        _ => {}
    }
    if problems.is_empty() {
        for problem in limit.problems(target) {
            let pointer = match problem.field {
                "limit" => String::new(), // the whole body
                field => format!("/{field}"),
            };
            problems.push(FieldProblem::new(pointer, problem.message));
        }
    }
    if problems.is_empty() {
        Ok(limit)
    } else {
        Err(BodyError::Fields(problems))
    }
}

fn rate(text: &str) -> Result<Rate, Wrong> {
    let wrong = || {
        let text = &text[..text.floor_char_boundary(64)];
        Wrong(format!(
            "is {text:?}; give units in a time, such as \"100/s\", \"5/10m\" or \"1000/h\" (ms, s, m, h, d)"
        ))
    };
    Rate::parse(text).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Limit, Vec<String>> {
        let target = LimitTarget::parse("key:acme").unwrap();
        read_limit(body.as_bytes(), &target).map_err(|error| match error {
            BodyError::Fields(problems) => problems.into_iter().map(|p| p.pointer).collect(),
            BodyError::Syntax { .. } => vec!["syntax".to_owned()],
        })
    }

    #[test]
    fn a_limit_is_read_as_it_is_written() {
        let body = r#"{"concurrency": 4, "rate": "100/s", "burst": 20, "weight": 3}"#;
        let limit = read(body).unwrap();
        assert_eq!((limit.concurrency, limit.weight), (Some(4), Some(3)));
        let rate = limit.rate.unwrap();
        assert_eq!((rate.units, rate.burst), (100, 20));
        let limit = read(r#"{"rate": "1/s", "weight": null}"#).unwrap();
        assert_eq!(limit.rate.unwrap().burst, 1);
    }

    #[test]
    fn a_limit_that_cannot_be_is_told_by_its_field() {
        let rows = [
            ("[]", "syntax"),
            ("{", "syntax"),
            ("{}", ""),
            (r#"{"speed": 1}"#, "/speed"),
            (r#"{"concurrency": 0}"#, "/concurrency"),
            (r#"{"concurrency": "many"}"#, "/concurrency"),
            (r#"{"rate": "fast"}"#, "/rate"),
            (r#"{"rate": 5}"#, "/rate"),
            (r#"{"rate": "1/2d"}"#, "/rate"),
            (r#"{"burst": 5}"#, "/burst"),
            (r#"{"rate": "1/s", "burst": 0}"#, "/burst"),
            (r#"{"weight": 70000}"#, "/weight"),
            (r#"{"weight": 1001}"#, "/weight"),
        ];
        for (body, pointer) in rows {
            assert_eq!(read(body), Err(vec![pointer.to_owned()]), "{body}");
        }
    }
}
