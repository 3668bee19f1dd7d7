//! The body of a call, and its answer.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::{DEPTH_MAX, Key, Lit, depth, raw_or_text};
use crate::problem::FieldProblem;
use crate::read::{BodyError, Wrong, millis, small, text};

/// Every field of a call's body.
pub const CALL_FIELDS: [&str; 4] = ["payload", "timeout_ms", "priority", "trace"];

/// A call that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallBody {
    /// JSON text, as it was written; `null` where there is none.
    pub payload: Bytes,
    pub timeout: Option<Duration>,
    pub priority: Option<u8>,
    pub trace: Option<Box<str>>,
}

/// Reads a body; the payload of the answer is a slice of it. An empty body is a call without a
/// payload.
pub fn read_call(body: &Bytes) -> Result<CallBody, BodyError> {
    let mut draft = Draft::default();
    if !body.trim_ascii().is_empty() {
        let mut from = serde_json::Deserializer::from_slice(body);
        from.deserialize_map(Fields(&mut draft))
            .and_then(|()| from.end())
            .map_err(|error| BodyError::Syntax {
                detail: error.to_string(),
            })?;
    }
    let mut call = draft.call;
    if let Some(raw) = draft.payload {
        let deep = depth(raw.get().as_bytes());
        if deep > DEPTH_MAX {
            let detail = format!("nests {deep} deep; the limit is {DEPTH_MAX}");
            draft.problems.push(FieldProblem::new("/payload", detail));
        }
        call.payload = body.slice_ref(raw.get().as_bytes());
    }
    if draft.problems.is_empty() {
        Ok(call)
    } else {
        Err(BodyError::Fields(draft.problems))
    }
}

struct Draft<'a> {
    call: CallBody,
    payload: Option<&'a RawValue>,
    seen: u32,
    problems: Vec<FieldProblem>,
}

impl Default for Draft<'_> {
    fn default() -> Self {
        Self {
            call: CallBody {
                payload: Bytes::from_static(b"null"),
                timeout: None,
                priority: None,
                trace: None,
            },
            payload: None,
            seen: 0,
            problems: Vec::new(),
        }
    }
}

impl Draft<'_> {
    fn take(&mut self, field: &str, value: &Lit<'_>) -> Result<(), Wrong> {
        if *value == Lit::Null {
            return Ok(()); // the same as leaving it out
        }
        match field {
            "timeout_ms" => self.call.timeout = Some(millis(value)?),
            "priority" => {
                let most = offloop_job::limits::PRIORITY_MAX;
                let read = small(value, most.into());
                let read = read.map_err(|Wrong(why)| Wrong(format!("{why}; give 0 to {most}")))?;
                self.call.priority = Some(read as u8);
            }
            _ => {
                let most = offloop_job::limits::TRACE_BYTES_MAX;
                let trace = text(value)?;
                if trace.len() > most {
                    let len = trace.len();
                    return Err(Wrong(format!("has {len} bytes; the limit is {most}")));
                }
                self.call.trace = Some(trace.into());
            }
        }
        Ok(())
    }
}

struct Fields<'d, 'a>(&'d mut Draft<'a>);

impl<'de> Visitor<'de> for Fields<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with the call's payload")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let draft = self.0;
        while let Some(Key(key)) = map.next_key()? {
            let Some(index) = CALL_FIELDS.iter().position(|field| *field == key) else {
                let _: serde::de::IgnoredAny = map.next_value()?;
                let name = &key[..key.floor_char_boundary(64)];
                let detail = format!("is unknown; known are {}", CALL_FIELDS.join(", "));
                draft
                    .problems
                    .push(FieldProblem::new(format!("/{name}"), detail));
                continue;
            };
            let twice = draft.seen & (1 << index) != 0;
            draft.seen |= 1 << index;
            if twice {
                let _: serde::de::IgnoredAny = map.next_value()?;
                let pointer = format!("/{key}");
                draft
                    .problems
                    .push(FieldProblem::new(pointer, "is given twice; give it once"));
                continue;
            }
            if index == 0 {
                draft.payload = Some(map.next_value()?);
                continue;
            }
            let value: Lit<'de> = map.next_value()?;
            if let Err(Wrong(detail)) = draft.take(&key, &value) {
                draft
                    .problems
                    .push(FieldProblem::new(format!("/{key}"), detail));
            }
        }
        Ok(())
    }
}

