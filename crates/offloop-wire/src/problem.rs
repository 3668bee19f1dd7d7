//! Errors as clients see them: RFC 9457 problem details.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One field that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldProblem {
    /// RFC 6901: `/backoff/base_ms`; empty for the whole body.
    pub pointer: String,
    /// What is wrong, the limit, and what to do.
    pub detail: String,
}

impl FieldProblem {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            detail: detail.into(),
        }
    }
}

/// `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable: `urn:offloop:problem:NAME`. What programs go by.
    pub r#type: String,
    /// The same sentence for every problem of this type.
    pub title: String,
    pub status: u16,
    /// This case: what was wrong, and what to do next.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The first of `errors`, for people who look once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// Seconds after which the same request may be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// What the request would have waited, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_wait_ms: Option<u64>,
    /// How the work failed: a class of failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The job that stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Extension members (RFC 9457 §3.2) of types that others have registered, named as they name them.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}
