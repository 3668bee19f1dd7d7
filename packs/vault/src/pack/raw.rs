//! Requests whose body is bytes as they are: everything else comes by query and headers.
//!
//! Must never: take a parameter that it does not know, or one twice.

use offloop::http::Refusal;
use offloop::http::axum::http::{HeaderMap, Uri, header};
use offloop::wire::Problem;

use crate::body::decode;
use crate::error::{Kind, VaultError};
use crate::ops::{Op, RawAsk};
use crate::wipe::Wiped;

/// Whether the body is bytes as they are, by its Content-Type; passwords never are.
pub(super) fn is_octets(op: Op, headers: &HeaderMap) -> Result<bool, Refusal> {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(false);
    }
    if essence.eq_ignore_ascii_case("application/octet-stream") && !op.is_password() {
        return Ok(true);
    }
    let other = if op.is_password() {
        ""
    } else {
        ", or application/octet-stream for bytes as they are"
    };
    Err(Refusal::from(Problem {
        r#type: "urn:offloop:problem:media-type".into(),
        title: "The body's type is not taken here".into(),
        status: 415,
        detail: format!("send the Content-Type application/json{other}"),
        ..Problem::default()
    }))
}

/// JSON bodies have no query.
pub(super) fn no_query(uri: &Uri) -> Result<(), Refusal> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(Refusal::parameter(
            "query",
            "belongs to bodies of application/octet-stream; a JSON body names everything itself",
        )),
    }
}

const fn known(op: Op) -> &'static [&'static str] {
    match op {
        Op::Seal => &["key", "sign_key"],
        Op::Open => &["key", "signed_by"],
        Op::Sign => &["key", "algorithm"],
        _ => &["key", "algorithm", "version"],
    }
}

/// Reads query and headers.
pub(super) fn ask(op: Op, uri: &Uri, headers: &HeaderMap) -> Result<RawAsk, Refusal> {
    let mut ask = RawAsk::default();
    let known = known(op);
    let query = uri.query().unwrap_or_default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&&*name) {
            let name: String = name.chars().take(64).collect();
            let detail = format!("is no parameter here; known are {}", known.join(", "));
            return Err(Refusal::parameter(&name, detail));
        }
        let again = match &*name {
            "key" => ask.key.replace(value.into_owned()).is_some(),
            "sign_key" => ask.sign_key.replace(value.into_owned()).is_some(),
            "signed_by" => ask.signed_by.replace(value.into_owned()).is_some(),
            "algorithm" => ask.algorithm.replace(value.into_owned()).is_some(),
            _ => {
                let wrong = |_| Refusal::parameter("version", "is no number of a version");
                ask.version.replace(value.parse().map_err(wrong)?).is_some()
            }
        };
        if again {
            return Err(Refusal::parameter(&name, "is given twice"));
        }
    }
    if let Some(aad) = base64_header(headers, "offloop-aad", matches!(op, Op::Seal | Op::Open))? {
        ask.aad = aad;
    }
    if let Some(found) = base64_header(headers, "offloop-signature", op == Op::Check)? {
        ask.signature = found.take();
    }
    Ok(ask)
}

fn base64_header(headers: &HeaderMap, name: &str, belongs: bool) -> Result<Option<Wiped>, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    if !belongs {
        return Err(Refusal::parameter(name, "is no header of this route"));
    }
    let decoded = decode(value.to_str().unwrap_or("?"), name);
    decoded
        .map(Some)
        .map_err(|error| VaultError::new(Kind::Parameter, format!("/{name}"), error.detail).into())
}