/// How a call went, for its answer.
#[derive(Clone, Copy, Debug)]
pub struct CallFacts<'a> {
    pub task: &'a str,
    pub lane: &'a str,
    pub executor: &'a str,
    pub waited: Duration,
    pub wall: Duration,
    pub cpu: Option<Duration>,
    pub shared: bool,
}

/// The answer's text. The result is written as it came, without being read.
pub fn call_json(facts: CallFacts<'_>, result: Option<&[u8]>) -> Vec<u8> {
    let result = result.map(raw_or_text);
    let result = result.as_deref().map_or("null", RawValue::get);
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
    let ms = |span: Duration| (span.as_secs_f64() * 1e6).round() / 1e3;
    let mut text = String::with_capacity(result.len() + 192);
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "{{\"task\":{},\"lane\":{},\"executor\":{},\"wait_ms\":{},\"wall_ms\":{},\"cpu_ms\":",
        quoted(facts.task),
        quoted(facts.lane),
        quoted(facts.executor),
        ms(facts.waited),
        ms(facts.wall),
    );
    let _ = match facts.cpu {
        Some(cpu) => write!(text, "{}", ms(cpu)),
        None => write!(text, "null"),
    };
    let _ = write!(text, ",\"shared\":{},\"result\":{result}}}", facts.shared);
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<CallBody, BodyError> {
        read_call(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_body_is_read_without_its_payload_being_changed() {
        let call = read(r#"{"timeout_ms": 250, "payload": {"a": 1.50}, "priority": 2}"#).unwrap();
        assert_eq!(&call.payload[..], br#"{"a": 1.50}"#);
        assert_eq!(call.timeout, Some(Duration::from_millis(250)));
        assert_eq!(call.priority, Some(2));
        for empty in ["", "  ", "{}", r#"{"payload": null, "timeout_ms": null}"#] {
            assert_eq!(&read(empty).unwrap().payload[..], b"null", "{empty:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_named_all_at_once() {
        let rows = [
            (r#"{"a": 1, "a": 2, "payload": 1}"#, "/a"),
            (r#"{"payload": 1, "payload": 2}"#, "/payload"),
            (r#"{"timeout_ms": "1"}"#, "/timeout_ms"),
            (r#"{"timeout_ms": -1}"#, "/timeout_ms"),
            (r#"{"priority": 10}"#, "/priority"),
            (r#"{"trace": 5}"#, "/trace"),
        ];
        for (text, pointer) in rows {
            let Err(BodyError::Fields(found)) = read(text) else {
                panic!("{text} was taken");
            };
            assert_eq!(found[0].pointer, pointer, "{text}");
        }
        let Err(BodyError::Fields(found)) = read(r#"{"x": 1, "priority": 99}"#) else {
            panic!("was taken");
        };
        assert_eq!(found.len(), 2);
        for text in ["[]", "1", "{", "{} {}", "\"x\""] {
            assert!(
                matches!(read(text), Err(BodyError::Syntax { .. })),
                "{text}"
            );
        }
        let deep = format!("{{\"payload\": {}1{}}}", "[".repeat(65), "]".repeat(65));
        assert!(read_call(&Bytes::from(deep)).is_err());
    }

    #[test]
    fn the_answer_holds_the_result_as_it_came() {
        let facts = CallFacts {
            task: "a\"b",
            lane: "cpu:calls",
            executor: "thread 1",
            waited: Duration::from_micros(1_500),
            wall: Duration::from_millis(2),
            cpu: None,
            shared: false,
        };
        let text = call_json(facts, Some(br#"{"n": 1.0}"#));
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            (&value["task"], &value["wait_ms"]),
            (&"a\"b".into(), &1.5.into())
        );
        assert!(text.ends_with(br#""result":{"n": 1.0}}"#));
        assert!(call_json(facts, None).ends_with(b"\"result\":null}"));
    }
}
