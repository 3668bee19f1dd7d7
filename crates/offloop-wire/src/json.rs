//! What is true of JSON text whatever it means: how deep it is, and how to show text that is none.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Lists and objects inside each other, in a payload. Deeper text is refused: readers in other
/// languages recurse.
pub const DEPTH_MAX: usize = 64;

/// The deepest nesting of a text that is known to be JSON.
pub(crate) fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = after_string(text, at),
            _ => {}
        }
    }
    deepest
}

/// The place behind the closing quote; `at` is behind the opening one.
fn after_string(text: &[u8], mut at: usize) -> usize {
    while let Some(found) = text
        .get(at..)
        .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
    {
        if text[at + found] == b'"' {
            return at + found + 1;
        }
        at += found + 2;
    }
    text.len()
}

/// Stored bytes as a JSON value: verbatim if they are one, else as a JSON string, so that a result
/// that is broken never breaks the answer around it.
pub fn raw_or_text(bytes: &[u8]) -> Box<RawValue> {
    let verbatim = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    match verbatim {
        Some(raw) => raw.to_owned(),
        None => serde_json::value::to_raw_value(&String::from_utf8_lossy(bytes))
            .unwrap_or_else(|_| RawValue::NULL.to_owned()),
    }
}

/// A value of a field that offloop reads itself, borrowed from the request where it can be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Lit<'a> {
    Null,
    Bool(bool),
    Uint(u64),
    /// Below zero.
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Lit<'a>>),
    Object(Vec<(Cow<'a, str>, Lit<'a>)>),
}

impl Lit<'_> {
    /// For a message: what was given.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::Uint(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(text) if text.len() <= 64 => format!("{text:?}"),
            Self::Text(text) => format!("a text of {} bytes", text.len()),
            Self::List(_) => "a list".into(),
            Self::Object(_) => "an object".into(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Lit<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(LitVisitor)
    }
}

struct LitVisitor;

impl<'de> Visitor<'de> for LitVisitor {
    type Value = Lit<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Lit<'de>, E> {
        Ok(Lit::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Lit<'de>, E> {
        Ok(Lit::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Lit<'de>, E> {
        Ok(Lit::Uint(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Lit<'de>, E> {
        Ok(u64::try_from(value).map_or(Lit::Int(value), Lit::Uint))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Lit<'de>, E> {
        Ok(Lit::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Lit<'de>, E> {
        Ok(Lit::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Lit<'de>, E> {
        Ok(Lit::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lit<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Lit::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lit<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            fields.push((key, map.next_value()?));
        }
        Ok(Lit::Object(fields))
    }
}

/// A key, borrowed unless it holds an escape.
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(KeyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let rows = [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}]}"#, 3),
            (r#"["[[[[", "\"[", "\\", []]"#, 2),
        ];
        for (text, want) in rows {
            assert_eq!(depth(text.as_bytes()), want, "{text}");
        }
        assert_eq!(depth("[".repeat(9).as_bytes()), 9);
        assert_eq!(depth(br#""open"#), 0);
        assert_eq!(depth(br#""\"#), 0);
    }

    #[test]
    fn bytes_that_are_no_json_are_shown_as_text() {
        let rows: [(&[u8], &str); 5] = [
            (br#"{"a": 1}"#, r#"{"a": 1}"#),
            (b"plain", r#""plain""#),
            (b"", r#""""#),
            (b"\xff\xfe", "\"\u{fffd}\u{fffd}\""),
            (b"1 2", r#""1 2""#),
        ];
        for (bytes, want) in rows {
            assert_eq!(raw_or_text(bytes).get(), want);
        }
    }
}
