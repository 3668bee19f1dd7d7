//! The client of the group: its settings, and what it calls back.
//!
//! Must never: act on a rebalance in the callback; the engine does, between two messages.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;

use super::raw::Consumer;
use crate::sink::kafka::KafkaSettings;

pub(super) type Client = BaseConsumer<Ears>;

/// Partitions that come or go.
#[derive(Debug, Clone)]
pub(super) enum Move {
    Assign(Vec<i32>),
    /// `lost`: others may have them already.
    Revoke {
        partitions: Vec<i32>,
        lost: bool,
    },
}

/// What librdkafka tells.
#[derive(Debug, Default)]
pub(super) struct Ears {
    moves: Mutex<VecDeque<Move>>,
    /// The client is being closed: what it is to give back is given back at once.
    closing: AtomicBool,
    /// Ends of partitions, of the committed messages.
    ends: Mutex<HashMap<i32, u64>>,
    complaint: Mutex<Option<String>>,
    /// Answers of the group to what it was told.
    commits: AtomicU64,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ears {
    pub(super) fn next_move(&self) -> Option<Move> {
        lock(&self.moves).pop_front()
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn end(&self, partition: i32) -> Option<u64> {
        lock(&self.ends).get(&partition).copied()
    }

    pub(super) fn set_end(&self, partition: i32, end: u64) {
        lock(&self.ends).insert(partition, end);
    }

    pub(super) fn complaint(&self) -> Option<String> {
        lock(&self.complaint).clone()
    }

    pub(super) fn quiet(&self) {
        *lock(&self.complaint) = None;
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }
}

/// The part of librdkafka's statistics that is wanted.
#[derive(Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<i32, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    ls_offset: i64,
    hi_offset: i64,
}

impl ClientContext for Ears {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let mut complaint = lock(&self.complaint);
        // "All brokers are down" says less than what came before it.
        let is_vague = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        if !is_vague || complaint.is_none() {
            *complaint = Some(reason.to_owned());
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(read) = serde_json::from_slice::<Statistics>(statistics) else {
            return;
        };
        let mut ends = lock(&self.ends);
        for (partition, about) in read.topics.values().flat_map(|topic| &topic.partitions) {
            let end = if about.ls_offset >= 0 {
                about.ls_offset
            } else {
                about.hi_offset
            };
            if let Ok(end) = u64::try_from(end) {
                ends.insert(*partition, end);
            }
        }
    }
}

impl ConsumerContext for Ears {
    fn commit_callback(&self, _: KafkaResult<()>, _: &TopicPartitionList) {
        self.commits.fetch_add(1, Ordering::AcqRel);
    }

    fn rebalance(&self, client: &Client, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let elements = list.elements();
        let partitions = elements.iter().map(TopicPartitionListElem::partition);
        let partitions: Vec<_> = partitions.collect();
        let is_assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            // What fails here is closed anyway.
            let _answered = if is_assign {
                client.incremental_assign(&TopicPartitionList::new())
            } else {
                client.incremental_unassign(list)
            };
            return;
        }
        lock(&self.moves).push_back(if is_assign {
            Move::Assign(partitions)
        } else {
            let lost = client.assignment_lost();
            Move::Revoke { partitions, lost }
        });
    }
}

/// A client that is no member yet.
pub(super) fn open(settings: &KafkaSettings, consumer: &Consumer) -> Result<Client, KafkaError> {
    let mut config = settings.client();
    config
        .set("group.id", &*consumer.group)
        .set(
            "session.timeout.ms",
            consumer.session.as_millis().to_string(),
        )
        // The other partitions go on while one moves.
        .set("partition.assignment.strategy", "cooperative-sticky")
        // The table says where to go on. Where that cannot be read, a person is to know it.
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("allow.auto.create.topics", "false")
        .set("statistics.interval.ms", "1000")
        .set(
            "queued.max.messages.kbytes",
            (consumer.memory / 4_096).to_string(),
        );
    Client::from_config_and_context(&config, Ears::default())
}
