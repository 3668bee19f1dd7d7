//! `Prefer: wait=N` (RFC 7240): answer or ticket.

use std::time::Duration;

use axum::http::HeaderMap;

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
