//! Reading requests, as a specification.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use bytes::Bytes;
use offloop_job::{
    Backoff, BackoffKind, FailureClass, JobOptions, NewJob, OnConflict, Tag, Timestamp, UniqueScope,
};
use offloop_wire::{BodyError, JOB_FIELDS, JobBody, JobReader};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn read(text: &str) -> Result<NewJob, BodyError> {
    let text = Bytes::copy_from_slice(text.as_bytes());
    let len = text.len();
    JobReader::new().read(&text, 0..len, NOW)
}

/// The fields that a request is refused for.
fn refused(text: &str) -> Vec<(String, String)> {
    match read(text) {
        Err(BodyError::Fields(found)) => found
            .into_iter()
            .map(|problem| (problem.pointer, problem.detail))
            .collect(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_bare_task_gets_every_default() {
    let job = read(r#"{"task":"report"}"#).unwrap();
    assert_eq!(job.task.as_str(), "report");
    assert_eq!(&job.payload[..], b"null");
    assert_eq!(job.options, JobOptions::default());
    assert_eq!(job.idempotency, None);
}

#[test]
fn every_field_reaches_the_job() {
    let job = read(
        r#" {"task":"a.b:c-d_e", "payload": {"x": [1, 2.50, "\u00e9"]} , "queue":"q", "priority":0,
        "delay_ms":1500, "max_attempts":7, "backoff":{"kind":"fixed","base_ms":5,"cap_ms":9,"jitter":0.25},
        "retry_by_class":{"timeout":1,"crashed":2}, "timeout_ms":10, "cpu_limit_ms":20,
        "memory_limit_bytes":1048576, "stall_timeout_ms":30, "cores":2,
        "deadline":"2027-01-15T08:00:01Z", "expires_at":"2027-01-15T09:00:02+01:00",
        "unique":{"key":"k","scope":"until_started","on_conflict":"reject"}, "group_key":"g",
        "tags":["a","b"], "trace":"00-x",
        "webhook":{"url":"https://example.com/x","on":["failed","expired"],"secret_id":"own"}, "idempotency_key":"once"}"#,
    )
    .unwrap();
    let options = &job.options;
    assert_eq!(&job.payload[..], r#"{"x": [1, 2.50, "\u00e9"]}"#.as_bytes());
    assert_eq!((options.queue.as_str(), options.priority), ("q", 0));
    assert_eq!(options.run_at, Some(NOW.plus(Duration::from_millis(1500))));
    assert_eq!(options.retry.max_attempts, 7);
    let backoff = Backoff {
        kind: BackoffKind::Fixed,
        base: Duration::from_millis(5),
        cap: Duration::from_millis(9),
        jitter_percent: 25,
    };
    assert_eq!(options.retry.backoff, backoff);
    assert_eq!(
        options.retry.by_class,
        [(FailureClass::Timeout, 1), (FailureClass::Crashed, 2)]
    );
    assert_eq!(options.timeout, Some(Duration::from_millis(10)));
    assert_eq!(options.cpu_limit, Some(Duration::from_millis(20)));
    assert_eq!(options.memory_limit_bytes, Some(1 << 20));
    assert_eq!(options.stall_timeout, Some(Duration::from_millis(30)));
    assert_eq!(options.cores, 2);
    assert_eq!(
        options.deadline,
        Some(Timestamp::from_millis(1_800_000_001_000))
    );
    assert_eq!(
        options.expires_at,
        Some(Timestamp::from_millis(1_800_000_002_000))
    );
    let unique = options.unique.as_ref().unwrap();
    assert_eq!(unique.scope, UniqueScope::UntilStarted);
    assert_eq!(unique.on_conflict, OnConflict::Reject);
    assert_eq!(options.group_key, Some(Tag::parse("g").unwrap()));
    assert_eq!(
        options.tags,
        [Tag::parse("a").unwrap(), Tag::parse("b").unwrap()]
    );
    assert_eq!(options.trace.as_deref(), Some("00-x"));
    let webhook = options.webhook.as_deref().unwrap();
    assert_eq!(
        (&*webhook.url, webhook.secret.as_deref()),
        ("https://example.com/x", Some("own"))
    );
    let on: Vec<_> = webhook
        .on
        .iter()
        .map(offloop_job::JobState::as_str)
        .collect();
    assert_eq!(on, ["failed", "expired"]);
    assert_eq!(job.idempotency.unwrap().as_str(), "once");
}

#[test]
fn a_field_that_cannot_be_is_named_with_its_limit_and_a_remedy() {
    let rows = [
        ("{}", "/task", "is missing"),
        (r#"{"task":null}"#, "/task", "give a text"),
        (r#"{"task":"a b"}"#, "/task", "not one of"),
        (r#"{"task":"t","queue":7}"#, "/queue", "give a text"),
        (
            r#"{"task":"t","priority":10}"#,
            "/priority",
            "give 0 (first) to 9",
        ),
        (r#"{"task":"t","priority":-1}"#, "/priority", "0 or more"),
        (
            r#"{"task":"t","priority":1.5}"#,
            "/priority",
            "whole number",
        ),
        (r#"{"task":"t","priority":"1"}"#, "/priority", "is \"1\""),
        (
            r#"{"task":"t","max_attempts":0}"#,
            "/max_attempts",
            "give 1 to 1000",
        ),
        (
            r#"{"task":"t","max_attempts":70000}"#,
            "/max_attempts",
            "too large",
        ),
        (
            r#"{"task":"t","delay_ms":1,"run_at":"2030-01-01T00:00:00Z"}"#,
            "/run_at",
            "excludes",
        ),
        (r#"{"task":"t","run_at":"tomorrow"}"#, "/run_at", "RFC 3339"),
        (r#"{"task":"t","run_at":1}"#, "/run_at", "give a text"),
        (r#"{"task":"t","backoff":1}"#, "/backoff", "give an object"),
        (
            r#"{"task":"t","backoff":{"kind":"slow"}}"#,
            "/backoff/kind",
            "exponential",
        ),
        (
            r#"{"task":"t","backoff":{"base":1}}"#,
            "/backoff/base",
            "base_ms",
        ),
        (
            r#"{"task":"t","backoff":{"jitter":1.5}}"#,
            "/backoff/jitter",
            "0.0",
        ),
        (
            r#"{"task":"t","backoff":{"kind":"custom"}}"#,
            "/backoff",
            "delays_ms",
        ),
        (
            r#"{"task":"t","backoff":{"kind":"fixed","delays_ms":[1]}}"#,
            "/backoff/delays_ms",
            "custom",
        ),
        (
            r#"{"task":"t","backoff":{"base_ms":1,"base_ms":2}}"#,
            "/backoff",
            "twice",
        ),
        (
            r#"{"task":"t","retry_by_class":{"oops":1}}"#,
            "/retry_by_class/oops",
            "known are error",
        ),
        (
            r#"{"task":"t","retry_by_class":{"timeout":0}}"#,
            "/retry_by_class/timeout",
            "is 0",
        ),
        (r#"{"task":"t","timeout_ms":0}"#, "/timeout_ms", "30 days"),
        (
            r#"{"task":"t","memory_limit_bytes":1}"#,
            "/memory_limit_bytes",
            "1 MiB",
        ),
        (r#"{"task":"t","cores":0}"#, "/cores", "give 1 to"),
        (r#"{"task":"t","unique":{}}"#, "/unique/key", "is missing"),
        (
            r#"{"task":"t","unique":{"key":""}}"#,
            "/unique/key",
            "is empty",
        ),
        (
            r#"{"task":"t","unique":{"key":"k","scope":"x"}}"#,
            "/unique/scope",
            "until_started",
        ),
        (r#"{"task":"t","tags":"a"}"#, "/tags", "a list of texts"),
        (r#"{"task":"t","tags":["a",1]}"#, "/tags/1", "give a text"),
        (r#"{"task":"t","tags":["a\n"]}"#, "/tags/0", "printable"),
        (
            r#"{"task":"t","expires_at":"2026-01-01T00:00:00Z","run_at":"2027-01-01T00:00:00Z"}"#,
            "/expires_at",
            "not after",
        ),
        (
            r#"{"task":"t","nmae":1}"#,
            "/nmae",
            "is unknown; known are task, payload",
        ),
        (r#"{"task":"t","a/b~c":1}"#, "/a~1b~0c", "is unknown"),
        (r#"{"task":"t","task":"u"}"#, "/task", "twice"),
        (
            r#"{"task":"t","payload":1,"payload":2}"#,
            "/payload",
            "twice",
        ),
        (
            r#"{"task":"t","idempotency_key":""}"#,
            "/idempotency_key",
            "is empty",
        ),
    ];
    for (text, pointer, part) in rows {
        let found = refused(text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert_eq!(found[0].0, pointer, "{text}");
        assert!(found[0].1.contains(part), "{text}: {}", found[0].1);
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let found = refused(r#"{"queue":"a b","priority":"x","nope":[{}],"tags":7}"#);
    let pointers: Vec<_> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/queue", "/priority", "/nope", "/tags", "/task"]);
}

#[test]
fn null_is_the_same_as_leaving_a_field_out() {
    let nulls = JOB_FIELDS.iter().filter(|field| **field != "task");
    let nulls: Vec<_> = nulls.map(|field| format!("{field:?}:null")).collect();
    let job = read(&format!("{{\"task\":\"t\",{}}}", nulls.join(","))).unwrap();
    assert_eq!(job.options, JobOptions::default());
    assert_eq!(&job.payload[..], b"null");
}

#[test]
fn text_that_is_no_object_is_refused_with_its_place() {
    for text in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\"x\"",
        r#"{"task":"t"} x"#,
        r#"{"task":"t",}"#,
        r#"{"task":"t","payload":{]}"#,
        r#"{"task":"\ud800"}"#,
        r#"{"task":"t","priority":1e999}"#,
        "{'task':'t'}",
    ] {
        assert!(
            matches!(read(text), Err(BodyError::Syntax { .. })),
            "{text}"
        );
    }
    let text = Bytes::from_static(b"{\"task\":\"t\",\"payload\":\"\xff\"}");
    let len = text.len();
    assert!(matches!(
        JobReader::new().read(&text, 0..len, NOW),
        Err(BodyError::Syntax { .. })
    ));
}

#[test]
fn a_payload_nests_64_deep_and_no_deeper_and_never_overflows_the_stack() {
    let nested = |deep: usize| {
        format!(
            "{{\"task\":\"t\",\"payload\":{}{}}}",
            "[".repeat(deep),
            "]".repeat(deep)
        )
    };
    assert!(read(&nested(64)).is_ok());
    assert_eq!(refused(&nested(65))[0].0, "/payload");
    assert_eq!(refused(&nested(500_000))[0].0, "/payload");
    let elsewhere = format!("{{\"task\":\"t\",\"tags\":{}", "[".repeat(500_000));
    assert!(matches!(read(&elsewhere), Err(BodyError::Syntax { .. })));
}

#[test]
fn a_payload_is_not_copied_and_keeps_its_own_duplicate_keys() {
    let text = Bytes::from_static(br#"{"task":"t","payload":{"a":1,"a":2}}"#);
    let job = JobReader::new().read(&text, 0..text.len(), NOW).unwrap();
    assert_eq!(&job.payload[..], br#"{"a":1,"a":2}"#);
    assert_eq!(job.payload.as_ptr(), text[22..].as_ptr());
}

#[test]
fn names_of_one_batch_are_shared() {
    let text = Bytes::from_static(br#"{"task":"report","queue":"q"}"#);
    let mut reader = JobReader::new();
    let first = reader.read(&text, 0..text.len(), NOW).unwrap();
    let second = reader.read(&text, 0..text.len(), NOW).unwrap();
    assert_eq!(first.task.as_str().as_ptr(), second.task.as_str().as_ptr());
    assert_eq!(
        first.options.queue.as_str().as_ptr(),
        second.options.queue.as_str().as_ptr()
    );
}

fn options_json() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("true".into()),
        Just("[]".into()),
        Just("{}".into()),
        Just("\"2030-01-01T00:00:00Z\"".into()),
        Just("\"custom\"".into()),
        Just("{\"key\":\"k\"}".into()),
        Just("{\"kind\":\"custom\",\"delays_ms\":[1]}".into()),
        Just("[\"a\",\"\\u0001\"]".into()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<i32>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        ".{0,12}".prop_map(|text| format!("{text:?}")),
    ];
    let field = (0..JOB_FIELDS.len(), value)
        .prop_map(|(field, value)| format!("{:?}:{value}", JOB_FIELDS[field]));
    prop::collection::vec(field, 0..6).prop_map(|fields| format!("{{{}}}", fields.join(",")))
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = Bytes::from(bytes);
        let _ = JobReader::new().read(&text, 0..text.len(), NOW);
    }

    #[test]
    fn any_fields_are_read_or_refused_and_what_is_read_is_sound(text in options_json()) {
        match read(&text) {
            Ok(job) => prop_assert!(job.options.problems().is_empty(), "{:?}", job.options),
            Err(BodyError::Fields(found)) => prop_assert!(!found.is_empty()),
            Err(BodyError::Syntax { .. }) => {}
        }
    }

    #[test]
    fn a_cut_request_is_refused(at in 1_usize..100) {
        let whole = r#"{"task":"report","payload":{"a":[1,2,"x"]},"tags":["a"],"backoff":{"kind":"fixed"}}"#;
        let cut = &whole[..at.min(whole.len() - 1)];
        prop_assert!(read(cut).is_err());
    }

    #[test]
    fn what_a_client_writes_is_what_the_door_reads(text in options_json()) {
        let Ok(job) = read(&text) else { return Ok(()) };
        let mut body = JobBody::from(&job);
        body.payload = Some(serde_json::value::RawValue::from_string("{\"a\": 1}".into()).unwrap());
        let again = read(&serde_json::to_string(&body).unwrap()).unwrap();
        prop_assert_eq!(&again.options, &job.options);
        prop_assert_eq!(&again.payload[..], b"{\"a\": 1}");
        prop_assert_eq!(again.idempotency, job.idempotency);
    }
}

#[test]
fn a_webhook_that_cannot_be_is_refused_by_its_field() {
    let rows = [
        ("{}", "/webhook/url"),
        (r#"{"url":""}"#, "/webhook/url"),
        (r#"{"url":5}"#, "/webhook/url"),
        (r#"{"url":"https://a","on":[]}"#, "/webhook/on"),
        (r#"{"url":"https://a","on":["running"]}"#, "/webhook/on"),
        (r#"{"url":"https://a","on":"failed"}"#, "/webhook/on"),
        (r#"{"url":"https://a","secret":"x"}"#, "/webhook/secret"),
        (r#""https://a""#, "/webhook"),
    ];
    for (webhook, pointer) in rows {
        let text = format!(r#"{{"task":"t","webhook":{webhook}}}"#);
        assert_eq!(refused(&text)[0].0, pointer, "{text}");
    }
}
