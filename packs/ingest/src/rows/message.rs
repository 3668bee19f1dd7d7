//! Messages of a topic as rows: one each, by the checks of delimited text.
//!
//! Offsets of the topic stand where a text has its bytes: a row's number and place, a batch's range.
//! Must never: take a field in another form than a text would have to; let one message make two rows.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::batch::{Batch, Checkpoint, RowPlace, Slot};
use super::header;
use super::reader::{BATCH_REJECTS_MAX, BATCH_TEXT_MAX, Reader};
use super::reject::{RAW_BYTES_MAX, Reason, Reject};
use crate::check::{Checker, Stood, Value as Checked};
use crate::target::{Header, Kind, Target, Value};

/// Bytes of a name in a message that are told.
const NAME_BYTES_MAX: usize = 63;

/// Why a message is no row: the field to blame, and the reason.
type Fault = (Option<Arc<str>>, Reason);

/// Makes batches of one partition's messages.
#[derive(Debug)]
pub struct MessageReader {
    /// Lends its batch, its checks and its splitter.
    reader: Reader,
    value: Value,
    /// Columns by their names in objects.
    names: HashMap<Box<str>, usize>,
    /// Names of no column are passed over.
    ignores_extra: bool,
    /// Of the messages of the batch under way.
    bytes: u64,
}

impl MessageReader {
    /// Goes on at offset `from`: what was read before is stored.
    pub fn new(target: Target, value: Value, from: u64) -> Self {
        let at = Checkpoint {
            offset: from,
            ..Checkpoint::default()
        };
        let columns = target.columns().iter().enumerate();
        let names = columns.map(|(at, column)| (Box::from(&*column.from), at));
        let header = target.format().header;
        Self {
            value,
            names: names.collect(),
            ignores_extra: matches!(header, Header::Present { ignore_extra: true }),
            bytes: 0,
            reader: {
                let mapping = header::by_position(&target);
                let mut reader = Reader::resume_at(target, at);
                reader.mapping = Some(mapping);
                reader
            },
        }
    }

    /// Takes the message at `offset` into the batch under way, or says why it is no row; then
    /// nothing of it is kept, and [`MessageReader::refuse`] may follow.
    pub fn push(&mut self, offset: u64, value: Option<&[u8]>) -> Result<(), Box<Reject>> {
        let (slots, made, text) = {
            let batch = &self.reader.batch;
            (batch.slots.len(), batch.made.len(), batch.text.len())
        };
        self.bytes += value.map_or(0, <[u8]>::len) as u64;
        let taken = match value {
            None => Err((None, Reason::NoValue)),
            Some(value) if value.len() > self.reader.target.limits().record_bytes as usize => {
                let limit = self.reader.target.limits().record_bytes as usize;
                Err((None, Reason::MessageTooLong { limit }))
            }
            Some(value) => match self.value {
                Value::Json => self.object(value),
                Value::Csv => self.record(value),
            },
        };
        let batch = &mut self.reader.batch;
        match taken {
            Ok(()) => {
                batch.places.push(RowPlace {
                    number: offset,
                    offset,
                });
                Ok(())
            }
            Err((column, reason)) => {
                batch.slots.truncate(slots);
                batch.made.truncate(made);
                batch.text.truncate(text);
                let value = value.unwrap_or_default();
                Err(Box::new(Reject {
                    row: offset,
                    offset,
                    column,
                    reason,
                    raw: value[..value.len().min(RAW_BYTES_MAX)].to_vec(),
                    raw_bytes: value.len() as u64,
                }))
            }
        }
    }

    /// Counts a refused message to the batch under way.
    pub fn refuse(&mut self, reject: Reject) {
        self.reader.batch.rejects.push(reject);
    }

