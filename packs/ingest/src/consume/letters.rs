//! Messages of a batch as they came, for the topic of dead letters.
//!
//! Must never: send one message twice for one batch.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::raw::Consumer;
use crate::rejects::SinkReject;
use crate::rows::{Batch, Reject};
use crate::sink::kafka::{DeadLetter, LetterBox};
use crate::sink::{Letters, Reply, SinkError};

/// Messages in one buffer.
#[derive(Debug, Default)]
pub(super) struct Originals {
    text: Vec<u8>,
    /// In the order of the offsets.
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    /// Where the key begins; the value follows it.
    at: usize,
    key: Option<u32>,
    value: u32,
}

impl Originals {
    pub(super) fn push(&mut self, offset: u64, key: Option<&[u8]>, value: &[u8]) {
        let at = self.text.len();
        self.text.extend_from_slice(key.unwrap_or_default());
        self.text.extend_from_slice(value);
        self.places.push(Place {
            offset,
            at,
            key: key.map(|key| key.len() as u32),
            value: value.len() as u32,
        });
    }

    pub(super) fn bytes(&self) -> u64 {
        self.text.len() as u64
    }

    fn get(&self, offset: u64) -> Option<(Option<&[u8]>, &[u8])> {
        let at = self
            .places
            .binary_search_by_key(&offset, |place| place.offset);
        let place = self.places[at.ok()?];
        let value_at = place.at + place.key.unwrap_or(0) as usize;
        let key = place.key.map(|_| &self.text[place.at..value_at]);
        Some((key, &self.text[value_at..value_at + place.value as usize]))
    }
}

/// The dead letters of one batch.
#[derive(Debug)]
pub(super) struct BatchLetters {
    pub(super) to: Arc<LetterBox>,
    pub(super) consumer: Consumer,
    pub(super) partition: i32,
    pub(super) originals: Originals,
    /// Offsets of those that are there: a batch may be tried again.
    pub(super) sent: Mutex<HashSet<u64>>,
}

impl BatchLetters {
    /// Sends what the reader refused.
    pub(super) async fn post_read(&self, batch: &Batch) -> Result<(), SinkError> {
        let letter = |reject: &Reject| {
            let column = reject.column.as_deref();
            self.letter(
                reject.offset,
                column,
                reject.reason.code(),
                &reject.reason.to_string(),
            )
        };
        self.send(batch.rejects().iter().map(letter).collect())
            .await
    }

    fn letter(
        &self,
        offset: u64,
        column: Option<&str>,
        reason: &str,
        message: &str,
    ) -> (u64, DeadLetter) {
        let (key, value) = self.originals.get(offset).unwrap_or_default();
        let mut headers = vec![
            ("offloop-topic", self.consumer.topic.to_string()),
            ("offloop-partition", self.partition.to_string()),
            ("offloop-offset", offset.to_string()),
            ("offloop-group", self.consumer.group.to_string()),
            ("offloop-target", self.consumer.target.to_string()),
            ("offloop-reason", reason.to_owned()),
            ("offloop-message", message.to_owned()),
        ];
        if let Some(column) = column {
            headers.push(("offloop-column", column.to_owned()));
        }
        let letter = DeadLetter {
            key: key.map(<[u8]>::to_vec),
            value: value.to_vec(),
            headers,
        };
        (offset, letter)
    }

    async fn send(&self, letters: Vec<(u64, DeadLetter)>) -> Result<(), SinkError> {
        let fresh: Vec<_> = {
            let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = |letter: &(u64, DeadLetter)| !sent.contains(&letter.0);
            letters.into_iter().filter(is_fresh).collect()
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let (offsets, letters): (Vec<_>, Vec<_>) = fresh.into_iter().unzip();
        self.to.post(&letters).await?;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.extend(offsets);
        Ok(())
    }
}

impl Letters for BatchLetters {
    fn post(&self, more: Vec<SinkReject>) -> Reply<'_, ()> {
        Box::pin(async move {
            let letter = |reject: &SinkReject| {
                let column = reject.column.as_deref();
                self.letter(reject.offset, column, "sink", &reject.message)
            };
            self.send(more.iter().map(letter).collect()).await
        })
    }
}
