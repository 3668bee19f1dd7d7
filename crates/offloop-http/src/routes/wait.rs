//! `Prefer: wait=N` (RFC 7240): answer or ticket.

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use crate::door::Inner;
use crate::problem::{Kind, Refusal};
use crate::query::Query;

/// No longer than this; more is cut.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long the caller wants to wait for the end of the job. What cannot be read is ignored, as the
/// standard asks.
pub(super) fn asked(headers: &HeaderMap) -> Option<Duration> {
    let values = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|all| all.split(','));
    preferences.find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let seconds = value.trim().trim_matches('"').parse::<u64>().ok()?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        is_wait.then(|| Duration::from_secs(seconds).min(WAIT_MAX))
    })
}

/// `wait_ms=` of a query: what is out of range is refused, since it is no preference.
pub(super) fn asked_by(query: &Query<'_>) -> Result<Option<Duration>, Refusal> {
    let most = WAIT_MAX.as_millis();
    query.with("wait_ms", |text| match text.parse::<u64>() {
        Ok(ms) if u128::from(ms) <= most => Ok(Duration::from_millis(ms)),
        _ => Err(format!("is {text:?}; give 0 to {most}")),
    })
}

/// A place among those who wait for the end of a job; there are so many.
pub(super) fn place(door: &Inner) -> Option<OwnedSemaphorePermit> {
    std::sync::Arc::clone(&door.waits).try_acquire_owned().ok()
}

pub(super) fn no_place(door: &Inner) -> Refusal {
    let detail = format!(
        "{} callers wait for the end of a job, the limit; ask without waiting, or read its events",
        door.config.waits_max
    );
    Kind::TooMany.say(detail).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_wait_is_read_cut_or_ignored() {
        let rows = [
            ("wait=5", Some(5)),
            ("respond-async, wait=10", Some(10)),
            ("WAIT = \"3\"; x=y", Some(3)),
            ("wait=0", Some(0)),
            ("wait=100000", Some(60)),
            ("wait=-1", None),
            ("wait", None),
            ("wait=soon", None),
            ("return=minimal", None),
        ];
        for (value, want) in rows {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(value));
            assert_eq!(asked(&headers), want.map(Duration::from_secs), "{value}");
        }
        assert_eq!(asked(&HeaderMap::new()), None);
    }
}
