//! The loop of one member of the group: messages in, batches out, on one thread.
//!
//! Path: poll -> [`Part::take`] -> a task that stores -> landed -> the group is told. Between two
//! messages partitions come and go: one that comes is taken over in the table first, one that goes
//! is given back when its batch has landed.
//!
//! Must never: take more messages than `memory` while batches wait; stop polling for longer than the
//! group bears, however long the table is away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::client::{self, Client, Move};
use super::error::ConsumeError;
use super::letters::BatchLetters;
use super::part::{Part, Taken};
use super::run::{Plan, Stop, Teller};
use crate::load::LoadId;
use crate::rows::Batch;
use crate::sink::kafka::LetterBox;
use crate::sink::{Aside, BatchNote, SinkError, Stored};

/// Messages between two looks at everything else.
const MESSAGES_AT_ONCE: usize = 512;
/// Nothing comes, nothing is under way.
const IDLE: Duration = Duration::from_millis(100);
/// A batch is under way that may land.
const BUSY: Duration = Duration::from_millis(5);
/// Reading stands still for so long before the group's client is told to fetch no more.
const STANDS: Duration = Duration::from_secs(1);
/// Until partitions that go have to be without batches.
const GIVE_BACK: Duration = Duration::from_secs(30);
/// The same when the consumer stops.
pub(super) const DRAIN: Duration = Duration::from_secs(5);
const TELL_GROUP: Duration = Duration::from_secs(1);
const TELL_STATUS: Duration = Duration::from_millis(200);

/// See the module's words.
pub(super) struct Engine {
    pub(super) plan: Arc<Plan>,
    pub(super) client: Arc<Client>,
    letters: Arc<LetterBox>,
    load: LoadId,
    pub(super) parts: BTreeMap<i32, Part>,
    /// The one that is being answered.
    pub(super) moving: Option<Move>,
    /// Counts assignments.
    pub(super) turn: u64,
    to_land: Sender<Landed>,
    landed: Receiver<Landed>,
    /// Of all messages that are not in the table yet.
    bytes: u64,
    /// Messages that have no room yet.
    held: VecDeque<Held>,
    held_since: Instant,
    paused: bool,
    pub(super) tell: Teller,
    group_told: Instant,
    status_told: Instant,
}

/// A batch's end.
pub(super) struct Landed {
    partition: i32,
    turn: u64,
    batch: Option<Arc<Batch>>,
    bytes: u64,
    result: Result<Stored, SinkError>,
}

/// Tells an end, whatever becomes of the task.
struct Report {
    to: Sender<Landed>,
    landed: Option<Landed>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(landed) = self.landed.take() {
            // An engine that left wants no word.
            let _left = self.to.send(landed);
        }
    }
}

struct Held {
    partition: i32,
    offset: u64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

impl Engine {
    /// Joins the group.
    pub(super) fn open(plan: &Arc<Plan>, tell: Teller) -> Result<Self, ConsumeError> {
        let consumer = &plan.consumer;
        let lost = |cause| plan.kafka_failed(cause);
        let client = client::open(&plan.kafka, consumer).map_err(lost)?;
        client.subscribe(&[&consumer.topic]).map_err(lost)?;
        let (to_land, landed) = channel();
        let now = Instant::now();
        Ok(Self {
            letters: Arc::new(LetterBox::new(&plan.kafka, &consumer.dead_letters)),
            // A name was checked to be one.
            load: LoadId::parse(&consumer.name).map_err(|_| ConsumeError::Ended)?,
            plan: Arc::clone(plan),
            client: Arc::new(client),
            parts: BTreeMap::new(),
            moving: None,
            turn: 0,
            to_land,
            landed,
            bytes: 0,
            held: VecDeque::new(),
            held_since: now,
            paused: false,
            tell,
            group_told: now,
            status_told: now,
        })
    }

    /// Until it is to stop, or something fails.
    pub(super) fn run(&mut self, stop: &Stop) -> Result<(), ConsumeError> {
        let client = Arc::clone(&self.client);
        loop {
            if stop.is_set() {
                self.drain();
                return Ok(());
            }
            while let Ok(landed) = self.landed.try_recv() {
                self.land(landed)?;
            }
            while let Some(change) = client.context().next_move() {
                self.rebalance(change, stop)?;
            }
            self.send_due();
            self.report();
            if self.held.is_empty() {
                self.read(&client)?;
            } else {
                self.wait_for_room(&client)?;
            }
        }
    }

    /// Takes what is there, up to a share.
    fn read(&mut self, client: &Client) -> Result<(), ConsumeError> {
        let is_busy = self.parts.values().any(|part| part.under_way.is_some());
        let (mut wait, mut came) = (if is_busy { BUSY } else { IDLE }, false);
        for _ in 0..MESSAGES_AT_ONCE {
            match client.poll(wait) {
                None => break,
                Some(Err(error)) => {
                    self.trouble(error)?;
                    break;
                }
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let offset = message.offset() as u64;
                    if !self.has_room(partition) {
                        self.held_since = Instant::now();
                        self.hold(&message);
                        break;
                    }
                    self.take(partition, offset, message.key(), message.payload())?;
                    came = true;
                }
            }
            wait = Duration::ZERO;
        }
        if came {
            client.context().quiet();
        }
        Ok(())
    }

