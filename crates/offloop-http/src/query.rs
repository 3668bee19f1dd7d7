//! Parameters of a URL: known by name, given once, or refused.

use std::borrow::Cow;
use std::str::FromStr;

use axum::http::Uri;
use offloop_store::Cursor;

use crate::problem::{Kind, Refusal};

/// Of an engine's cursor.
const CURSOR_BYTES_MAX: usize = 256;

/// The parameters of one request.
#[derive(Debug)]
pub(crate) struct Query<'u> {
    pairs: Vec<(Cow<'u, str>, Cow<'u, str>)>,
}

impl<'u> Query<'u> {
    /// Refuses what is not among `known`, and what is given twice.
    pub(crate) fn read(uri: &'u Uri, known: &[&str]) -> Result<Self, Refusal> {
        Self::read_with(uri, known, &[])
    }

    /// The same, and what is among `many` may be given several times.
    pub(crate) fn read_with(uri: &'u Uri, known: &[&str], many: &[&str]) -> Result<Self, Refusal> {
        let text = uri.query().unwrap_or_default();
        let mut pairs: Vec<(Cow<'u, str>, Cow<'u, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !known.contains(&&*name) {
                let name = &name[..name.floor_char_boundary(64)];
                let remedy = match known {
                    [] => "this route takes none".to_owned(),
                    known => format!("known are {}", known.join(", ")),
                };
                let detail = format!("query parameter {name:?} is unknown; {remedy}");
                return Err(Kind::InvalidParameter.say(detail).into());
            }
            if pairs.iter().any(|pair| pair.0 == name) && !many.contains(&&*name) {
                let detail = format!("query parameter `{name}` is given twice; give it once");
                return Err(Kind::InvalidParameter.say(detail).into());
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    pub(crate) fn none(uri: &Uri) -> Result<(), Refusal> {
        Query::read(uri, &[]).map(drop)
    }

    /// `None` if it is left out or empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|pair| pair.0 == name);
        found.map(|pair| &*pair.1).filter(|text| !text.is_empty())
    }

    /// All that were given, each read by the type's own parser; empty ones are left out.
    pub(crate) fn each<T: FromStr<Err: ToString>>(&self, name: &str) -> Result<Vec<T>, Refusal> {
        let given = self.pairs.iter().filter(|pair| pair.0 == name);
        let texts = given.map(|pair| &*pair.1).filter(|text| !text.is_empty());
        let read = texts.map(|text| {
            text.parse().map_err(|error: T::Err| {
                let what = error.to_string();
                let detail = format!("query parameter `{name}`: {what}");
                Kind::InvalidParameter.say(detail).into()
            })
        });
        read.collect()
    }

    /// Rows of a page: `limit`, 1 to `most`.
    pub(crate) fn limit(&self, default: u16, most: u16) -> Result<u16, Refusal> {
        let limit = self.with("limit", |text| match text.parse() {
            Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
            _ => Err(format!("is {text:?}; give 1 to {most}")),
        })?;
        Ok(limit.unwrap_or(default))
    }

    /// Where a page begins: `cursor`, the `next_cursor` of the page before, as `read` takes it.
    pub(crate) fn cursor<T>(
        &self,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        self.with("cursor", |text| {
            read(text).ok_or_else(|| "is none; give the next_cursor of the page before".into())
        })
    }

    /// A cursor that an engine made, which alone can read it: only what it never makes is refused.
    pub(crate) fn engine_cursor(&self) -> Result<Option<Cursor>, Refusal> {
        self.cursor(|text| {
            let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            (plain && text.len() <= CURSOR_BYTES_MAX).then(|| Cursor(text.into()))
        })
    }

    /// Read by the type's own parser; its error says what is allowed.
    pub(crate) fn parsed<T: FromStr<Err: ToString>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Refusal> {
        self.with(name, |text| {
            text.parse().map_err(|error: T::Err| error.to_string())
        })
    }

    pub(crate) fn with<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        read(text).map(Some).map_err(|what| {
            Kind::InvalidParameter
                .say(format!("query parameter `{name}`: {what}"))
                .into()
        })
    }
}
