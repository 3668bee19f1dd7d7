//! Rows that the broker refuses, on their way to the topic of dead letters: each of them once.
//!
//! Where that topic ended is noted before a load's first dead letter is sent. A load that is taken
//! up again reads from there what it sent before, and sends the rest.
//!
//! Must never: send one that is there; answer before the broker has it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::place::{Quiet, aside, exists, make_dead_letters, unreachable};
use super::wire::{Ledger, Outgoing, Wire};
use super::{HEADER_LOAD, HEADER_OFFSET, HEADER_ROW, KafkaSettings};
use crate::sink::SinkError;

/// A longer value is cut: it would not fit into what brokers take by default.
const VALUE_BYTES_MAX: usize = 8 << 20;
/// Of a value that the topic of dead letters refuses too.
const CUT_BYTES: usize = 1 << 10;
/// The next message, or the word that there is none.
const ASK: Duration = Duration::from_secs(30);
const TRIES: usize = 3;

/// A refused row.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) row: u64,
    pub(super) offset: u64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Vec<u8>,
    pub(super) reason: String,
}

/// What one load has sent there.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Where the topic ended before; `None`: nothing was sent.
    pub(super) from: Option<Vec<(i32, i64)>>,
    /// Offsets of rows. `None` until it was read what an earlier run sent.
    known: Option<HashSet<u64>>,
}

impl Sent {
    pub(super) fn since(from: Option<Vec<(i32, i64)>>) -> Self {
        // Without an earlier run's there is nothing to read.
        let known = from.is_none().then(HashSet::new);
        Self { from, known }
    }
}

/// Where they go, and whose they are.
#[derive(Debug, Clone)]
pub(super) struct Office {
    pub(super) settings: KafkaSettings,
    pub(super) topic: String,
    pub(super) target: String,
    pub(super) load: String,
}

impl ConsumerContext for Quiet {}

impl Office {
    /// Before the first: the topic, made if it is missing, and where it ends.
    pub(super) async fn open(&self) -> Result<Vec<(i32, i64)>, SinkError> {
        let (client, topic) = (self.settings.client(), self.topic.clone());
        let ends = aside(move || {
            make_dead_letters(&client, &topic)?;
            Ok(ends(&reader(&client)?, &topic)?)
        });
        ends.await.map_err(|cause| self.lost(cause))
    }

    /// Sends those that are not there yet, and answers when the broker has them.
    pub(super) async fn send(
        &self,
        wire: &Arc<Wire>,
        sent: &mut Sent,
        mut letters: Vec<Letter>,
    ) -> Result<(), SinkError> {
        for _ in 0..TRIES {
            let known = match &mut sent.known {
                Some(known) => known,
                none => none.insert(self.read(sent.from.clone().unwrap_or_default()).await?),
            };
            letters.retain(|letter| !known.contains(&letter.offset));
            if letters.is_empty() {
                return Ok(());
            }
            let failed = self.try_send(wire, &letters, false).await;
            let too_large: Vec<_> = failed.iter().filter(|row| row.1).map(|row| row.0).collect();
            let cut: Vec<_> = letters
                .iter()
                .filter(|letter| too_large.contains(&letter.offset))
                .cloned()
                .collect();
            let again = self.try_send(wire, &cut, true).await;
            if again.is_empty() && failed.len() == too_large.len() {
                known.extend(letters.iter().map(|letter| letter.offset));
                return Ok(());
            }
            // Which of them came in spite of it, the topic itself knows.
            sent.known = None;
        }
        Err(SinkError::Refused {
            place: format!("topic `{}`", self.topic),
            message: "the dead letters of a batch".into(),
        })
    }

