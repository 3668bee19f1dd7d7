//! Reads calls and settings from JSON, and says everything that is wrong with them at once, by the name of
//! the field.
//!
//! Must never: quote a value in a message. A header may be a secret.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use offloop::egress::URL_BYTES_MAX;
use offloop::store::PayloadProblem;
use serde_json::{Map, Value};

use crate::call::Call;
use crate::retry::RetryRule;
use crate::rule::Rule;
use crate::runner::{Hedge, Settings};

/// Problems of one text that are told; the rest is more of the same.
const PROBLEMS_MAX: usize = 20;
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 512 << 10;
const ID_BYTES_MAX: usize = 256;
/// Calls at a time of one list.
pub const LIMIT_MAX: u64 = 10_000;
const RETRIES_MAX: u64 = 100;
const REDIRECTS_MAX: u64 = 20;
const STATUSES_MAX: usize = 64;
/// Longest deadline and longest pause: a day.
const MILLIS_MAX: u64 = 24 * 3_600_000;
/// Largest answer that may be asked for.
pub const RESPONSE_BYTES_MAX: u64 = 1 << 30;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Written by whoever sends, and by nobody else.
const OWN_HEADERS: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "expect",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
];

/// What was found wrong so far.
#[derive(Debug, Default)]
pub struct Problems(Vec<PayloadProblem>);

