//! Messages that became no row, on their way to the topic of dead letters as they came.
//!
//! Must never: answer before the broker has them.

use std::sync::Arc;

use rdkafka::message::{Header, OwnedHeaders};

use super::KafkaSettings;
use super::place::{aside, make_dead_letters, unreachable};
use super::store::is_refusal;
use super::wire::{Ledger, Outgoing, Wire};
use crate::sink::SinkError;

/// Of a message; brokers take less only where somebody set it so.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Of a value that the topic of dead letters refuses.
const CUT_BYTES: usize = 1 << 10;
const TRIES: usize = 3;

/// A message that became no row.
#[derive(Debug, Clone)]
pub(crate) struct DeadLetter {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
    /// Where it stood, and why it is here.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// One topic of dead letters, and the producer to it.
#[derive(Debug)]
pub(crate) struct LetterBox {
    settings: KafkaSettings,
    topic: String,
    wire: tokio::sync::Mutex<Option<Arc<Wire>>>,
}

impl LetterBox {
    /// Asks nobody yet.
    pub(crate) fn new(settings: &KafkaSettings, topic: &str) -> Self {
        Self {
            settings: settings.clone(),
            topic: topic.to_owned(),
            wire: tokio::sync::Mutex::default(),
        }
    }

    /// Sends `letters`; the topic is made if it is missing.
    pub(crate) async fn post(&self, letters: &[DeadLetter]) -> Result<(), SinkError> {
        let mut left: Vec<_> = letters.iter().map(|letter| (letter, false)).collect();
        for _ in 0..TRIES {
            let wire = self.wire().await?;
            left = self.send(&wire, &left).await;
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(SinkError::Refused {
            place: format!("topic `{}`", self.topic),
            message: format!("{} dead letters", left.len()),
        })
    }

    async fn wire(&self) -> Result<Arc<Wire>, SinkError> {
        let mut kept = self.wire.lock().await;
        if let Some(wire) = kept.as_ref().filter(|wire| !wire.is_broken()) {
            return Ok(Arc::clone(wire));
        }
        let (client, topic) = (self.settings.client(), self.topic.clone());
        let made = aside(move || make_dead_letters(&client, &topic));
        let brokers = self.settings.brokers();
        made.await.map_err(|cause| unreachable(brokers, cause))?;
        let config = self.settings.careful_producer();
        let wire = Wire::open(&config, &self.settings, MESSAGE_BYTES_MAX, 0);
        let wire = wire.map_err(|cause| unreachable(brokers, cause))?;
        Ok(Arc::clone(kept.insert(Arc::new(wire))))
    }

    /// What failed, and whether it is to be cut.
    async fn send<'l>(
        &self,
        wire: &Arc<Wire>,
        letters: &[(&'l DeadLetter, bool)],
    ) -> Vec<(&'l DeadLetter, bool)> {
        let ledger = Arc::new(Ledger::default());
        let mut out = Outgoing::default();
        let mut failed = Vec::new();
        for (at, (letter, cut)) in letters.iter().enumerate() {
            out.clear();
            let most = if *cut { CUT_BYTES } else { usize::MAX };
            let kept = &letter.value[..letter.value.len().min(most)];
            out.begin(at as u32).extend_from_slice(kept);
            let is_cut = kept.len() < letter.value.len();
            let frame = |_| (letter.key.as_deref(), headers(letter, is_cut));
            match wire.send(&self.topic, &out, &ledger, frame).await {
                Ok(too_large) if too_large.is_empty() => {}
                Ok(_) => failed.push((*letter, true)),
                Err(_broken) => failed.push((*letter, *cut)),
            }
        }
        for (at, code) in wire.settle(&ledger).await {
            let (letter, cut) = letters[at as usize];
            failed.push((letter, cut || is_refusal(code)));
        }
        failed
    }
}

fn headers(letter: &DeadLetter, is_cut: bool) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(letter.headers.len() + 1);
    for (key, value) in &letter.headers {
        let value = Some(value.as_str());
        headers = headers.insert(Header { key, value });
    }
    if is_cut {
        let bytes = letter.value.len().to_string();
        let key = "offloop-cut-from-bytes";
        headers = headers.insert(Header {
            key,
            value: Some(&bytes),
        });
    }
    headers
}
