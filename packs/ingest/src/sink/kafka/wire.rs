//! A producer, and who waits for which of its reports.
//!
//! A [`Wire`] is good until something on it fails for good; then it is broken as a whole, with all
//! that it held, and another one is begun. So what a partition takes from it is a prefix of what
//! was sent: no message goes past one that was given up.
//!
//! Must never: hold more bytes than `memory`; call a message delivered whose report did not say so.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::KafkaSettings;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, NoCustomPartitioner, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Memory is counted in these units.
const UNIT: usize = 256;
/// What librdkafka keeps beside a message's own bytes, headers included.
const OVERHEAD: usize = 512;

/// What happens to messages that are sent together, told by one after the other of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<LedgerState>,
    done: Notify,
}

#[derive(Debug, Default)]
struct LedgerState {
    due: usize,
    failed: Vec<(u32, RDKafkaErrorCode)>,
}

impl Ledger {
    fn add(&self, messages: usize) {
        self.lock().due += messages;
    }

    fn came(&self, row: u32, failed: Option<RDKafkaErrorCode>) {
        let mut state = self.lock();
        state.due -= 1;
        if let Some(code) = failed {
            state.failed.push((row, code));
        }
        if state.due == 0 {
            self.done.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Messages whose memory is given back together.
#[derive(Debug)]
struct Parcel {
    ledger: Arc<Ledger>,
    left: usize,
    _memory: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct Parcels {
    slots: Vec<Option<Parcel>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Shared {
    parcels: Mutex<Parcels>,
    /// Reports that came, ever.
    reports: AtomicU64,
    came: Notify,
    room: Arc<Semaphore>,
    broken: AtomicBool,
    /// It was broken off for want of answers.
    stuck: AtomicBool,
    /// The last that the client complained of.
    complaint: Mutex<String>,
}

/// What librdkafka calls.
pub(super) struct Reports(Arc<Shared>);

impl ClientContext for Reports {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let complaint = &self.0.complaint;
        let mut complaint = complaint.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" says less than what came before it.
        let is_vague = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if !is_vague || complaint.is_empty() {
            reason.clone_into(&mut complaint);
        }
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        let failed = result
            .as_ref()
            .err()
            .map(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
        self.0.report(place, failed);
    }
}

impl Shared {
    fn insert(&self, parcel: Parcel) -> usize {
        let mut parcels = self.parcels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = parcels.free.pop() {
            parcels.slots[slot as usize] = Some(parcel);
            return slot as usize;
        }
        parcels.slots.push(Some(parcel));
        parcels.slots.len() - 1
    }

    fn report(&self, place: usize, failed: Option<RDKafkaErrorCode>) {
        let (slot, row) = (place >> 32, place as u32);
        let mut parcels = self.parcels.lock().unwrap_or_else(PoisonError::into_inner);
        let parcels_now = &mut *parcels;
        let Some(there) = parcels_now.slots.get_mut(slot) else {
            return;
        };
        let Some(parcel) = there else { return };
        parcel.ledger.came(row, failed);
        parcel.left -= 1;
        let is_whole = parcel.left == 0;
        if is_whole {
            *there = None;
            parcels_now.free.push(slot as u32);
        }
        drop(parcels);
        self.reports.fetch_add(1, Ordering::Relaxed);
        if is_whole {
            self.came.notify_waiters();
        }
    }
}

/// The wire takes nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// Messages, encoded, on their way into a wire.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    text: Vec<u8>,
    /// Row, and where its value begins; the key is not copied.
    rows: Vec<(u32, usize)>,
}

impl Outgoing {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.rows.clear();
    }

    /// Begins the value of `row`, to be written at the end of what is returned.
    pub(super) fn begin(&mut self, row: u32) -> &mut Vec<u8> {
        self.rows.push((row, self.text.len()));
        &mut self.text
    }

    /// Takes back the row that was begun last.
    pub(super) fn undo(&mut self) {
        if let Some((_, from)) = self.rows.pop() {
            self.text.truncate(from);
        }
    }

    /// Bytes of the value of the row that was begun last.
    pub(super) fn last(&self) -> usize {
        self.text.len() - self.rows.last().map_or(0, |row| row.1)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    fn value(&self, at: usize) -> &[u8] {
        let from = self.rows[at].1;
        let to = self.rows.get(at + 1).map_or(self.text.len(), |next| next.1);
        &self.text[from..to]
    }
}

/// One producer. See the module's words.
pub(super) struct Wire {
    /// `None` once it is being dropped, which may take half a second and happens elsewhere.
    producer: Option<ThreadedProducer<Reports>>,
    shared: Arc<Shared>,
    units: u32,
    patience: Duration,
    /// Of one message in the topic that it is for.
    pub(super) message_bytes_max: usize,
    /// Counts the wires of a place.
    pub(super) generation: u64,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("generation", &self.generation)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn open(
        config: &ClientConfig,
        settings: &KafkaSettings,
        message_bytes_max: usize,
        generation: u64,
    ) -> Result<Self, KafkaError> {
        let units = (settings.memory as usize / UNIT).min(u32::MAX as usize >> 4);
        let shared = Arc::new(Shared {
            parcels: Mutex::default(),
            reports: AtomicU64::new(0),
            came: Notify::new(),
            room: Arc::new(Semaphore::new(units)),
            broken: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            complaint: Mutex::default(),
        });
        let context = Reports(Arc::clone(&shared));
        let producer: ThreadedProducer<Reports, NoCustomPartitioner> =
            ThreadedProducer::from_config_and_context(config, context)?;
        Ok(Self {
            producer: Some(producer),
            shared,
            units: units as u32,
            patience: settings.patience,
            message_bytes_max,
            generation,
        })
    }

    pub(super) fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Acquire)
    }

    /// Nothing answered for as long as the patience lasts.
    pub(super) fn is_stuck(&self) -> bool {
        self.shared.stuck.load(Ordering::Acquire)
    }

    fn give_up(&self) {
        self.shared.stuck.store(true, Ordering::Release);
        self.break_off();
    }

    /// What the client complained of last; empty if of nothing.
    pub(super) fn complaint(&self) -> String {
        let complaint = &self.shared.complaint;
        let complaint = complaint.lock().unwrap_or_else(PoisonError::into_inner);
        complaint.clone()
    }

    /// Gives up all that is under way; each of those messages gets its report.
    pub(super) fn break_off(&self) {
        if !self.shared.broken.swap(true, Ordering::AcqRel) {
            self.shared.room.close();
            if let Some(producer) = &self.producer {
                producer.purge(PurgeConfig::default().queue().inflight());
            }
            self.shared.came.notify_waiters();
        }
    }

    /// Waits for memory and sends `out` to `topic`, each row with the key and headers that `frame`
    /// tells; what becomes of it, `ledger` gets to know.
    ///
    /// Returns the rows that are too large for the topic: they were not sent.
    pub(super) async fn send<'a>(
        &self,
        topic: &str,
        out: &Outgoing,
        ledger: &Arc<Ledger>,
        frame: impl Fn(u32) -> (Option<&'a [u8]>, OwnedHeaders),
    ) -> Result<Vec<u32>, Broken> {
        let Some(producer) = &self.producer else {
            return Err(Broken);
        };
        let memory = self.room(out.len(), out.bytes()).await?;
        ledger.add(out.len());
        let slot = self.shared.insert(Parcel {
            ledger: Arc::clone(ledger),
            left: out.len(),
            _memory: memory,
        });
        let mut too_large = Vec::new();
        for (at, (row, _)) in out.rows.iter().enumerate() {
            let place = slot << 32 | *row as usize;
            let (key, headers) = frame(*row);
            let mut record = BaseRecord::with_opaque_to(topic, place)
                .payload(out.value(at))
                .headers(headers);
            record.key = key;
            while let Err((error, back)) = producer.send(record) {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                match code {
                    RDKafkaErrorCode::QueueFull if !self.is_broken() => {
                        let came = self.shared.came.notified();
                        // Where it is stuck, the next try finds it broken.
                        let _stuck = self.unless_stuck(came).await;
                        record = back;
                        continue;
                    }
                    RDKafkaErrorCode::MessageSizeTooLarge => {
                        too_large.push(*row);
                        self.shared.report(place, None);
                    }
                    code => self.shared.report(place, Some(code)),
                }
                break;
            }
        }
        Ok(too_large)
    }

    /// Memory for `bytes` in `messages`, in the order of asking. No parcel is refused for being
    /// larger than all there is. `Err`: the wire is broken.
    async fn room(&self, messages: usize, bytes: usize) -> Result<OwnedSemaphorePermit, Broken> {
        let units = (bytes + messages * OVERHEAD).div_ceil(UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.units);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(units);
        self.unless_stuck(room)
            .await
            .and_then(Result::ok)
            .ok_or(Broken)
    }

    /// Waits for the report of every message of `ledger`; what failed, by row. Where none of them
    /// comes for as long as `patience`, the wire is broken off, which brings them all.
    pub(super) async fn settle(&self, ledger: &Ledger) -> Vec<(u32, RDKafkaErrorCode)> {
        loop {
            let before = {
                let mut state = ledger.lock();
                if state.due == 0 {
                    return std::mem::take(&mut state.failed);
                }
                state.due
            };
            let done = tokio::time::timeout(self.patience, ledger.done.notified()).await;
            if done.is_err() && ledger.lock().due == before {
                self.give_up();
            }
        }
    }

    /// `None`: for as long as `patience` no report came, of anything.
    async fn unless_stuck<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(wait);
        loop {
            let before = self.shared.reports.load(Ordering::Relaxed);
            tokio::select! {
                done = &mut wait => return Some(done),
                () = tokio::time::sleep(self.patience) => {
                    if self.shared.reports.load(Ordering::Relaxed) == before {
                        self.give_up();
                        return None;
                    }
                }
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.break_off();
        let producer = self.producer.take();
        // Waits for the last reports and for a thread: not here, where others are served.
        let ends = std::thread::Builder::new()
            .name("ingest-kafka-end".into())
            .spawn(move || drop(producer));
        // Where no thread can be had, it was dropped with the closure.
        drop(ends);
    }
}
