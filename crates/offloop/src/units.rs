//! Sizes and durations as people write them in a file. Must never: guess a unit.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};

/// `64KiB`, `1MB`, `4096`: bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// `250ms`, `30s`, `5min`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> de::Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size in bytes or with its unit, such as \"64KiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse::<bytesize::ByteSize>()
                    .map(|size| Size(size.as_u64()))
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(Size)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
        }
        from.deserialize_any(Text)
    }
}

impl<'de> de::Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as \"500ms\", \"30s\" or \"7d\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                humantime::parse_duration(text)
                    .map(Span)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_unit_is_guessed_and_none_is_lost() {
        let size = |text: &str| serde_json::from_str::<Size>(text).ok().map(|size| size.0);
        for (text, want) in [
            ("\"64KiB\"", Some(65_536)),
            ("\"1MB\"", Some(1_000_000)),
            ("4096", Some(4_096)),
            ("\"4096\"", Some(4_096)),
            ("-1", None),
            ("1.5", None),
            ("\"much\"", None),
            ("null", None),
            ("\"\"", None),
        ] {
            assert_eq!(size(text), want, "{text}");
        }
        let span = |text: &str| serde_json::from_str::<Span>(text).ok();
        for (text, want) in [
            ("\"250ms\"", Some(250)),
            ("\"30s\"", Some(30_000)),
            ("\"5min\"", Some(300_000)),
            ("\"7d\"", Some(604_800_000)),
            ("\"30\"", None),
            ("30", None),
            ("\"-1s\"", None),
        ] {
            let found = span(text).map(|span| span.0.as_millis());
            assert_eq!(found, want, "{text}");
        }
    }
}