    fn hold(&mut self, message: &impl Message) {
        self.held.push_back(Held {
            partition: message.partition(),
            offset: message.offset() as u64,
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
        });
    }

    /// Messages of partitions that are gone need none.
    fn has_room(&self, partition: i32) -> bool {
        match self.parts.get(&partition) {
            None => true,
            Some(part) => !part.is_full() && self.bytes < self.plan.consumer.memory,
        }
    }

    fn take(
        &mut self,
        partition: i32,
        offset: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), ConsumeError> {
        let Some(part) = self.parts.get_mut(&partition) else {
            return Ok(());
        };
        let before = part.bytes();
        match part.take(offset, key, value) {
            Taken::Again => Ok(()),
            Taken::Yes => {
                self.bytes += part.bytes() - before;
                if part.is_full() {
                    self.send(partition);
                }
                Ok(())
            }
            Taken::Unbearable(reject) => {
                self.store_all_of(partition)?;
                Err(self.plan.bad_message(
                    partition,
                    offset,
                    match &reject.column {
                        Some(column) => format!("column `{column}`: {}", reject.reason),
                        None => reject.reason.to_string(),
                    },
                ))
            }
        }
    }

    /// Reading stands still until a batch has landed; the group is answered meanwhile.
    fn wait_for_room(&mut self, client: &Client) -> Result<(), ConsumeError> {
        while let Some(held) = self.held.front() {
            if !self.has_room(held.partition) {
                break;
            }
            if let Some(held) = self.held.pop_front() {
                let (key, value) = (held.key.as_deref(), held.value.as_deref());
                self.take(held.partition, held.offset, key, value)?;
            }
        }
        if self.held.is_empty() {
            if self.paused {
                self.paused = false;
                let all = self.list();
                client
                    .resume(&all)
                    .map_err(|cause| self.plan.kafka_failed(cause))?;
            }
            return Ok(());
        }
        if self.bytes >= self.plan.consumer.memory {
            let all: Vec<_> = self.parts.keys().copied().collect();
            for partition in all {
                self.send(partition);
            }
        }
        if let Ok(landed) = self.landed.recv_timeout(IDLE) {
            self.land(landed)?;
        }
        if self.held_since.elapsed() < STANDS {
            return Ok(());
        }
        if !self.paused {
            self.paused = true;
            let all = self.list();
            client
                .pause(&all)
                .map_err(|cause| self.plan.kafka_failed(cause))?;
        }
        match client.poll(Duration::ZERO) {
            Some(Ok(message)) => self.hold(&message),
            Some(Err(error)) => self.trouble(error)?,
            None => {}
        }
        Ok(())
    }

    fn list(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in self.parts.keys() {
            list.add_partition(&self.plan.consumer.topic, *partition);
        }
        list
    }

    /// Batches that are full, or whose time is over.
    fn send_due(&mut self) {
        let (now, time) = (Instant::now(), self.plan.target.batch().time);
        let is_due = |part: &&Part| {
            let is_old = part.since.is_some_and(|since| since + time <= now);
            part.under_way.is_none() && (is_old || part.is_full())
        };
        let due = self.parts.values().filter(is_due);
        let due: Vec<_> = due.map(|part| part.number).collect();
        for partition in due {
            self.send(partition);
        }
    }

    /// Begins to store what the partition has, unless a batch of it is under way.
    fn send(&mut self, partition: i32) {
        let Some(part) = self.parts.get_mut(&partition) else {
            return;
        };
        let Some(cut) = part.cut() else { return };
        let (sink, batch) = (Arc::clone(&part.sink), Arc::new(cut.batch));
        let letters = Arc::new(BatchLetters {
            to: Arc::clone(&self.letters),
            consumer: self.plan.consumer.clone(),
            partition,
            originals: cut.originals,
            sent: std::sync::Mutex::default(),
        });
        let mut report = Report {
            to: self.to_land.clone(),
            landed: Some(Landed {
                partition,
                turn: part.turn,
                batch: None,
                bytes: cut.bytes,
                result: Err(SinkError::Ended),
            }),
        };
        let note = BatchNote {
            load: self.load.clone(),
            bearable: cut.bearable,
            order: 0,
            aside: Aside::Letters(Arc::<BatchLetters>::clone(&letters)),
        };
        self.plan.runtime.spawn(async move {
            let stored = match letters.post_read(&batch).await {
                Ok(()) => sink.store(Arc::clone(&batch), note).await,
                Err(error) => Err(error),
            };
            if let Some(landed) = &mut report.landed {
                landed.batch = Some(batch);
                landed.result = stored;
            }
        });
    }