    /// Rows and refused messages of the batch under way.
    pub fn len(&self) -> usize {
        self.reader.batch.len() + self.reader.batch.rejects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the values of the batch under way.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The batch is to go before another message is taken.
    pub fn is_full(&self) -> bool {
        let (rule, batch) = (self.reader.target.batch(), &self.reader.batch);
        batch.len() >= rule.rows as usize
            || self.bytes >= u64::from(rule.bytes)
            || batch.rejects.len() >= BATCH_REJECTS_MAX
            || batch.made.len() + batch.text.len() >= BATCH_TEXT_MAX
    }

    /// Ends the batch under way: it holds all that the partition has before offset `to`.
    pub fn cut(&mut self, to: u64) -> Batch {
        self.bytes = 0;
        self.reader.cut_messages(to)
    }

    /// Hands memory back: a later batch uses it.
    pub fn recycle(&mut self, batch: Batch) {
        self.reader.recycle(batch);
    }

    /// One JSON object: names of columns and their values.
    fn object(&mut self, value: &[u8]) -> Result<(), Fault> {
        let Self {
            reader,
            names,
            ignores_extra,
            ..
        } = self;
        let Reader {
            target,
            batch,
            checker,
            scratch,
            ..
        } = reader;
        let mut found = Found {
            names,
            ignores_extra: *ignores_extra,
            values: vec![None; names.len()],
            fault: None,
        };
        let mut from = serde_json::Deserializer::from_slice(value);
        let read = (&mut found)
            .deserialize(&mut from)
            .and_then(|()| from.end());
        if read.is_err() {
            return Err(match found.fault {
                Some(Broken::Unknown(name)) => (Some(name), Reason::UnknownField),
                Some(Broken::Twice(at)) => (
                    Some(Arc::clone(&target.columns()[at].name)),
                    Reason::FieldTwice,
                ),
                None => (None, Reason::NotObject),
            });
        }
        for (at, column) in target.columns().iter().enumerate() {
            let blame = |reason| (Some(Arc::clone(&column.name)), reason);
            let slot = match found.values[at] {
                None if column.required => return Err(blame(Reason::MissingField)),
                None => checker.missing(at).map(|_| Slot::NULL),
                Some(raw) => one_value(checker, at, column.kind, raw, &mut batch.made, scratch),
            };
            batch.slots.push(slot.map_err(blame)?);
        }
        Ok(())
    }

    /// One record of delimited text, its fields in the order of the columns.
    fn record(&mut self, value: &[u8]) -> Result<(), Fault> {
        let reader = &mut self.reader;
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        let start = reader.batch.text.len();
        reader.batch.text.extend_from_slice(value);
        reader.marks.clear();
        reader.splitter.restart();
        let text = &reader.batch.text[start..];
        reader.splitter.scan(text, start, &mut reader.marks);
        if reader.splitter.is_quoted() {
            return Err((None, Reason::UnclosedQuote));
        }
        if !reader.marks.records.is_empty() {
            return Err((None, Reason::ManyRecords));
        }
        let end = reader.batch.text.len();
        reader.marks.fields.push(reader.splitter.last_mark(end));
        let fields = 0..reader.marks.fields.len();
        let taken = reader.fill(start, fields);
        taken.map_err(|(column, reason)| {
            let name = column.map(|at| Arc::clone(&reader.target.columns()[at].name));
            (name, reason)
        })
    }
}

/// Checks one value of an object and hands back where it was put.
fn one_value(
    checker: &Checker,
    column: usize,
    kind: Kind,
    raw: &RawValue,
    made: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
) -> Result<Slot, Reason> {
    let text = raw.get().as_bytes();
    let text = match text.first() {
        Some(b'n') => return checker.missing(column).map(|_| Slot::NULL),
        Some(b'"') if kind != Kind::Json => {
            scratch.clear();
            let mut from = serde_json::Deserializer::from_str(raw.get());
            let unescaped = Unescape(scratch).deserialize(&mut from);
            // Half a surrogate pair is no text.
            unescaped.map_err(|_| Reason::NotText)?;
            &scratch[..]
        }
        Some(b'{' | b'[') if kind != Kind::Json => return Err(Reason::Not(kind)),
        _ => text,
    };
    // As a quoted field: an empty text is a text.
    let stood = Stood {
        quoted: true,
        odd: true,
    };
    let from = made.len();
    match checker.field(column, text, stood, made)? {
        Checked::Null => return Ok(Slot::NULL),
        Checked::Part { from, len } => made.extend_from_slice(&text[from..from + len]),
        Checked::Made => {}
    }
    Ok(Slot {
        start: from as u32 | Slot::MADE,
        len: (made.len() - from) as u32,
    })
}

/// What an object has for the columns.
struct Found<'n, 'v> {
    names: &'n HashMap<Box<str>, usize>,
    ignores_extra: bool,
    values: Vec<Option<&'v RawValue>>,
    fault: Option<Broken>,
}

enum Broken {
    Unknown(Arc<str>),
    Twice(usize),
}

impl<'v> DeserializeSeed<'v> for &mut Found<'_, 'v> {
    type Value = ();

    fn deserialize<D: Deserializer<'v>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'v> Visitor<'v> for &mut Found<'_, 'v> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'v>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key_seed(Name(self.names))? {
            let value: &RawValue = map.next_value()?;
            match name {
                Ok(at) if self.values[at].is_some() => {
                    self.fault = Some(Broken::Twice(at));
                    return Err(M::Error::custom("a name comes twice"));
                }
                Ok(at) => self.values[at] = Some(value),
                Err(_) if self.ignores_extra => {}
                Err(name) => {
                    self.fault = Some(Broken::Unknown(name));
                    return Err(M::Error::custom("a name is unknown"));
                }
            }
        }
        Ok(())
    }
}

/// A name: the column that it means, or what was written.
struct Name<'n>(&'n HashMap<Box<str>, usize>);

impl<'v> DeserializeSeed<'v> for Name<'_> {
    type Value = Result<usize, Arc<str>>;

    fn deserialize<D: Deserializer<'v>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Result<usize, Arc<str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.get(name).copied().ok_or_else(|| {
            let most = name.floor_char_boundary(NAME_BYTES_MAX);
            Arc::from(&name[..most])
        }))
    }
}

/// Writes a string's text.
struct Unescape<'s>(&'s mut Vec<u8>);

impl<'v> DeserializeSeed<'v> for Unescape<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'v>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Unescape<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
