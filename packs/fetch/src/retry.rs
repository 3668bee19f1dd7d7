//! Whether a call may be made again, and when.
//!
//! Sources: RFC 9110 sections 9.2.2 (idempotent methods) and 10.2.3 (Retry-After); full jitter as in
//! "Exponential Backoff And Jitter" (AWS, 2015).
//!
//! Must never: read a clock or draw a number. Both come in.

use std::time::{Duration, SystemTime};

use hyper::Method;
use hyper::header::{self, HeaderMap};

/// Longest wait that an answer may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Header that makes any method safe to send twice, by the word of its server.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How often a call is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRule {
    /// After the first try, 0 to 100; default 3.
    pub max: u16,
    /// Most of the first wait; doubles. Default 100 ms.
    pub base: Duration,
    /// Longest wait; default 10 s.
    pub cap: Duration,
    /// Answers that are worth another try; default 408, 429, 502, 503, 504.
    pub statuses: Vec<u16>,
}

impl Default for RetryRule {
    fn default() -> Self {
        Self {
            max: 3,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(10),
            statuses: vec![408, 429, 502, 503, 504],
        }
    }
}

impl RetryRule {
    /// Wait before the next try: anything up to base x 2^(failed - 1), at most `cap`.
    ///
    /// - `failed`: tries that failed, 1 after the first.
    /// - `jitter`: 0.0 to 1.0, drawn by the caller.
    pub fn wait(&self, failed: u16, jitter: f64) -> Duration {
        let doublings = u32::from(failed.saturating_sub(1)).min(31);
        let most = self.base.saturating_mul(1 << doublings).min(self.cap);
        most.mul_f64(jitter.clamp(0.0, 1.0))
    }
}

/// Whether sending it twice does what sending it once does.
pub fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    let by_method = matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    );
    by_method || headers.contains_key(IDEMPOTENCY_KEY)
}

/// What the answer asks for: seconds, or a date by the answer's own clock (its `Date`), so that no
/// two clocks have to agree. At most [`RETRY_AFTER_MAX`].
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let date = |text: &str| httpdate::parse_http_date(text).ok();
        let until: SystemTime = date(text)?;
        let now = date(headers.get(header::DATE)?.to_str().ok()?)?;
        until.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// How long the peer keeps an idle connection, by its `Keep-Alive: timeout=N`.
pub(crate) fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    let find = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let is_it = name.trim().eq_ignore_ascii_case("timeout");
        is_it.then(|| value.trim().trim_matches('"').parse().ok())?
    };
    text.split(',').find_map(find).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(rows: &[(&'static str, &'static str)]) -> HeaderMap {
        let row = |(name, value): &(&'static str, &'static str)| {
            (
                hyper::header::HeaderName::from_static(name),
                hyper::header::HeaderValue::from_static(value),
            )
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn no_wait_is_longer_than_its_cap_and_none_overflows() {
        let rule = RetryRule::default();
        for (failed, most) in [
            (0, 100),
            (1, 100),
            (2, 200),
            (5, 1_600),
            (8, 10_000),
            (u16::MAX, 10_000),
        ] {
            assert_eq!(
                rule.wait(failed, 1.0),
                Duration::from_millis(most),
                "{failed}"
            );
            assert_eq!(rule.wait(failed, 0.0), Duration::ZERO);
            assert_eq!(rule.wait(failed, 0.5), Duration::from_millis(most / 2));
        }
        assert!(rule.wait(3, f64::INFINITY) <= rule.cap);
    }

    #[test]
    fn a_server_that_asks_for_a_pause_is_believed_within_a_bound() {
        const NOW: (&str, &str) = ("date", "Sat, 21 Nov 2026 10:00:00 GMT");
        #[rustfmt::skip]
        let rows: [(&'static str, Option<u64>); 9] = [
            ("0", Some(0)), ("7", Some(7)), (" 30 ", Some(30)), ("86400", Some(60)),
            ("Sat, 21 Nov 2026 10:00:05 GMT", Some(5)), ("Sat, 21 Nov 2026 09:00:00 GMT", Some(0)),
            ("Sun, 22 Nov 2026 10:00:00 GMT", Some(60)), ("soon", None), ("-3", None),
        ];
        for (text, want) in rows {
            let found = retry_after(&headers(&[("retry-after", text), NOW]));
            assert_eq!(found, want.map(Duration::from_secs), "{text}");
        }
        let undated = headers(&[("retry-after", "Sat, 21 Nov 2026 10:00:05 GMT")]);
        assert_eq!(
            retry_after(&undated),
            None,
            "a date without a clock means nothing"
        );
    }

    #[test]
    fn an_order_is_not_placed_twice_unless_its_server_can_tell() {
        let none = HeaderMap::new();
        for (method, want) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::PUT, true),
            (Method::DELETE, true),
            (Method::POST, false),
            (Method::PATCH, false),
        ] {
            assert_eq!(is_idempotent(&method, &none), want, "{method}");
        }
        let key = headers(&[("idempotency-key", "a1")]);
        assert!(is_idempotent(&Method::POST, &key));
    }

    #[test]
    fn the_peers_idle_time_is_found_in_its_header() {
        for (text, want) in [
            ("timeout=5", Some(5)),
            ("timeout=5, max=100", Some(5)),
            ("max=100, Timeout = \"15\"", Some(15)),
            ("max=100", None),
            ("timeout=soon", None),
            ("", None),
        ] {
            let found = keep_alive(&headers(&[("keep-alive", text)]));
            assert_eq!(found, want.map(Duration::from_secs), "{text}");
        }
    }
}
