//! JSON bodies: read with the place of what is wrong, written by hand for speed.
//!
//! A body is one object or `{"items": [..]}` with at most [`ITEMS_MAX`] of them. Its shape is judged
//! as a whole; what a single item asks for is judged by itself, later. Texts are borrowed from the
//! body where JSON allows it.
//!
//! Must never: repeat a value of the body in an error. serde does; its texts are rewritten here.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Kind, VaultError};
use crate::wipe::{Wiped, wipe};

/// Items of one batch.
pub const ITEMS_MAX: usize = 1_000;
/// One body.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// A field's name in an error is cut after this.
const NAME_CHARS_MAX: usize = 64;

/// A string of the body. What had to be copied is wiped.
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text")
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            wipe(&mut std::mem::take(text).into_bytes());
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }
        from.deserialize_str(Reader)
    }
}

/// `params` of `hash`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub memory_kib: Option<u32>,
    pub passes: Option<u32>,
    pub lanes: Option<u32>,
    pub cost: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hash<'a> {
    #[serde(borrow)]
    pub password: Text<'a>,
    #[serde(borrow)]
    pub algorithm: Option<Text<'a>>,
    #[serde(default, deserialize_with = "params")]
    pub params: Params,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify<'a> {
    #[serde(borrow)]
    pub password: Text<'a>,
    #[serde(borrow)]
    pub hash: Text<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub plaintext: Text<'a>,
    #[serde(borrow)]
    pub aad: Option<Text<'a>>,
    #[serde(borrow)]
    pub sign_key: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open<'a> {
    #[serde(borrow)]
    pub envelope: Text<'a>,
    #[serde(borrow)]
    pub aad: Option<Text<'a>>,
    #[serde(borrow)]
    pub key: Option<Text<'a>>,
    #[serde(borrow)]
    pub signed_by: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sign<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub message: Text<'a>,
    #[serde(borrow)]
    pub algorithm: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check<'a> {
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow)]
    pub message: Text<'a>,
    #[serde(borrow)]
    pub signature: Text<'a>,
    #[serde(borrow)]
    pub algorithm: Option<Text<'a>>,
    pub version: Option<u32>,
}

/// What a body holds.
#[derive(Debug)]
pub enum Body<T> {
    One(T),
    Many(Vec<T>),
}

/// An object and nothing else: serde would take its fields from an array, by their order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Reader(std::marker::PhantomData))
    }
}

fn params<'de, D: Deserializer<'de>>(from: D) -> Result<Params, D::Error> {
    Object::deserialize(from).map(|Object(params)| params)
}

/// At most [`ITEMS_MAX`]; the next one ends the reading.
struct Items<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Items<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(Object(item)) = seq.next_element()? {
                    if items.len() == ITEMS_MAX {
                        return Err(de::Error::custom(OVER_ITEMS));
                    }
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        from.deserialize_seq(Reader(std::marker::PhantomData))
    }
}

const OVER_ITEMS: &str = "holds more than 1000 items, the limit of one batch";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<T> {
    #[serde(bound(deserialize = "T: Deserialize<'de>"))]
    items: Items<T>,
}

/// Whether the first field is `items`: then it is a batch, and has no other field.
fn is_batch(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    let inside = body.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    inside.is_some_and(|inside| inside.starts_with(b"\"items\""))
}

/// Reads a body. The second reading, for the place of what is wrong, is made only when it is wrong.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<Body<T>, VaultError> {
    if is_batch(body) {
        let Object(batch) = parse::<Object<Batch<T>>>(body)?;
        return Ok(Body::Many(batch.items.0));
    }
    parse(body).map(|Object(one)| Body::One(one))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, VaultError> {
    serde_json::from_slice(body).map_err(|first| {
        let mut reader = serde_json::Deserializer::from_slice(body);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Err(error) => explain(&pointer(error.path()), error.inner()),
            // What follows a value that is whole.
            Ok(_) => explain("", &first),
        }
    })
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                let _ = write!(text, "/{index}");
            }
            Segment::Map { key } => {
                text.push('/');
                let key = key.chars().take(NAME_CHARS_MAX);
                for c in key {
                    match c {
                        '~' => text.push_str("~0"),
                        '/' => text.push_str("~1"),
                        c => text.push(c),
                    }
                }
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    text
}

