//! One batch on its way: encoded, sent in its turn, sent again when a wire breaks, put aside where
//! the broker refuses a row, noted.
//!
//! Must never: note a batch with a message whose report is not in; give up a row in silence.

use std::collections::BTreeSet;
use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};

use super::dead::Letter;
use super::place::unreachable;
use super::turns::{Go, Turn};
use super::wire::{Ledger, Outgoing, Wire};
use super::{HEADER_LOAD, HEADER_OFFSET, HEADER_ROW, KafkaSink};
use crate::rejects::SinkReject;
use crate::rows::{Batch, Row};
use crate::sink::{BatchNote, SinkError, Stored};
use crate::target::Value;

/// Sent together, their memory given back together.
const PARCEL_ROWS: usize = 512;
const PARCEL_BYTES: usize = 256 << 10;
/// Wires that may break under one batch.
const WIRES_MAX: u32 = 8;
/// What a record and its batch add at most to key, value and headers (Kafka's message format 2).
const FRAME_BYTES: usize = 61 + 64;
const HEADERS_BYTES: usize = 3 * 8 + 20 + 20 + 40;

/// The broker's word about rows, not about the place.
pub(super) const fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::MessageBatchTooLarge
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::InvalidDifferentRecord
    )
}

/// The broker's word about the place: no retry helps.
const fn is_about_place(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::PolicyViolation
    )
}

/// What is left of a batch.
struct Rest {
    /// Not delivered yet, in their order.
    rows: Vec<u32>,
    refused: Vec<(u32, String)>,
    /// The broker refused some of `rows`, perhaps for their neighbours: one by one now.
    is_careful: bool,
    wires: u32,
}

impl KafkaSink {
    pub(super) async fn store_batch(
        &self,
        batch: Arc<Batch>,
        note: BatchNote,
    ) -> Result<Stored, SinkError> {
        let turn = self.turns.enter(note.order);
        let done = self.deliver(&turn, &batch, &note).await;
        match done {
            Ok(stored) => {
                turn.done();
                Ok(stored)
            }
            Err(error) => {
                turn.fail(&error);
                Err(error)
            }
        }
    }

    async fn deliver(
        &self,
        turn: &Turn<'_>,
        batch: &Arc<Batch>,
        note: &BatchNote,
    ) -> Result<Stored, SinkError> {
        let mut rest = Rest {
            rows: (0..batch.len() as u32).collect(),
            refused: Vec::new(),
            is_careful: false,
            wires: 0,
        };
        while !rest.rows.is_empty() {
            if rest.wires >= WIRES_MAX {
                let complaint = format!("{} producers broke under one batch", rest.wires);
                return Err(unreachable(self.place.settings.brokers(), complaint));
            }
            if rest.is_careful {
                self.one_by_one(turn, batch, &mut rest).await?;
            } else {
                self.round(turn, batch, note, &mut rest).await?;
            }
        }
        if turn.to_end().await != Go::Now {
            return Err(self.turns.failure());
        }
        rest.refused.sort();
        let reject = |(at, reason): &(u32, String)| {
            SinkReject::of(batch.row(*at as usize), None, reason.clone())
        };
        let rejects: Vec<_> = rest.refused.iter().map(reject).collect();
        let refused = rejects.len();
        let rejects = note.put_aside(batch, rejects).await?;
        if refused > 0 {
            self.bury(batch, &rest.refused).await?;
        }
        let stored = Stored {
            rows: (batch.len() - refused) as u64,
            rejects,
        };
        self.note(BatchNote::of(batch, stored)).await?;
        Ok(stored)
    }

    /// Sends what is left on the wire of all loads, and takes the reports.
    async fn round(
        &self,
        turn: &Turn<'_>,
        batch: &Arc<Batch>,
        note: &BatchNote,
        rest: &mut Rest,
    ) -> Result<(), SinkError> {
        let wire = self.place.wire().await?;
        match turn.to_send(wire.generation).await {
            Go::Now => {}
            Go::Elsewhere => return Ok(()),
            Go::Never => return Err(self.turns.failure()),
        }
        if wire.is_broken() {
            return Ok(());
        }
        self.none_too_large(batch, note, wire.message_bytes_max)?;
        let ledger = Arc::new(Ledger::default());
        let (behind, is_whole) = self.send(&wire, batch, rest, &ledger).await;
        if is_whole {
            turn.sent(wire.generation);
        }
        let failed = wire.settle(&ledger).await;
        if failed.is_empty() && is_whole {
            rest.rows.clear();
            return Ok(());
        }
        // Whatever failed, nothing behind it may go on.
        wire.break_off();
        rest.wires += 1;
        let about_place = failed.iter().find(|(_, code)| is_about_place(*code));
        if let Some((_, code)) = about_place {
            return Err(SinkError::Place {
                problem: format!("topic `{}` refuses messages: {code}", self.place.topic),
            });
        }
        if wire.is_stuck() {
            return Err(self.place.silent(&wire));
        }
        rest.is_careful = failed.iter().any(|(_, code)| is_refusal(*code));
        let failed: BTreeSet<u32> = failed.iter().map(|(row, _)| *row).collect();
        let at = rest.rows.len() - behind;
        let unsent = rest.rows[at..].iter().copied();
        let again = failed.into_iter().chain(unsent).collect::<BTreeSet<_>>();
        rest.rows = again.into_iter().collect();
        Ok(())
    }

