//! One JSON value, looked through and not kept. Must never: pass what a strict reader behind the
//! sink would stop at, because there it would cost the batch: more than 128 levels, half a
//! surrogate pair, U+0000 in a string (which PostgreSQL's `jsonb` refuses).

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// True for a value that every reader takes.
pub(super) fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<Skim>(text).is_ok()
}

/// Any value: decoded, so that its strings are checked, and dropped.
struct Skim;

impl<'de> Deserialize<'de> for Skim {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Skim)
    }
}

impl<'de> Visitor<'de> for Skim {
    type Value = Skim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Skim, E> {
        Ok(Skim)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Skim, E> {
        Ok(Skim)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Skim, E> {
        Ok(Skim)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Skim, E> {
        Ok(Skim)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Skim, E> {
        Ok(Skim)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Skim, E> {
        if text.contains('\0') {
            return Err(E::custom("U+0000"));
        }
        Ok(Skim)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Skim, A::Error> {
        while items.next_element::<Skim>()?.is_some() {}
        Ok(Skim)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Skim, A::Error> {
        while items.next_entry::<Skim, Skim>()?.is_some() {}
        Ok(Skim)
    }
}
