//! What a pack brings to the door.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use offloop_wire::FieldProblem;

use crate::problem::{Kind, Refusal, with_fields};

/// Routes and a page of one pack.
#[derive(Debug, Default)]
pub struct PackRoutes {
    /// Unique, of `a-z 0-9 -`: its module is served at `/packs/NAME.js`.
    pub name: String,
    /// Full paths (`/v1/NAME/...`), with its state. Auth and headers are the door's.
    pub router: Router,
    pub page: Option<PackPage>,
    /// OpenAPI 3.1 `paths` of the router.
    pub openapi: Option<serde_json::Value>,
    pub metrics: Option<PackMetrics>,
}

/// Figures of a pack at `/metrics`: lines of Prometheus' text form, each name with its `# HELP` and
/// `# TYPE`, names beginning with `offloop_` and the pack's. Asked for each answer: let it be quick.
#[derive(Clone)]
pub struct PackMetrics(pub Arc<dyn Fn(&mut String) + Send + Sync>);

impl fmt::Debug for PackMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackMetrics")
    }
}

/// A page of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackPage {
    /// In the dashboard's menu.
    pub title: &'static str,
    /// Text of an ES module that exports `render(root, api)`: it fills the element `root`, may
    /// answer a function that cleans up, and makes elements with `api.el`, never with `innerHTML`.
    pub module: &'static str,
}

impl Refusal {
    /// 422 for a field of a body; `pointer` as in RFC 6901, such as `/path`.
    pub fn invalid(pointer: &str, detail: impl Into<String>) -> Self {
        let errors = vec![FieldProblem::new(pointer, detail)];
        with_fields(Kind::InvalidBody.say(""), errors).into()
    }

    /// 400 for a parameter of the path or the query.
    pub fn parameter(name: &str, detail: impl Into<String>) -> Self {
        let errors = vec![FieldProblem::new(name, detail)];
        with_fields(Kind::InvalidParameter.say(""), errors).into()
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Kind::NotFound.say(detail).into()
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Kind::Busy.say(detail).into()
    }
}