    /// When all before it are done: each message by itself, so that a refusal is one row's.
    async fn one_by_one(
        &self,
        turn: &Turn<'_>,
        batch: &Arc<Batch>,
        rest: &mut Rest,
    ) -> Result<(), SinkError> {
        if turn.to_end().await != Go::Now {
            return Err(self.turns.failure());
        }
        let wire = self.place.careful_wire().await?;
        let ledger = Arc::new(Ledger::default());
        let (behind, is_whole) = self.send(&wire, batch, rest, &ledger).await;
        let failed = wire.settle(&ledger).await;
        let unsent = rest.rows.split_off(rest.rows.len() - behind);
        rest.rows.clear();
        for (row, code) in failed {
            if is_refusal(code) {
                rest.refused.push((row, code.to_string()));
            } else {
                rest.rows.push(row);
            }
        }
        rest.rows.extend(unsent);
        rest.rows.sort_unstable();
        if !rest.rows.is_empty() || !is_whole {
            wire.break_off();
            rest.wires += 1;
            if wire.is_stuck() {
                return Err(self.place.silent(&wire));
            }
        }
        Ok(())
    }

    /// Encodes and sends the rows that are left; those that the topic cannot take are refused
    /// here. Returns how many were not sent, and whether that is none.
    async fn send(
        &self,
        wire: &Wire,
        batch: &Batch,
        rest: &mut Rest,
        ledger: &Arc<Ledger>,
    ) -> (usize, bool) {
        let mut out = Outgoing::default();
        let mut at = 0;
        while at < rest.rows.len() {
            let begun = at;
            out.clear();
            while at < rest.rows.len() && out.len() < PARCEL_ROWS && out.bytes() < PARCEL_BYTES {
                let index = rest.rows[at];
                let row = batch.row(index as usize);
                self.place.encoder.write(row, out.begin(index));
                if message_bytes(row, out.last()) > wire.message_bytes_max {
                    out.undo();
                    rest.refused
                        .push((index, self.too_large(wire.message_bytes_max)));
                }
                at += 1;
            }
            let frame = |index: u32| {
                let row = batch.row(index as usize);
                (row.key(), self.headers(row))
            };
            let topic = &self.place.topic;
            match wire.send(topic, &out, ledger, frame).await {
                Ok(too_large) => {
                    let why = self.too_large(wire.message_bytes_max);
                    let rows = too_large.into_iter();
                    rest.refused.extend(rows.map(|row| (row, why.clone())));
                }
                Err(_broken) => {
                    // Encoded again, and refused again, the next time.
                    let first = rest.rows[begun];
                    rest.refused.retain(|(row, _)| *row < first);
                    return (rest.rows.len() - begun, false);
                }
            }
            // A parcel is a slice of work.
            tokio::task::yield_now().await;
        }
        (0, true)
    }

    /// Where refused rows stop the load, they do before any of the batch is sent.
    fn none_too_large(
        &self,
        batch: &Batch,
        note: &BatchNote,
        most: usize,
    ) -> Result<(), SinkError> {
        let Some(bearable) = note.bearable else {
            return Ok(());
        };
        let mut text = Vec::new();
        let mut refused = 0;
        for row in batch.rows() {
            text.clear();
            self.place.encoder.write(row, &mut text);
            if message_bytes(row, text.len()) > most {
                refused += 1;
                if refused > bearable {
                    let reject = SinkReject::of(row, None, self.too_large(most));
                    return Err(SinkError::BadRow {
                        reject: Box::new(reject),
                    });
                }
            }
        }
        Ok(())
    }

    fn too_large(&self, most: usize) -> String {
        format!(
            "the message is larger than topic `{}` takes (max.message.bytes {most})",
            self.place.topic
        )
    }

    fn headers(&self, row: Row<'_>) -> OwnedHeaders {
        let (mut number, mut offset) = (Digits::default(), Digits::default());
        OwnedHeaders::new_with_capacity(3)
            .insert(header(HEADER_LOAD, self.load.as_str().as_bytes()))
            .insert(header(HEADER_ROW, number.of(row.number())))
            .insert(header(HEADER_OFFSET, offset.of(row.offset())))
    }

    pub(super) fn letter(&self, batch: &Batch, at: u32, reason: &str) -> Letter {
        let row = batch.row(at as usize);
        let mut value = Vec::new();
        self.place.encoder.write(row, &mut value);
        Letter {
            row: row.number(),
            offset: row.offset(),
            key: row.key().map(<[u8]>::to_vec),
            value,
            reason: reason.to_owned(),
        }
    }
}

fn header<'a>(key: &'a str, value: &'a [u8]) -> Header<'a, &'a [u8]> {
    Header {
        key,
        value: Some(value),
    }
}

/// At most what the broker counts.
fn message_bytes(row: Row<'_>, value: usize) -> usize {
    value + row.key().map_or(0, <[u8]>::len) + HEADERS_BYTES + 64 + FRAME_BYTES
}

/// A number as text without memory of its own.
#[derive(Default)]
struct Digits([u8; 20]);

impl Digits {
    fn of(&mut self, mut number: u64) -> &[u8] {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return &self.0[at..];
            }
        }
    }
}

/// Writes values.
#[derive(Debug)]
pub(super) struct Encoder {
    pub(super) value: Value,
    pub(super) json: crate::sink::json::JsonRows,
}

impl Encoder {
    pub(super) fn write(&self, row: Row<'_>, out: &mut Vec<u8>) {
        match self.value {
            Value::Json => self.json.write(row, out),
            Value::Csv => csv(row, out),
        }
    }
}

fn csv(row: Row<'_>, out: &mut Vec<u8>) {
    for (at, field) in row.fields().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        // Null is nothing at all, the empty text a pair of quotes.
        let Some(field) = field else { continue };
        let is_bare = |byte: &u8| !b",\"\r\n".contains(byte);
        if !field.is_empty() && field.iter().all(is_bare) {
            out.extend_from_slice(field);
            continue;
        }
        out.push(b'"');
        for byte in field {
            if *byte == b'"' {
                out.push(b'"');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
}
