//! Ends and figures as JSON.
//!
//! Must never: show the query of a URL.

use serde_json::{Map, Value, json};

use crate::call::{Answer, Done};
use crate::client::Client;
use crate::tally::Tally;

/// Hosts in a summary.
const HOSTS_MAX: usize = 10;

pub(crate) fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}"); // a String takes everything
            text
        })
}

/// Some bytes, so that nothing is cut within a character.
fn body(answer: &Answer, body_max: usize, to: &mut Map<String, Value>) {
    let whole = answer.body.len() <= body_max;
    let part = &answer.body[..answer.body.len().min(body_max)];
    let text = match std::str::from_utf8(part) {
        Ok(text) => Some(text),
        // Cut within its last character.
        Err(error) if !whole && error.error_len().is_none() => {
            std::str::from_utf8(&part[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    if let Some(text) = text {
        to.insert("body".into(), text.into());
    } else {
        let text = base64_simd::STANDARD.encode_to_string(part);
        to.insert("body_base64".into(), text.into());
    }
    if !whole {
        to.insert("truncated".into(), true.into());
    }
}

/// One end; `body_max`: bytes of its body that are shown, `None` for none of it.
pub fn done_json(done: &Done, body_max: Option<usize>) -> Value {
    let mut out = Map::new();
    out.insert("index".into(), done.index.into());
    if let Some(id) = &done.id {
        out.insert("id".into(), (**id).into());
    }
    out.insert("url".into(), (*done.url).into());
    out.insert("ok".into(), done.outcome.is_ok().into());
    let answer = match &done.outcome {
        Ok(answer) => Some(answer),
        Err(failure) => {
            out.insert("cause".into(), failure.cause.as_str().into());
            out.insert("message".into(), (*failure.message).into());
            failure.answer.as_deref()
        }
    };
    if let Some(answer) = answer {
        out.insert("status".into(), answer.status.into());
        out.insert("ms".into(), millis(answer.wall).into());
        out.insert("bytes".into(), answer.body_bytes.into());
        if let Some(kind) = &answer.content_type {
            out.insert("content_type".into(), (**kind).into());
        }
        if let Some(sha256) = &answer.sha256 {
            out.insert("sha256".into(), hex(sha256).into());
        }
        if let Some(body_max) = body_max {
            body(answer, body_max, &mut out);
        }
    }
    out.insert("calls".into(), done.calls.into());
    out.insert("wall_ms".into(), millis(done.wall).into());
    Value::Object(out)
}

pub(crate) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The figures of a list.
pub fn summary_json(tally: &Tally, client: &Client, verdict: bool) -> Map<String, Value> {
    let statuses = tally
        .statuses
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0);
    let statuses: Map<_, _> = statuses
        .map(|(class, count)| (format!("{class}xx"), (*count).into()))
        .collect();
    let time = |share| tally.quantile(share).map(millis);
    let slowest = tally.slowest(HOSTS_MAX).into_iter().map(|(origin, host)| {
        let mean = host.wall / u32::try_from(host.items.max(1)).unwrap_or(u32::MAX);
        json!({"host": origin, "items": host.items, "failed": host.failed,
            "mean_ms": millis(mean), "longest_ms": millis(host.longest)})
    });
    let breaker = client.tripped(HOSTS_MAX).into_iter().map(|tripped| {
        json!({"host": &*tripped.origin, "opened": tripped.opened,
            "state": format!("{:?}", tripped.state).to_lowercase()})
    });
    let summary = json!({
        "success": verdict,
        "total": tally.done() + tally.cancelled,
        "ok": tally.ok,
        "failed": tally.failed,
        "cancelled": tally.cancelled,
        "calls": tally.calls,
        "retries": tally.retries,
        "replays": tally.replays,
        "hedges": tally.hedges,
        "hedges_won": tally.hedges_won,
        "bytes": tally.bytes,
        "statuses": statuses,
        "causes": tally.causes,
        "p50_ms": time(0.5),
        "p99_ms": time(0.99),
        "slowest_hosts": slowest.collect::<Vec<_>>(),
        "breakers": breaker.collect::<Vec<_>>(),
    });
    match summary {
        Value::Object(summary) => summary,
        _ => Map::new(), // it is one
    }
}