/// serde's error without the value that it repeats.
fn explain(pointer: &str, error: &serde_json::Error) -> VaultError {
    use serde_json::error::Category;
    let (line, column) = (error.line(), error.column());
    if error.classify() != Category::Data {
        let what = match error.classify() {
            Category::Eof => "ends too early",
            _ => "is no JSON",
        };
        let detail = format!("the body {what} at line {line}, column {column}");
        return VaultError::new(Kind::Json, "", detail);
    }
    let text = error.to_string();
    let field = |start: &str| {
        let rest = text.strip_prefix(start)?;
        let (name, rest) = rest.split_once('`')?;
        Some((
            name.chars().take(NAME_CHARS_MAX).collect::<String>(),
            rest.to_owned(),
        ))
    };
    if let Some((name, rest)) = field("unknown field `") {
        // "..., expected one of `a`, `b` at line 1 column 2"
        let known = rest.split(" at line ").next().unwrap_or_default();
        let known = known
            .trim_start_matches(", ")
            .replace("there are no fields", "none");
        // The path ends in the field itself, when it is known by then.
        let detail = format!("is no field here; {known}");
        let place = if pointer.ends_with(&format!("/{name}")) {
            pointer.to_owned()
        } else {
            format!("{pointer}/{name}")
        };
        return VaultError::new(Kind::Body, place, detail);
    }
    if let Some((name, _)) = field("missing field `") {
        return VaultError::new(Kind::Body, format!("{pointer}/{name}"), "is missing");
    }
    if let Some((name, _)) = field("duplicate field `") {
        return VaultError::new(Kind::Body, format!("{pointer}/{name}"), "is given twice");
    }
    if text.starts_with(OVER_ITEMS) {
        return VaultError::new(Kind::Body, "/items", OVER_ITEMS);
    }
    // "invalid type: string \"...\", expected u32 at line 1 column 2": what was expected is ours.
    let expected = text
        .rsplit_once(", expected ")
        .map(|(_, expected)| expected);
    let expected = expected.and_then(|rest| rest.split(" at line ").next());
    let detail = match expected {
        Some("u8") => "cannot be; give a whole number from 0 to 255".into(),
        Some("u32") => format!("cannot be; give a whole number from 0 to {}", u32::MAX),
        Some(expected) if expected.starts_with("struct") => "cannot be; give an object".into(),
        Some(expected) => format!("cannot be; give {expected}"),
        None => "cannot be".into(),
    };
    VaultError::new(Kind::Body, pointer, detail)
}

/// Bytes of a base64 field: the standard alphabet with its padding.
pub fn bytes(text: &Text<'_>, field: &str) -> Result<Wiped, VaultError> {
    decode(text.as_str(), field)
}

/// The same of a header.
pub fn decode(text: &str, field: &str) -> Result<Wiped, VaultError> {
    let decoded = base64_simd::STANDARD.decode_to_vec(text);
    decoded
        .map(Wiped::from)
        .map_err(|_| VaultError::field(field, "is no base64 (the standard alphabet, with padding)"))
}

/// Writes one answer object. Texts that go in are names and base64: nothing needs an escape.
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    first: bool,
}

impl Writer {
    pub fn new(room: usize) -> Self {
        let mut out = Vec::with_capacity(room);
        out.push(b'{');
        Self { out, first: true }
    }

    fn name(&mut self, name: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text without quotes, backslashes and control characters.
    pub fn plain(&mut self, name: &str, text: &str) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
    }

    pub fn bytes(&mut self, name: &str, bytes: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        base64_simd::STANDARD.encode_append(bytes, &mut self.out);
        self.out.push(b'"');
    }

    pub fn number(&mut self, name: &str, number: u32) {
        self.raw(name, number.to_string().as_bytes());
    }

    pub fn truth(&mut self, name: &str, truth: bool) {
        self.raw(name, if truth { b"true" } else { b"false" });
    }

    /// JSON that is written already.
    pub fn raw(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(json);
    }

    pub fn end(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }
}