    /// Offsets of rows that failed, and whether for being too large.
    async fn try_send(&self, wire: &Arc<Wire>, letters: &[Letter], cut: bool) -> Vec<(u64, bool)> {
        let mut failed = Vec::new();
        let ledger = Arc::new(Ledger::default());
        let mut out = Outgoing::default();
        for (at, letter) in letters.iter().enumerate() {
            out.clear();
            let value = &letter.value;
            let most = if cut { CUT_BYTES } else { VALUE_BYTES_MAX };
            let kept = &value[..value.len().min(most)];
            out.begin(at as u32).extend_from_slice(kept);
            let is_cut = kept.len() < value.len();
            let frame = |_| (letter.key.as_deref(), self.headers(letter, is_cut));
            match wire.send(&self.topic, &out, &ledger, frame).await {
                Ok(too_large) if too_large.is_empty() => {}
                Ok(_) => failed.push((letter.offset, true)),
                Err(_broken) => failed.push((letter.offset, false)),
            }
        }
        for (at, code) in wire.settle(&ledger).await {
            let is_large = super::store::is_refusal(code);
            failed.push((letters[at as usize].offset, is_large && !cut));
        }
        failed
    }

    fn headers(&self, letter: &Letter, is_cut: bool) -> OwnedHeaders {
        let text = |key, value| Header { key, value };
        let (row, offset) = (letter.row.to_string(), letter.offset.to_string());
        let mut headers = OwnedHeaders::new_with_capacity(6)
            .insert(text(HEADER_LOAD, Some(&self.load)))
            .insert(text(HEADER_ROW, Some(&row)))
            .insert(text(HEADER_OFFSET, Some(&offset)))
            .insert(text("offloop-target", Some(&self.target)))
            .insert(text("offloop-reason", Some(&letter.reason)));
        if is_cut {
            let bytes = letter.value.len().to_string();
            headers = headers.insert(text("offloop-cut-from-bytes", Some(&bytes)));
        }
        headers
    }

    async fn read(&self, from: Vec<(i32, i64)>) -> Result<HashSet<u64>, SinkError> {
        let (client, topic, load) = (
            self.settings.client(),
            self.topic.clone(),
            self.load.clone(),
        );
        let read = aside(move || {
            if !exists(&client, &topic)? {
                return Ok(HashSet::new());
            }
            Ok(read(&reader(&client)?, &topic, &from, &load)?)
        });
        read.await.map_err(|cause| self.lost(cause))
    }

    fn lost(&self, cause: impl std::fmt::Display) -> SinkError {
        unreachable(self.settings.brokers(), cause)
    }
}

type Reader = BaseConsumer<Quiet>;

fn reader(client: &ClientConfig) -> Result<Reader, KafkaError> {
    let mut config = client.clone();
    config
        // Needed to be a consumer at all; nothing is committed under it.
        .set("group.id", "offloop-dead-letters")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest");
    Reader::from_config_and_context(&config, Quiet)
}

fn ends(reader: &Reader, topic: &str) -> Result<Vec<(i32, i64)>, KafkaError> {
    let metadata = reader.fetch_metadata(Some(topic), ASK)?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    partitions
        .map(|partition| {
            let (_, end) = reader.fetch_watermarks(topic, partition.id(), ASK)?;
            Ok((partition.id(), end))
        })
        .collect()
}

/// Rows of `load` behind `from`.
fn read(
    reader: &Reader,
    topic: &str,
    from: &[(i32, i64)],
    load: &str,
) -> Result<HashSet<u64>, KafkaError> {
    let mut assigned = TopicPartitionList::new();
    let mut left = HashSet::new();
    for (partition, end) in ends(reader, topic)? {
        let begin = from.iter().find(|place| place.0 == partition);
        let begin = begin.map_or(0, |place| place.1);
        if begin < end {
            assigned.add_partition_offset(topic, partition, Offset::Offset(begin))?;
            left.insert(partition);
        }
    }
    reader.assign(&assigned)?;
    let mut rows = HashSet::new();
    while !left.is_empty() {
        match reader.poll(ASK) {
            None => return Err(KafkaError::Canceled),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(Err(error)) => return Err(error),
            Some(Ok(message)) => rows.extend(row_of(&message, load)),
        }
    }
    Ok(rows)
}

fn row_of(message: &impl Message, load: &str) -> Option<u64> {
    let headers = message.headers()?;
    let value = |key: &str| {
        let header = headers.iter().find(|header| header.key == key)?;
        std::str::from_utf8(header.value?).ok()
    };
    if value(HEADER_LOAD) != Some(load) {
        return None;
    }
    value(HEADER_OFFSET)?.parse().ok()
}