impl Problems {
    pub fn say(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(PayloadProblem {
                pointer: pointer.into(),
                message: message.into(),
            });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_vec(self) -> Vec<PayloadProblem> {
        self.0
    }
}

/// One object that is being read; what is left in it at the end is unknown.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    pub(crate) at: String,
    known: &'static [&'static str],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(
        value: &'a Value,
        at: &str,
        known: &'static [&'static str],
        problems: &mut Problems,
    ) -> Option<Self> {
        let Value::Object(object) = value else {
            problems.say(at, "is no object");
            return None;
        };
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            let name: String = name.chars().take(64).collect();
            let escaped = name.replace('~', "~0").replace('/', "~1");
            let known = known.join(", ");
            problems.say(
                format!("{at}/{escaped}"),
                format!("is unknown here; known are {known}"),
            );
        }
        Some(Self {
            object,
            at: at.to_owned(),
            known,
        })
    }

    /// The field, unless it is missing or null.
    pub(crate) fn get(&self, name: &'static str) -> Option<&'a Value> {
        debug_assert!(self.known.contains(&name), "{name}");
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }

    pub(crate) fn text(&self, name: &'static str, problems: &mut Problems) -> Option<&'a str> {
        let value = self.get(name)?;
        if value.is_string() {
            return value.as_str();
        }
        problems.say(self.pointer(name), "is no text");
        None
    }

    pub(crate) fn number(
        &self,
        name: &'static str,
        least: u64,
        most: u64,
        problems: &mut Problems,
    ) -> Option<u64> {
        let value = self.get(name)?;
        let number = value.as_u64().filter(|n| (least..=most).contains(n));
        if number.is_none() {
            let message = format!("give a whole number from {least} to {most}");
            problems.say(self.pointer(name), message);
        }
        number
    }

    pub(crate) fn span(
        &self,
        name: &'static str,
        least: u64,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let millis = self.number(name, least, MILLIS_MAX, problems);
        millis.map(Duration::from_millis)
    }
}

const CALL_FIELDS: &[&str] = &[
    "id",
    "url",
    "method",
    "headers",
    "body",
    "json",
    "body_base64",
    "deadline_ms",
];

/// One call: a URL, or an object. `check`: what else is wrong with a URL.
pub fn read_call(
    value: &Value,
    at: &str,
    check: &dyn Fn(&str) -> Result<(), String>,
    problems: &mut Problems,
) -> Option<Call> {
    if let Value::String(url) = value {
        return url_problem(url, at, check, problems).then(|| Call::get(url.as_str()));
    }
    let fields = Fields::of(value, at, CALL_FIELDS, problems)?;
    let Some(url) = fields.text("url", problems) else {
        if fields.get("url").is_none() {
            problems.say(fields.pointer("url"), "is missing");
        }
        return None;
    };
    url_problem(url, &fields.pointer("url"), check, problems);
    let method = fields.text("method", problems).unwrap_or("GET");
    if !METHODS.contains(&method) {
        let known = METHODS.join(", ");
        problems.say(fields.pointer("method"), format!("give one of {known}"));
    }
    let id = fields.text("id", problems);
    if id.is_some_and(|id| id.len() > ID_BYTES_MAX) {
        let message = format!("is over {ID_BYTES_MAX} bytes, the limit");
        problems.say(fields.pointer("id"), message);
    }
    let mut headers = headers(&fields, problems);
    let body = body(&fields, &mut headers, problems);
    if !body.is_empty() && matches!(method, "GET" | "HEAD") {
        let message = format!("a {method} has no body; give method POST, PUT or PATCH");
        problems.say(fields.pointer("method"), message);
    }
    Some(Call {
        id: id.map(Into::into),
        url: url.into(),
        method: Method::from_bytes(method.as_bytes()).unwrap_or_default(),
        headers,
        body,
        deadline: fields.span("deadline_ms", 1, problems),
    })
}

fn url_problem(
    url: &str,
    at: &str,
    check: &dyn Fn(&str) -> Result<(), String>,
    problems: &mut Problems,
) -> bool {
    let found = if url.len() > URL_BYTES_MAX {
        Err(format!("is over {URL_BYTES_MAX} bytes, the limit"))
    } else {
        check(url)
    };
    match found {
        Ok(()) => true,
        Err(message) => {
            problems.say(at, message);
            false
        }
    }
}

fn headers(fields: &Fields<'_>, problems: &mut Problems) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let at = fields.pointer("headers");
    let object = match fields.get("headers") {
        None => return headers,
        Some(Value::Object(object)) => object,
        Some(_) => {
            problems.say(at, "is no object of texts");
            return headers;
        }
    };
    let bytes = object.iter().map(|(name, value)| {
        let len = value.as_str().map_or(0, str::len);
        name.len() + len
    });
    if object.len() > HEADERS_MAX || bytes.sum::<usize>() > HEADER_BYTES_MAX {
        let message =
            format!("give at most {HEADERS_MAX} headers of {HEADER_BYTES_MAX} bytes together");
        problems.say(at, message);
        return headers;
    }
    for (name, value) in object {
        let shown: String = name.chars().take(64).collect();
        let at = format!("{at}/{}", shown.replace('~', "~0").replace('/', "~1"));
        let lower = name.to_ascii_lowercase();
        if OWN_HEADERS.contains(&lower.as_str()) {
            problems.say(at, "is written by the connection itself; leave it out");
            continue;
        }
        let value = value.as_str().map(HeaderValue::from_str);
        match (HeaderName::from_bytes(lower.as_bytes()), value) {
            (Ok(name), Some(Ok(value))) => {
                headers.insert(name, value);
            }
            (Err(_), _) => problems.say(at, "is no name of a header"),
            (_, None) => problems.say(at, "is no text"),
            (_, Some(Err(_))) => problems.say(at, "holds characters that no header may have"),
        }
    }
    headers
}

fn body(fields: &Fields<'_>, headers: &mut HeaderMap, problems: &mut Problems) -> Bytes {
    let given = ["body", "json", "body_base64"];
    let given: Vec<_> = given
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    let name = match given[..] {
        [] => return Bytes::new(),
        [name] => name,
        _ => {
            problems.say(fields.pointer(given[1]), "is given beside another body");
            return Bytes::new();
        }
    };
    let bytes = match name {
        "json" => {
            let json = HeaderValue::from_static("application/json");
            headers.entry(hyper::header::CONTENT_TYPE).or_insert(json);
            fields
                .get("json")
                .map(|value| value.to_string().into_bytes())
        }
        "body" => fields
            .text("body", problems)
            .map(|text| text.as_bytes().to_vec()),
        _ => fields.text("body_base64", problems).and_then(|text| {
            let decoded = base64_simd::STANDARD.decode_to_vec(text);
            if decoded.is_err() {
                problems.say(
                    fields.pointer(name),
                    "is no base64 (RFC 4648, with padding)",
                );
            }
            decoded.ok()
        }),
    };
    let bytes = bytes.unwrap_or_default();
    if bytes.len() > BODY_BYTES_MAX {
        let message = format!("is over {BODY_BYTES_MAX} bytes, the limit");
        problems.say(fields.pointer(name), message);
    }
    bytes.into()
}

pub(crate) fn settings(fields: &Fields<'_>, usual: Settings, problems: &mut Problems) -> Settings {
    let mut settings = usual;
    if let Some(limit) = fields.number("limit", 1, LIMIT_MAX, problems) {
        settings.limit = limit as usize;
        settings.per_host = settings.limit;
    }
    if let Some(most) = fields.number("per_host", 1, LIMIT_MAX, problems) {
        settings.per_host = most as usize;
    }
    if let Some(name) = fields.text("rule", problems) {
        if let Some(rule) = Rule::from_name(name) {
            settings.rule = rule;
        } else {
            let known = Rule::ALL.map(Rule::as_str).join(", ");
            problems.say(fields.pointer("rule"), format!("give one of {known}"));
        }
    }
    if let Some(retry) = fields.get("retry") {
        settings.retry = retry_rule(retry, &fields.pointer("retry"), settings.retry, problems);
    }
    match fields.get("hedge_ms") {
        Some(Value::String(text)) if text == "p95" => settings.hedge = Hedge::P95,
        Some(Value::Number(_)) => {
            if let Some(after) = fields.span("hedge_ms", 1, problems) {
                settings.hedge = Hedge::After(after);
            }
        }
        Some(_) => problems.say(fields.pointer("hedge_ms"), "give milliseconds or \"p95\""),
        None => {}
    }
    settings.deadline = fields
        .span("deadline_ms", 1, problems)
        .or(settings.deadline);
    let own = fields.span("item_deadline_ms", 1, problems);
    settings.item_deadline = own.or(settings.item_deadline);
    if let Some(timeout) = fields.span("timeout_ms", 1, problems) {
        settings.timeout = timeout;
    }
    if let Some(patience) = fields.span("patience_ms", 0, problems) {
        settings.patience = patience;
    }
    let most = fields.number("max_response_bytes", 1, RESPONSE_BYTES_MAX, problems);
    settings.response_bytes_max = most.unwrap_or(settings.response_bytes_max);
    if let Some(redirects) = fields.number("redirects", 0, REDIRECTS_MAX, problems) {
        settings.redirects = redirects as u8;
    }
    settings
}

fn retry_rule(value: &Value, at: &str, usual: RetryRule, problems: &mut Problems) -> RetryRule {
    const FIELDS: &[&str] = &["max", "base_ms", "cap_ms", "statuses"];
    let mut rule = usual;
    let Some(fields) = Fields::of(value, at, FIELDS, problems) else {
        return rule;
    };
    if let Some(max) = fields.number("max", 0, RETRIES_MAX, problems) {
        rule.max = max as u16;
    }
    rule.base = fields.span("base_ms", 0, problems).unwrap_or(rule.base);
    rule.cap = fields.span("cap_ms", 0, problems).unwrap_or(rule.cap);
    match fields.get("statuses") {
        None => {}
        Some(Value::Array(all)) if all.len() <= STATUSES_MAX => {
            let status = |value: &Value| {
                let status = value.as_u64().filter(|status| (400..=599).contains(status));
                status.map(|status| status as u16)
            };
            let read: Option<Vec<_>> = all.iter().map(status).collect();
            match read {
                Some(statuses) => rule.statuses = statuses,
                None => problems.say(fields.pointer("statuses"), "give numbers from 400 to 599"),
            }
        }
        Some(_) => {
            let message = format!("give a list of at most {STATUSES_MAX} numbers from 400 to 599");
            problems.say(fields.pointer("statuses"), message);
        }
    }
    rule
}

/// One line of a file: a URL, or a call as JSON. `None`: it is blank, or begins with `#`.
pub fn read_line(
    line: &str,
    check: &dyn Fn(&str) -> Result<(), String>,
) -> Option<Result<Call, Vec<PayloadProblem>>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut problems = Problems::default();
    let value = if line.starts_with(['{', '"']) {
        match serde_json::from_str(line) {
            Ok(value) => value,
            Err(error) => {
                // Without its text, which the parser does not quote either.
                problems.say("", format!("is no JSON: {error}"));
                return Some(Err(problems.into_vec()));
            }
        }
    } else {
        Value::String(line.to_owned())
    };
    let call = read_call(&value, "", check, &mut problems);
    Some(match call {
        Some(call) if problems.is_empty() => Ok(call),
        _ => Err(problems.into_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fine(url: &str) -> Result<(), String> {
        let wrong = || "is none".to_owned();
        url.starts_with("https://").then_some(()).ok_or_else(wrong)
    }

    fn pointers(value: &Value) -> Vec<String> {
        let mut problems = Problems::default();
        read_call(value, "/requests/3", &fine, &mut problems);
        let all = problems.into_vec().into_iter();
        all.map(|problem| problem.pointer.replace("/requests/3", ""))
            .collect()
    }

    #[test]
    fn a_call_that_cannot_be_is_refused_by_the_name_of_each_field() {
        let long = "x".repeat(3_000);
        #[rustfmt::skip]
        let rows = [
            (json!({}), vec!["/url"]), (json!(7), vec![""]), (json!({"url": 7}), vec!["/url"]),
            (json!({"url": "https://a/", "methode": "GET"}), vec!["/methode"]),
            (json!({"url": "https://a/", "method": "get"}), vec!["/method"]),
            (json!({"url": "https://a/", "method": "CONNECT"}), vec!["/method"]),
            (json!({"url": "https://a/", "body": "x"}), vec!["/method"]),
            (json!({"url": "https://a/", "method": "POST", "body": "x", "json": 1}), vec!["/json"]),
            (json!({"url": "https://a/", "method": "POST", "body_base64": "*"}), vec!["/body_base64"]),
            (json!({"url": "https://a/", "headers": []}), vec!["/headers"]),
            (json!({"url": "https://a/", "headers": {"Host": "b"}}), vec!["/headers/Host"]),
            (json!({"url": "https://a/", "headers": {"a b": "c"}}), vec!["/headers/a b"]),
            (json!({"url": "https://a/", "headers": {"x": "a\r\nb: c"}}), vec!["/headers/x"]),
            (json!({"url": "https://a/", "headers": {"x": 1, "a/b~": "c"}}), vec!["/headers/a~1b~0", "/headers/x"]),
            (json!({"url": "https://a/", "deadline_ms": 0}), vec!["/deadline_ms"]),
            (json!({"url": "https://a/", "deadline_ms": 1.5}), vec!["/deadline_ms"]),
            (json!({"url": "https://a/", "id": long}), vec!["/id"]),
            (json!({"url": long}), vec!["/url"]), (json!(long), vec![""]), (json!({"url": "ftp://a/"}), vec!["/url"]),
        ];
        for (value, mut want) in rows {
            let mut found = pointers(&value);
            found.sort();
            want.sort_unstable();
            let what: String = value.to_string().chars().take(80).collect();
            assert_eq!(found, want, "{what}");
        }
    }

    #[test]
    fn no_message_quotes_a_secret() {
        let value = json!({"url": "https://a/?key=hunter2", "headers": {"Authorization": "hunter2\n"},
            "method": "hunter2", "body": "hunter2", "json": "hunter2"});
        let mut problems = Problems::default();
        read_call(&value, "", &|_| Err("is odd".into()), &mut problems);
        let told = format!("{:?}", problems.into_vec());
        assert!(!told.contains("hunter2") && told.len() > 100, "{told}");
    }

    #[test]
    fn settings_out_of_their_range_are_all_told_at_once() {
        const FIELDS: &[&str] = crate::plan::PLAN_FIELDS;
        let value = json!({"limit": 0, "per_host": 10_001, "rule": "first", "hedge_ms": "p99",
            "deadline_ms": -1, "timeout_ms": 90_000_000, "max_response_bytes": 0, "redirects": 21,
            "retry": {"max": 101, "budget": 1, "statuses": [200]}});
        let mut problems = Problems::default();
        let fields = Fields::of(&value, "", FIELDS, &mut problems).unwrap();
        settings(&fields, Settings::default(), &mut problems);
        assert_eq!(problems.into_vec().len(), 11);
        let value = json!({"limit": 7, "hedge_ms": "p95", "rule": "any", "retry": {"max": 0, "statuses": [500]}});
        let mut problems = Problems::default();
        let fields = Fields::of(&value, "", FIELDS, &mut problems).unwrap();
        let read = settings(&fields, Settings::default(), &mut problems);
        assert!(problems.is_empty());
        assert_eq!((read.limit, read.per_host, read.hedge), (7, 7, Hedge::P95));
        assert_eq!((read.rule, read.retry.max), (Rule::Any, 0));
    }

    #[test]
    fn a_line_is_a_url_or_a_call_and_a_comment_is_none() {
        for (line, want) in [
            ("", None),
            ("  # more", None),
            ("https://a/", Some(true)),
            ("\"https://a/\"", Some(true)),
            (
                "{\"url\": \"https://a/\", \"json\": {\"a\": 1}, \"method\": \"POST\"}",
                Some(true),
            ),
            ("{\"url\": \"https://a/\"", Some(false)),
        ] {
            let read = read_line(line, &fine).map(|read| read.is_ok());
            assert_eq!(read, want, "{line}");
        }
    }
}
