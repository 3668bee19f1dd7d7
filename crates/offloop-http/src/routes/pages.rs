//! The dashboard: plain files, built into the binary. They hold no data, so they need no token.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Response, StatusCode, Uri, header};
use serde::Serialize;

use super::{Answer, json};
use crate::door::Inner;
use crate::problem::Kind;
use crate::query::Query;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const STYLE: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");
const SVG: HeaderValue = HeaderValue::from_static("image/svg+xml");
/// Scripts, styles, pictures and requests of this server; nothing inline, no frames, no forms.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Name, type, text.
static FILES: [(&str, HeaderValue, &str); 11] = [
    ("app.js", SCRIPT, include_str!("../dashboard/app.js")),
    ("api.js", SCRIPT, include_str!("../dashboard/api.js")),
    ("dom.js", SCRIPT, include_str!("../dashboard/dom.js")),
    (
        "overview.js",
        SCRIPT,
        include_str!("../dashboard/overview.js"),
    ),
    ("jobs.js", SCRIPT, include_str!("../dashboard/jobs.js")),
    ("job.js", SCRIPT, include_str!("../dashboard/job.js")),
    ("pulse.js", SCRIPT, include_str!("../dashboard/pulse.js")),
    ("usage.js", SCRIPT, include_str!("../dashboard/usage.js")),
    ("signin.js", SCRIPT, include_str!("../dashboard/signin.js")),
    ("style.css", STYLE, include_str!("../dashboard/style.css")),
    ("icon.svg", SVG, include_str!("../dashboard/icon.svg")),
];

fn file(kind: HeaderValue, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    // A new server brings new files under the same names.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-opener-policy", same_origin);
    response
}

pub(super) async fn index(uri: Uri) -> Answer {
    Query::none(&uri)?;
    Ok(file(HTML, include_str!("../dashboard/index.html")))
}

pub(super) async fn asset(Path(name): Path<String>) -> Answer {
    let found = FILES.iter().find(|file| file.0 == name);
    let (_, kind, text) =
        found.ok_or_else(|| Kind::NotFound.say("the dashboard has no such file"))?;
    Ok(file(kind.clone(), text))
}

/// `/packs/NAME.js`.
pub(super) async fn pack(State(door): State<Arc<Inner>>, Path(name): Path<String>) -> Answer {
    let name = name.strip_suffix(".js").unwrap_or_default();
    let found = door.pages.iter().find(|(pack, _)| pack == name);
    let (_, page) = found.ok_or_else(|| Kind::NotFound.say("no pack has such a page"))?;
    Ok(file(SCRIPT, page.module))
}

#[derive(Serialize)]
struct PackRow<'a> {
    name: &'a str,
    title: &'a str,
}

#[derive(Serialize)]
struct PackList<'a> {
    packs: Vec<PackRow<'a>>,
}

/// Pages for the menu.
pub(super) async fn packs(State(door): State<Arc<Inner>>, uri: Uri) -> Answer {
    Query::none(&uri)?;
    let rows = door.pages.iter().map(|(name, page)| PackRow {
        name,
        title: page.title,
    });
    json(
        StatusCode::OK,
        &PackList {
            packs: rows.collect(),
        },
    )
}