    fn land(&mut self, landed: Landed) -> Result<(), ConsumeError> {
        self.bytes -= landed.bytes;
        let part = self.parts.get_mut(&landed.partition);
        let Some(part) = part.filter(|part| part.turn == landed.turn) else {
            // It is in the table or was shut out of it; its next owner has seen which.
            return Ok(());
        };
        match (landed.result, landed.batch) {
            (Ok(stored), Some(batch)) => {
                part.landed(batch, stored);
                self.tell.stored(stored);
                Ok(())
            }
            (Err(SinkError::BadRow { reject }), _) => {
                let why = match &reject.column {
                    Some(column) => format!("column `{column}`: {}", reject.message),
                    None => reject.message.clone(),
                };
                Err(self.plan.bad_message(landed.partition, reject.offset, why))
            }
            (Err(error), _) => Err(error.into()),
            (Ok(_), None) => Err(ConsumeError::Ended),
        }
    }

    /// Until the partition has nothing that is not stored.
    fn store_all_of(&mut self, partition: i32) -> Result<(), ConsumeError> {
        self.wait_landed(&[partition], GIVE_BACK)?;
        self.send(partition);
        self.wait_landed(&[partition], GIVE_BACK)
    }

    /// Until no batch of these partitions is under way.
    pub(super) fn wait_landed(
        &mut self,
        partitions: &[i32],
        most: Duration,
    ) -> Result<(), ConsumeError> {
        let until = Instant::now() + most;
        loop {
            let is_busy = |partition: &i32| {
                let part = self.parts.get(partition);
                part.is_some_and(|part| part.under_way.is_some())
            };
            if !partitions.iter().any(is_busy) {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.landed.recv_timeout(left) {
                Ok(landed) => self.land(landed)?,
                Err(_) => {
                    return Err(ConsumeError::Stuck {
                        seconds: most.as_secs(),
                    });
                }
            }
        }
    }

    /// Takes a partition out; what of it is not stored, its next owner reads again.
    pub(super) fn forget(&mut self, partition: i32) {
        if let Some(part) = self.parts.remove(&partition) {
            self.bytes -= part.bytes();
        }
        self.held.retain(|held| held.partition != partition);
        // Asked for again, if need be.
        self.paused = false;
    }

    /// Before the end: lets batches land, and tells the group.
    fn drain(&mut self) {
        let all: Vec<_> = self.parts.keys().copied().collect();
        // What fails now, the next start meets again.
        let _unstored = self.wait_landed(&all, DRAIN);
        let before = self.client.context().commits();
        if self.tell_group() {
            let until = Instant::now() + TELL_GROUP;
            while self.client.context().commits() == before && Instant::now() < until {
                // Messages that come now are read again by the next start.
                let _event = self.client.poll(BUSY);
            }
        }
    }

    /// Where the table stands, for who looks at lag. Nothing rests on it.
    pub(super) fn tell_group(&mut self) -> bool {
        let mut list = TopicPartitionList::new();
        for part in self
            .parts
            .values_mut()
            .filter(|part| part.stored_to > part.told)
        {
            part.told = part.stored_to;
            let offset = Offset::Offset(part.stored_to as i64);
            let topic = &self.plan.consumer.topic;
            let _added = list.add_partition_offset(topic, part.number, offset);
        }
        self.group_told = Instant::now();
        list.count() > 0 && self.client.commit(&list, CommitMode::Async).is_ok()
    }

    fn report(&mut self) {
        if self.group_told.elapsed() >= TELL_GROUP {
            self.tell_group();
        }
        if self.status_told.elapsed() >= TELL_STATUS {
            self.status_told = Instant::now();
            let ears = self.client.context();
            self.tell.report(&self.parts, ears, self.paused);
        }
    }

    /// What the client says of itself: mostly passing, and then it is a line of the status.
    fn trouble(&mut self, error: KafkaError) -> Result<(), ConsumeError> {
        let consumer = &self.plan.consumer;
        match error {
            KafkaError::MessageConsumption(
                Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition,
            ) => Err(ConsumeError::NoTopic {
                topic: consumer.topic.to_string(),
                brokers: self.plan.kafka.brokers().to_owned(),
            }),
            KafkaError::MessageConsumption(
                Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::SaslAuthenticationFailed,
            )
            | KafkaError::MessageConsumptionFatal(_) => Err(self.plan.kafka_failed(error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let client = &self.client;
        client.context().close();
        // The client is closed by its own drop, which gives its partitions back, and waits for ever
        // for an answer to a move that has none.
        let unanswered = self.moving.take().into_iter();
        for change in unanswered.chain(std::iter::from_fn(|| client.context().next_move())) {
            let mut list = TopicPartitionList::new();
            // What fails here is closed anyway.
            let _answered = match change {
                Move::Assign(_) => client.incremental_assign(&list),
                Move::Revoke { partitions, .. } => {
                    for partition in partitions {
                        list.add_partition(&self.plan.consumer.topic, partition);
                    }
                    client.incremental_unassign(&list)
                }
            };
        }
    }
}
